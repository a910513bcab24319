/** Elements from values: strings become text, never HTML, so nothing that people or models wrote can act. */

/** @returns {HTMLElement} with attributes (`on...` are listeners; null and false are left out) and children. */
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** @returns {SVGElement} likewise; `text` children belong into <text>. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

/** A name that somebody chose: isolated, so that its direction cannot reorder what stands beside it. */
export function name(text) {
  return el("bdi", { class: "name" }, String(text));
}

/** The key caps of a chord such as "Ctrl+Enter". */
export function caps(chord) {
  const parts = chord.split(/(?<=.)\+(?=.)/);
  return el(
    "span",
    { class: "caps" },
    ...parts.map((part) => el("kbd", {}, CAPS[part] ?? part.toUpperCase())),
  );
}

function fill(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

const CAPS = {
  ArrowLeft: "←",
  ArrowRight: "→",
  ArrowUp: "↑",
  ArrowDown: "↓",
  Enter: "Enter",
  Escape: "Esc",
  Backspace: "⌫",
  Delete: "Del",
  " ": "Space",
  Ctrl: "Ctrl",
  Shift: "Shift",
  Home: "Home",
  End: "End",
  Tab: "Tab",
};
