import { hash } from "node:crypto";
import { xxh3 } from "@node-rs/xxhash";
import type { BlockDigest } from "./block-digest.ts";
import { writeCborBytesHead, writeCborTokens, writeCborTupleHead, writeCborUint64, writeCborValue } from "./cbor.ts";
import { encodedBound, type HashTuple, type HashValue } from "./hash-value.ts";
import type { NativeScheme } from "./key-scheme.ts";
import { PickleWriter } from "./pickle.ts";
import { Scratch, writeHex } from "./scratch.ts";

/** Upper bound of a hashed tuple without its tokens and extras: heads, frame, parent, memo marks. */
const fixedBound = 128;
/** Upper bound of one token id: a pickled 32-bit integer takes 7 bytes, and a frame head of 9 may fall anywhere. */
const tokenBound = 8;

/**
 * vLLM's own block hash (`v1/core/kv_cache_utils.py`, `utils/hashing.py`): `hash((parent, tokens, extras))` from `hash(seed)` on, where the whole digest
 * is the next block's parent. Digests are hex: 64 digits for sha256*, 32 for xxhash*, 16 for `sha256_cbor_64bit`, whose parents are integers.
 */
export function createNativeDigest(scheme: NativeScheme): BlockDigest {
  const { algorithm, seed } = scheme;
  const pickled = algorithm === "sha256" || algorithm === "xxhash";
  const digestOf =
    algorithm === "xxhash" || algorithm === "xxhash_cbor" ? xxh3Digits : algorithm === "sha256_cbor_64bit" ? sha256Low64 : sha256Digits;
  const integerParent = algorithm === "sha256_cbor_64bit";
  const scratch = new Scratch();
  const pickle = new PickleWriter(scratch.bytes);

  const writePickle = (parent: string, tokenIds: ArrayLike<number>, from: number, to: number, third: HashValue): number => {
    pickle.begin(scratch.bytes);
    pickle.hexBytes(parent);
    pickle.tokens(tokenIds, from, to);
    pickle.value(third);
    pickle.closeTuple(3);
    return pickle.end();
  };

  const writeCbor = (parent: string, tokenIds: ArrayLike<number>, from: number, to: number, third: HashValue): number => {
    const { bytes } = scratch;
    let end = writeCborTupleHead(bytes, 0, 3);
    if (integerParent) end = writeCborUint64(bytes, end, parent);
    else {
      end = writeCborBytesHead(bytes, end, parent.length / 2);
      end = writeHex(bytes, end, parent);
    }
    end = writeCborTokens(bytes, end, tokenIds, from, to);
    return writeCborValue(bytes, end, third);
  };

  const seedDigest = (): string => {
    scratch.reserve(fixedBound + encodedBound(seed));
    if (!pickled) return digestOf(scratch.view(writeCborValue(scratch.bytes, 0, seed)));
    pickle.begin(scratch.bytes);
    pickle.value(seed);
    return digestOf(scratch.view(pickle.end()));
  };

  const write = pickled ? writePickle : writeCbor;
  const root = seedDigest();
  return {
    root: () => root,
    next: (parent, tokenIds, from, to, extras, lookahead) => {
      const third: HashValue = lookahead === null ? extras : [extras as HashTuple | null, ...lookahead];
      scratch.reserve(fixedBound + (to - from) * tokenBound + (third === null ? 0 : encodedBound(third)));
      return digestOf(scratch.view(write(parent, tokenIds, from, to, third)));
    },
  };
}

function sha256Digits(bytes: Uint8Array): string {
  return hash("sha256", bytes, "hex");
}

function sha256Low64(bytes: Uint8Array): string {
  return hash("sha256", bytes, "hex").slice(-16);
}

function xxh3Digits(bytes: Uint8Array): string {
  return xxh3.xxh128(bytes).toString(16).padStart(32, "0");
}
