import type { Clock } from "@kvatlas/shared/clock";
import type { BlockStored, KvEvent } from "@kvatlas/shared/events/events";
import { type ContentKeyMapper, createContentKeyMapper } from "@kvatlas/shared/hashing/content-keys";
import type { BlockName, IndexOp } from "@kvatlas/shared/index/block-index";
import { nameField } from "@kvatlas/shared/index/redis-keys";
import type { BlockKey, CacheGroupId, EngineHash } from "@kvatlas/shared/types";
import { LRUCache } from "lru-cache";
import { type KeyTranslator, OpRuns, type StoreOp } from "./key-translator.ts";
import type { SkipLog } from "./skip-log.ts";

export interface ContentTranslatorDeps {
  /** Keys of what the index holds under these names, as of what has been written; waits until the store answers. */
  readonly keysOf: (names: readonly BlockName[]) => Promise<readonly (BlockKey | null)[]>;
  readonly clock: Clock;
  readonly skips: Pick<SkipLog, "add">;
  readonly storeOp: StoreOp;
}

export interface ContentTranslatorOptions {
  readonly model: string;
  readonly seed: string;
  /** Of the chain that prompts are cut into. */
  readonly blockSizeTokens: number;
  /** The cache group whose blocks are those of the chain. */
  readonly chainGroup: () => CacheGroupId;
  /** The index has no names of this incarnation yet: as long as everything fits in memory there is nothing to read. @defaultValue false */
  readonly isNameless?: boolean;
}

/** Names that are kept at hand, those used last; the index has all of them. */
const maxCached = 65_536;
/** Stores whose parent is not known yet. */
const maxWaiting = 1_024;
const waitMs = 10_000;
const unpaired = "tokens do not pair with hashes";

interface Waiting {
  readonly event: BlockStored;
  readonly since: number;
  /** Removed while waiting. */
  readonly gone: Set<EngineHash>;
}

/** {@link nameField}: the same hash in two cache groups has two lives. */
type Name = string;

/** Blocks of one event whose keys are known. */
interface KnownBlocks {
  readonly keys: BlockKey[];
  readonly hashes: EngineHash[];
}

/** Whether the event's tokens are those of its hashes, block by block of the chain. Hybrid models leave masked blocks out of the hashes alone. */
function isPaired(event: BlockStored, blockSizeTokens: number): boolean {
  return event.blockSizeTokens === blockSizeTokens && event.tokenIds.length === event.hashes.length * blockSizeTokens;
}

/**
 * Keys from token contents, for engines whose own hashes cannot be reproduced. Removals and parents name engine hashes only, so the index keeps what
 * an engine calls its blocks along with them, and owners that come later find it there.
 *
 * A name says the same key throughout an incarnation. One that is at hand may be of a block that is long gone, which does no harm: the index knows
 * what it holds. One that is not at hand is asked for, which answers for what is held by then: with the batches on their way, nothing is missing.
 *
 * The same hash in two cache groups names the same tokens (vLLM 0.24 to 0.33: the last fine hash of a group's block): where a store does not say
 * which tokens belong to which hash, its keys are those that the group of the chain has given.
 */
export class ContentTranslator implements KeyTranslator {
  readonly #deps: ContentTranslatorDeps;
  readonly #options: ContentTranslatorOptions;
  readonly #mapper: ContentKeyMapper;
  readonly #known: LRUCache<Name, BlockKey>;
  /** The index has no name that is not at hand. */
  #isAllKnown: boolean;
  /** Of batches that are on their way into the index, by ascending number of the last one: not to be found there yet. */
  readonly #underWay = new Map<Name, { readonly key: BlockKey; readonly seq: number }>();
  #seq = -1;
  readonly #waiting = new Map<Name, Waiting[]>();
  #waitingCount = 0;

