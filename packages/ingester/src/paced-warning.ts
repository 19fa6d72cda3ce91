import type { Clock } from "@kvatlas/shared/clock";
import type { Logger } from "@kvatlas/shared/logger";

const everyMs = 60_000;

/** A warning that bad input may ask for at any rate: written at once, and then once a minute at most, with the number of times since. */
export class PacedWarning {
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #text: string;
  #writtenAt = Number.NEGATIVE_INFINITY;
  #unwritten = 0;

  constructor(deps: { readonly clock: Clock; readonly logger: Logger }, text: string) {
    this.#clock = deps.clock;
    this.#logger = deps.logger;
    this.#text = text;
  }

  add(count: number, context: Readonly<Record<string, unknown>>): void {
    this.#unwritten += count;
    if (this.#clock.monotonic() - this.#writtenAt < everyMs) return;
    this.#logger.warn({ ...context, count: this.#unwritten }, this.#text);
    this.#writtenAt = this.#clock.monotonic();
    this.#unwritten = 0;
  }
}
