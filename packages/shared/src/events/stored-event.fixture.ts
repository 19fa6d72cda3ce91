import type { EngineHash } from "../types.ts";
import type { BlockStored } from "./events.ts";

/** A store in GPU memory, in blocks of two tokens, of a model without further cache groups; `more` overrides. */
export function storedEvent(
  {
    hashes,
    parent,
    tokenIds,
  }: { readonly hashes: readonly EngineHash[]; readonly parent: EngineHash | null; readonly tokenIds: readonly number[] },
  more: Partial<BlockStored> = {},
): BlockStored {
  return {
    kind: "stored",
    hashes,
    parent,
    tokenIds,
    blockSizeTokens: 2,
    medium: "gpu",
    loraId: null,
    loraName: null,
    extraKeys: null,
    group: 0,
    specKind: null,
    slidingWindowTokens: null,
    lookahead: null,
    ...more,
  };
}
