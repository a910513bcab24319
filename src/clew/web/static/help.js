/** The overlay of `?`: the table of keys for this kind of task, in which the user may choose others. */

import { ask } from "./dialog.js";
import { caps, el } from "./element.js";
import { chords } from "./keyboard.js";
import { keepKeys, keysOf, ownKeys } from "./keymap.js";

/** Shows the keys of a kind and keeps what their owner changes. */
export async function showKeys(kind, owner) {
  const table = el("table", { class: "keys" });
  const told = el("p", { class: "help", role: "status" }, "Choose a key to change it.");
  const draw = () =>
    table.replaceChildren(
      ...keysOf(kind, ownKeys(owner)).map((row) => keyRow(row, (button) => change(row, button))),
    );

  async function change(row, button) {
    button.replaceChildren("Press a key …");
    button.classList.add("is-waiting");
    const chord = await nextChord(button);
    const other =
      chord && keysOf(kind, ownKeys(owner)).find((one) => one.keys.includes(chord) && one.id !== row.id);
    if (other) told.textContent = `That key already means: ${other.says}`;
    else if (chord) keepKeys(owner, { ...ownKeys(owner), [row.id]: [chord] });
    draw();
  }

  function reset() {
    keepKeys(owner, {});
    draw();
  }

  draw();
  const usual = el("button", { type: "button", class: "link", onclick: reset }, "Back to the usual keys");
  await ask("Keys", el("div", {}, table, told, usual), [{ label: "Close", key: "Enter", value: null }]);
}

function keyRow({ keys, says, isFamily }, change) {
  const shown = isFamily
    ? [caps(keys[0]), " … ", caps(keys.at(-1))]
    : keys.flatMap((chord, place) => [place ? " or " : "", caps(chord)]);
  const cell = isFamily
    ? el("span", { class: "family" }, ...shown)
    : el(
        "button",
        { type: "button", class: "key-button", onclick: (event) => change(event.currentTarget) },
        ...shown,
      );
  return el("tr", {}, el("td", {}, cell), el("td", {}, says));
}

/** The next chord pressed on a button; null for Esc or when it loses the focus. */
function nextChord(button) {
  return new Promise((resolve) => {
    button.addEventListener("blur", () => resolve(null), { once: true });
    button.addEventListener("keydown", function pressed(event) {
      const [chord] = chords(event);
      if (!chord) return;
      event.preventDefault();
      event.stopPropagation();
      button.removeEventListener("keydown", pressed);
      resolve(event.key === "Escape" ? null : chord);
    });
  });
}
