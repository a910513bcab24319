/** What the server has not acknowledged yet: kept in localStorage and sent in order until it answers.

Every entry has a key of its own, so two tabs do not overwrite each other; a repeated one is the same to the server. */

import { post } from "./api.js";

const SLOWEST_MS = 8_000;
let counter = 0;

export class Queue {
  #prefix;
  #listener;
  #sending = null;
  #wait = 1000;
  #timer;

  /** `listener` hears changed(queue), sent(entry, body) and refused(entry, error). */
  constructor(owner, listener) {
    this.#prefix = `clew.unsent.${owner}.`;
    this.#listener = listener;
    addEventListener("online", () => this.send());
  }

  /** Entries oldest first: {key, path, body}. */
  get entries() {
    const keys = Object.keys(localStorage).filter((key) => key.startsWith(this.#prefix));
    return keys.sort().map((key) => ({ key, ...JSON.parse(localStorage.getItem(key)) }));
  }

  /** Why nothing is being sent; null while the server answers. */
  trouble = null;

  add(path, body) {
    const order = `${Date.now().toString().padStart(15, "0")}-${String(counter++).padStart(6, "0")}`;
    const key = `${this.#prefix}${order}-${Math.random().toString(36).slice(2)}`;
    localStorage.setItem(key, JSON.stringify({ path, body }));
    this.#listener.changed(this);
    this.send();
  }

  /** Sends what there is; resolves when the queue is empty or the server does not take more for now. */
  send() {
    this.#sending ??= this.#run();
    return this.#sending;
  }

  async #run() {
    await null; // with nothing to send it would end before send() has kept it
    clearTimeout(this.#timer);
    let entry;
    while ((entry = this.entries[0]) && (await this.#deliver(entry)));
    this.#sending = null;
    this.#listener.changed(this);
  }

  async #deliver(entry) {
    try {
      const body = await post(entry.path, entry.body, { key: entry.key.split(".").at(-1) });
      this.#settle(entry);
      this.#listener.sent(entry, body);
    } catch (error) {
      if (error.isPassing || error.status === 401) return this.#putOff(error);
      this.#settle(entry);
      this.#listener.refused(entry, error);
    }
    return true;
  }

  #settle(entry) {
    localStorage.removeItem(entry.key);
    this.trouble = null;
    this.#wait = 1000;
    this.#listener.changed(this);
  }

  #putOff(error) {
    this.trouble = error;
    this.#timer = setTimeout(() => this.send(), this.#wait);
    this.#wait = Math.min(2 * this.#wait, SLOWEST_MS);
    return false;
  }
}
