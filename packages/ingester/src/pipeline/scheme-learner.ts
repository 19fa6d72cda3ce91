import type { Clock } from "@kvatlas/shared/clock";
import type { BlockStored, KvEvent, WireForm } from "@kvatlas/shared/events/events";
import type { ExtrasForm, HashAlgorithm, KeyScheme } from "@kvatlas/shared/hashing/key-scheme";
import {
  type AssumedScheme,
  type DetectedScheme,
  SchemeDetector,
  type SchemeDetectorOptions,
} from "@kvatlas/shared/hashing/scheme-detector";
import type { ReplicaTarget } from "../discovery/replica-target.ts";
import type { IngesterMetrics } from "../metrics.ts";
import type { EndpointProfile } from "./endpoint-profile.ts";
import type { FleetSchemes } from "./fleet-schemes.ts";
import { groupKindOf } from "./group-catalog.ts";
import { assumedScheme } from "./scheme-assumption.ts";

export interface SchemeLearnerDeps {
  readonly clock: Clock;
  readonly metrics: IngesterMetrics;
  readonly profile: EndpointProfile;
  readonly schemes: FleetSchemes;
}

export interface LearnedKeys {
  readonly scheme: KeyScheme;
  readonly blockSizeTokens: number;
}

/**
 * Blocks of an endpoint that are recomputed to see that the scheme still holds: so many at first, then so many a second. Each costs the
 * ingester somewhat more than to take it in does.
 */
const checkedBlocksAtFirst = 5_000;
const checkedBlocksPerSecond = 500;
/** Blocks over which the match ratio is taken: at so many, what came before counts half. */
const ratioBlocks = 2_000;

/** Learns an endpoint's key scheme and block size from its stores and goes on checking a bounded sample of them; leaves what it finds in the profile. */
export class SchemeLearner {
  readonly #deps: SchemeLearnerDeps;
  readonly #target: ReplicaTarget;
  #detector: SchemeDetector;
  #assumed: AssumedScheme | null = null;
  #budget = checkedBlocksAtFirst;
  #budgetAt: number;
  #recentChecked = 0;
  #recentEqual = 0;

  constructor(deps: SchemeLearnerDeps, target: ReplicaTarget) {
    this.#deps = deps;
    this.#target = target;
    this.#detector = this.#createDetector();
    this.#budgetAt = deps.clock.monotonic();
  }

  /** Null until settled or assumed. */
  get learned(): LearnedKeys | null {
    return this.#detector.found ?? this.#assumed;
  }

  /** The keys are not recomputed from the endpoint's own stores yet: the next one from the root confirms or contradicts them. */
  get isAssumed(): boolean {
    return this.#assumed !== null && this.#detector.found === null;
  }

  /** Goes on with what an earlier owner has found, or assumed. */
  adopt({ scheme, ...keys }: DetectedScheme & { readonly extrasForm: ExtrasForm | null }): void {
    if (scheme.kind === "native") this.#assume({ ...keys, scheme });
    else this.#detector = this.#createDetector({ known: { ...keys, scheme } });
  }

  reset(): void {
    this.#assumed = null;
    this.#detector = this.#createDetector();
  }

  /** Takes the endpoint for what its past, its pool and the configuration say; null where they do not. Called while nothing is learned. */
  async assume(events: readonly KvEvent[]): Promise<LearnedKeys | null> {
    const { pool, model, endpoint } = this.#target;
    const { profile, schemes } = this.#deps;
    const { algorithm, seed } = this.#configured();
    const assumed = assumedScheme({
      endpoint,
      processStartSeconds: profile.processStartSeconds,
      engineAlgorithm: profile.algorithmHint,
      algorithm,
      seed,
      fleet: await schemes.of(pool.name, model),
      stores: events.filter((event) => event.kind === "stored"),
      testimonyOf: (...of) => this.#detector.testimonyOf(...of),
    });
    if (assumed === null) return null;
    this.#assume({ ...assumed, extrasForm: this.#detector.extrasForm ?? assumed.extrasForm });
    profile.extrasForm = this.#detector.extrasForm;
    profile.lookaheadTokens = assumed.lookaheadTokens;
    return assumed;
  }

  /** Leaves what has been recomputed for the others of the pool, and for whoever owns the endpoint next. */
  share(): void {
    const found = this.#detector.found;
    if (found === null || found.scheme.kind !== "native") return;
    const { endpoint, pool, model } = this.#target;
    const { extrasForm, processStartSeconds } = this.#deps.profile;
    const { scheme, blockSizeTokens } = found;
    this.#deps.schemes.learned({ endpoint, pool: pool.name, model, scheme, blockSizeTokens, extrasForm, processStartSeconds });
  }

