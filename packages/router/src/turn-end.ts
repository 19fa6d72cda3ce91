/**
 * Runs tasks at the end of the turn of the event loop, one after the other without a turn in between, so that what they send to the same store goes out in one
 * write. Tasks do not throw.
 */
export class TurnEnd {
  #tasks: (() => void)[] = [];

  run(task: () => void): void {
    this.#tasks.push(task);
    if (this.#tasks.length > 1) return;
    setImmediate(() => {
      const tasks = this.#tasks;
      this.#tasks = [];
      for (const run of tasks) run();
    });
  }
}
