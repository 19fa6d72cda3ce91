import type { BlockStored, KvEvent } from "@kvatlas/shared/events/events";
import type { IndexOp } from "@kvatlas/shared/index/block-index";
import type { BlockKey, CacheGroupId, EngineHash, Medium } from "@kvatlas/shared/types";

/** Turns an engine's events into operations on block keys, under one key scheme. */
export interface KeyTranslator {
  /** Operations of one batch in the engine's order, batches by ascending `seq`. Stores and removals only: what a clear means is the session's affair. */
  translate(seq: number, events: readonly KvEvent[]): readonly IndexOp[] | Promise<readonly IndexOp[]>;
  /** Key of a block of the batch last translated, or of a group before; null when it is not known. */
  keyOf(hash: EngineHash, group: CacheGroupId): BlockKey | null;
  /** Every batch up to `seq` is in the index. */
  written(seq: number): void;
  /** The store has lost writes, and batches from further back follow: only what it still has is known of them. */
  rewind(): void;
}

/** What a store does to the counts of its blocks. */
export type StoreOp = (event: BlockStored) => IndexOp["op"];

/** As engines mean it: each store is a copy. */
export const countEachStore: StoreOp = () => "store";

/** Native schemes: the low 64 bits of the engine's own hash are the key, so hash-only stores and removals need no table. */
export function createNativeTranslator(storeOp: StoreOp): KeyTranslator {
  return {
    translate: (_seq, events) => {
      const runs = new OpRuns();
      for (const event of events) {
        if (event.kind === "stored") runs.add(storeOp(event), event.medium, event.group, keysOf(event.hashes));
        else if (event.kind === "removed") runs.add("remove", event.medium, event.group, keysOf(event.hashes));
      }
      return runs.ops;
    },
    keyOf: (hash) => hash as string as BlockKey,
    written: () => {},
    rewind: () => {},
  };
}

export const nativeTranslator: KeyTranslator = createNativeTranslator(countEachStore);

interface OpenRun {
  readonly op: IndexOp["op"];
  readonly medium: Medium;
  readonly group: CacheGroupId;
  keys: readonly BlockKey[];
  names?: readonly EngineHash[];
}

/** Collects operations in order and joins neighbours that differ in their keys only: engines send one removal per block. */
export class OpRuns {
  readonly #ops: OpenRun[] = [];
  /** Keys and names of the last run when they are arrays of its own that may grow. */
  #growing: { readonly keys: BlockKey[]; readonly names: EngineHash[] } | null = null;

  get ops(): readonly IndexOp[] {
    return this.#ops;
  }

  /**
   * `keys` and `names` are kept and not changed.
   *
   * @param names one for each key, in all runs or in none
   */
  add(op: IndexOp["op"], medium: Medium, group: CacheGroupId, keys: readonly BlockKey[], names?: readonly EngineHash[]): void {
    if (keys.length === 0) return;
    const last = this.#ops.at(-1);
    if (last === undefined || last.op !== op || last.medium !== medium || last.group !== group) {
      this.#ops.push({ op, medium, group, keys, ...(names === undefined ? {} : { names }) });
      this.#growing = null;
      return;
    }
    if (this.#growing === null) {
      this.#growing = { keys: [...last.keys], names: [...(last.names ?? [])] };
      last.keys = this.#growing.keys;
      if (names !== undefined) last.names = this.#growing.names;
    }
    for (const key of keys) this.#growing.keys.push(key);
    for (const name of names ?? []) this.#growing.names.push(name);
  }
}

/** Both are 16 hex digits of the same 64 bits; only under a native scheme are they the same thing. */
function keysOf(hashes: readonly EngineHash[]): readonly BlockKey[] {
  return hashes as readonly string[] as readonly BlockKey[];
}
