import { xxh64 } from "@node-rs/xxhash";
import type { BlockDigest } from "./block-digest.ts";
import { badTokenId, encodedBound, type HashValue } from "./hash-value.ts";
import { Scratch } from "./scratch.ts";

/**
 * Keys from token contents alone, bit-exact with the `xxh64` algorithm of llm-d-kv-cache's token processor:
 *
 * ```
 * seed  = XXH64(hashSeed)
 * root  = XXH64(LE64(seed) || LE64(len(model)) || model)         a LoRA adapter's name takes the place of the model's
 * key_i = XXH64(LE64(parent) || LE32(token)... || for each extra: LE64(len) || bytes)
 * ```
 *
 * Extras are media identifiers in prompt order, then the salt in block 0. Lookahead tokens, which that recipe does not know, follow the block's
 * tokens, so that blocks which the engine tells apart have different keys.
 */
export function createContentDigest(seed: string, model: string): BlockDigest {
  const scratch = new Scratch();
  const roots = new Map<string, string>();

  const rootOf = (name: string): string => {
    const bytes = Buffer.from(name, "utf8");
    const head = Buffer.alloc(16);
    head.writeBigUInt64LE(xxh64(seed), 0);
    head.writeBigUInt64LE(BigInt(bytes.length), 8);
    return digits(xxh64(Buffer.concat([head, bytes])));
  };
  const modelRoot = rootOf(model);

  return {
    root: (loraName) => {
      if (loraName === null) return modelRoot;
      const known = roots.get(loraName);
      if (known !== undefined) return known;
      const root = rootOf(loraName);
      // Adapters are few; a client that invents names must not grow the table.
      if (roots.size >= maxRoots) roots.clear();
      roots.set(loraName, root);
      return root;
    },
    next: (parent, tokenIds, from, to, extras, lookahead) => {
      const bound = 16 + (to - from + (lookahead?.length ?? 0)) * 4 + (extras === null ? 0 : encodedBound(extras));
      scratch.reserve(bound);
      const { bytes } = scratch;
      writeLow64(bytes, parent);
      let end = writeTokens(bytes, 8, tokenIds, from, to);
      if (lookahead !== null) end = writeTokens(bytes, end, lookahead, 0, lookahead.length);
      if (extras !== null) for (const extra of extras) end = writeExtra(bytes, end, extra);
      return digits(xxh64(scratch.view(end)));
    },
  };
}

const maxRoots = 1024;

function writeLow64(buffer: Buffer, parent: string): void {
  buffer.writeUInt32LE(Number.parseInt(parent.slice(-8), 16), 0);
  buffer.writeUInt32LE(Number.parseInt(parent.slice(-16, -8), 16), 4);
}

function writeTokens(buffer: Buffer, at: number, tokenIds: ArrayLike<number>, from: number, to: number): number {
  let end = at;
  for (let i = from; i < to; i++) {
    const id = tokenIds[i];
    if (id === undefined || id >>> 0 !== id) throw badTokenId(id, i);
    buffer[end++] = id;
    buffer[end++] = id >>> 8;
    buffer[end++] = id >>> 16;
    buffer[end++] = id >>> 24;
  }
  return end;
}

function writeExtra(buffer: Buffer, at: number, extra: HashValue): number {
  if (typeof extra !== "string" && !(extra instanceof Uint8Array)) return at;
  const length = typeof extra === "string" ? buffer.write(extra, at + 8, "utf8") : extra.length;
  if (typeof extra !== "string") buffer.set(extra, at + 8);
  buffer.writeUInt32LE(length, at);
  buffer.writeUInt32LE(0, at + 4);
  return at + 8 + length;
}

function digits(value: bigint): string {
  return value.toString(16).padStart(16, "0");
}
