/** K answers into an order, best first, with ties and with answers that cannot be ranked. */

import { el } from "../element.js";
import { panel } from "./panels.js";

export function ranking(task, desk) {
  const { ties = true } = task.schema;
  let groups = (task.answer?.groups ?? []).map((group) => [...group]);
  let notRankable = [...(task.answer?.not_rankable ?? [])];
  let focused = 0;
  const order = el("ol", { class: "order", "aria-label": "Order, best first" });
  const badges = task.slots.map(() => el("span", { class: "rank-badge" }));
  const cards = task.slots.map((slot, place) => card(slot, place));

  function card(slot, place) {
    const box = panel(slot, `Answer ${place + 1}`, desk);
    box.querySelector(".panel-head").append(badges[place]);
    box.addEventListener("focusin", () => (focused = place));
    box.addEventListener("click", () => getSelection().isCollapsed && toggle(place));
    return box;
  }

  const isPlaced = (place) => notRankable.includes(place) || groups.some((group) => group.includes(place));

  function toggle(place) {
    return isPlaced(place) ? lift(place) : put(place);
  }

  function put(place) {
    if (place >= cards.length) return false;
    if (!isPlaced(place)) groups.push([place]);
    draw(`Answer ${place + 1} in place ${groups.length}`);
  }

  function lift(place) {
    notRankable = notRankable.filter((one) => one !== place);
    groups = groups.map((group) => group.filter((one) => one !== place)).filter((group) => group.length > 0);
    draw(`Answer ${place + 1} taken back`);
  }

  function tie() {
    if (!ties || groups.length < 2) return false;
    groups.at(-2).push(...groups.pop());
    draw(
      `Tie: ${groups
        .at(-1)
        .map((one) => one + 1)
        .join(" and ")}`,
    );
  }

  function takeBack() {
    const last = groups.at(-1)?.at(-1) ?? notRankable.at(-1);
    if (last !== undefined) lift(last);
  }

  function setAside() {
    const wasAside = notRankable.includes(focused);
    if (isPlaced(focused)) lift(focused);
    if (!wasAside) notRankable.push(focused);
    draw(`Answer ${focused + 1} ${wasAside ? "can" : "cannot"} be ranked`);
  }

  function move(step) {
    focused = (focused + step + cards.length) % cards.length;
    cards[focused].focus();
  }

  function draw(says) {
    cards.forEach((box, place) => {
      const rank = groups.findIndex((group) => group.includes(place));
      box.classList.toggle("is-placed", isPlaced(place));
      badges[place].textContent = notRankable.includes(place)
        ? "not rankable"
        : rank >= 0
          ? ordinal(rank + 1)
          : "";
    });
    order.replaceChildren(
      ...groups.map(groupItem),
      ...(groups.length ? [] : [el("li", { class: "empty" }, HINT)]),
    );
    if (says) desk.changed(says);
  }

  function groupItem(group, index) {
    const merge =
      index > 0 &&
      ties &&
      el("button", { type: "button", class: "link", onclick: () => join(index) }, "tie with above");
    return el("li", { class: "order-group" }, ...group.map((place) => el("b", {}, String(place + 1))), merge);
  }

  function join(index) {
    groups[index - 1].push(...groups.splice(index, 1)[0]);
    draw("Tied");
  }

  draw();
  return {
    element: el(
      "div",
      { class: "ranking" },
      el("div", { class: `panels cards cards-${cards.length}` }, ...cards),
      el("div", { class: "order-bar" }, el("span", { class: "label" }, "Best to worst"), order),
    ),
    actions: {
      place: put,
      tie,
      takeBack,
      notRankable: setAside,
      left: () => move(-1),
      right: () => move(1),
    },
    answer: () =>
      cards.every((_, place) => isPlaced(place))
        ? { kind: "ranking", groups, not_rankable: notRankable }
        : null,
    missing: "Give every answer a place first.",
  };
}

const HINT = "Press the numbers of the answers, best first.";
const ordinal = (rank) => ["1st", "2nd", "3rd"][rank - 1] ?? `${rank}th`;
