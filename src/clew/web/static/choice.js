/** Buttons that also have a key. A mouse click leaves the focus where it was, so that Enter still submits. */

import { caps, el } from "./element.js";

/** A button of a group of which one or several are chosen; `press(button, true)` chooses it. */
export function choice(label, { key, hint, kind = "", pick }) {
  return el(
    "button",
    {
      type: "button",
      class: `choice ${kind}`,
      "aria-pressed": "false",
      onclick: pick,
      onmousedown: keepFocus,
    },
    key ? caps(key) : null,
    el("span", { class: "choice-label" }, capital(label)),
    hint ? el("span", { class: "choice-hint" }, hint) : null,
  );
}

export function press(button, isPressed) {
  button.setAttribute("aria-pressed", String(isPressed));
}

/** Presses the one of a list and releases the others; a negative place releases all. */
export function pressOne(buttons, place) {
  buttons.forEach((button, index) => press(button, index === place));
}

const capital = (label) => label.charAt(0).toUpperCase() + label.slice(1);

const keepFocus = (event) => event.preventDefault();
