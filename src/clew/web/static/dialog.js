/** Dialogs: one at a time, closed by Esc, their keys shown on their buttons. */

import { caps, el } from "./element.js";

/** Shows a dialog; `choices` are {label, key, value}. Resolves to the value chosen, null where it was closed. */
export function ask(title, content, choices = [{ label: "Close", key: "Enter", value: null }]) {
  const before = document.activeElement;
  const box = el("dialog", { class: "dialog", "aria-label": title });
  return new Promise((resolve) => {
    let chosen = null;
    const choose = (value) => {
      chosen = typeof value === "function" ? value() : value;
      box.close();
    };
    box.addEventListener("keydown", (event) => {
      const choice = choices.find(({ key }) => key === event.key);
      const isTyping = event.target.closest("textarea, input") && event.key !== "Enter";
      const isPressing = event.key === "Enter" && event.target.closest("button, a");
      if (!choice || isTyping || isPressing || event.repeat) return;
      event.preventDefault();
      choose(choice.value);
    });
    box.addEventListener("close", () => {
      box.remove();
      before?.focus?.({ preventScroll: true });
      resolve(chosen);
    });
    box.append(
      el(
        "header",
        { class: "dialog-head" },
        el("h2", {}, title),
        el(
          "button",
          { type: "button", class: "link", "aria-label": "Close", onclick: () => box.close() },
          "×",
        ),
      ),
      el("div", { class: "dialog-body", tabindex: -1 }, content),
      el(
        "footer",
        { class: "dialog-foot" },
        ...choices.map((choice, place) => choiceButton(choice, place === 0, choose)),
      ),
    );
    document.body.append(box);
    box.showModal();
    (box.querySelector("[autofocus]") ?? box.querySelector(".dialog-body")).focus();
  });
}

/** A question with a few answers, the first nine each on a digit. */
export function askOne(title, content, options) {
  return ask(
    title,
    content,
    options.map(([value, label], place) => ({ label, key: place < 9 ? String(place + 1) : "", value })),
  );
}

function choiceButton({ label, key, value }, isFirst, choose) {
  const kind = key === "Enter" || (isFirst && !/^\d$/.test(key)) ? "primary" : "";
  return el(
    "button",
    { type: "button", class: `button ${kind}`, onclick: () => choose(value) },
    key && caps(key),
    " ",
    label,
  );
}
