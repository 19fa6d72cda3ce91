import type { BlockStored } from "../events/events.ts";
import { createBlockDigest } from "./block-digest.ts";
import type { NativeScheme } from "./key-scheme.ts";
import { recomputeChain } from "./store-recompute.ts";
import { wireExtrasOf } from "./wire-extras.ts";

/** What one store says about a scheme: `nothing` where its hashes cannot be recomputed, or something unseen may be in them. */
export type Testimony = "for" | "against" | "nothing";

/**
 * Whether the hashes of a store are what `scheme` gives. A store from the root speaks of algorithm and seed; one that goes on speaks of the algorithm
 * alone, and only where the parent on the wire is the whole digest: events carry 64 bits of each hash, and only the digest of `sha256_cbor_64bit`
 * (vLLM 0.10.0 and 0.10.1) is no longer.
 */
export function testimonyOf(
  event: BlockStored,
  scheme: NativeScheme,
  context: { readonly blockSizeTokens: number; readonly loraPath: string | undefined },
): Testimony {
  const { hashes, tokenIds, parent } = event;
  const { blockSizeTokens } = context;
  const isPaired = tokenIds.length > 0 && tokenIds.length === hashes.length * event.blockSizeTokens;
  if (!isPaired || event.blockSizeTokens % blockSizeTokens !== 0) return "nothing";
  if (parent !== null && scheme.algorithm !== "sha256_cbor_64bit") return "nothing";
  const digest = createBlockDigest(scheme, "");
  let mayHide = event.extraKeys === null;
  for (const mode of wireExtrasOf(event, 0) === null ? (["untagged"] as const) : (["tagged", "untagged"] as const)) {
    const chain = recomputeChain(event, digest, { ...context, parent: parent ?? digest.root(null), mode });
    if ("obstacle" in chain) mayHide = true;
    else if (hashes.every((hash, block) => chain.digests[(block + 1) * chain.perHash - 1]?.endsWith(hash))) return "for";
  }
  return mayHide ? "nothing" : "against";
}
