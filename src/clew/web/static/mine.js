/** What a rater did so far: their numbers and their latest answers. */

import { get } from "./api.js";
import { ask } from "./dialog.js";
import { el, name } from "./element.js";
import { signOut } from "./session.js";

export async function showMine(me) {
  const [stats, history] = await Promise.all([
    get("/me/stats").catch(() => ({})),
    get("/me/history").catch(() => ({})),
  ]);
  const numbers = Object.entries(stats).filter(([, value]) => typeof value === "number");
  await ask(
    "My work",
    el(
      "div",
      {},
      el("p", {}, "You are ", name(me.pseudonym), "."),
      el("dl", { class: "numbers" }, ...numbers.map(([key, value]) => number(key, value))),
      el("ul", { class: "history" }, ...(history.answers ?? []).slice(0, 10).map(historyItem)),
      el("button", { type: "button", class: "link", onclick: signOut }, "Sign out"),
    ),
  );
}

function number(key, value) {
  return el(
    "div",
    {},
    el("dt", {}, key.replaceAll("_", " ")),
    el("dd", {}, Number.isInteger(value) ? String(value) : value.toFixed(2)),
  );
}

function historyItem({ kind, project, made_ms: at }) {
  return el(
    "li",
    {},
    el("span", {}, `${kind} · `, name(project ?? "")),
    el("time", {}, at ? new Date(at).toLocaleString() : ""),
  );
}
