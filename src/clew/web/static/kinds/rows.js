/** A list of which one row is in focus: scales, steps, questions. */

import { el } from "../element.js";

/** @returns {{element, place, go(place), move(step)}}; moving stops at both ends. */
export function rows(items) {
  const list = {
    element: el("div", { class: "rows" }, ...items),
    place: 0,
    go(place) {
      items[list.place]?.classList.remove("in-focus");
      list.place = Math.max(0, Math.min(items.length - 1, place));
      items[list.place]?.classList.add("in-focus");
      items[list.place]?.scrollIntoView({ block: "nearest" });
    },
    move: (step) => list.go(list.place + step),
  };
  items.forEach((item, place) => item.addEventListener("pointerdown", () => list.go(place)));
  list.go(0);
  return list;
}
