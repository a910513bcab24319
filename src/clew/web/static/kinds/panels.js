/** Answers as panels: lettered, scrollable by keyboard, with their length hidden until somebody asks for it. */

import { el } from "../element.js";
import { passage } from "../passage.js";

export const LETTERS = "ABCDEFGHI";

/** One answer. `more` stands below its text. */
export function panel(slot, title, desk, ...more) {
  const body = el("div", { class: "panel-body" }, slot.media ? clip(slot, title) : passage(slot));
  if (slot.more > 0) body.append(rest(slot, desk, body));
  return el(
    "section",
    { class: "panel", tabindex: 0, "aria-label": title },
    el(
      "header",
      { class: "panel-head" },
      el("h2", {}, title),
      hidden(slot),
      el("span", { class: "words" }, words(slot)),
    ),
    body,
    ...more,
  );
}

/** The button that fetches the end of an answer of which the task brought the beginning. */
function rest(slot, desk, body) {
  const show = async () => body.replaceChildren(passage(await desk.whole(slot)));
  const fetchRest = () => show().catch((error) => desk.say(error.message));
  return el(
    "button",
    { type: "button", class: "button small", onclick: fetchRest },
    `Show ${slot.more.toLocaleString("en")} more characters`,
  );
}

function hidden({ invisible }) {
  if (!invisible) return null;
  return el(
    "span",
    { class: "badge warn", title: "Press I to see them in the raw text" },
    `${invisible} hidden characters`,
  );
}

/** A clip that loops without sound, or a picture. */
function clip({ media }, title) {
  const isPicture = /\.(png|jpg|gif)$/.test(media);
  if (isPicture) return el("img", { src: media, alt: title });
  return el("video", {
    src: media,
    "aria-label": title,
    loop: true,
    muted: true,
    playsinline: true,
    preload: "auto",
  });
}

function words(slot) {
  return slot.media ? "" : `${slot.words ?? slot.text.split(/\s+/).filter(Boolean).length} words`;
}
