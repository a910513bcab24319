/** Answers as panels: lettered, scrollable by keyboard, with their length hidden until somebody asks for it. */

import { el } from "../element.js";
import { passage } from "../passage.js";

export const LETTERS = "ABCDEFGHI";

/** One answer. `more` stands below its text: flaws, a video's controls. */
export function panel(slot, title, ...more) {
  return el(
    "section",
    { class: "panel", tabindex: 0, "aria-label": title },
    el("header", { class: "panel-head" }, el("h2", {}, title), el("span", { class: "words" }, words(slot))),
    el("div", { class: "panel-body" }, slot.media ? clip(slot) : passage(slot)),
    ...more,
  );
}

/** A clip that loops without sound from the moment both sides can play. */
function clip(slot) {
  return el("video", { src: slot.media, loop: true, muted: true, playsinline: true, preload: "auto" });
}

function words(slot) {
  return slot.media ? "" : `${slot.words ?? slot.text.split(/\s+/).filter(Boolean).length} words`;
}
