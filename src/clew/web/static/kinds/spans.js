/** Stretches of an answer's text, each with a category. Offsets count code points of the raw text. */

import { choice, press } from "../choice.js";
import { points, toPoints, wordEdge } from "../codepoints.js";
import { el } from "../element.js";

export function spans(task, desk) {
  const { categories } = task.schema;
  const { text } = task.slots[0];
  const letters = points(text);
  let marks = (task.answer?.spans ?? []).map(({ start, end, category }) => ({ start, end, category }));
  let isClean = task.answer ? marks.length === 0 : false;
  let anchor = 0;
  let caret = 0;
  const page = el("div", {
    class: "span-text",
    tabindex: 0,
    dir: "auto",
    role: "textbox",
    "aria-readonly": "true",
    "aria-label": "Text to mark",
  });
  const list = el("ul", { class: "span-list", "aria-label": "Marks" });
  const chips = categories.map(({ label }, place) =>
    choice(label, { key: String(place + 1), kind: `chip category-${place + 1}`, pick: () => mark(place) }),
  );
  const clean = choice("Nothing to mark", { key: "n", kind: "chip", pick: nothing });
  page.addEventListener("mouseup", readMouse);

  const selection = () => [Math.min(anchor, caret), Math.max(anchor, caret)];

  function move(to, isSelecting) {
    caret = Math.max(0, Math.min(letters.length, to));
    if (!isSelecting) anchor = caret;
    draw();
    page.querySelector(".caret")?.scrollIntoView({ block: "nearest" });
  }

  function readMouse() {
    const chosen = getSelection();
    if (!chosen.rangeCount || !page.contains(chosen.anchorNode) || !page.contains(chosen.focusNode)) return;
    [anchor, caret] = [
      offsetOf(chosen.anchorNode, chosen.anchorOffset),
      offsetOf(chosen.focusNode, chosen.focusOffset),
    ];
    chosen.removeAllRanges();
    draw();
  }

  /** Code points before a place in the page's text. */
  function offsetOf(node, offset) {
    const range = document.createRange();
    range.setStart(page, 0);
    range.setEnd(node, offset);
    return toPoints(range.toString(), Infinity);
  }

  function mark(place) {
    if (place >= categories.length) return false;
    const [start, end] = trimmed(letters, ...selection());
    if (start === end) return desk.say("Select some text first: Shift and the arrow keys, or the mouse.");
    const { name, label } = categories[place];
    marks = [
      ...marks.filter((one) => one.start !== start || one.end !== end || one.category !== name),
      { start, end, category: name },
    ];
    marks.sort((a, b) => a.start - b.start || a.end - b.end);
    [isClean, anchor] = [false, caret];
    draw();
    desk.changed(`${label}: “${letters.slice(start, end).join("")}”`);
  }

  function takeBack() {
    const under = marks.findLast(({ start, end }) => start <= caret && caret <= end) ?? marks.at(-1);
    if (under) removeMark(under);
  }

  function removeMark(gone) {
    marks = marks.filter((one) => one !== gone);
    draw();
    desk.changed("Mark removed");
  }

  function nothing() {
    [marks, isClean] = [[], true];
    draw();
    desk.changed("Nothing to mark");
  }

  function draw() {
    page.replaceChildren(...pieces());
    list.replaceChildren(...marks.map(listItem));
    press(clean, isClean);
  }

  /** The text cut at every edge of a mark, of the selection and at the caret. */
  function pieces() {
    const [from, to] = selection();
    const edges = new Set([
      0,
      letters.length,
      from,
      to,
      caret,
      ...marks.flatMap(({ start, end }) => [start, end]),
    ]);
    const cuts = [...edges].sort((a, b) => a - b);
    const nodes = cuts.slice(0, -1).map((start, index) => piece(start, cuts[index + 1], from, to));
    const before = cuts.indexOf(caret);
    return [...nodes.slice(0, before), el("span", { class: "caret" }), ...nodes.slice(before)];
  }

  function piece(start, end, from, to) {
    const over = marks.filter((one) => one.start <= start && end <= one.end);
    const classes = over.map((one) => `category-${place(one) + 1}`);
    if (from <= start && end <= to) classes.push("selected");
    if (over.length > 0) classes.push("marked");
    const title = over.map((one) => categories[place(one)]?.label).join(", ");
    return el(
      "span",
      { class: classes.join(" ") || null, title: title || null },
      letters.slice(start, end).join(""),
    );
  }

  const place = ({ category }) => categories.findIndex(({ name }) => name === category);

  function listItem(one) {
    return el(
      "li",
      { class: `span-item category-${place(one) + 1}` },
      el("b", {}, categories[place(one)]?.label ?? one.category),
      el("q", { dir: "auto" }, letters.slice(one.start, one.end).join("")),
      el(
        "button",
        { type: "button", class: "link", "aria-label": "Remove", onclick: () => removeMark(one) },
        "×",
      ),
    );
  }

  draw();
  const step = (by, isSelecting) => () => move(caret + by, isSelecting);
  const word = (by, isSelecting) => () => move(wordEdge(letters, caret, by), isSelecting);
  return {
    element: el(
      "div",
      { class: "single spans" },
      el("section", { class: "panel" }, el("div", { class: "panel-body" }, page)),
      el("aside", { class: "span-side" }, el("div", { class: "chips" }, ...chips, clean), list),
    ),
    focus: page,
    actions: {
      right: step(1),
      left: step(-1),
      wordRight: word(1),
      wordLeft: word(-1),
      selectRight: step(1, true),
      selectLeft: step(-1, true),
      selectWordRight: word(1, true),
      selectWordLeft: word(-1, true),
      start: () => move(0),
      end: () => move(letters.length),
      category: mark,
      takeBack,
      nothing,
    },
    answer: () =>
      marks.length > 0 || isClean
        ? {
            kind: "spans",
            spans: marks.map((one) => ({ ...one, text: letters.slice(one.start, one.end).join("") })),
          }
        : null,
    missing: "Mark something, or say that there is nothing to mark.",
  };
}

/** A stretch without the white space at its ends. */
function trimmed(letters, start, end) {
  while (start < end && /\s/.test(letters[start])) start += 1;
  while (start < end && /\s/.test(letters[end - 1])) end -= 1;
  return [start, end];
}
