import { LRUCache } from "lru-cache";
import type { BlockStored, WireForm } from "../events/events.ts";
import type { BlockKey, EngineHash } from "../types.ts";
import { type BlockDigest, createBlockDigest } from "./block-digest.ts";
import type { ExtrasForm, KeyScheme, NativeScheme } from "./key-scheme.ts";
import { candidateBlockSizes, candidateSchemes, type SchemeHints } from "./scheme-candidates.ts";
import { type Testimony, testimonyOf } from "./scheme-witness.ts";
import { type ChainObstacle, locateHashes, recomputeChain } from "./store-recompute.ts";
import { type ExtrasMode, isMediaPair, wireExtrasOf } from "./wire-extras.ts";

/** How an endpoint makes its keys, as its events tell. */
export interface DetectedScheme {
  readonly scheme: KeyScheme;
  /** Tokens per hashed block: the block size of a request's keys. A group of a hybrid model may have a multiple of it. */
  readonly blockSizeTokens: number;
  readonly lookaheadTokens: number;
}

/** A native scheme that has not been recomputed from the endpoint's own events. */
export interface AssumedScheme extends DetectedScheme {
  readonly scheme: NativeScheme;
  readonly extrasForm: ExtrasForm | null;
}

export interface SchemeDetectorOptions {
  readonly hints?: SchemeHints;
  /** What an earlier owner of the endpoint found; detection is then over. */
  readonly known?: DetectedScheme & { readonly extrasForm: ExtrasForm | null };
  /** What the endpoint is taken for until a store settles it, this way or another. */
  readonly assumed?: AssumedScheme;
  /** Path a LoRA adapter was loaded from (`/v1/models`, `root`); asked at every use, because adapters come and go. */
  readonly loraPathOf?: (name: string) => string | undefined;
  /** Blocks whose full digest is remembered as a possible parent; about 200 bytes each. @defaultValue 16384 */
  readonly maxParents?: number;
}

/** Why hashes of a store could not be recomputed. */
export type NotCheckable =
  | ChainObstacle
  | "scheme unknown"
  | "content scheme"
  | "no tokens"
  | "unknown parent"
  | "tokens do not pair with hashes"
  | "masked blocks not located";

export interface StoreCheck {
  /** Hashes that were recomputed, and how many of these came out as the engine's. */
  readonly checked: number;
  readonly equal: number;
  /** Why the remaining hashes were not recomputed; null when there are none. */
  readonly notCheckable: NotCheckable | null;
  /**
   * The first hash that differs and what was computed for it; null when all are equal. Where the event carries no extra keys at all (vLLM before
   * 0.17, connectors) a salt or media unseen by us explains it; elsewhere it is a real contradiction.
   */
  readonly mismatch: { readonly block: number; readonly expected: BlockKey; readonly got: EngineHash } | null;
}

/**
 * Stores that are waited for, after one that matched no candidate but may hide what it was hashed with, before the scheme is nevertheless taken as
 * not native. Hidden extras (none on the wire before vLLM 0.17) stay hidden, and a common system prompt can make the next self-describing store
 * rare; an adapter's path arrives with the next look at `/v1/models`. Content keys serve in the end in both cases, so the wait is short.
 */
const patience = { hiddenExtras: 8, unknownPath: 64 };
/** Stores that hide nothing and match no candidate, after which a scheme that was assumed is dropped: one odd prompt is no proof against it. */
const oddStores = 8;
/** Largest block that detection looks at, so that a nonsensical event cannot keep it busy. */
const maxBlockSizeTokens = 65_536;

/**
 * Learns how one endpoint hashes from its BlockStored events, and recomputes later ones.
 *
 * A store that begins a chain and has all its tokens describes itself: recomputing its first hash with the candidates settles the scheme, a
 * match as native, none as content. A settled scheme never changes; a mismatch is reported and the caller decides. One detector per engine
 * process: a restarted engine may have another seed.
 */
