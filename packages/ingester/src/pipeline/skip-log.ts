import type { Clock } from "@kvatlas/shared/clock";
import type { Logger } from "@kvatlas/shared/logger";
import type { IngesterMetrics } from "../metrics.ts";
import { PacedWarning } from "../paced-warning.ts";

export interface SkipLogDeps {
  readonly metrics: Pick<IngesterMetrics, "skipped">;
  /** Names the endpoint. */
  readonly logger: Logger;
  readonly clock: Clock;
}

/** Counts what is passed over in an endpoint's events, and says so in its log, each reason by itself. */
export class SkipLog {
  readonly #deps: SkipLogDeps;
  readonly #warnings = new Map<string, PacedWarning>();

  constructor(deps: SkipLogDeps) {
    this.#deps = deps;
  }

  /** @param reason - one of a closed list, never part of an event */
  add(reason: string, count = 1, context: Readonly<Record<string, unknown>> = {}): void {
    this.#deps.metrics.skipped.inc({ reason }, count);
    let warning = this.#warnings.get(reason);
    if (warning === undefined) {
      warning = new PacedWarning(this.#deps, "something in the events was passed over");
      this.#warnings.set(reason, warning);
    }
    warning.add(count, { ...context, reason });
  }
}
