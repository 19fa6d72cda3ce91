import type { EngineHash, Medium } from "../types.ts";
import type { WireExtra } from "./events.ts";
import { type MsgpackReader, unreadable } from "./msgpack-reader.ts";

/** Largest cache-group index and data-parallel rank that is believed; real ones are below a hundred. */
const maxSmallIndex = 65_535;

/** Collects the fields of one inner event, array or map, before it is known to be whole. */
export interface RawEvent {
  hashes: EngineHash[] | null;
  parent: EngineHash | null;
  tokenIds: number[];
  blockSizeTokens: number;
  medium: Medium;
  loraId: number | null;
  loraName: string | null;
  extraKeys: (readonly WireExtra[] | null)[] | null;
  group: number;
  specKind: string | null;
  slidingWindowTokens: number | null;
  lookahead: number[][] | null;
  /** False once a field that says which hash has which tokens was unreadable: the event is then worth its hashes only. */
  positional: boolean;
  /** False once the event cannot be placed at all. */
  usable: boolean;
}

export type Skipped = Map<string, number>;

export function count(skipped: Skipped, reason: string): void {
  skipped.set(reason, (skipped.get(reason) ?? 0) + 1);
}

export function createRawEvent(): RawEvent {
  return {
    hashes: null,
    parent: null,
    tokenIds: [],
    blockSizeTokens: 0,
    medium: "gpu",
    loraId: null,
    loraName: null,
    extraKeys: null,
    group: 0,
    specKind: null,
    slidingWindowTokens: null,
    lookahead: null,
    positional: true,
    usable: true,
  };
}

/** Reads one value into its field of `event`. */
export type FieldReader = (reader: MsgpackReader, event: RawEvent, skipped: Skipped) => void;

/** Fields of vLLM's BlockStored in declaration order (v0.33); what an array event has at index 1 and on. */
export const storedFields: readonly (readonly [name: string, read: FieldReader])[] = [
  ["block_hashes", readHashes],
  ["parent_block_hash", readParent],
  ["token_ids", readTokenIds],
  ["block_size", readBlockSize],
  ["lora_id", readLoraId],
  ["medium", readMedium],
  ["lora_name", readLoraName],
  ["extra_keys", readExtraKeys],
  ["group_idx", readGroup],
  ["kv_cache_spec_kind", readSpecKind],
  ["kv_cache_spec_sliding_window", readSlidingWindow],
  ["locality", ignore],
  ["ownership", ignore],
  ["session_id", ignore],
  ["lookahead_token_ids", readLookahead],
];

/** Fields of vLLM's BlockRemoved in declaration order (v0.33). */
export const removedFields: readonly (readonly [name: string, read: FieldReader])[] = [
  ["block_hashes", readHashes],
  ["medium", readMedium],
  ["group_idx", readGroup],
  ["locality", ignore],
  ["ownership", ignore],
];

/** A small non-negative integer such as a rank or a group; null when it is anything else. */
export function readSmallIndex(reader: MsgpackReader): number | null {
  const value = reader.readUint32();
  return value < 0 || value > maxSmallIndex ? null : value;
}

function readHashes(reader: MsgpackReader, event: RawEvent, skipped: Skipped): void {
  const length = reader.enterArray();
  if (length < 0) {
    reader.skip();
    return;
  }
  const hashes: EngineHash[] = [];
  for (let i = 0; i < length; i++) {
    const digits = reader.readLow64();
    if (digits === unreadable) {
      count(skipped, "bad hash");
      event.positional = false;
    } else hashes.push(digits as EngineHash);
  }
  event.hashes = hashes;
}

function readParent(reader: MsgpackReader, event: RawEvent, skipped: Skipped): void {
  if (reader.takeNil()) return;
  const digits = reader.readLow64();
  if (digits === unreadable) {
    count(skipped, "bad parent");
    event.positional = false;
  } else event.parent = digits as EngineHash;
}

function readTokenIds(reader: MsgpackReader, event: RawEvent, skipped: Skipped): void {
  const ids = readUint32List(reader);
  if (ids !== null) event.tokenIds = ids;
  else {
    count(skipped, "bad token ids");
    event.positional = false;
  }
}

