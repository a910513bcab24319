/** A rater at work on one project: task, answer, next task. */

import { Answered } from "./answered.js";
import { get, post } from "./api.js";
import { ask, askOne } from "./dialog.js";
import { el } from "./element.js";
import { showKeys } from "./help.js";
import { listen } from "./keyboard.js";
import { keysOf, ownKeys } from "./keymap.js";
import { KINDS, TITLES } from "./kinds/kinds.js";
import { passage, toggleView } from "./passage.js";
import { promptCard } from "./prompt.js";
import { Queue } from "./queue.js";
import { showMine } from "./mine.js";
import { say, showSaved, showToday } from "./status.js";
import { Stopwatch } from "./stopwatch.js";
import { Supply } from "./supply.js";

const byId = (id) => document.getElementById(id);

export class Work {
  #me;
  #project;
  #queue;
  #supply;
  #answered;
  #stopwatch = new Stopwatch();
  #view = null;
  #checking = null;

  constructor(me, project) {
    this.#me = me;
    this.#project = project;
    this.#answered = new Answered(me.pseudonym);
    this.#queue = new Queue(me.pseudonym, {
      changed: (queue) => this.#queueChanged(queue),
      sent: (entry, body) => this.#sent(entry, body),
      refused: (entry, error) => this.#refused(entry, error),
    });
    this.#supply = new Supply(project, () => this.#supply.current ?? this.#next());
    listen(
      () => this.#keys(),
      (action, place) => this.#act(action, place),
    );
    document.addEventListener("click", (event) => {
      const button = event.target.closest("[data-action]");
      if (button) this.#act(button.dataset.action);
    });
  }

  async start() {
    showToday(this.#project);
    this.#showEmpty("Fetching tasks …");
    await this.#queue.send();
    this.#supply.refill();
    setInterval(() => this.#supply.current ?? this.#supply.refill(), 10_000);
  }

  get #task() {
    return this.#supply.current;
  }

  #keys() {
    return keysOf(this.#task?.kind ?? "all", ownKeys(this.#me.pseudonym));
  }

  #act(action, place) {
    const common = {
      submit: () => this.#submit(),
      skip: () => this.#skip(),
      undo: () => this.#undo(),
      flag: () => this.#flag(),
      note: () => byId("note").focus(),
      leave: () => document.activeElement.closest("input, textarea") && byId("task").focus(),
      prompt: () => this.#foldPrompt(),
      raw: () => say(`Text is shown ${toggleView("raw")}`),
      invisibles: () =>
        say(`Text is shown ${toggleView("invisibles").replace("invisibles", "with invisible characters")}`),
      words: () => say(document.body.classList.toggle("show-words") ? "Lengths shown" : "Lengths hidden"),
      guidelines: () => this.#guidelines(),
      mine: () => showMine(this.#me),
      keys: () => showKeys(this.#task?.kind ?? "all", this.#me.pseudonym),
    };
    const own = this.#view?.actions[action];
    return own ? own(place) : common[action]?.();
  }

  #next() {
    this.#checking = null;
    const task = this.#supply.next();
    if (task) this.#show(task);
    else
      this.#showEmpty(
        this.#supply.trouble
          ? `No tasks: ${this.#supply.trouble.message}`
          : "No tasks for now. This page looks for new ones.",
      );
  }

  #show(task) {
    const { kind } = task;
    this.#view = KINDS[kind](task, this.#deskFor(task));
    const training = task.mode === "training" ? [el("span", { class: "badge" }, "Training")] : [];
    const prompt = task.prompt.turns.length > 0 ? [promptCard(task.prompt)] : [];
    const title = el("h1", { class: "task-title", id: "task-title" }, TITLES[kind], ...training);
    byId("task").replaceChildren(title, ...prompt, this.#view.element);
    byId("task").dataset.lease = task.lease;
    byId("task").dataset.kind = kind;
    this.#showFoot(task);
    this.#stopwatch.restart();
    (this.#view.focus ?? byId("task")).focus({ preventScroll: true });
    byId("task").scrollTop = 0;
    say("");
  }

  #showFoot(task) {
    const { rationale } = task.schema;
    byId("foot").hidden = false;
    byId("note-label").textContent = rationale ? "Why?" : "Note";
    byId("note").placeholder = rationale === "required" ? "Required" : "Optional";
    byId("note").value = "";
    this.#showReady();
  }

  #showEmpty(text) {
    this.#view = null;
    byId("foot").hidden = true;
    byId("task").replaceChildren(el("div", { class: "nothing" }, el("p", {}, text)));
    delete byId("task").dataset.lease;
  }

  /** What a kind of task may ask of the desk. */
  #deskFor(task) {
    const draft = `clew.draft.${task.lease}`;
    return {
      say,
      changed: (says) => {
        if (says) say(says);
        queueMicrotask(() => this.#showReady());
      },
      draft: () => localStorage.getItem(draft),
      keep: (text) => (text ? localStorage.setItem(draft, text) : localStorage.removeItem(draft)),
      request: (action, body) => post(`/leases/${task.lease}/${action}`, body),
      whole: (slot) => get(`/leases/${task.lease}/slots/${task.slots.indexOf(slot)}`),
    };
  }

  /** Why the task cannot be submitted yet; null when it can. */
  #missing() {
    if (this.#view.answer() === null) return this.#view.missing;
    const needsNote = this.#task.schema.rationale === "required" && byId("note").value.trim() === "";
    return needsNote ? "Say why first: press /." : null;
  }

  #showReady() {
    if (this.#view) byId("submit").setAttribute("aria-disabled", String(this.#missing() !== null));
  }

  #submit() {
    if (!this.#view || this.#checking) return;
    const missing = this.#missing();
    if (missing) return say(missing);
    const task = this.#task;
    localStorage.removeItem(`clew.draft.${task.lease}`);
    const body = {
      answer: this.#view.answer(),
      client_ms: this.#stopwatch.ms,
      note: byId("note").value.trim(),
      confidence: null,
    };
    if (task.mode === "training") this.#checking = task.lease;
    this.#queue.add(`/leases/${task.lease}/answer`, body);
    if (!task.answer) showToday(this.#project, 1);
    if (!this.#checking) this.#next();
  }

  async #skip() {
    if (!this.#task || this.#checking) return;
    const { lease } = this.#task;
    const note = byId("note").value.trim();
    const reason = await askOne(
      "Skip this task?",
      el("p", {}, "You will not see it again. Why do you skip it?"),
      SKIPS,
    );
    if (!reason || this.#task?.lease !== lease) return;
    this.#queue.add(`/leases/${lease}/skip`, { reason: note ? `${reason}. ${note}` : reason });
    this.#next();
    say("Skipped");
  }

  async #flag() {
    if (!this.#task) return;
    const { lease } = this.#task;
    const flag = await askOne(
      "Flag this task",
      el("p", {}, "What is wrong with it? Your note will say so to the operator."),
      FLAGS,
    );
    if (!flag || this.#task?.lease !== lease) return;
    byId("note").value = `${flag}: ${byId("note").value}`;
    this.#showReady();
    say("Flagged in your note: answer or skip the task as usual.");
  }

  async #undo() {
    await this.#queue.send();
    if (this.#queue.entries.length > 0)
      return say("Your last answer is still on its way; undo it when the server is back.");
    const answer = this.#answered.pop();
    if (!answer) return say("Nothing to undo: answers can be opened again for ten minutes.");
    try {
      const { task } = await post(`/answers/${answer}/undo`);
      this.#supply.insert(task);
      this.#show(task);
      say("Your last answer is open again.");
    } catch (error) {
      say(`Not undone: ${error.message}`);
    }
  }

  async #guidelines() {
    const { html } = await get(`/guidelines/${this.#project.id}`).catch(() => ({
      html: this.#project.guidelines_html,
    }));
    const text = html ? passage({ html, text: "" }) : el("p", {}, "This project has no guidelines.");
    await ask("Guidelines", text);
  }

  #foldPrompt() {
    const prompt = document.querySelector(".prompt");
    if (prompt) prompt.open = !prompt.open;
  }

  #queueChanged(queue) {
    showSaved(queue);
    if (this.#checking && queue.trouble) {
      say("The server will check this answer when it is back.");
      this.#next();
    }
  }

  async #sent({ path }, body) {
    if (!this.#task) this.#supply.refill(); // the server is back
    if (!path.endsWith("/answer")) return;
    this.#answered.add(body.answer, body.undo_until_ms);
    if (path === `/leases/${this.#checking}/answer`) await this.#explain(body.training);
  }

  async #explain(training) {
    if (training) {
      const verdict = training.correct ? "✓ As we see it too" : "✗ We see it differently";
      const html = training.explanation_html;
      await ask(verdict, html ? passage({ html, text: "" }) : "", [
        { label: "Next", key: "Enter", value: null },
      ]);
    }
    this.#next();
  }

  #refused({ path, body }, error) {
    if (this.#checking) this.#next();
    if (error.status === 410) return say(error.message);
    ask(
      "The server refused an answer",
      el(
        "div",
        {},
        el("p", {}, error.message),
        el("pre", {}, JSON.stringify(body, null, 2)),
        el("p", { class: "help" }, path),
      ),
    );
  }
}

const SKIPS = [
  ["unclear", "I do not understand it"],
  ["expertise", "I do not know enough"],
  ["disturbing", "It disturbs me"],
  ["broken", "It is broken"],
  ["other", "Another reason"],
];

const FLAGS = [
  ["flag identity", "It shows who wrote an answer"],
  ["flag personal", "It has personal data"],
  ["flag illegal", "It may be illegal"],
  ["flag broken", "It is broken"],
  ["flag", "Something else"],
];
