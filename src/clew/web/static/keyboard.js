/** Key presses to actions, by the table of keys. */

const EDITABLE = "input, textarea, select, [contenteditable]";
const PRESSABLE = "button, a, summary, video";

/** Calls `act(action, place)` for keys of the rows that `rows()` gives; false from it leaves the key to others. */
export function listen(rows, act) {
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.isComposing || document.querySelector("dialog[open]")) return;
    for (const chord of chords(event)) {
      const entry = rows().find((one) => one.keys.includes(chord));
      if (!entry || !applies(chord, entry, event)) continue;
      if (act(entry.action, entry.isFamily ? entry.keys.indexOf(chord) : undefined) === false) continue;
      event.preventDefault();
      return;
    }
  });
}

/** Whether a press may act: not while typing, not while held, not where it presses the button in focus. */
function applies(chord, entry, event) {
  if (event.repeat && !entry.mayRepeat) return false;
  const inText = event.target.closest?.(EDITABLE);
  if (inText) return (chord.startsWith("Ctrl+") && entry.action !== "undo") || chord === "Escape";
  return !((chord === "Enter" || chord === " ") && event.target.closest?.(PRESSABLE));
}

/** The names of a press, most particular first: "Ctrl+Shift+ArrowLeft"; "Shift+1" and "!" for the same keys. */
export function chords(event) {
  if (event.altKey || event.metaKey || MODIFIERS.includes(event.key)) return [];
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const isSymbol = key.length === 1 && key.toUpperCase() === key.toLowerCase() && key !== " ";
  const digit = /^(?:Digit|Numpad)(\d)$/.exec(event.code)?.[1];
  const plain = (event.ctrlKey ? "Ctrl+" : "") + (event.shiftKey && !isSymbol ? "Shift+" : "") + key;
  return event.shiftKey && !event.ctrlKey && digit && !/\d/.test(key) ? [`Shift+${digit}`, plain] : [plain];
}

const MODIFIERS = ["Shift", "Control", "Alt", "Meta", "AltGraph", "CapsLock"];
