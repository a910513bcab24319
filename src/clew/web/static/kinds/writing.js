/** Tasks answered by text: the ideal answer, a prompt, an answer made better. */

import { el } from "../element.js";
import { panel } from "./panels.js";

export const demonstration = (task, desk) =>
  writing(task, desk, { kind: "demonstration", label: "Your ideal answer" });

export const prompt = (task, desk) =>
  writing(task, desk, {
    kind: "demonstration",
    label: "Your prompt",
    hint: task.schema.topic && `Topic: ${task.schema.topic}`,
  });

export const revision = (task, desk) =>
  writing(task, desk, { kind: "revision", label: "The answer, made better", start: task.slots[0].text });

/** A text box beside the answer, if any. Text that equals `start` is no answer. */
function writing(task, desk, { kind, label, hint, start = "" }) {
  const least = Math.max(1, task.schema.minimum_words ?? 1);
  const box = el("textarea", { id: "writing", class: "writing", dir: "auto", spellcheck: "true" });
  const count = el("span", { class: "count", "aria-live": "off" });
  box.value = task.answer?.text ?? desk.draft() ?? start;
  box.addEventListener("input", () => {
    desk.keep(box.value);
    tell();
    desk.changed();
  });

  const numWords = () => box.value.split(/\s+/).filter(Boolean).length;
  const isEnough = () => numWords() >= least && box.value !== start;
  const tell = () => (count.textContent = `${numWords()} words${least > 1 ? ` of at least ${least}` : ""}`);

  tell();
  return {
    element: el(
      "div",
      { class: task.slots.length > 0 ? "panels" : "single" },
      task.slots.length > 0 && panel(task.slots[0], "Answer", desk),
      el(
        "section",
        { class: "panel" },
        el("header", { class: "panel-head" }, el("label", { for: "writing" }, label), count),
        hint ? el("p", { class: "hint" }, hint) : null,
        box,
      ),
    ),
    focus: box,
    actions: { write: () => box.focus() },
    answer: () => (isEnough() ? { kind, text: box.value } : null),
    missing: start
      ? "Change the answer first."
      : least > 1
        ? `Write at least ${least} words first.`
        : "Write something first.",
  };
}