  /**
   * Looks at the stores of one batch, those of full-attention groups first: their blocks are what prompts are cut into, where a hybrid model's
   * groups differ.
   */
  learn(events: readonly KvEvent[], wireForm: WireForm | null): LearnedKeys | null {
    const stores = events.filter((event) => event.kind === "stored");
    const isFull = (event: BlockStored): boolean => groupKindOf(event.specKind, event.slidingWindowTokens) === "full";
    for (const event of [...stores.filter(isFull), ...stores.filter((event) => !isFull(event))]) {
      this.#detector.checkStore(event, wireForm);
      const { found } = this.#detector;
      if (found !== null) {
        this.#report(found);
        return found;
      }
    }
    return null;
  }

  /** Recomputes a later store, as far as the budget goes. */
  check(event: BlockStored, wireForm: WireForm | null): void {
    const blocks = event.hashes.length;
    if (blocks === 0 || !this.#mayCheck(blocks)) return;
    const { metrics, profile } = this.#deps;
    const { checked, equal, mismatch } = this.#detector.checkStore(event, wireForm);
    if (equal > 0) metrics.checkedBlocks.inc({ result: "equal" }, equal);
    if (checked > equal) metrics.checkedBlocks.inc({ result: "different" }, checked - equal);
    if (checked > 0) this.#showRatio(checked, equal);
    if (blocks > checked) metrics.checkedBlocks.inc({ result: "not checkable" }, blocks - checked);
    profile.extrasForm = this.#detector.extrasForm;
    // Without extra keys in the event, a salt or media that is not published explains the difference.
    if (mismatch !== null && event.extraKeys !== null) {
      profile.find(
        "key-mismatch",
        "Some of the engine's block hashes are not what its key scheme gives: prompts like those cannot be matched.",
      );
    }
  }

  #showRatio(checked: number, equal: number): void {
    if (this.#recentChecked >= ratioBlocks) {
      this.#recentChecked /= 2;
      this.#recentEqual /= 2;
    }
    this.#recentChecked += checked;
    this.#recentEqual += equal;
    this.#deps.metrics.keyMatchRatio.set({ endpoint: this.#target.endpoint }, this.#recentEqual / this.#recentChecked);
  }

  #mayCheck(blocks: number): boolean {
    const now = this.#deps.clock.monotonic();
    const refill = ((now - this.#budgetAt) / 1_000) * checkedBlocksPerSecond;
    // What is saved up in quiet times is little, so that no burst of checks holds up what is to be applied.
    this.#budget = Math.max(this.#budget, Math.min(checkedBlocksPerSecond, this.#budget + refill));
    this.#budgetAt = now;
    if (this.#budget <= 0) return false;
    this.#budget -= blocks;
    return true;
  }

  #assume(assumed: AssumedScheme): void {
    this.#assumed = assumed;
    this.#detector = this.#createDetector({ assumed });
  }

  #configured(): { readonly algorithm: HashAlgorithm | "content" | null; readonly seed: string | null } {
    const { hashAlgo, hashSeed } = this.#target.pool.prefixCache;
    return { algorithm: hashAlgo === "auto" ? null : hashAlgo, seed: hashSeed === "auto" ? null : hashSeed };
  }

  #createDetector(before: Pick<SchemeDetectorOptions, "known" | "assumed"> = {}): SchemeDetector {
    const { profile } = this.#deps;
    return new SchemeDetector({
      hints: { ...this.#configured(), engineAlgorithms: profile.algorithmHint === null ? [] : [profile.algorithmHint] },
      loraPathOf: (name) => profile.loras[name],
      ...before,
    });
  }

  #report(found: DetectedScheme): void {
    const { profile } = this.#deps;
    const { blockSize } = this.#target.pool.prefixCache;
    profile.extrasForm = this.#detector.extrasForm;
    profile.lookaheadTokens = found.lookaheadTokens;
    profile.find("hash-scheme", this.#detector.contradiction);
    profile.find(
      "block-size",
      blockSize === "auto" || blockSize === found.blockSizeTokens
        ? null
        : `prefixCache.blockSize is ${blockSize}, the engine's events say ${found.blockSizeTokens}. The events win; correct the setting or make it auto.`,
    );
  }
}
