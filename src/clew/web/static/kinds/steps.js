/** Steps of a solution, each right, neutral or wrong; the first wrong one may end the task. */

import { choice, pressOne } from "../choice.js";
import { caps, el } from "../element.js";
import { passage } from "../passage.js";
import { rows } from "./rows.js";

const VALUES = [-1, 0, 1];
const LABELS = { [-1]: ["−", "Wrong", "z"], 0: ["0", "Neutral", "x"], 1: ["+", "Right", "c"] };
const ENDINGS = {
  bad_problem: { label: "The problem is bad", key: "m" },
  give_up: { label: "I cannot judge this", key: "q" },
};

export function steps(task, desk) {
  const lines = task.slots[0].steps;
  const stops = task.schema.stop_at_first_error;
  const labels = lines.map((_, place) => task.answer?.labels[place] ?? null);
  let ending = task.answer?.finish_reason in ENDINGS ? task.answer.finish_reason : null;
  const note = el("p", { class: "ending", role: "status" });
  const own = el("input", {
    id: "own-step",
    type: "text",
    dir: "auto",
    autocomplete: "off",
    value: task.answer?.own_step ?? "",
  });
  const ownLine = el(
    "p",
    { class: "own-step" },
    el("label", { for: "own-step" }, "The step as it should have been ", caps("w")),
    own,
  );
  const buttons = lines.map((_, place) => VALUES.map((value) => button(value, () => label(place, value))));
  const endings = Object.entries(ENDINGS).map(([reason, { label, key }]) =>
    choice(label, { key, kind: "chip", pick: () => finish(reason) }),
  );
  const list = rows(lines.map((line, place) => stepRow(line, place, buttons[place])));

  const firstError = () => {
    const place = labels.indexOf(-1);
    return place < 0 ? null : place;
  };
  const end = () => (stops && firstError() !== null ? firstError() + 1 : lines.length);
  const isDone = () => ending !== null || labels.slice(0, end()).every((value) => value !== null);

  function label(place, value) {
    labels[place] = value;
    ending = null;
    draw();
    list.go(Math.min(place + 1, end() - 1));
    desk.changed(`Step ${place + 1}: ${LABELS[value][1]}`);
  }

  function finish(reason) {
    ending = ending === reason ? null : reason;
    draw();
    desk.changed(ending ? ENDINGS[reason].label : "Go on with the steps");
  }

  function draw() {
    list.element.childNodes.forEach((item, place) => {
      pressOne(buttons[place], VALUES.indexOf(labels[place]));
      item.classList.toggle("is-over", place >= end() || ending !== null);
    });
    pressOne(endings, Object.keys(ENDINGS).indexOf(ending));
    note.textContent =
      stops && firstError() !== null
        ? `First error in step ${firstError() + 1}: the rest is not judged.`
        : "";
    ownLine.hidden = firstError() === null;
  }

  function answer() {
    if (!isDone()) return null;
    const judged = ending ? until(labels, null) : labels.slice(0, end());
    const found = judged.indexOf(-1);
    const finish = ending ?? (stops && found >= 0 ? "found_error" : "solution");
    const written = found < 0 ? "" : own.value.trim();
    return {
      kind: "steps",
      labels: judged,
      first_error: found < 0 ? null : found,
      finish_reason: finish,
      own_step: written,
    };
  }

  draw();
  return {
    element: el(
      "div",
      { class: "single steps" },
      list.element,
      note,
      ownLine,
      el("div", { class: "chips" }, ...endings),
    ),
    actions: {
      wrong: () => label(list.place, -1),
      neutral: () => label(list.place, 0),
      right: () => label(list.place, 1),
      down: () => list.move(1),
      up: () => list.move(-1),
      write: () => (ownLine.hidden ? false : own.focus()),
      badProblem: () => finish("bad_problem"),
      giveUp: () => finish("give_up"),
    },
    answer,
    missing: stops ? "Label each step up to the first wrong one." : "Label every step first.",
  };
}

function button(value, pick) {
  const [sign, label, key] = LABELS[value];
  const one = choice(sign, { key, kind: `mark mark-${label.toLowerCase()}`, pick });
  one.setAttribute("aria-label", label);
  return one;
}

function stepRow(line, place, buttons) {
  return el(
    "div",
    { class: "step" },
    el("span", { class: "step-number" }, String(place + 1)),
    passage(line),
    el("div", { class: "marks", role: "group", "aria-label": `Step ${place + 1}` }, ...buttons),
  );
}

const until = (values, stop) => (values.includes(stop) ? values.slice(0, values.indexOf(stop)) : values);
