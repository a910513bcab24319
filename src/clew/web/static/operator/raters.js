/** The raters: how good, how fast, how biased, and what to do about it. */

import { get } from "../api.js";
import { el, name } from "../element.js";
import { badge, card, table } from "./card.js";
import { count, decimal, interval, percent, seconds, tiny } from "./number.js";
import { dots } from "./plot.js";
import { standing, standingButtons } from "./standing.js";

export async function ratersPage({ id }, page) {
  const { raters } = await get(`/projects/${id}/raters`);
  const judged = raters.filter(({ reliability }) => typeof reliability === "number").slice(0, 30);
  return el(
    "div",
    { class: "stack" },
    card(
      null,
      table(
        COLUMNS.concat([["", (rater) => standingButtons(rater, page)]]),
        raters,
        "Nobody has answered yet.",
      ),
      el(
        "p",
        { class: "help" },
        "Pausing stops new tasks. Excluding leaves a person out of statistics and exports; nothing is deleted, ",
        "and the People page takes both back.",
      ),
    ),
    judged.length > 0 &&
      card(
        "Reliability",
        dots(
          judged.map(({ pseudonym, reliability }) => ({ label: pseudonym, share: reliability })),
          {
            says: "Estimated reliability of each rater",
          },
        ),
      ),
  );
}

function stateBadges({ state, flags = [] }) {
  return el("span", { class: "badges" }, standing(state), ...flags.map((flag) => badge(`⚠ ${flag}`, "warn")));
}

const COLUMNS = [
  ["Rater", ({ pseudonym, role }) => el("span", {}, name(pseudonym), role === "judge" ? badge("AI") : "")],
  ["State", stateBadges],
  ["Answers", ({ votes }) => count(votes), "number"],
  [
    "Gold",
    ({ gold }) => el("span", { title: gold ? interval(gold, percent) : "" }, percent(gold?.share)),
    "number",
  ],
  ["Agrees", ({ agreement }) => percent(agreement), "number"],
  [
    "First shown",
    ({ left }) => el("span", { title: left ? `p = ${tiny(left.p)}` : "" }, percent(left?.share)),
    "number",
  ],
  ["Ties", ({ tie }) => percent(tie), "number"],
  ["Longer", ({ longer }) => percent(longer), "number"],
  ["Time", ({ seconds: time }) => seconds(time), "number"],
  ["e-value", ({ e_value: value }) => tiny(value), "number"],
  ["Reliability", ({ reliability }) => decimal(reliability), "number"],
];