function readBlockSize(reader: MsgpackReader, event: RawEvent, skipped: Skipped): void {
  const value = reader.readUint32();
  if (value >= 0) event.blockSizeTokens = value;
  else {
    count(skipped, "bad block size");
    event.positional = false;
  }
}

function readLoraId(reader: MsgpackReader, event: RawEvent, skipped: Skipped): void {
  if (reader.takeNil()) return;
  const value = reader.readNumber();
  if (value !== unreadable && Number.isSafeInteger(value)) event.loraId = value;
  else {
    count(skipped, "bad lora id");
    event.positional = false;
  }
}

function readLoraName(reader: MsgpackReader, event: RawEvent, skipped: Skipped): void {
  if (reader.takeNil()) return;
  const value = reader.readString();
  if (value !== unreadable) event.loraName = value;
  else {
    count(skipped, "bad lora name");
    event.positional = false;
  }
}

function readMedium(reader: MsgpackReader, event: RawEvent, skipped: Skipped): void {
  if (reader.takeNil()) return;
  const value = reader.readString();
  event.medium = value === unreadable ? "other" : mediumOf(value);
  if (event.medium === "other") count(skipped, "unknown medium");
}

/** Folds the names of vLLM 0.10 to 0.33; the Mooncake connector writes lower case, 0.26 names its storage tiers FS and OBJ. */
function mediumOf(name: string): Medium {
  switch (name.toUpperCase()) {
    case "GPU":
      return "gpu";
    case "CPU":
      return "cpu";
    case "STORAGE":
    case "FS":
    case "OBJ":
      return "storage";
    default:
      return "other";
  }
}

function readExtraKeys(reader: MsgpackReader, event: RawEvent, skipped: Skipped): void {
  if (reader.takeNil()) return;
  const length = reader.enterArray();
  if (length < 0) {
    reader.skip();
    count(skipped, "bad extra keys");
    event.positional = false;
    return;
  }
  const keys: (readonly WireExtra[] | null)[] = [];
  for (let i = 0; i < length; i++) {
    const value = reader.readValue();
    if (value === null || Array.isArray(value)) keys.push(value);
    else {
      count(skipped, "bad extra keys");
      event.positional = false;
    }
  }
  event.extraKeys = keys;
}

function readGroup(reader: MsgpackReader, event: RawEvent, skipped: Skipped): void {
  if (reader.takeNil()) return;
  const value = readSmallIndex(reader);
  if (value !== null) event.group = value;
  else {
    count(skipped, "bad group");
    event.usable = false;
  }
}

function readSpecKind(reader: MsgpackReader, event: RawEvent, skipped: Skipped): void {
  if (reader.takeNil()) return;
  const value = reader.readString();
  if (value === unreadable) count(skipped, "bad field");
  else event.specKind = value;
}

function readSlidingWindow(reader: MsgpackReader, event: RawEvent, skipped: Skipped): void {
  if (reader.takeNil()) return;
  const value = reader.readUint32();
  if (value < 0) count(skipped, "bad field");
  else event.slidingWindowTokens = value;
}

function readLookahead(reader: MsgpackReader, event: RawEvent, skipped: Skipped): void {
  if (reader.takeNil()) return;
  const length = reader.enterArray();
  if (length < 0) reader.skip();
  const lists: number[][] = [];
  for (let i = 0; i < length; i++) {
    const list = readUint32List(reader);
    if (list !== null) lists.push(list);
  }
  if (lists.length === length) event.lookahead = lists;
  else {
    count(skipped, "bad lookahead");
    event.positional = false;
  }
}

function ignore(reader: MsgpackReader): void {
  reader.skip();
}

/** Null, consuming the value, unless it is an array of integers in 0..2^32-1. */
function readUint32List(reader: MsgpackReader): number[] | null {
  const length = reader.enterArray();
  if (length < 0) {
    reader.skip();
    return null;
  }
  const ids: number[] = [];
  let good = true;
  for (let i = 0; i < length; i++) {
    const id = reader.readUint32();
    if (id < 0) good = false;
    else if (good) ids.push(id);
  }
  return good ? ids : null;
}
