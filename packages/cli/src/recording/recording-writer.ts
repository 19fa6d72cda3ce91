import { once } from "node:events";
import type { Clock } from "@kvatlas/shared/clock";

/** Writes the lines of a recording, each with its time on one monotonic clock that starts at 0. */
export class RecordingWriter {
  readonly #output: NodeJS.WritableStream;
  readonly #clock: Clock;
  readonly #startedAt: number;
  #lastFrameAt = Number.NEGATIVE_INFINITY;

  constructor(output: NodeJS.WritableStream, clock: Clock) {
    this.#output = output;
    this.#clock = clock;
    this.#startedAt = clock.monotonic();
  }

  /** Milliseconds since a frame was written; Infinity before the first. */
  get quietMs(): number {
    return this.#now() - this.#lastFrameAt;
  }

  /**
   * Resolves when the line has been taken by a stream that has room for more.
   *
   * @param raw - a member whose value is JSON text already and goes out as it is
   */
  async write(
    kind: string,
    fields: Readonly<Record<string, unknown>>,
    raw?: { readonly name: string; readonly json: string },
  ): Promise<void> {
    const t = this.#now();
    if (kind === "frame") this.#lastFrameAt = t;
    const line = JSON.stringify({ kind, t, ...fields });
    const text = raw === undefined ? line : `${line.slice(0, -1)},${JSON.stringify(raw.name)}:${raw.json}}`;
    if (!this.#output.write(`${text}\n`)) await once(this.#output, "drain");
  }

  note(text: string, fields: Readonly<Record<string, unknown>> = {}): Promise<void> {
    return this.write("note", { text, ...fields });
  }

  #now(): number {
    return Math.round((this.#clock.monotonic() - this.#startedAt) * 10) / 10;
  }
}
