/** Whether a person works, is paused or is excluded, and the buttons that change it. */

import { post } from "../api.js";
import { el } from "../element.js";
import { badge, button } from "./card.js";

const KINDS = { active: "good", paused: "warn", excluded: "bad" };

const NEXT = {
  active: [
    ["Pause", "paused"],
    ["Exclude", "excluded"],
  ],
  paused: [
    ["Resume", "active"],
    ["Exclude", "excluded"],
  ],
  excluded: [["Take back", "active"]],
};

export const standing = (state) => badge(state, KINDS[state]);

/** Buttons for a person {id, state}, beside any others. */
export function standingButtons({ id, state }, page, ...others) {
  const to = (next) => async () => {
    await post(`/raters/${encodeURIComponent(id)}/state`, { state: next });
    await page.refresh();
    page.say(`Now ${next}`);
  };
  const own = (NEXT[state] ?? []).map(([label, next]) =>
    button(label, to(next), { kind: "small", say: page.say }),
  );
  return el("div", { class: "row-actions" }, ...own, ...others);
}
