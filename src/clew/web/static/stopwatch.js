/** Time on a task, without the time for which the page was out of sight. */

export class Stopwatch {
  #counted = 0;
  #since = performance.now();

  constructor() {
    document.addEventListener("visibilitychange", () => this.#turn());
  }

  restart() {
    this.#counted = 0;
    this.#since = performance.now();
  }

  /** Whole milliseconds since the restart. */
  get ms() {
    const running = document.hidden ? 0 : performance.now() - this.#since;
    return Math.round(this.#counted + running);
  }

  #turn() {
    const now = performance.now();
    if (document.hidden) this.#counted += now - this.#since;
    this.#since = now;
  }
}
