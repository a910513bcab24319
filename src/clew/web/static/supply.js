/** Tasks leased ahead, so that the next one is on screen as soon as the last is answered. */

import { post } from "./api.js";

/** Fewer ready than this, and more are asked for, as many as one may hold: a request for every third answer. */
const AHEAD = 2;
const MOST = 5;
const RENEW_MS = 60_000;

export class Supply {
  #project;
  #ready = [];
  #known = new Set();
  #isAsking = false;
  #timers = [];

  /** `arrived()` is called when tasks came in. */
  constructor(project, arrived) {
    this.#project = project;
    this.arrived = arrived;
    this.#timers.push(setInterval(() => this.#renew(), RENEW_MS));
  }

  current = null;

  /** The server's error where the last question failed, else null. */
  trouble = null;

  /** Makes the next task the current one; null where none is ready. */
  next() {
    this.#ready = this.#ready.filter((task) => task.expires_ms > Date.now());
    this.current = this.#ready.shift() ?? null;
    this.refill();
    return this.current;
  }

  /** Puts a task before the current one, which then comes next. */
  insert(task) {
    this.#known.add(task.lease);
    if (this.current) this.#ready.unshift(this.current);
    this.current = task;
  }

  async refill() {
    if (this.#isAsking || this.#ready.length >= AHEAD) return;
    this.#isAsking = true;
    try {
      const have = [this.current, ...this.#ready].filter(Boolean).map(({ lease }) => lease);
      const reply = await post(`/projects/${this.#project.id}/leases`, { n: MOST, have });
      this.trouble = null;
      this.#take(reply?.tasks ?? []);
    } catch (error) {
      this.trouble = error;
    }
    this.#isAsking = false;
    this.arrived();
  }

  close() {
    this.#timers.forEach(clearInterval);
  }

  #take(tasks) {
    for (const task of tasks.filter((one) => !this.#known.has(one.lease))) {
      this.#known.add(task.lease);
      this.#ready.push(task);
      for (const slot of task.slots) if (slot.media) fetch(slot.media).catch(() => null);
    }
  }

  async #renew() {
    for (const task of [this.current, ...this.#ready].filter(Boolean)) {
      const reply = await post(`/leases/${task.lease}/heartbeat`).catch(() => null);
      if (reply?.expires_ms) task.expires_ms = reply.expires_ms;
    }
  }
}
