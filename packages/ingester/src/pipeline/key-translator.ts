import type { KvEvent } from "@kvatlas/shared/events/events";
import type { IndexOp } from "@kvatlas/shared/index/block-index";
import type { BlockKey, EngineHash } from "@kvatlas/shared/types";

/** Turns an engine's events into operations on block keys, under one key scheme. */
export interface KeyTranslator {
  /** Whether `forget` wants to know which keys are gone for good. */
  readonly wantsEmptied: boolean;
  /** Operations of one batch in the engine's order. Stores and removals only: what a clear means is the session's affair. */
  translate(events: readonly KvEvent[]): readonly IndexOp[] | Promise<readonly IndexOp[]>;
  /** Called once the operations have been applied, with the keys whose last copy went away. */
  forget(emptied: readonly BlockKey[]): Promise<void>;
}

/** Native schemes: the low 64 bits of the engine's own hash are the key, so hash-only stores and removals need no table. */
export const nativeTranslator: KeyTranslator = {
  wantsEmptied: false,
  translate: (events) => {
    const ops: IndexOp[] = [];
    for (const event of events) {
      if (event.kind === "cleared" || event.hashes.length === 0) continue;
      ops.push({ op: event.kind === "stored" ? "store" : "remove", medium: event.medium, group: event.group, keys: keysOf(event.hashes) });
    }
    return ops;
  },
  forget: () => Promise.resolve(),
};

/** Both are 16 hex digits of the same 64 bits; only under a native scheme are they the same thing. */
function keysOf(hashes: readonly EngineHash[]): readonly BlockKey[] {
  return hashes as readonly string[] as readonly BlockKey[];
}
