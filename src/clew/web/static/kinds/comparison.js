/** Two answers side by side: which is better and by how much, or a tie, both bad, unsure; and flaws of each. */

import { choice, press, pressOne } from "../choice.js";
import { el } from "../element.js";
import { LETTERS, panel } from "./panels.js";

const NAMES = { clips: "Clip" };
const SIGNS = { first: ["A ≈ B", "A ≥ B", "A > B", "A ≫ B"], second: ["B ≈ A", "B ≥ A", "B > A", "B ≫ A"] };

export function comparison(task, desk) {
  const { flaws = [] } = task.schema;
  const choices = [...task.schema.degrees].sort((a, b) => isOther(a) - isOther(b));
  const state = { choice: null, marked: [new Set(), new Set()], side: 0 };
  const chips = [0, 1].map((side) =>
    flaws.map((flaw, place) => chip(flaw, place, () => toggleFlaw(side, place))),
  );
  const panels = task.slots.map((slot, side) =>
    panel(slot, `${NAMES[task.kind] ?? "Answer"} ${LETTERS[side]}`, desk, chipRow(chips[side])),
  );
  const buttons = choices.map((one, place) => degreeButton(one, () => choose(place)));
  const numDegrees = choices.filter((one) => !isOther(one)).length;

  panels.forEach((box, side) => box.addEventListener("focusin", () => focusSide(side)));
  if (task.answer) restore(task.answer);
  focusSide(0);

  function choose(place) {
    state.choice = choices[place];
    pressOne(buttons, place);
    desk.changed(state.choice.label);
  }

  function chooseVerdict(verdict) {
    const ofSide = choices.filter((one) => one.verdict === verdict);
    const usual = ofSide.find((one) => one.margin === 2) ?? ofSide[0];
    return usual ? choose(choices.indexOf(usual)) : false;
  }

  function toggleFlaw(side, place) {
    const { name, label } = flaws[place];
    const isMarked = !state.marked[side].delete(name);
    if (isMarked) state.marked[side].add(name);
    press(chips[side][place], isMarked);
    desk.changed(`${label}: ${isMarked ? "marked" : "not marked"} on ${LETTERS[side]}`);
  }

  function focusSide(side) {
    state.side = side;
    panels.forEach((box, index) => box.classList.toggle("in-focus", index === side && flaws.length > 0));
  }

  function restore(answer) {
    const place = choices.findIndex(
      (one) => one.verdict === answer.verdict && one.margin === (answer.margin ?? 0),
    );
    if (place >= 0) choose(place);
    answer.flaws?.forEach((names, side) =>
      names.forEach((name) =>
        toggleFlaw(
          side,
          flaws.findIndex((flaw) => flaw.name === name),
        ),
      ),
    );
  }

  return {
    element: el(
      "div",
      { class: "pair" },
      el("div", { class: "panels" }, ...panels),
      el(
        "div",
        { class: "verdicts", role: "group", "aria-label": "Which answer is better?" },
        el("div", { class: "degrees" }, ...buttons.slice(0, numDegrees)),
        el("div", { class: "others" }, ...buttons.slice(numDegrees)),
      ),
    ),
    panels,
    actions: {
      degree: (place) => (place < numDegrees ? choose(place) : false),
      first: () => chooseVerdict("first"),
      second: () => chooseVerdict("second"),
      tie: () => chooseVerdict("tie"),
      both_bad: () => chooseVerdict("both_bad"),
      unsure: () => chooseVerdict("unsure"),
      flaw: (place) => (place < flaws.length ? toggleFlaw(state.side, place) : false),
      side: () => panels[1 - state.side].focus(),
      together: () => desk.say(scrollTogether(panels)),
    },
    answer: () =>
      state.choice && {
        kind: "comparison",
        verdict: state.choice.verdict,
        margin: state.choice.margin,
        flaws: state.marked.map((names) => [...names]),
      },
    missing: "Choose which answer is better first.",
  };
}

/** A verdict's button; a degree shows its sign, with the server's words beneath. */
export function degreeButton({ verdict, margin, label, key }, pick) {
  const sign = SIGNS[verdict]?.[margin];
  const kind = sign ? `degree degree-${verdict} margin-${margin}` : "other";
  return choice(sign ?? label, { key, hint: sign ? label.replace(/^[AB] /, "") : "", kind, pick });
}

/** Whether a choice names no better side: tie, both bad, unsure. */
export const isOther = ({ verdict }) => !(verdict in SIGNS);

function chip(flaw, place, pick) {
  const one = choice(flaw.label, { key: `⇧${place + 1}`, kind: "chip", pick });
  one.title = flaw.help ?? "";
  return one;
}

function chipRow(chips) {
  return chips.length > 0 && el("div", { class: "chips", role: "group", "aria-label": "Flaws" }, ...chips);
}

/** Ties the scrolling of both panels, or unties it; says which. */
function scrollTogether(panels) {
  const bodies = panels.map((box) => box.querySelector(".panel-body"));
  const isTied = bodies[0].dataset.tied === "yes";
  bodies.forEach((body, side) => {
    body.dataset.tied = isTied ? "no" : "yes";
    body.onscroll = isTied ? null : () => (bodies[1 - side].scrollTop = body.scrollTop);
  });
  return isTied ? "Scrolling apart" : "Scrolling together";
}
