import type { EndpointId } from "../types.ts";
import type { PrefixQuery } from "./block-index.ts";
import type { Layouts } from "./prefix-match.ts";
import { holderField, mediaByRank, type RedisKeys, type SpaceKeys, shardOf } from "./redis-keys.ts";
import type { ReadCall } from "./redis-read-call.ts";
import type { ScopeLayout } from "./scope-layout.ts";

/** Leading blocks of a chain that one endpoint holds in a medium of each rank or better; the last is the whole prefix. */
export interface FoundPrefix {
  readonly incarnation: number;
  readonly lengths: readonly number[];
}

/**
 * Finds how long each endpoint's prefix of a chain is, in one round trip: find-1.lua searches the part of the chain that lies in its shard, and a prefix ends at
 * the first block that is missing in any shard. That is exact as long as residency is prefix-closed, as find-1.lua says.
 */
export class PrefixSearch {
  readonly #query: PrefixQuery;
  readonly #space: SpaceKeys;
  /** By shard: positions of the chain that lie in it, ascending; null: all of them lie in the only one. */
  readonly #parts: ReadonlyMap<number, readonly number[]> | null;
  /** Fields that must all be there, of endpoints for which one does not do. */
  readonly #named: readonly (string | number)[];
  readonly #answers: Answer[] = [];

  /** @param layouts of endpoints with several cache groups, all of them with blocks as long as those of the chain */
  constructor(query: PrefixQuery, keys: RedisKeys, { tag, shards }: ScopeLayout, layouts: Layouts) {
    this.#query = query;
    this.#space = keys.space(tag);
    this.#parts = shards === 1 ? null : partsOf(query, shards);
    this.#named = [...layouts].flatMap(([endpoint, { full }]) => [
      endpoint,
      full.length,
      ...full.map((group) => holderField(endpoint, group.id)),
    ]);
  }

  calls(): readonly ReadCall[] {
    if (this.#parts === null) return [this.#call(0, null)];
    return [...this.#parts].map(([shard, positions]) => this.#call(shard, positions));
  }

  /** Endpoints that hold the first block. */
  found(): ReadonlyMap<EndpointId, FoundPrefix> {
    const [first, ...others] = this.#answers;
    if (first === undefined) return new Map();
    if (others.length === 0) return first.found;
    const whole = new Map<EndpointId, FoundPrefix>();
    // Who holds the first block is in the answer of its shard.
    const leading = this.#answers.find(({ positions }) => positions[0] === 0) ?? first;
    for (const [endpoint, { incarnation }] of leading.found) {
      const lengths = mediaByRank.map((_, rank) =>
        Math.min(...this.#answers.map(({ positions, found }) => this.#end(positions, found.get(endpoint)?.lengths[rank] ?? 0))),
      );
      whole.set(endpoint, { incarnation, lengths });
    }
    return whole;
  }

  #call(shard: number, positions: readonly number[] | null): ReadCall {
    return {
      script: "find",
      keys: [this.#space.seq(shard)],
      args: [this.#space.blockPrefix(shard), this.#packed(positions), ...this.#named],
      accept: (reply) => {
        this.#answers.push({ positions: positions ?? [], found: parseFound(String(reply ?? "")) });
      },
    };
  }

  /** Position of the first block of a shard that is missing; the chain's length when none is. */
  #end(positions: readonly number[], held: number): number {
    return positions[held] ?? this.#query.keys.length;
  }

  #packed(positions: readonly number[] | null): string {
    const { keys } = this.#query;
    if (positions === null) return keys.join("");
    let packed = "";
    for (const position of positions) packed += keys[position] ?? "";
    return packed;
  }
}

/** What one shard answered. */
interface Answer {
  /** Empty when it is the only one. */
  readonly positions: readonly number[];
  readonly found: ReadonlyMap<EndpointId, FoundPrefix>;
}

function partsOf({ keys }: PrefixQuery, shards: number): ReadonlyMap<number, readonly number[]> {
  const parts = new Map<number, number[]>();
  keys.forEach((key, position) => {
    const shard = shardOf(key, shards);
    const list = parts.get(shard);
    if (list === undefined) parts.set(shard, [position]);
    else list.push(position);
  });
  return parts;
}

/** The answer of find-1.lua. */
function parseFound(text: string): ReadonlyMap<EndpointId, FoundPrefix> {
  const found = new Map<EndpointId, FoundPrefix>();
  const lines = text.split("\n");
  for (let i = 0; i + 2 < lines.length; i += 3) {
    const lengths = (lines[i + 2] ?? "").split(" ").map(Number);
    const all = lengths.length === 1 ? mediaByRank.map(() => lengths[0] ?? 0) : lengths;
    found.set(lines[i] as EndpointId, { incarnation: Number(lines[i + 1]), lengths: all });
  }
  return found;
}
