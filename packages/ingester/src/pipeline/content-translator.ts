import type { Clock } from "@kvatlas/shared/clock";
import type { BlockStored, KvEvent } from "@kvatlas/shared/events/events";
import { type ContentKeyMapper, createContentKeyMapper } from "@kvatlas/shared/hashing/content-keys";
import type { IndexOp } from "@kvatlas/shared/index/block-index";
import type { EndpointRegistry } from "@kvatlas/shared/registry/endpoint-registry";
import type { BlockKey, CacheGroupId, EndpointId, EngineHash } from "@kvatlas/shared/types";
import { LRUCache } from "lru-cache";
import { type KeyTranslator, OpRuns, type StoreOp } from "./key-translator.ts";
import type { SkipLog } from "./skip-log.ts";

export interface ContentTranslatorDeps {
  readonly registry: Pick<EndpointRegistry, "resolveEngineHashes" | "saveEngineHashes" | "dropEngineHashes">;
  readonly clock: Clock;
  readonly skips: Pick<SkipLog, "add">;
  readonly storeOp: StoreOp;
  /** Repeats a call until the store answers. */
  readonly stored: <T>(call: () => Promise<T>) => Promise<T>;
}

export interface ContentTranslatorOptions {
  readonly endpoint: EndpointId;
  readonly incarnation: number;
  readonly model: string;
  readonly seed: string;
  /** Of the chain that prompts are cut into. */
  readonly blockSizeTokens: number;
  /** The cache group whose blocks are those of the chain. */
  readonly chainGroup: () => CacheGroupId;
  /** Nobody has written to the incarnation's table yet: as long as everything fits in memory there is nothing to read from it. @defaultValue false */
  readonly isTableEmpty?: boolean;
}

/** Entries of the table that are kept at hand; the whole of it is in the registry. */
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

/** Field of the table: the same hash in two cache groups has two lives. */
type TableField = string;

function fieldOf(hash: EngineHash, group: CacheGroupId): TableField {
  return group === 0 ? hash : `${hash}#${group}`;
}

/** Whether the event's tokens are those of its hashes, block by block of the chain. Hybrid models leave masked blocks out of the hashes alone. */
function isPaired(event: BlockStored, blockSizeTokens: number): boolean {
  return event.blockSizeTokens === blockSizeTokens && event.tokenIds.length === event.hashes.length * blockSizeTokens;
}

/**
 * Keys from token contents, for engines whose own hashes cannot be reproduced. Removals and parents name engine hashes only, so the registry
 * holds a table engine hash -> key per incarnation, which outlives the owner.
 *
 * The table is written before the index, so that whatever the index holds can be removed again, and once for all batches that are written together. A pair is dropped when the last copy of its
 * block is gone; a crash in between leaves an unused pair behind until the next incarnation.
 *
 * The same hash in two cache groups names the same tokens (vLLM 0.24 to 0.33: the last fine hash of a group's block): where a store does not say
 * which tokens belong to which hash, its keys are those that the group of the chain has given.
 */
export class ContentTranslator implements KeyTranslator {
  readonly wantsEmptied = true;
  readonly #deps: ContentTranslatorDeps;
  readonly #options: ContentTranslatorOptions;
  readonly #mapper: ContentKeyMapper;
  readonly #known: LRUCache<TableField, BlockKey>;
  /** The table has nothing that is not at hand. */
  #isAllKnown: boolean;
  /** Pairs that are not in the table yet: written before the index gets their batches, many at once. */
  readonly #unsaved = new Map<TableField, BlockKey>();
  /** Pairs removed from some copy, by key: dropped when the index says that it was the last one. */
  readonly #removed = new LRUCache<BlockKey, Set<TableField>>({ max: maxCached });
  readonly #waiting = new Map<TableField, Waiting[]>();
  #waitingCount = 0;

