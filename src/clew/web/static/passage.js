/** Text by people or models, shown one of three ways: as the server rendered it, raw, or with invisibles marked. */

import { el } from "./element.js";

const LONGEST = 200_000;
const contents = new WeakMap();
let view = "rendered";

/** @param {{html: ?string, text: string}} content its html sanitised by the server: the only HTML ever inserted. */
export function passage(content) {
  const box = el("div", { class: "passage", dir: "auto" });
  contents.set(box, content);
  draw(box);
  return box;
}

/** Switches every passage on the page between a view ("raw", "invisibles") and the rendered one; says which it is. */
export function toggleView(name) {
  view = view === name ? "rendered" : name;
  document.querySelectorAll(".passage").forEach(draw);
  return view;
}

/** The pieces of a text: strings, and marks for characters that cannot be seen or that reorder others. */
export function marked(text) {
  return text.split(INVISIBLE).map((piece, index) => (index % 2 === 0 ? piece : mark(piece)));
}

function draw(box) {
  const { html, text } = contents.get(box);
  const isRendered = view === "rendered" && typeof html === "string";
  box.classList.toggle("raw", !isRendered);
  if (isRendered) {
    box.innerHTML = html;
    return;
  }
  const shown = text.slice(0, LONGEST);
  box.replaceChildren(...pieces(shown));
  if (shown.length < text.length) box.append(rest(box, text));
}

const pieces = (text) => (view === "invisibles" ? marked(text) : [text]);

function rest(box, text) {
  const show = () => box.replaceChildren(...pieces(text));
  return el(
    "button",
    { class: "button small", onclick: show },
    `Show all ${text.length.toLocaleString()} characters`,
  );
}

function mark(character) {
  const code = character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
  const label = NAMES[code] ?? `U+${code}`;
  const mark = el("span", { class: "invisible", title: `U+${code}` }, label);
  return character === "\n" ? el("span", {}, mark, "\n") : mark;
}

/** Controls, odd spaces, characters of no width, of direction or of line breaks, tags, variation selectors. */
const INVISIBLE =
  /([\u0000-\u001f\u007f-\u00a0\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb]|[\u{e0000}-\u{e0fff}])/u;

const NAMES = {
  "0009": "⇥",
  "000A": "↵",
  "00A0": "nbsp",
  "00AD": "shy",
  "061C": "ALM",
  "200B": "zwsp",
  "200C": "zwnj",
  "200D": "zwj",
  "200E": "LRM",
  "200F": "RLM",
  "202A": "LRE",
  "202B": "RLE",
  "202C": "PDF",
  "202D": "LRO",
  "202E": "RLO",
  2066: "LRI",
  2067: "RLI",
  2068: "FSI",
  2069: "PDI",
  FEFF: "BOM",
};
