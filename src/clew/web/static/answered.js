/** Answers that may still be undone, the latest last; they outlive a reload of the page. */

const MOST = 20;

export class Answered {
  #key;

  constructor(owner) {
    this.#key = `clew.answered.${owner}`;
  }

  add(answer, until) {
    if (!answer) return;
    this.#keep([...this.#list, { answer, until }].slice(-MOST));
  }

  /** Takes out the latest answer that may be undone; null where there is none. */
  pop() {
    const open = this.#list.filter(({ until }) => until > Date.now());
    const latest = open.pop();
    this.#keep(open);
    return latest?.answer ?? null;
  }

  get #list() {
    return JSON.parse(localStorage.getItem(this.#key) ?? "[]");
  }

  #keep(list) {
    localStorage.setItem(this.#key, JSON.stringify(list));
  }
}
