/** The raters: how good, how fast, how biased, and what to do about it. */

import { get, post } from "../api.js";
import { el, name } from "../element.js";
import { badge, button, card, table } from "./card.js";
import { count, decimal, interval, percent, seconds, tiny } from "./number.js";
import { dots } from "./plot.js";

export async function ratersPage({ id }, page) {
  const { raters } = await get(`/projects/${id}/raters`);
  const judged = raters.filter(({ reliability }) => typeof reliability === "number").slice(0, 30);
  return el(
    "div",
    { class: "stack" },
    card(
      null,
      table(COLUMNS.concat([["", (rater) => actions(rater, page)]]), raters, "Nobody has answered yet."),
      el("p", { class: "help" }, "Pausing stops new tasks. Excluding leaves a person out of statistics and exports; nothing is deleted, and both can be taken back."),
    ),
    judged.length > 0 &&
      card(
        "Reliability",
        dots(judged.map(({ pseudonym, reliability }) => ({ label: pseudonym, share: reliability })), {
          says: "Estimated reliability of each rater",
        }),
      ),
  );
}

function actions({ id, state }, page) {
  const to = (next) => async () => {
    await post(`/raters/${id}/state`, { state: next });
    page.say(`Now ${next}`);
    await page.refresh();
  };
  const offered = { active: [["Pause", "paused"], ["Exclude", "excluded"]], paused: [["Resume", "active"], ["Exclude", "excluded"]], excluded: [["Take back", "active"]] };
  return el("div", { class: "row-actions" }, ...(offered[state] ?? []).map(([label, next]) => button(label, to(next), { kind: "small", say: page.say })));
}

function stateBadge({ state, flags = [] }) {
  const kinds = { active: "good", paused: "warn", excluded: "bad" };
  return el("span", { class: "badges" }, badge(state, kinds[state]), ...flags.map((flag) => badge(`⚠ ${flag}`, "warn")));
}

const COLUMNS = [
  ["Rater", ({ pseudonym, role }) => el("span", {}, name(pseudonym), role === "judge" ? badge("AI") : "")],
  ["State", stateBadge],
  ["Answers", ({ votes }) => count(votes), "number"],
  ["Gold", ({ gold }) => el("span", { title: gold ? interval(gold, percent) : "" }, percent(gold?.share)), "number"],
  ["Agrees", ({ agreement }) => percent(agreement), "number"],
  ["First shown", ({ left }) => el("span", { title: left ? `p = ${tiny(left.p)}` : "" }, percent(left?.share)), "number"],
  ["Ties", ({ tie }) => percent(tie), "number"],
  ["Longer", ({ longer }) => percent(longer), "number"],
  ["Time", ({ seconds: time }) => seconds(time), "number"],
  ["e-value", ({ e_value: value }) => tiny(value), "number"],
  ["Reliability", ({ reliability }) => decimal(reliability), "number"],
];
