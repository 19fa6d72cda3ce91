import type { BlockStored } from "../events/events.ts";
import type { BlockDigest } from "./block-digest.ts";
import type { HashTuple } from "./hash-value.ts";
import { type ExtrasMode, type ExtrasObstacle, hashedExtras, wireExtrasOf } from "./wire-extras.ts";

/** Why the chain of a store cannot be computed from what the event tells. */
export type ChainObstacle = ExtrasObstacle | "extra keys of joined blocks" | "lookahead of masked blocks";

export interface ChainContext {
  /** Digest of the block before the event's first one, or the root. */
  readonly parent: string;
  /** Tokens per hashed block; divides the event's block size. */
  readonly blockSizeTokens: number;
  readonly mode: ExtrasMode;
  readonly loraPath: string | undefined;
}

export type RecomputedChain = { readonly digests: readonly string[]; readonly perHash: number } | { readonly obstacle: ChainObstacle };

/**
 * Digests of every hashed block of a store whose tokens pair with its hashes; `perHash` of them make one block of the event's group, whose
 * hash is that of the last (vLLM `v1/core/kv_cache_utils.py`: by low 64 bits also where digests were concatenated).
 */
export function recomputeChain(event: BlockStored, digest: BlockDigest, context: ChainContext): RecomputedChain {
  if (event.loraId !== null && event.loraName === null && event.extraKeys === null) return { obstacle: "lora name unknown" };
  const perHash = event.blockSizeTokens / context.blockSizeTokens;
  const digests: string[] = [];
  let parent = context.parent;
  for (const [block] of event.hashes.entries()) {
    const extras = hashedExtras(wireExtrasOf(event, block), context.mode, event.loraName, context.loraPath);
    if (extras !== null && "obstacle" in extras) return extras;
    const lookahead = event.lookahead?.[block] ?? null;
    if (perHash > 1 && ((extras !== null && !isAdapterOnly(event, block)) || lookahead !== null))
      return { obstacle: "extra keys of joined blocks" };
    for (let part = 0; part < perHash; part++) {
      const from = block * event.blockSizeTokens + part * context.blockSizeTokens;
      parent = digest.next(parent, event.tokenIds, from, from + context.blockSizeTokens, extras, lookahead);
      digests.push(parent);
    }
  }
  return { digests, perHash };
}

/**
 * Digests of the chain of a store that kept its tokens but dropped some of its hashes, up to the last hash it names; null when not every hash lies on
 * that chain in order. Blocks whose hash was dropped have lost their extra keys too, so only an adapter's, which every block has, can be filled in.
 */
export function locateHashes(event: BlockStored, digest: BlockDigest, context: ChainContext): readonly string[] | null {
  if (event.lookahead !== null || event.hashes.some((_, block) => wireExtrasOf(event, block) !== null && !isAdapterOnly(event, block)))
    return null;
  const adapter = event.loraName === null ? null : hashedExtras([event.loraName], context.mode, event.loraName, context.loraPath);
  if (adapter !== null && "obstacle" in adapter) return null;
  const extras: HashTuple | null = adapter;
  const digests: string[] = [];
  let parent = context.parent;
  let next = 0;
  for (
    let from = 0;
    from + context.blockSizeTokens <= event.tokenIds.length && next < event.hashes.length;
    from += context.blockSizeTokens
  ) {
    parent = digest.next(parent, event.tokenIds, from, from + context.blockSizeTokens, extras, null);
    digests.push(parent);
    if (parent.endsWith(event.hashes[next] ?? " ")) next += 1;
  }
  return next === event.hashes.length ? digests : null;
}

function isAdapterOnly(event: BlockStored, block: number): boolean {
  const wire = wireExtrasOf(event, block);
  return wire !== null && wire.length === 1 && event.loraName !== null && wire[0] === event.loraName;
}
