/** Lets one waiter sleep until something happens. A notification that comes before the wait ends that wait at once. */
export class WakeUp {
  #notified = false;
  #wake: (() => void) | null = null;

  notify(): void {
    this.#notified = true;
    this.#wake?.();
  }

  /** Until `notify`, or for `timeoutMs` when given. */
  async wait(timeoutMs?: number): Promise<void> {
    if (!this.#notified) {
      await new Promise<void>((resolve) => {
        const timer = timeoutMs === undefined ? null : setTimeout(resolve, timeoutMs);
        this.#wake = () => {
          if (timer !== null) clearTimeout(timer);
          resolve();
        };
      });
    }
    this.#wake = null;
    this.#notified = false;
  }
}
