/** The prompt of a task: its turns, foldable. */

import { el } from "./element.js";
import { passage } from "./passage.js";

const ROLES = { user: "User", assistant: "Assistant", system: "System", tool: "Tool" };

export function promptCard(prompt) {
  return el(
    "details",
    { class: "prompt", open: true },
    el("summary", {}, "Prompt"),
    el("div", { class: "turns", tabindex: 0, "aria-label": "Prompt" }, ...prompt.turns.map(turn)),
  );
}

export function turn({ role, html, text }) {
  return el(
    "div",
    { class: `turn turn-${role in ROLES ? role : "other"}` },
    el("div", { class: "turn-role" }, ROLES[role] ?? role),
    passage({ html, text }),
  );
}
