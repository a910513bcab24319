/** The lines that say how things are: what just happened, what is saved, how much is done today. */

import { el } from "./element.js";

const byId = (id) => document.getElementById(id);

/** Says something to eyes and to screen readers. */
export function say(text) {
  byId("says").textContent = text;
}

/** Whether all answers are with the server. */
export function showSaved({ entries, trouble }) {
  const count = entries.length;
  const isStuck = count > 0 && trouble !== null;
  byId("saved").textContent = count === 0 ? "✓ Saved" : `${count} unsaved`;
  byId("saved").classList.toggle("is-unsaved", isStuck);
  byId("banner").hidden = !isStuck;
  byId("banner").textContent = isStuck ? `${count} unsaved: ${advice(trouble)}` : "";
}

/** Adds to today's answers of a project and shows them against the goal. */
export function showToday(project, more = 0) {
  project.mine_today = (project.mine_today ?? 0) + more;
  const { mine_today: done, goal_today: goal } = project;
  const meter = goal
    ? el("progress", { max: goal, value: Math.min(done, goal), "aria-label": "Today's goal" })
    : "";
  byId("today").replaceChildren(el("span", {}, goal ? `${done} of ${goal} today` : `${done} today`), meter);
}

function advice({ status }) {
  return status === 401
    ? "open your personal link again; your answers are kept in this browser and will be sent then."
    : "the server cannot be reached. Your answers are kept in this browser and will be sent when it is back.";
}