  constructor(deps: ContentTranslatorDeps, options: ContentTranslatorOptions) {
    this.#deps = deps;
    this.#options = options;
    this.#mapper = createContentKeyMapper({ seed: options.seed, model: options.model });
    this.#isAllKnown = options.isTableEmpty ?? false;
    this.#known = new LRUCache({
      max: maxCached,
      dispose: (_key, _field, reason) => {
        if (reason === "evict") this.#isAllKnown = false;
      },
    });
  }

  async translate(events: readonly KvEvent[]): Promise<readonly IndexOp[]> {
    await this.#lookUp(events);
    this.#expire();
    const runs = new OpRuns();
    const pairs = this.#unsaved;
    this.#mapAhead(events, pairs);
    for (const event of events) {
      if (event.kind === "stored") this.#store(event, runs, pairs);
      else if (event.kind === "removed") this.#remove(event.hashes, event.group, event.medium, runs);
    }
    return runs.ops;
  }

  async save(): Promise<void> {
    if (this.#unsaved.size === 0) return;
    const { endpoint, incarnation } = this.#options;
    const pairs = new Map(this.#unsaved);
    await this.#deps.registry.saveEngineHashes(endpoint, incarnation, pairs);
    // Others may have come meanwhile.
    for (const [field, key] of pairs) if (this.#unsaved.get(field) === key) this.#unsaved.delete(field);
  }

  keyOf(hash: EngineHash, group: CacheGroupId): BlockKey | null {
    return this.#keyAt(hash, group) ?? null;
  }

  async forget(emptied: readonly BlockKey[]): Promise<void> {
    const fields: TableField[] = [];
    for (const key of emptied) {
      for (const field of this.#removed.get(key) ?? []) {
        fields.push(field);
        this.#known.delete(field);
        this.#unsaved.delete(field);
      }
      this.#removed.delete(key);
    }
    if (fields.length === 0) return;
    await this.#deps.registry.dropEngineHashes(this.#options.endpoint, this.#options.incarnation, fields);
  }

  /** A pair that was dropped with the last copy of its block is in the table again when both have come back with older data. */
  rewind(): void {
    this.#isAllKnown = false;
    this.#known.clear();
    this.#unsaved.clear();
    this.#removed.clear();
  }

  /** Fetches what the batch names and is not at hand, in one call; nothing where all of the table is at hand. */
  async #lookUp(events: readonly KvEvent[]): Promise<void> {
    const missing = new Set<TableField>();
    const inBatch = new Set<TableField>();
    const chainGroup = this.#options.chainGroup();
    const want = (hash: EngineHash, group: CacheGroupId): void => {
      for (const field of [fieldOf(hash, group), fieldOf(hash, chainGroup)]) {
        if (inBatch.has(field) || this.#known.has(field)) continue;
        const unsaved = this.#unsaved.get(field);
        if (unsaved === undefined) missing.add(field);
        else this.#known.set(field, unsaved);
      }
    };
    for (const event of events) {
      if (event.kind === "cleared") continue;
      const isDescribed = event.kind === "stored" && isPaired(event, this.#options.blockSizeTokens);
      if (!isDescribed) for (const hash of event.hashes) want(hash, event.group);
      if (event.kind !== "stored") continue;
      if (event.parent !== null) want(event.parent, event.group);
      if (isDescribed) for (const hash of event.hashes) inBatch.add(fieldOf(hash, event.group));
    }
    if (missing.size === 0 || this.#isAllKnown) return;
    const fields = [...missing];
    const { endpoint, incarnation } = this.#options;
    const keys = await this.#deps.stored(() => this.#deps.registry.resolveEngineHashes(endpoint, incarnation, fields));
    for (const [i, field] of fields.entries()) {
      const key = keys[i];
      if (key !== null && key !== undefined) this.#known.set(field, key as BlockKey);
    }
  }

  #store(event: BlockStored, runs: OpRuns, pairs: Map<TableField, BlockKey>): void {
    if (event.hashes.length === 0) return;
    if (event.tokenIds.length === 0 || this.#isOfOtherGroup(event)) {
      this.#storeKnown(event, runs, pairs);
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
    this.#stored(event, mapped.keys, new Set(), runs, pairs);
  }

  #stored(
    event: BlockStored,
    keys: readonly BlockKey[],
    gone: ReadonlySet<EngineHash>,
    runs: OpRuns,
    pairs: Map<TableField, BlockKey>,
  ): void {
    const present: BlockKey[] = [];
    for (const [i, hash] of event.hashes.entries()) {
      const key = keys[i];
      if (key === undefined) continue;
      const field = fieldOf(hash, event.group);
      this.#known.set(field, key);
      if (gone.has(hash)) continue;
      pairs.set(field, key);
      this.#removed.delete(key);
      present.push(key);
    }
    runs.add(this.#deps.storeOp(event), event.medium, event.group, present);
    for (const hash of event.hashes) this.#release(fieldOf(hash, event.group), runs, pairs);
  }

  /** Blocks that another medium (hash-only stores of connectors) or another cache group has described. */
  #storeKnown(event: BlockStored, runs: OpRuns, pairs: Map<TableField, BlockKey>): void {
    const isHashOnly = event.tokenIds.length === 0;
    const keys = this.#keysOf(event.hashes, event.group, isHashOnly ? "hash-only store of an unknown block" : unpaired);
    for (const key of keys) this.#removed.delete(key);
    for (const hash of event.hashes) {
      const field = fieldOf(hash, event.group);
      const key = this.#keyAt(hash, event.group);
      if (key === undefined || this.#known.has(field)) continue;
      this.#known.set(field, key);
      pairs.set(field, key);
    }
    runs.add(this.#deps.storeOp(event), event.medium, event.group, keys);
  }

  /** A store whose hashes have no tokens of their own, where there is another group that may have described them. */
  #isOfOtherGroup(event: BlockStored): boolean {
    return event.group !== this.#options.chainGroup() && !isPaired(event, this.#options.blockSizeTokens);
  }

  /** Keys of the chain's blocks, for stores of other groups that come before theirs in the same batch. */
  #mapAhead(events: readonly KvEvent[], pairs: Map<TableField, BlockKey>): void {
    if (!events.some((event) => event.kind === "stored" && this.#isOfOtherGroup(event))) return;
    const chainGroup = this.#options.chainGroup();
    for (const event of events) {
      if (event.kind !== "stored" || event.group !== chainGroup || event.tokenIds.length === 0) continue;
      const parentKey = event.parent === null ? null : this.#keyAt(event.parent, event.group);
      const mapped = parentKey === undefined ? null : this.#mapper.keysOf(event, parentKey);
      if (mapped === null || "obstacle" in mapped) continue;
      for (const [i, hash] of event.hashes.entries()) {
        const key = mapped.keys[i];
        if (key === undefined) continue;
        this.#known.set(fieldOf(hash, chainGroup), key);
        pairs.set(fieldOf(hash, chainGroup), key);
      }
    }
  }

  #keyAt(hash: EngineHash, group: CacheGroupId): BlockKey | undefined {
    return this.#known.get(fieldOf(hash, group)) ?? this.#known.get(fieldOf(hash, this.#options.chainGroup()));
  }

  #remove(hashes: readonly EngineHash[], group: CacheGroupId, medium: IndexOp["medium"], runs: OpRuns): void {
    if (this.#waitingCount > 0) this.#removeWaiting(hashes, group);
    const keys = this.#keysOf(hashes, group, "removal of an unknown block");
    for (const hash of hashes) {
      const field = fieldOf(hash, group);
      const key = this.#keyAt(hash, group);
      if (key === undefined) continue;
      const fields = this.#removed.get(key);
      if (fields === undefined) this.#removed.set(key, new Set([field]));
      else fields.add(field);
    }
    runs.add("remove", medium, group, keys);
  }

  #keysOf(hashes: readonly EngineHash[], group: CacheGroupId, otherwise: string): readonly BlockKey[] {
    const keys: BlockKey[] = [];
    for (const hash of hashes) {
      const key = this.#keyAt(hash, group);
      if (key !== undefined) keys.push(key);
    }
    if (keys.length < hashes.length) this.#deps.skips.add(otherwise, hashes.length - keys.length);
    return keys;
  }

  #wait(event: BlockStored): void {
    if (event.parent === null) return;
    if (this.#waitingCount >= maxWaiting) {
      this.#giveUp(event);
      return;
    }
    const field = fieldOf(event.parent, event.group);
    const list = this.#waiting.get(field) ?? [];
    list.push({ event, since: this.#deps.clock.monotonic(), gone: new Set() });
    this.#waiting.set(field, list);
    this.#waitingCount++;
  }

  /** The parent has come: its children follow, and theirs. */
  #release(parent: TableField, runs: OpRuns, pairs: Map<TableField, BlockKey>): void {
    const list = this.#waiting.get(parent);
    const parentKey = this.#known.get(parent);
    if (list === undefined || parentKey === undefined) return;
    this.#waiting.delete(parent);
    this.#waitingCount -= list.length;
    for (const { event, gone } of list) {
      const mapped = this.#mapper.keysOf(event, parentKey);
      if ("obstacle" in mapped) this.#deps.skips.add(mapped.obstacle, event.hashes.length);
      else this.#stored(event, mapped.keys, gone, runs, pairs);
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
    for (const [field, list] of this.#waiting) {
      const kept = list.filter(({ since }) => since >= before);
      for (const { event, since } of list) if (since < before) this.#giveUp(event);
      this.#waitingCount -= list.length - kept.length;
      if (kept.length === 0) this.#waiting.delete(field);
      else this.#waiting.set(field, kept);
    }
  }

  #giveUp(event: BlockStored): void {
    this.#deps.skips.add("unknown parent", event.hashes.length);
  }
}
