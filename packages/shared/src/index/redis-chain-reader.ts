import type { BlockKey, CacheGroupId, EndpointId } from "../types.ts";
import type { PrefixQuery } from "./block-index.ts";
import { ABSENT } from "./prefix-match.ts";
import { holderField, mediaByRank, parsePosition, type RedisKeys, type SpaceKeys, shardOf } from "./redis-keys.ts";
import type { ScopeLayout } from "./scope-layout.ts";

/** Positions of a chain to be read. */
export interface Asked {
  readonly positions: readonly number[];
  /** What these endpoints hold there in cache group 0; null for all that anybody holds. */
  readonly of: readonly EndpointId[] | null;
}

/** One script call, and where its answer goes. */
export interface ReadCall {
  /** `read`: read-1.lua, every entry of some blocks; `peek`: peek-1.lua, some entries. */
  readonly script: "read" | "peek";
  readonly keys: readonly string[];
  readonly args: readonly (string | number)[];
  readonly accept: (reply: unknown) => void;
}

/** Blocks read by one script call; bounds how long Redis is busy at a time. */
const MAX_READS_PER_CALL = 500;

/** More endpoints are not asked for by name: reading everything costs no more then, and Lua's stack is bounded. */
const MAX_NAMED = 256;

/** First letters of the media: an entry names its best medium first. */
const rankByLetter = new Map(mediaByRank.map((medium, rank) => [medium.charCodeAt(0), rank]));

/** A query on its way: what has been read, and how to read on. */
export class ChainReader {
  readonly query: PrefixQuery;
  readonly #shards: number;
  readonly #space: SpaceKeys;
  readonly #endpoints = new Set<EndpointId>();
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

  /** Calls that read what is asked for; the first one with the positions of all endpoints in its shard, where that is asked for as well. */
  calls(asked: readonly Asked[], withSeq: boolean): readonly ReadCall[] {
    const calls: ReadCall[] = [];
    const named = new Map<number, { readonly positions: readonly number[]; readonly of: readonly EndpointId[] }[]>();
    for (const { positions, of } of asked) {
      for (const [shard, part] of this.#parts(positions)) {
        if (of === null || of.length > MAX_NAMED) {
          calls.push(this.#read(shard, part, withSeq && calls.length === 0));
          continue;
        }
        const list = named.get(shard);
        if (list === undefined) named.set(shard, [{ positions: part, of }]);
        else list.push({ positions: part, of });
      }
    }
    for (const [shard, list] of named) {
      let reads = 0;
      let from = 0;
      for (const [i, { positions }] of list.entries()) {
        if (reads > 0 && reads + positions.length > MAX_READS_PER_CALL) {
          calls.push(this.#peek(shard, list.slice(from, i)));
          reads = 0;
          from = i;
        }
        reads += positions.length;
      }
      calls.push(this.#peek(shard, from === 0 ? list : list.slice(from)));
    }
    return calls;
  }

  /** True where everything has been read, or something. */
  hasRead(position: number): boolean {
    return this.#blocks[position] !== undefined;
  }

  unread(from: number, to: number): number[] {
    const positions: number[] = [];
    for (let position = from; position < to; position += 1) if (this.#blocks[position] === undefined) positions.push(position);
    return positions;
  }

  get endpoints(): Iterable<EndpointId> {
    return this.#endpoints;
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

  #read(shard: number, positions: readonly number[], withSeq: boolean): ReadCall {
    return {
      script: "read",
      keys: [this.#space.seq(shard)],
      args: [this.#space.blockPrefix(shard), this.#packed(positions), withSeq ? 1 : 0],
      accept: (reply) => {
        const texts = Array.isArray(reply) ? reply : [];
        if (withSeq) this.#setPositions(String(texts[0] ?? ""));
        for (const [i, position] of positions.entries()) this.#blocks[position] = String(texts[i + 1] ?? "");
      },
    };
  }

  #peek(shard: number, asked: readonly { readonly positions: readonly number[]; readonly of: readonly EndpointId[] }[]): ReadCall {
    const args: (string | number)[] = [this.#space.blockPrefix(shard)];
    const withFields = asked.map(({ positions, of }) => ({ positions, fields: of.map((endpoint) => holderField(endpoint, 0)) }));
    for (const { positions, fields } of withFields) args.push(this.#packed(positions), fields.length, ...fields);
    return {
      script: "peek",
      keys: [this.#space.seq(shard)],
      args,
      accept: (reply) => {
        const values = typeof reply === "string" ? reply.split("\n") : [];
        let at = 0;
        for (const { positions, fields } of withFields) {
          for (const position of positions) {
            let text = "";
            for (const field of fields) {
              const value = values[at++] ?? "";
              if (value !== "") text += `\n${field}\n${value}`;
            }
            this.#blocks[position] = text;
          }
        }
      },
    };
  }

  #packed(positions: readonly number[]): string {
    let packed = "";
    for (const position of positions) packed += this.#key(position);
    return packed;
  }

  #setPositions(text: string): void {
    const lines = text.split("\n");
    // A line feed precedes the first field.
    for (let i = 1; i + 1 < lines.length; i += 2) {
      const endpoint = lines[i] as EndpointId;
      const position = parsePosition(lines[i + 1] ?? "");
      if (position === null) continue;
      this.#endpoints.add(endpoint);
      this.#incarnations.set(endpoint, position.incarnation);
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
