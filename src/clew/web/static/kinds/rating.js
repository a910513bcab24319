/** One answer on named scales. */

import { choice, pressOne } from "../choice.js";
import { el } from "../element.js";
import { panel } from "./panels.js";
import { rows } from "./rows.js";

export function rating(task, desk) {
  const { scales } = task.schema;
  const given = { ...task.answer?.scales };
  const points = scales.map(({ low, high }) =>
    Array.from({ length: high - low + 1 }, (_, step) => low + step),
  );
  const buttons = scales.map((scale, index) =>
    points[index].map((value) => choice(String(value), { kind: "point", pick: () => rate(index, value) })),
  );
  const list = rows(scales.map((scale, index) => scaleRow(scale, buttons[index])));
  scales.forEach(({ name }, index) => pressOne(buttons[index], points[index].indexOf(given[name])));

  function rate(index, value) {
    const { name, label } = scales[index];
    if (!points[index].includes(value)) return false;
    given[name] = value;
    pressOne(buttons[index], points[index].indexOf(value));
    list.go(index);
    list.move(1);
    desk.changed(`${label}: ${value}`);
  }

  return {
    element: el("div", { class: "single" }, panel(task.slots[0], "Answer", desk), list.element),
    actions: { value: (digit) => rate(list.place, digit), up: () => list.move(-1), down: () => list.move(1) },
    answer: () =>
      scales.every(({ name }) => name in given) ? { kind: "rating", scales: { ...given } } : null,
    missing: "Rate every scale first.",
  };
}

function scaleRow({ label, help, low_label: low, high_label: high }, buttons) {
  return el(
    "div",
    { class: "scale", role: "group", "aria-label": label },
    el("div", { class: "row-label" }, label, help ? el("span", { class: "help" }, help) : null),
    el(
      "div",
      { class: "points" },
      low ? el("span", { class: "end" }, low) : null,
      ...buttons,
      high ? el("span", { class: "end" }, high) : null,
    ),
  );
}