  constructor(deps: ContentTranslatorDeps, options: ContentTranslatorOptions) {
    this.#deps = deps;
    this.#options = options;
    this.#mapper = createContentKeyMapper({ seed: options.seed, model: options.model });
    this.#isAllKnown = options.isNameless ?? false;
    this.#known = new LRUCache({
      max: maxCached,
      dispose: (_key, _name, reason) => {
        if (reason === "evict") this.#isAllKnown = false;
      },
    });
  }

  async translate(seq: number, events: readonly KvEvent[]): Promise<readonly IndexOp[]> {
    await this.#lookUp(events);
    this.#seq = seq;
    this.#expire();
    const runs = new OpRuns();
    this.#mapAhead(events);
    for (const event of events) {
      if (event.kind === "stored") this.#store(event, runs);
      else if (event.kind === "removed") this.#remove(event.hashes, event.group, event.medium, runs);
    }
    return runs.ops;
  }

  keyOf(hash: EngineHash, group: CacheGroupId): BlockKey | null {
    return this.#keyAt(hash, group) ?? null;
  }

  written(seq: number): void {
    for (const [name, last] of this.#underWay) {
      if (last.seq > seq) return;
      this.#underWay.delete(name);
    }
  }

  rewind(): void {
    this.#isAllKnown = false;
    this.#known.clear();
    this.#underWay.clear();
  }

  #remember(name: Name, key: BlockKey): void {
    this.#known.set(name, key);
    // In the order of their numbers.
    this.#underWay.delete(name);
    this.#underWay.set(name, { key, seq: this.#seq });
  }

  /** Fetches what the batch names and is not at hand, in one call; nothing where everything there is is at hand. */
  async #lookUp(events: readonly KvEvent[]): Promise<void> {
    const missing = new Map<Name, BlockName>();
    const inBatch = new Set<Name>();
    const chainGroup = this.#options.chainGroup();
    const want = (hash: EngineHash, ofGroup: CacheGroupId): void => {
      for (const group of [ofGroup, chainGroup]) {
        const name = nameField(hash, group);
        if (inBatch.has(name) || this.#known.has(name)) continue;
        const underWay = this.#underWay.get(name);
        if (underWay === undefined) missing.set(name, { hash, group });
        else this.#known.set(name, underWay.key);
      }
    };
    for (const event of events) {
      if (event.kind === "cleared") continue;
      const isDescribed = event.kind === "stored" && isPaired(event, this.#options.blockSizeTokens);
      if (!isDescribed) for (const hash of event.hashes) want(hash, event.group);
      if (event.kind !== "stored") continue;
      if (event.parent !== null) want(event.parent, event.group);
      if (isDescribed) for (const hash of event.hashes) inBatch.add(nameField(hash, event.group));
    }
    if (missing.size === 0 || this.#isAllKnown) return;
    const keys = await this.#deps.keysOf([...missing.values()]);
    for (const [i, name] of [...missing.keys()].entries()) {
      const key = keys[i] ?? null;
      if (key !== null) this.#known.set(name, key);
    }
  }

  #store(event: BlockStored, runs: OpRuns): void {
    if (event.hashes.length === 0) return;
    if (event.tokenIds.length === 0 || this.#isOfOtherGroup(event)) {
      this.#storeKnown(event, runs);
      return;
    }
    const parentKey = event.parent === null ? null : this.#keyAt(event.parent, event.group);
    if (parentKey === undefined) {
      this.#wait(event);
      return;
    }
    const mapped = this.#mapper.keysOf(event, parentKey);
    if ("obstacle" in mapped) {
      this.#deps.skips.add(mapped.obstacle, event.hashes.length);
      return;
    }
    this.#stored(event, mapped.keys, new Set(), runs);
  }

  #stored(event: BlockStored, keys: readonly BlockKey[], gone: ReadonlySet<EngineHash>, runs: OpRuns): void {
    const present: KnownBlocks = { keys: [], hashes: [] };
    for (const [i, hash] of event.hashes.entries()) {
      const key = keys[i];
      if (key === undefined) continue;
      this.#remember(nameField(hash, event.group), key);
      if (gone.has(hash)) continue;
      present.keys.push(key);
      present.hashes.push(hash);
    }
    runs.add(this.#deps.storeOp(event), event.medium, event.group, present.keys, present.hashes);
    for (const hash of event.hashes) this.#release(nameField(hash, event.group), runs);
  }

  /** Blocks that another medium (hash-only stores of connectors) or another cache group has described. */
  #storeKnown(event: BlockStored, runs: OpRuns): void {
    const isHashOnly = event.tokenIds.length === 0;
    const { keys, hashes } = this.#knownOf(event.hashes, event.group, isHashOnly ? "hash-only store of an unknown block" : unpaired);
    for (const [i, hash] of hashes.entries()) {
      const key = keys[i];
      if (key !== undefined) this.#remember(nameField(hash, event.group), key);
    }
    runs.add(this.#deps.storeOp(event), event.medium, event.group, keys, hashes);
  }

  /** A store whose hashes have no tokens of their own, where there is another group that may have described them. */
  #isOfOtherGroup(event: BlockStored): boolean {
    return event.group !== this.#options.chainGroup() && !isPaired(event, this.#options.blockSizeTokens);
  }

  /** Keys of the chain's blocks, for stores of other groups that come before theirs in the same batch. */
  #mapAhead(events: readonly KvEvent[]): void {
    if (!events.some((event) => event.kind === "stored" && this.#isOfOtherGroup(event))) return;
    const chainGroup = this.#options.chainGroup();
    for (const event of events) {
      if (event.kind !== "stored" || event.group !== chainGroup || event.tokenIds.length === 0) continue;
      const parentKey = event.parent === null ? null : this.#keyAt(event.parent, event.group);
      const mapped = parentKey === undefined ? null : this.#mapper.keysOf(event, parentKey);
      if (mapped === null || "obstacle" in mapped) continue;
      for (const [i, hash] of event.hashes.entries()) {
        const key = mapped.keys[i];
        if (key !== undefined) this.#remember(nameField(hash, chainGroup), key);
      }
    }
  }

  #keyAt(hash: EngineHash, group: CacheGroupId): BlockKey | undefined {
    return this.#known.get(nameField(hash, group)) ?? this.#known.get(nameField(hash, this.#options.chainGroup()));
  }

  #remove(hashes: readonly EngineHash[], group: CacheGroupId, medium: IndexOp["medium"], runs: OpRuns): void {
    if (this.#waitingCount > 0) this.#removeWaiting(hashes, group);
    const known = this.#knownOf(hashes, group, "removal of an unknown block");
    runs.add("remove", medium, group, known.keys, known.hashes);
  }

  #knownOf(hashes: readonly EngineHash[], group: CacheGroupId, otherwise: string): KnownBlocks {
    const known: KnownBlocks = { keys: [], hashes: [] };
    for (const hash of hashes) {
      const key = this.#keyAt(hash, group);
      if (key === undefined) continue;
      known.keys.push(key);
      known.hashes.push(hash);
    }
    if (known.keys.length < hashes.length) this.#deps.skips.add(otherwise, hashes.length - known.keys.length);
    return known;
  }

  #wait(event: BlockStored): void {
    if (event.parent === null) return;
    if (this.#waitingCount >= maxWaiting) {
      this.#giveUp(event);
      return;
    }
    const name = nameField(event.parent, event.group);
    const list = this.#waiting.get(name) ?? [];
    list.push({ event, since: this.#deps.clock.monotonic(), gone: new Set() });
    this.#waiting.set(name, list);
    this.#waitingCount++;
  }

  /** The parent has come: its children follow, and theirs. */
  #release(parent: Name, runs: OpRuns): void {
    const list = this.#waiting.get(parent);
    const parentKey = this.#known.get(parent);
    if (list === undefined || parentKey === undefined) return;
    this.#waiting.delete(parent);
    this.#waitingCount -= list.length;
    for (const { event, gone } of list) {
      const mapped = this.#mapper.keysOf(event, parentKey);
      if ("obstacle" in mapped) this.#deps.skips.add(mapped.obstacle, event.hashes.length);
      else this.#stored(event, mapped.keys, gone, runs);
    }
  }

  #removeWaiting(hashes: readonly EngineHash[], group: CacheGroupId): void {
    for (const list of this.#waiting.values()) {
      for (const { event, gone } of list) {
        if (event.group !== group) continue;
        for (const hash of hashes) if (event.hashes.includes(hash)) gone.add(hash);
      }
    }
  }

  #expire(): void {
    if (this.#waitingCount === 0) return;
    const before = this.#deps.clock.monotonic() - waitMs;
    for (const [name, list] of this.#waiting) {
      const kept = list.filter(({ since }) => since >= before);
      for (const { event, since } of list) if (since < before) this.#giveUp(event);
      this.#waitingCount -= list.length - kept.length;
      if (kept.length === 0) this.#waiting.delete(name);
      else this.#waiting.set(name, kept);
    }
  }

  #giveUp(event: BlockStored): void {
    this.#deps.skips.add("unknown parent", event.hashes.length);
  }
}
