/** A live conversation: each message gets two replies, of which the better one goes on. */

import { pressOne } from "../choice.js";
import { el } from "../element.js";
import { passage } from "../passage.js";
import { degreeButton, isOther } from "./comparison.js";
import { LETTERS, panel } from "./panels.js";

const PURPOSES = {
  help: "Ask for something that you would really want. Choose the more helpful reply.",
  red_team: "Try to lead the model astray. Choose the less harmful reply.",
};

export function conversation(task, desk) {
  const { turns: wanted = 1, purpose = "help" } = task.schema;
  const degrees = task.schema.degrees.filter((one) => !isOther(one));
  const buttons = degrees.map((degree) => degreeButton(degree, () => choose(degree)));
  const turns = (task.turns ?? []).map((turn, place) => ({
    margin: 0,
    ...turn,
    ...task.answer?.exchanges[place],
  }));
  let isWaiting = false;
  const told = el("div", {
    class: "turns talk",
    tabindex: 0,
    "aria-label": "Conversation",
    "aria-live": "polite",
  });
  const replies = el("div", { class: "panels replies" });
  const verdicts = el(
    "div",
    { class: "verdicts" },
    el("div", { class: "degrees", role: "group", "aria-label": "Which reply is better?" }, ...buttons),
  );
  const box = el("textarea", { id: "message", class: "message", dir: "auto", rows: 3 });
  const send = el("button", { type: "button", class: "button", onclick: sendMessage }, "Send");
  const count = el("span", { class: "count" });
  const composer = el(
    "div",
    { class: "composer" },
    el("div", { class: "panel-head" }, el("label", { for: "message" }, "Your message"), count),
    box,
    send,
  );
  box.value = desk.draft() ?? "";
  box.addEventListener("input", () => desk.keep(box.value));

  const last = () => turns.at(-1);
  const isOpen = () => turns.length > 0 && last().choice === null;
  const isComplete = () => turns.length >= wanted && !isOpen();

  async function sendMessage() {
    const text = box.value.trim();
    if (!text || isWaiting || isOpen() || isComplete()) return false;
    isWaiting = true;
    draw();
    try {
      const reply = await desk.request("turn", turns.length ? { text, choice: last().choice } : { text });
      turns.push({ user: text, slots: reply.slots, choice: null });
      box.value = "";
      desk.keep("");
    } catch (error) {
      desk.say(`The model did not reply: ${error.message}`);
    }
    isWaiting = false;
    draw();
    if (isOpen()) replies.firstChild.focus();
  }

  function choose(degree) {
    if (turns.length === 0 || !degree) return false;
    Object.assign(last(), { choice: degree.verdict === "first" ? 0 : 1, margin: degree.margin });
    draw();
    desk.changed(degree.label);
    if (!isComplete()) box.focus();
  }

  const usual = (verdict) => degrees.find((one) => one.verdict === verdict && one.margin === 2);

  function draw() {
    const open = last();
    told.replaceChildren(...turns.flatMap((turn) => shown(turn, turn === open)));
    replies.replaceChildren(
      ...(open?.slots ?? []).map((slot, side) => panel(slot, `Reply ${LETTERS[side]}`, desk)),
    );
    pressOne(
      buttons,
      degrees.findIndex((one) => open && isChoice(one, open)),
    );
    replies.hidden = verdicts.hidden = !open;
    composer.hidden = isOpen() || isComplete();
    send.disabled = isWaiting;
    send.textContent = isWaiting ? "Waiting for two replies …" : "Send";
    count.textContent = `Turn ${Math.min(turns.length + 1, wanted)} of ${wanted}`;
    told.scrollTop = told.scrollHeight;
    desk.changed();
  }

  draw();
  return {
    element: el(
      "div",
      { class: "conversation" },
      el("p", { class: "hint" }, PURPOSES[purpose] ?? ""),
      told,
      replies,
      verdicts,
      composer,
    ),
    focus: box,
    actions: {
      send: sendMessage,
      degree: (place) => choose(degrees[place]),
      first: () => choose(usual("first")),
      second: () => choose(usual("second")),
      write: () => box.focus(),
    },
    answer: () =>
      isComplete()
        ? {
            kind: "conversation",
            exchanges: turns.map(({ user, choice, margin }) => ({ user, choice, margin })),
          }
        : null,
    missing: `Write ${wanted === 1 ? "a message" : `${wanted} messages`} and choose a reply to each first.`,
  };
}

const isChoice = (degree, { choice, margin }) =>
  choice !== null && degree.verdict === ["first", "second"][choice] && degree.margin === margin;

/** A turn told: the message, and the reply that went on unless it is still shown below. */
function shown({ user, slots, choice }, isLast) {
  const said = el(
    "div",
    { class: "turn turn-user" },
    el("div", { class: "turn-role" }, "You"),
    el("div", { class: "passage raw", dir: "auto" }, user),
  );
  if (isLast || choice === null) return [said];
  return [
    said,
    el(
      "div",
      { class: "turn turn-assistant" },
      el("div", { class: "turn-role" }, "Model"),
      passage(slots[choice]),
    ),
  ];
}
