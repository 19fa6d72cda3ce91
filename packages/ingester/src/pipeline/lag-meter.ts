/** Marks kept: one per heartbeat, so minutes of lag; past it the oldest goes on counting. */
const maxMarks = 1_024;

/** How long the index has been behind what was received, looked at now and then: as exact as the time between two looks. */
export class LagMeter {
  #marks: { readonly seq: number; readonly at: number }[] = [];

  /**
   * Milliseconds since the first look at which a batch had been received that is not in the index yet; 0 when there is none.
   *
   * @param received - number of the newest batch received
   * @param indexed - number of the newest batch in the index for certain
   * @param nowMs - monotonic
   */
  look(received: number, indexed: number, nowMs: number): number {
    const newest = this.#marks.at(-1)?.seq ?? -1;
    // Numbers that go back are of another run.
    this.#marks = received < newest ? [] : this.#marks.filter(({ seq }) => seq > indexed);
    if (received > indexed && this.#marks.length < maxMarks && received > (this.#marks.at(-1)?.seq ?? -1)) {
      this.#marks.push({ seq: received, at: nowMs });
    }
    const [oldest] = this.#marks;
    return oldest === undefined ? 0 : nowMs - oldest.at;
  }
}
