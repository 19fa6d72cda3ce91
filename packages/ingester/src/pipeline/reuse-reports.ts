import type { Clock } from "@kvatlas/shared/clock";
import type { PoolConfig } from "@kvatlas/shared/config/schema";
import type { BlockStored, KvEvent } from "@kvatlas/shared/events/events";
import type { IndexOp } from "@kvatlas/shared/index/block-index";
import type { EngineHash } from "@kvatlas/shared/types";

/** Times that the form of a report has been seen before it counts as shown: once may be a coincidence. */
const sightingsNeeded = 3;
/** Between two looks into the index, once one has seen nothing. What it has seen is followed at once: until it is shown, wrong copies are counted. */
const betweenLooksMs = 250;

/**
 * Requests with `kv_cache_report_mode: full` (vLLM 0.26 and on) have the blocks that they reuse reported as stored once more, from the root of their
 * chain. Counted as copies they would stay in the index after the engine has dropped them; nothing in the event tells them from copies.
 *
 * What can be told: an engine takes a held prefix instead of storing it again, so blocks from the root of a chain are stored twice only by prompts of
 * a single block, and by requests that skip the lookup (prompt logprobs). A store of two blocks or more from the root, which were held before, and in
 * the same batch a store of what follows them, is a request that was looked up, hit, and reported what it hit. From then on stores from the root
 * confirm what they name instead of counting it: such blocks are gone with their first removal, so they are at worst missed, never promised.
 */
export class ReuseReports {
  readonly #clock: Clock;
  readonly #setting: PoolConfig["prefixCache"]["reuseReports"];
  #isShown: boolean;
  #sightings = 0;
  #lookedAt = Number.NEGATIVE_INFINITY;

  /** `isShown`: an earlier owner has seen it. */
  constructor(clock: Clock, setting: PoolConfig["prefixCache"]["reuseReports"], isShown: boolean) {
    this.#clock = clock;
    this.#setting = setting;
    this.#isShown = isShown && setting === "auto";
  }

  /** The engine's own events have shown the mode. */
  get isShown(): boolean {
    return this.#isShown;
  }

  /** What a store does to the counts of its blocks. Hash-only stores and those of other media come from connectors, which report nothing twice. */
  opOf(event: BlockStored): IndexOp["op"] {
    const confirms = this.#isShown || this.#setting === "confirm";
    return confirms && event.parent === null && event.tokenIds.length > 0 && event.medium === "gpu" ? "confirm" : "store";
  }

  /** A store of the batch that is a report if its blocks were held before; null when there is none, or nothing is to be found out now. */
  suspect(events: readonly KvEvent[]): BlockStored | null {
    if (this.#setting !== "auto" || this.#isShown || events.length < 2) return null;
    if (this.#clock.monotonic() < this.#lookedAt + betweenLooksMs) return null;
    /** Stores from the root, by the hash that they end with. */
    const fromRoot = new Map<EngineHash, BlockStored>();
    for (const event of events) {
      if (event.kind !== "stored" || event.medium !== "gpu" || event.tokenIds.length === 0) continue;
      if (event.parent !== null) {
        const report = fromRoot.get(event.parent);
        if (report?.group !== event.group) continue;
        this.#lookedAt = this.#clock.monotonic();
        return report;
      }
      const last = event.hashes.at(-1);
      if (last !== undefined && event.hashes.length > 1) fromRoot.set(last, event);
    }
    return null;
  }

  /** The index has been asked: the suspect's blocks were held before, or not. True when that is one sighting too many. */
  looked(wereHeld: boolean): boolean {
    if (!wereHeld || this.#isShown) return false;
    this.#sightings += 1;
    this.#lookedAt = Number.NEGATIVE_INFINITY;
    this.#isShown = this.#sightings >= sightingsNeeded;
    return this.#isShown;
  }

  /** Of another run of the engine nothing is known. */
  reset(): void {
    this.#isShown = false;
    this.#sightings = 0;
  }
}
