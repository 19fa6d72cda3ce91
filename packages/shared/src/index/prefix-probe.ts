import type { EndpointId } from "../types.ts";
import { mediaByRank } from "./redis-keys.ts";

/*
 * Which blocks to read to learn how long each endpoint's prefix is, relying on residency being prefix-closed: engines evict the tail of a chain
 * first, so that "holds block i" is true up to some length and false from there on. So is "holds block i in the GPU", and so on down the media.
 *
 *   round 1   0 1 3 7 15 ...      ... n-8 n-4 n-2 n-1     where prefixes of chats end: near the front, or near the end
 *   round 2   each bracket left open, in about sqrt(length) steps
 *   round 3   what is left between two of those steps
 */

/** Brackets up to this many positions are read whole instead of taking one more round trip. */
const READ_WHOLE = 12;

/** Positions of the first round, ascending. */
export function firstPositions(blocks: number): number[] {
  const positions = new Set<number>();
  for (let distance = 1; distance <= blocks; distance *= 2) {
    positions.add(distance - 1);
    positions.add(blocks - distance);
  }
  return [...positions].sort((a, b) => a - b);
}

/** Rank of what an endpoint holds at a position that has been read: an index of `mediaByRank`, or their number when it holds nothing. */
export type ProbeRank = (position: number, endpoint: EndpointId) => number;

/** Length of a prefix, known to lie in [low, high]. */
interface Bracket {
  low: number;
  high: number;
}

/** One chain's probing, after its first round. At most two further rounds. */
export class PrefixProbe {
  readonly #endpoints: readonly EndpointId[];
  readonly #rankAt: ProbeRank;
  /** One bracket per endpoint and rank: of the prefix that is held in a medium of that rank or better. */
  readonly #brackets: readonly (readonly Bracket[])[];
  #round = 1;

  /** @param endpoints those that may hold block 0; others have no prefix */
  constructor(blocks: number, endpoints: readonly EndpointId[], rankAt: ProbeRank) {
    this.#endpoints = endpoints;
    this.#rankAt = rankAt;
    this.#brackets = endpoints.map(() => mediaByRank.map(() => ({ low: 0, high: blocks })));
    this.#observe(firstPositions(blocks));
  }

  /** Takes in what was read at the positions that `next` asked for, ascending. */
  observe(positions: readonly number[]): void {
    this.#observe(positions);
  }

  /** Positions to read next, ascending; none when every length is known. */
  next(): number[] {
    this.#round += 1;
    const positions = new Set<number>();
    let before: Bracket | null = null;
    for (const brackets of this.#brackets) {
      for (const bracket of brackets) {
        // Most media, and many endpoints, share their brackets.
        if (before === null || before.low !== bracket.low || before.high !== bracket.high) this.#split(bracket, positions);
        before = bracket;
      }
    }
    return [...positions].sort((a, b) => a - b);
  }

  /** Of whom each of these positions, ascending, decides something, in runs of neighbours that ask for the same endpoints. */
  askedOf(positions: readonly number[]): readonly { readonly positions: readonly number[]; readonly of: readonly EndpointId[] }[] {
    const runs: { readonly positions: number[]; readonly of: readonly EndpointId[] }[] = [];
    for (const position of positions) {
      const of = this.#endpoints.filter((_, i) => this.#isOpen(i, position));
      const run = runs.at(-1);
      if (run !== undefined && run.of.length === of.length && run.of.every((endpoint, i) => endpoint === of[i]))
        run.positions.push(position);
      else runs.push({ positions: [position], of });
    }
    return runs;
  }

  /** Blocks of an endpoint's prefix (by position in the list given) held in a medium of each rank or better; the last is the whole prefix. */
  lengths(endpoint: number): readonly number[] {
    return (this.#brackets[endpoint] ?? []).map((bracket) => bracket.low);
  }

  /** Not yet decided for every rank. */
  #isOpen(endpoint: number, position: number): boolean {
    const brackets = this.#brackets[endpoint] ?? [];
    const widest = brackets.at(-1);
    const narrowest = brackets[0];
    return widest !== undefined && narrowest !== undefined && position < widest.high && position >= narrowest.low;
  }

  #observe(positions: readonly number[]): void {
    for (const [i, brackets] of this.#brackets.entries()) {
      const endpoint = this.#endpoints[i];
      const widest = brackets.at(-1);
      const narrowest = brackets[0];
      if (endpoint === undefined || widest === undefined || narrowest === undefined) continue;
      for (const position of positions) {
        // Already decided for every rank.
        if (position >= widest.high || position < narrowest.low) continue;
        const held = this.#rankAt(position, endpoint);
        for (let rank = 0; rank < brackets.length; rank += 1) {
          const bracket = brackets[rank];
          if (bracket === undefined || position >= bracket.high || position < bracket.low) continue;
          if (held <= rank) bracket.low = position + 1;
          else bracket.high = position;
        }
      }
    }
  }

  #split({ low, high }: Bracket, positions: Set<number>): void {
    const open = high - low;
    if (open <= 0) return;
    if (open <= READ_WHOLE || this.#round >= 3) {
      for (let position = low; position < high; position += 1) positions.add(position);
      return;
    }
    const steps = Math.ceil(Math.sqrt(open));
    for (let step = 1; step < steps; step += 1) positions.add(low + Math.floor((open * step) / steps));
  }
}
