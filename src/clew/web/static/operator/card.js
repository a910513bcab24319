/** The parts of which the dashboard's pages are made. */

import { el } from "../element.js";

export function card(title, ...children) {
  return el("section", { class: "card" }, title ? el("h2", {}, title) : null, ...children);
}

/** A number with its name, and what it rests on below. */
export function figure(label, value, below = "") {
  return el(
    "div",
    { class: "figure" },
    el("span", { class: "label" }, label),
    el("strong", {}, value),
    el("span", { class: "help" }, below),
  );
}

export const figures = (...parts) => el("div", { class: "card figures" }, ...parts);

export const grid = (...parts) => el("div", { class: "grid" }, ...parts);

export const nothing = (text) => el("p", { class: "empty" }, text);

/** A table whose columns are [title, row => cell, "number"?]; on a phone each row becomes a card. */
export function table(columns, rows, empty = "Nothing yet.") {
  if (rows.length === 0) return nothing(empty);
  const head = columns.map(([title, , kind]) => el("th", { scope: "col", class: kind }, title));
  const line = (row) =>
    el(
      "tr",
      {},
      ...columns.map(([title, cell, kind]) => el("td", { class: kind, "data-title": title }, cell(row))),
    );
  return el(
    "div",
    { class: "table-frame", tabindex: 0 },
    el("table", {}, el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...rows.map(line))),
  );
}

export function badge(text, kind = "") {
  return el("span", { class: `badge ${kind}` }, text);
}

/** A button that says what went wrong when its work fails. */
export function button(label, work, { kind = "", say }) {
  const one = el("button", { type: "button", class: `button ${kind}` }, label);
  one.addEventListener("click", async () => {
    one.disabled = true;
    await work().catch((error) => say(`Not done: ${error.message}`));
    one.disabled = false;
  });
  return one;
}

/** A labelled field of a form. */
export function field(label, input, help) {
  return el(
    "label",
    { class: "field" },
    el("span", { class: "label" }, label),
    input,
    help ? el("span", { class: "help" }, help) : null,
  );
}

export function options(pairs, chosen) {
  return el(
    "select",
    {},
    ...pairs.map(([value, label]) => el("option", { value, selected: value === chosen }, label)),
  );
}
