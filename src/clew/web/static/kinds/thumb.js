/** One answer: good or bad, and why. */

import { choice, press, pressOne } from "../choice.js";
import { el } from "../element.js";
import { panel } from "./panels.js";

export function thumb(task, desk) {
  const reasons = (task.schema.reasons ?? []).map((one) =>
    typeof one === "string" ? { name: one, label: one } : one,
  );
  const given = new Set(task.answer?.reasons ?? []);
  let up = task.answer?.up ?? null;
  const good = choice("Good", { key: "ArrowUp", kind: "thumb good", pick: () => decide(true) });
  const bad = choice("Bad", { key: "ArrowDown", kind: "thumb bad", pick: () => decide(false) });
  const chips = reasons.map(({ label }, place) =>
    choice(label, { key: String(place + 1), kind: "chip", pick: () => toggle(place) }),
  );

  function decide(isGood) {
    up = isGood;
    draw();
    desk.changed(isGood ? "Good" : "Bad");
  }

  function toggle(place) {
    if (place >= reasons.length) return false;
    const { name, label } = reasons[place];
    if (!given.delete(name)) given.add(name);
    draw();
    desk.changed(`${label}: ${given.has(name) ? "given" : "taken back"}`);
  }

  function draw() {
    pressOne([good, bad], up === null ? -1 : up ? 0 : 1);
    chips.forEach((chip, place) => press(chip, given.has(reasons[place].name)));
  }

  draw();
  return {
    element: el(
      "div",
      { class: "single" },
      panel(task.slots[0], "Answer", desk),
      el(
        "div",
        { class: "verdicts" },
        el("div", { class: "thumbs", role: "group", "aria-label": "Good or bad?" }, good, bad),
        chips.length > 0 && el("div", { class: "chips", role: "group", "aria-label": "Reasons" }, ...chips),
      ),
    ),
    actions: { good: () => decide(true), bad: () => decide(false), reason: toggle },
    answer: () => (up === null ? null : { kind: "thumb", up, reasons: [...given] }),
    missing: "Say first whether the answer is good.",
  };
}
