/** Yes-or-no questions about one answer. */

import { choice, pressOne } from "../choice.js";
import { el } from "../element.js";
import { panel } from "./panels.js";
import { rows } from "./rows.js";

export function flaws(task, desk) {
  const { questions } = task.schema;
  const given = { ...task.answer?.flaws };
  const buttons = questions.map((_, place) => [
    choice("Yes", { key: "y", kind: "yes", pick: () => answerOne(place, true) }),
    choice("No", { key: "n", kind: "no", pick: () => answerOne(place, false) }),
  ]);
  const list = rows(questions.map((question, place) => questionRow(question, buttons[place])));

  function answerOne(place, isYes) {
    given[questions[place].name] = isYes;
    draw();
    list.go(place);
    list.move(1);
    desk.changed(`${questions[place].label}: ${isYes ? "yes" : "no"}`);
  }

  function allNo() {
    for (const { name } of questions) given[name] ??= false;
    draw();
    desk.changed("No to the rest");
  }

  function draw() {
    questions.forEach(({ name }, place) =>
      pressOne(buttons[place], name in given ? (given[name] ? 0 : 1) : -1),
    );
  }

  draw();
  return {
    element: el("div", { class: "single" }, panel(task.slots[0], "Answer", desk), list.element),
    actions: {
      yes: () => answerOne(list.place, true),
      no: () => answerOne(list.place, false),
      down: () => list.move(1),
      up: () => list.move(-1),
      allNo,
    },
    answer: () =>
      questions.every(({ name }) => name in given) ? { kind: "flaws", flaws: { ...given } } : null,
    missing: "Answer every question first.",
  };
}

function questionRow({ label, help }, buttons) {
  return el(
    "div",
    { class: "question", role: "group", "aria-label": label },
    el("div", { class: "row-label" }, label, help ? el("span", { class: "help" }, help) : null),
    el("div", { class: "marks" }, ...buttons),
  );
}
