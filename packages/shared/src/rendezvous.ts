import { xxh64 } from "@node-rs/xxhash";

/**
 * Rendezvous (highest-random-weight) hashing: every caller with the same members gives a key to the same member, and a member that
 * joins or leaves moves only the keys it gains or held. The weight of a member is `XXH64(member, seed = XXH64(key))`; equal
 * weights, which only equal names have in practice, go by name. The order of `members` does not matter.
 */
export function rankByRendezvous(key: string, members: readonly string[]): string[] {
  const seed = xxh64(key);
  return members
    .map((member) => ({ member, weight: xxh64(member, seed) }))
    .sort((a, b) => (beats(a.weight, a.member, b.weight, b.member) ? -1 : 1))
    .map(({ member }) => member);
}

/** First of {@link rankByRendezvous} without sorting; undefined when there are no members. */
export function pickByRendezvous(key: string, members: readonly string[]): string | undefined {
  const seed = xxh64(key);
  let best: string | undefined;
  let bestWeight = -1n;
  for (const member of members) {
    const weight = xxh64(member, seed);
    if (best === undefined || beats(weight, member, bestWeight, best)) {
      best = member;
      bestWeight = weight;
    }
  }
  return best;
}

function beats(weight: bigint, member: string, otherWeight: bigint, other: string): boolean {
  return weight === otherWeight ? member < other : weight > otherWeight;
}
