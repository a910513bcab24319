/** Items on which people disagree, that they skip or flag; and all that was said about one. */

import { get } from "../api.js";
import { ask } from "../dialog.js";
import { el, name } from "../element.js";
import { passage } from "../passage.js";
import { turn } from "../prompt.js";
import { badge, button, card, options, table } from "./card.js";
import { count, decimal, seconds, time } from "./number.js";

export async function reviewPage({ id }, page, sort = "disagreement") {
  const list = el("div", {});
  const order = options(ORDERS, sort);
  const draw = async () => list.replaceChildren(await itemTable(id, order.value, page));
  order.addEventListener("change", () => draw().catch((error) => page.say(error.message)));
  await draw();
  return card(null, el("label", { class: "filter" }, "Show first ", order), list);
}

async function itemTable(project, sort, page) {
  const { items } = await get(`/projects/${project}/items?sort=${sort}`);
  const open = (item) => button("Look", () => showAnswers(project, item), { kind: "small", say: page.say });
  return table(COLUMNS.concat([["", open]]), items, "Nothing to look at.");
}

async function showAnswers(project, { id }) {
  const { prompt, slots, answers } = await get(
    `/projects/${project}/items/${encodeURIComponent(id)}/answers`,
  );
  await ask(
    "What was said",
    el(
      "div",
      { class: "review" },
      ...prompt.turns.map(turn),
      el(
        "div",
        { class: "review-slots" },
        ...slots.map((slot, place) =>
          el("div", { class: "review-slot" }, el("h3", {}, `Answer ${place + 1}`), passage(slot)),
        ),
      ),
      ...answers.map(said),
    ),
  );
}

function said({ pseudonym, answer, seconds: took, note, late, at_ms: at }) {
  return el(
    "div",
    { class: "said" },
    el(
      "div",
      { class: "said-head" },
      name(pseudonym),
      late ? badge("late", "warn") : null,
      el("span", { class: "help" }, `${seconds(took)} · ${time(at)}`),
    ),
    el("div", {}, inWords(answer)),
    note ? el("blockquote", { dir: "auto" }, note) : null,
  );
}

/** An answer in a line; the fields of kinds that have no words of their own as they are. */
function inWords({ kind, ...fields }) {
  if (kind === "comparison")
    return `${VERDICTS[fields.verdict]}${fields.verdict in SIDES ? `, ${MARGINS[fields.margin] ?? ""}` : ""}`;
  if (kind === "ranking")
    return fields.groups.map((group) => group.map((place) => place + 1).join(" = ")).join(" > ");
  if (kind === "thumb") return [fields.up ? "Good" : "Bad", ...fields.reasons].join(", ");
  if ("text" in fields) return fields.text;
  return JSON.stringify(fields.scales ?? fields.flaws ?? fields.labels ?? fields.spans ?? fields);
}

const ORDERS = [
  ["disagreement", "most disagreement"],
  ["skipped", "most skipped"],
  ["flagged", "flagged"],
  ["late", "late answers"],
];

const SIDES = { first: 1, second: 2 };
const VERDICTS = {
  first: "Answer 1 is better",
  second: "Answer 2 is better",
  tie: "Equally good",
  both_bad: "Both bad",
  unsure: "Unsure",
};
const MARGINS = ["negligibly", "slightly", "clearly", "significantly"];

const COLUMNS = [
  ["Item", ({ text }) => el("span", { class: "excerpt", dir: "auto" }, text)],
  ["Answers", ({ votes }) => count(votes), "number"],
  ["Disagreement", ({ entropy }) => decimal(entropy), "number"],
  ["Skips", ({ skips }) => count(skips), "number"],
  ["Flags", ({ flags }) => count(flags), "number"],
  ["State", ({ state }) => badge(state, state === "held" ? "warn" : "")],
];