export class SchemeDetector {
  readonly #hints: SchemeHints;
  readonly #loraPathOf: (name: string) => string | undefined;
  readonly #digests: LRUCache<string, string>;
  readonly #assumed: AssumedScheme | null;
  #found: DetectedScheme | null = null;
  #digest: BlockDigest | null = null;
  #mode: ExtrasMode | null = null;
  #extrasForm: ExtrasForm | null = null;
  #impliedForm: ExtrasForm | null = null;
  #storesToWait = Number.POSITIVE_INFINITY;
  #oddStores = 0;

  constructor(options: SchemeDetectorOptions = {}) {
    this.#hints = options.hints ?? {};
    this.#loraPathOf = options.loraPathOf ?? (() => undefined);
    this.#digests = new LRUCache({ max: options.maxParents ?? 16_384 });
    this.#extrasForm = options.known?.extrasForm ?? options.assumed?.extrasForm ?? null;
    this.#assumed = options.assumed ?? null;
    if (options.known === undefined) return;
    const { scheme, blockSizeTokens, lookaheadTokens } = options.known;
    this.#settle({ scheme, blockSizeTokens, lookaheadTokens });
    if (this.#extrasForm !== null) this.#mode = this.#extrasForm === "tagged" ? "tagged" : "untagged";
  }

  /** Null until settled. */
  get found(): DetectedScheme | null {
    return this.#found;
  }

  /** Learned from stores with extras, before that implied by the wire form; null while neither tells. */
  get extrasForm(): ExtrasForm | null {
    return this.#extrasForm ?? this.#impliedForm;
  }

  /** A sentence when the events contradict the configuration; null otherwise. The events win. */
  get contradiction(): string | null {
    const { algorithm, seed } = this.#hints;
    const scheme = this.#found?.scheme;
    if (scheme === undefined || algorithm === "content") return null;
    const configured = [algorithm ? `algorithm ${algorithm}` : "", seed === undefined || seed === null ? "" : `seed "${seed}"`].filter(
      (part) => part !== "",
    );
    if (configured.length === 0) return null;
    if (scheme.kind === "content") {
      return `configured ${configured.join(" and ")}, but no known algorithm and seed reproduce the engine's hashes; keys are made from token contents`;
    }
    const agrees = (!algorithm || algorithm === scheme.algorithm) && (seed === undefined || seed === null || seed === scheme.seed);
    if (agrees) return null;
    return `configured ${configured.join(" and ")}, but the engine hashes with algorithm ${scheme.algorithm} and seed "${scheme.seed}"`;
  }

  /** What a store says about a scheme that is not settled yet. */
  testimonyOf(event: BlockStored, scheme: NativeScheme, blockSizeTokens: number): Testimony {
    return testimonyOf(event, scheme, { blockSizeTokens, loraPath: this.#pathOf(event) });
  }

  /** Full digest of a block that has been recomputed or given, by its hash. */
  digestOf(hash: EngineHash): string | undefined {
    return this.#digests.get(hash);
  }

  /** Makes a digest known as a parent: one computed from a request, whose salt the events of old releases hide. */
  remember(digest: string): void {
    this.#digests.set(digest.slice(-16), digest);
  }

  /**
   * Recomputes what can be recomputed of a store, and settles the scheme if it is not yet. Call it for every store in order, or for a
   * sample: skipped ones only make more parents unknown.
   */
  checkStore(event: BlockStored, wireForm: WireForm | null = null): StoreCheck {
    this.#impliedForm ??= formOfWire(event, wireForm);
    if (this.#found === null) this.#detect(event);
    if (this.#found === null) this.#giveUpWaiting(event);
    if (event.hashes.length === 0) return nothingChecked(null);
    if (this.#found === null) return nothingChecked("scheme unknown");
    const { scheme, blockSizeTokens } = this.#found;
    if (scheme.kind === "content" || this.#digest === null) return nothingChecked("content scheme");
    const { hashes, tokenIds } = event;
    if (tokenIds.length === 0 || event.blockSizeTokens === 0) return nothingChecked("no tokens");

    const paired = tokenIds.length === hashes.length * event.blockSizeTokens;
    if (event.blockSizeTokens % blockSizeTokens !== 0 || (!paired && tokenIds.length % event.blockSizeTokens !== 0)) {
      return this.#checkKnown(event, "tokens do not pair with hashes");
    }
    const parent = event.parent === null ? this.#digest.root(null) : this.#digests.get(event.parent);
    if (parent === undefined) return paired ? nothingChecked("unknown parent") : this.#checkKnown(event, "unknown parent");
    return paired
      ? this.#checkPaired(event, this.#digest, parent, blockSizeTokens)
      : this.#checkMasked(event, this.#digest, parent, blockSizeTokens);
  }

  #checkPaired(event: BlockStored, digest: BlockDigest, parent: string, blockSizeTokens: number): StoreCheck {
    const plain = event.hashes.every((_, block) => wireExtrasOf(event, block) === null);
    let best: StoreCheck | null = null;
    let obstacle: ChainObstacle | null = null;
    for (const mode of this.#modesFor(!plain)) {
      const chain = recomputeChain(event, digest, { parent, blockSizeTokens, mode, loraPath: this.#pathOf(event) });
      if ("obstacle" in chain) {
        obstacle = chain.obstacle;
        continue;
      }
      const check = this.#compare(event, chain.digests, chain.perHash);
      if (check.mismatch === null) {
        if (!plain) this.#learn(event, mode);
        return check;
      }
      best ??= check;
    }
    // Where one of the modes could not be tried, the mismatch of the other proves nothing.
    return obstacle === null && best !== null ? best : nothingChecked(obstacle ?? "extra keys unreadable");
  }

  #compare(event: BlockStored, digests: readonly string[], perHash: number): StoreCheck {
    let equal = 0;
    let mismatch: StoreCheck["mismatch"] = null;
    let trusted = true;
    for (const [block, got] of event.hashes.entries()) {
      const expected = (digests[(block + 1) * perHash - 1] ?? "").slice(-16) as BlockKey;
      if (expected === (got as string)) {
        equal += 1;
        if (trusted) for (let i = block * perHash; i < (block + 1) * perHash; i++) this.remember(digests[i] ?? "");
      } else {
        trusted = false;
        mismatch ??= { block, expected, got };
      }
    }
    return { checked: event.hashes.length, equal, notCheckable: null, mismatch };
  }

  /** Stores of hybrid models that dropped hashes but kept the tokens: the hashes are looked for, in order, along the chain of the tokens. */
  #checkMasked(event: BlockStored, digest: BlockDigest, parent: string, blockSizeTokens: number): StoreCheck {
    for (const mode of this.#modesFor(event.loraName !== null)) {
      const located = locateHashes(event, digest, { parent, blockSizeTokens, mode, loraPath: this.#pathOf(event) });
      if (located === null) continue;
      for (const found of located) this.remember(found);
      return { checked: event.hashes.length, equal: event.hashes.length, notCheckable: null, mismatch: null };
    }
    return this.#checkKnown(event, "masked blocks not located");
  }

  /** Where positions are lost: a hash that another group's event let us recompute is equal by content. */
  #checkKnown(event: BlockStored, otherwise: NotCheckable): StoreCheck {
    const known = event.hashes.filter((hash) => this.#digests.has(hash)).length;
    return { checked: known, equal: known, notCheckable: known === event.hashes.length ? null : otherwise, mismatch: null };
  }

  #detect(event: BlockStored): void {
    const { hashes, tokenIds, blockSizeTokens, lookahead } = event;
    const lookaheadTokens = lookahead?.[0]?.length ?? 0;
    const first = hashes[0];
    if (blockSizeTokens === 0 || blockSizeTokens > maxBlockSizeTokens || tokenIds.length === 0) return;
    const content: DetectedScheme = { scheme: { kind: "content", seed: this.#hints.seed ?? "" }, blockSizeTokens, lookaheadTokens };
    if (this.#hints.algorithm === "content") {
      this.#settle(content);
      return;
    }
    if (first === undefined || event.parent !== null || tokenIds.length !== hashes.length * blockSizeTokens) return;

    const loraPath = this.#pathOf(event);
    const one: BlockStored = { ...event, hashes: [first], tokenIds: tokenIds.slice(0, blockSizeTokens) };
    let wait = event.extraKeys === null ? patience.hiddenExtras : 0;
    for (const scheme of candidateSchemes(this.#hints, this.#assumed?.scheme)) {
      const digest = createBlockDigest(scheme, "");
      for (const size of candidateBlockSizes(blockSizeTokens)) {
        for (const mode of this.#modesFor(wireExtrasOf(one, 0) !== null)) {
          const chain = recomputeChain(one, digest, { parent: digest.root(null), blockSizeTokens: size, mode, loraPath });
          if ("obstacle" in chain) wait = size === blockSizeTokens ? patience.unknownPath : wait;
          else if (chain.digests.at(-1)?.slice(-16) === (first as string)) {
            this.#settle({ scheme, blockSizeTokens: size, lookaheadTokens });
            return;
          }
        }
      }
    }
    if (wait === 0 && (this.#assumed === null || ++this.#oddStores >= oddStores)) this.#settle(content);
    else if (wait > 0) this.#storesToWait = Math.min(this.#storesToWait, wait);
  }

  #giveUpWaiting({ blockSizeTokens, lookahead }: BlockStored): void {
    if (blockSizeTokens === 0 || blockSizeTokens > maxBlockSizeTokens) return;
    this.#storesToWait -= 1;
    if (this.#storesToWait > 0) return;
    // Traffic that is salted or adapted throughout never matches: then what was assumed, or a complete configuration, is the better witness.
    if (this.#assumed !== null) {
      this.#settle(this.#assumed);
      return;
    }
    const { algorithm, seed } = this.#hints;
    const lookaheadTokens = lookahead?.[0]?.length ?? 0;
    const scheme: KeyScheme =
      algorithm && algorithm !== "content" && seed !== undefined && seed !== null
        ? { kind: "native", algorithm, seed }
        : { kind: "content", seed: seed ?? "" };
    this.#settle({ scheme, blockSizeTokens, lookaheadTokens });
  }

  #settle({ scheme, blockSizeTokens, lookaheadTokens }: DetectedScheme): void {
    const found = { scheme, blockSizeTokens, lookaheadTokens };
    this.#found = found;
    this.#digest = found.scheme.kind === "native" ? createBlockDigest(found.scheme, "") : null;
  }

  #learn(event: BlockStored, mode: ExtrasMode): void {
    this.#mode = mode;
    if (mode === "tagged") this.#extrasForm = "tagged";
    else if (this.#extrasForm === null || this.#extrasForm === "tagged") this.#extrasForm = mediaFormOf(event);
  }

  /** Without extras both modes hash alike, and nothing is to be learned. */
  #modesFor(hasExtras: boolean): readonly ExtrasMode[] {
    if (!hasExtras) return ["untagged"];
    return this.#mode !== null ? [this.#mode] : ["tagged", "untagged"];
  }

  #pathOf(event: BlockStored): string | undefined {
    return event.loraName === null ? undefined : this.#loraPathOf(event.loraName);
  }
}

function nothingChecked(notCheckable: NotCheckable | null): StoreCheck {
  return { checked: 0, equal: 0, notCheckable, mismatch: null };
}

/** Array events end with 0.23, before tags; those without extra keys at all are older than 0.17. The map16 head is 0.33's. */
function formOfWire(event: BlockStored, wireForm: WireForm | null): ExtrasForm | null {
  if (wireForm === "array") return event.extraKeys === null ? "plain" : "offset";
  return wireForm === "map16" ? "tagged" : null;
}

/** What an untagged event with extras tells: pairs are 0.19 and on, bare identifiers are older; a LoRA name or a salt alone does not say. */
function mediaFormOf(event: BlockStored): ExtrasForm | null {
  for (const [block] of event.hashes.entries()) {
    const wire = wireExtrasOf(event, block) ?? [];
    if (wire.some(isMediaPair)) return "offset";
    const strings = wire.filter((item) => typeof item === "string").length - (event.loraName !== null ? 1 : 0);
    const mayHaveSalt = block === 0 && event.parent === null;
    if (strings > (mayHaveSalt ? 1 : 0)) return "plain";
  }
  return null;
}
