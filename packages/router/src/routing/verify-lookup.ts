import type { BlockIndex, PrefixMatches, PrefixQuery } from "@kvatlas/shared/index/block-index";
import type { Logger } from "@kvatlas/shared/logger";

export interface VerifyLookupDeps {
  readonly index: Pick<BlockIndex, "lookup">;
  readonly logger: Logger;
  /** 0 <= value < 1 */
  readonly random: () => number;
  /** Called once per endpoint compared. */
  readonly onCompared: (agrees: boolean) => void;
}

/**
 * Checks a sample of probing lookups against exact ones, in the background and one at a time. Blocks that came or went in between make some
 * disagreement normal; a rate that stays high means that residency is not prefix-closed.
 */
export class VerifyLookup {
  readonly #deps: VerifyLookupDeps;
  readonly #sampleRate: number;
  #busy: Promise<void> | null = null;

  constructor(deps: VerifyLookupDeps, sampleRate: number) {
    this.#deps = deps;
    this.#sampleRate = sampleRate;
  }

  /** Never throws, never waits. */
  maybe(queries: readonly PrefixQuery[], probed: readonly PrefixMatches[]): void {
    if (this.#busy !== null || this.#sampleRate === 0 || this.#deps.random() >= this.#sampleRate) return;
    this.#busy = this.#compare(queries, probed)
      .catch((error: unknown) => this.#deps.logger.debug({ err: error }, "lookup could not be verified"))
      .finally(() => {
        this.#busy = null;
      });
  }

  /** Resolves when no comparison is under way. */
  async idle(): Promise<void> {
    await this.#busy;
  }

  async #compare(queries: readonly PrefixQuery[], probed: readonly PrefixMatches[]): Promise<void> {
    const exact = await this.#deps.index.lookup(queries, { method: "exact" });
    for (let i = 0; i < exact.length; i++) {
      const truth = exact[i];
      const guess = probed[i];
      if (truth === undefined || guess === undefined) continue;
      for (const endpoint of new Set([...truth.keys(), ...guess.keys()])) {
        const expected = truth.get(endpoint)?.blocks ?? 0;
        const got = guess.get(endpoint)?.blocks ?? 0;
        this.#deps.onCompared(expected === got);
        if (expected !== got) this.#deps.logger.debug({ endpoint, expected, got }, "probing and exact lookup disagree");
      }
    }
  }
}
