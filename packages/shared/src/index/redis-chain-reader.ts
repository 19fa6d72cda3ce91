import type { BlockKey, CacheGroupId, EndpointId } from "../types.ts";
import type { PrefixQuery } from "./block-index.ts";
import { ABSENT } from "./prefix-match.ts";
import { holderField, mediaByRank, parsePosition, type RedisKeys, type SpaceKeys, shardOf } from "./redis-keys.ts";
import type { ReadCall } from "./redis-read-call.ts";
import type { ScopeLayout } from "./scope-layout.ts";

/** Blocks read by one script call; bounds how long Redis is busy at a time. */
const MAX_READS_PER_CALL = 500;

/** First letters of the media: an entry names its best medium first. */
const rankByLetter = new Map(mediaByRank.map((medium, rank) => [medium.charCodeAt(0), rank]));

/** A query whose blocks are read one by one. */
export class ChainReader {
  readonly query: PrefixQuery;
  readonly #shards: number;
  readonly #space: SpaceKeys;
  /** How a live entry begins in a block's text, by holder field: line feed, field, line feed, current incarnation, colon. */
  readonly #beginnings = new Map<string, string>();
  readonly #incarnations = new Map<EndpointId, number>();
  /** By position: what has been read of a block as field, value, field, value ... with a line feed before each; undefined where nothing has been read. */
  readonly #blocks: (string | undefined)[];

  constructor(query: PrefixQuery, keys: RedisKeys, { tag, shards }: ScopeLayout) {
    this.query = query;
    this.#space = keys.space(tag);
    this.#shards = shards;
    this.#blocks = new Array<string | undefined>(query.keys.length).fill(undefined);
  }

  /** Entries of this incarnation are live. Of endpoints that nothing is known of, none are. */
  know(endpoint: EndpointId, incarnation: number): void {
    this.#incarnations.set(endpoint, incarnation);
  }

  /**
   * Calls that read these positions.
   *
   * @param withEndpoints - the first one also gets to know all endpoints of its shard
   */
  calls(positions: readonly number[], withEndpoints: boolean): readonly ReadCall[] {
    return this.#parts(positions).map(([shard, part], i) => this.#read(shard, part, withEndpoints && i === 0));
  }

  hasRead(position: number): boolean {
    return this.#blocks[position] !== undefined;
  }

  unread(from: number, to: number): number[] {
    const positions: number[] = [];
    for (let position = from; position < to; position += 1) if (this.#blocks[position] === undefined) positions.push(position);
    return positions;
  }

  get endpoints(): Iterable<EndpointId> {
    return this.#incarnations.keys();
  }

  readonly rankAt = (position: number, endpoint: EndpointId, group: CacheGroupId): number => {
    const block = this.#blocks[position];
    if (block === undefined || block === "") return ABSENT;
    const beginning = this.#beginning(endpoint, group);
    if (beginning === null) return ABSENT;
    const at = block.indexOf(beginning);
    return at === -1 ? ABSENT : (rankByLetter.get(block.charCodeAt(at + beginning.length)) ?? ABSENT);
  };

  /** By shard, and in parts that one call may read. */
  #parts(positions: readonly number[]): readonly (readonly [shard: number, positions: readonly number[]])[] {
    const byShard = new Map<number, number[]>();
    for (const position of positions) {
      const shard = shardOf(this.#key(position), this.#shards);
      const list = byShard.get(shard);
      if (list === undefined) byShard.set(shard, [position]);
      else list.push(position);
    }
    const parts: (readonly [number, readonly number[]])[] = [];
    for (const [shard, list] of byShard) {
      for (let from = 0; from < list.length; from += MAX_READS_PER_CALL) {
        parts.push([shard, list.length <= MAX_READS_PER_CALL ? list : list.slice(from, from + MAX_READS_PER_CALL)]);
      }
    }
    return parts;
  }

  #read(shard: number, positions: readonly number[], withEndpoints: boolean): ReadCall {
    return {
      script: "read",
      keys: [this.#space.seq(shard)],
      args: [this.#space.blockPrefix(shard), positions.map((position) => this.#key(position)).join(""), withEndpoints ? 1 : 0],
      accept: (reply) => {
        const texts = Array.isArray(reply) ? reply : [];
        if (withEndpoints) this.#knowAll(String(texts[0] ?? ""));
        for (const [i, position] of positions.entries()) this.#blocks[position] = String(texts[i + 1] ?? "");
      },
    };
  }

  #knowAll(text: string): void {
    const lines = text.split("\n");
    // A line feed precedes the first field.
    for (let i = 1; i + 1 < lines.length; i += 2) {
      const position = parsePosition(lines[i + 1] ?? "");
      if (position !== null) this.know(lines[i] as EndpointId, position.incarnation);
    }
  }

  #beginning(endpoint: EndpointId, group: CacheGroupId): string | null {
    const field = holderField(endpoint, group);
    const known = this.#beginnings.get(field);
    if (known !== undefined) return known;
    const incarnation = this.#incarnations.get(endpoint);
    if (incarnation === undefined) return null;
    const beginning = `\n${field}\n${incarnation}:`;
    this.#beginnings.set(field, beginning);
    return beginning;
  }

  #key(position: number): BlockKey {
    const key = this.query.keys[position];
    if (key === undefined) throw new RangeError(`position ${position} of ${this.query.keys.length}`);
    return key;
  }
}
