import { KvatlasError } from "../errors.ts";
import {
  count,
  createRawEvent,
  type FieldReader,
  type RawEvent,
  readSmallIndex,
  removedFields,
  type Skipped,
  storedFields,
} from "./event-fields.ts";
import type { EventBatch, KvEvent, WireForm } from "./events.ts";
import { MsgpackReader, TruncatedPayload, unreadable } from "./msgpack-reader.ts";

const storedByName: ReadonlyMap<string, FieldReader> = new Map(storedFields);
const removedByName: ReadonlyMap<string, FieldReader> = new Map(removedFields);

/** Shortest array events with their tag: BlockStored of vLLM 0.9 without `lora_id`, BlockRemoved of 0.10.0. */
const minStoredLength = 5;
const minRemovedLength = 2;

/**
 * Reads one KV-event batch: `[ts, events, data_parallel_rank]`, or a map of these, with inner events as arrays (vLLM up to 0.23) or maps (0.24 and on).
 * Format: msgspec's encoding of vLLM `distributed/kv_events.py`, 0.10.0 to 0.33.
 *
 * Unknown tags, fields and media are passed over and counted in `skipped`. A store whose tokens, parent, extras or lookahead cannot be read, or do not
 * pair with its hashes, keeps its hashes and loses the rest (as if hash-only), because a native key needs no more. Nothing in the result refers to `payload`.
 * Memory is bounded by a small multiple of the payload's size.
 *
 * @throws KVATLAS_EVENT_MALFORMED the payload as a whole is no batch.
 */
export function decodeEventBatch(payload: Uint8Array): EventBatch {
  try {
    return readBatch(new MsgpackReader(payload));
  } catch (error) {
    if (!(error instanceof TruncatedPayload)) throw error;
    throw malformed(`the ${payload.length} bytes end inside a value`, error);
  }
}

interface OpenBatch {
  timestampSeconds: number;
  events: KvEvent[] | null;
  rank: number;
  wireForm: WireForm | null;
  readonly skipped: Skipped;
}

function readBatch(reader: MsgpackReader): EventBatch {
  const batch: OpenBatch = { timestampSeconds: 0, events: null, rank: 0, wireForm: null, skipped: new Map() };
  const length = reader.enterArray();
  if (length >= 0) {
    for (let i = 0; i < length; i++)
      readBatchField(reader, batch, i === 0 ? "ts" : i === 1 ? "events" : i === 2 ? "data_parallel_rank" : "");
  } else {
    const entries = reader.enterMap();
    if (entries < 0) throw malformed("it is neither an array nor a map");
    for (let i = 0; i < entries; i++) {
      const name = reader.readString();
      readBatchField(reader, batch, name === unreadable ? "" : name);
    }
  }
  if (!reader.done) throw malformed(`bytes follow the batch at offset ${reader.position}`);
  const { timestampSeconds, events, rank, wireForm, skipped } = batch;
  if (events === null) throw malformed("it has no events");
  return { timestampSeconds, events, rank, wireForm, skipped };
}

function readBatchField(reader: MsgpackReader, batch: OpenBatch, name: string): void {
  if (name === "ts") {
    const value = reader.readNumber();
    if (value !== unreadable && Number.isFinite(value)) batch.timestampSeconds = value;
    else count(batch.skipped, "bad timestamp");
  } else if (name === "events") {
    const length = reader.enterArray();
    if (length < 0) throw malformed("its events are not an array");
    batch.events = [];
    for (let i = 0; i < length; i++) readEvent(reader, batch, batch.events);
  } else if (name === "data_parallel_rank") {
    if (reader.takeNil()) return;
    const rank = readSmallIndex(reader);
    if (rank !== null) batch.rank = rank;
    else count(batch.skipped, "bad rank");
  } else reader.skip();
}

function readEvent(reader: MsgpackReader, batch: OpenBatch, events: KvEvent[]): void {
  const head = reader.peek();
  const length = reader.enterArray();
  if (length >= 0) {
    batch.wireForm ??= "array";
    readArrayEvent(reader, length, batch.skipped, events);
    return;
  }
  const entries = reader.enterMap();
  if (entries < 0) {
    reader.skip();
    count(batch.skipped, "not an event");
    return;
  }
  const tag = readMapEvent(reader, entries, batch.skipped, events);
  // The head tells releases apart in BlockStored only; the other events are short maps in all of them.
  if (tag === "BlockStored" && (batch.wireForm ?? "map") === "map") batch.wireForm = head === 0xde ? "map16" : "map";
  else batch.wireForm ??= "map";
}

function readArrayEvent(reader: MsgpackReader, length: number, skipped: Skipped, events: KvEvent[]): void {
  const tag = length > 0 ? reader.readString() : unreadable;
  const fields = tag === "BlockStored" ? storedFields : tag === "BlockRemoved" ? removedFields : [];
  const event = createRawEvent();
  for (let i = 1; i < length; i++) {
    const field = fields[i - 1];
    if (field === undefined) reader.skip();
    else field[1](reader, event, skipped);
  }
  const minLength = tag === "BlockStored" ? minStoredLength : tag === "BlockRemoved" ? minRemovedLength : 1;
  if (length < minLength) count(skipped, "short event");
  else finish(tag, event, skipped, events);
}

function readMapEvent(reader: MsgpackReader, entries: number, skipped: Skipped, events: KvEvent[]): string | null {
  const tag = findTag(reader, entries);
  const fields = tag === "BlockStored" ? storedByName : removedByName;
  const known = tag === "BlockStored" || tag === "BlockRemoved";
  const event = createRawEvent();
  for (let i = 0; i < entries; i++) {
    const name = reader.readString();
    const read = known && name !== unreadable ? fields.get(name) : undefined;
    if (read === undefined) reader.skip();
    else read(reader, event, skipped);
  }
  finish(tag, event, skipped, events);
  return tag;
}

/** The value of "type", which msgspec writes first, wherever it stands; the reader is left where it was. */
function findTag(reader: MsgpackReader, entries: number): string | null {
  const start = reader.position;
  let tag: string | null = null;
  for (let i = 0; i < entries && tag === null; i++) {
    if (reader.readString() !== "type") reader.skip();
    else {
      const value = reader.readString();
      if (value === unreadable) break;
      tag = value;
    }
  }
  reader.position = start;
  return tag;
}

function finish(tag: string | null | typeof unreadable, event: RawEvent, skipped: Skipped, events: KvEvent[]): void {
  if (tag === "AllBlocksCleared") {
    events.push({ kind: "cleared" });
    return;
  }
  if (tag !== "BlockStored" && tag !== "BlockRemoved") {
    count(skipped, "unknown tag");
    return;
  }
  const { hashes, medium, group } = event;
  if (hashes === null) {
    count(skipped, "no hashes");
    return;
  }
  if (!event.usable) return;
  if (tag === "BlockRemoved") {
    events.push({ kind: "removed", hashes, medium, group });
    return;
  }
  if (event.extraKeys !== null && event.extraKeys.length !== hashes.length && event.positional) {
    count(skipped, "extra keys do not pair with hashes");
    event.positional = false;
  }
  if (event.lookahead !== null && event.lookahead.length !== hashes.length && event.positional) {
    count(skipped, "lookahead does not pair with hashes");
    event.positional = false;
  }
  const { loraId, loraName, specKind, slidingWindowTokens } = event;
  events.push({
    kind: "stored",
    hashes,
    parent: event.positional ? event.parent : null,
    tokenIds: event.positional ? event.tokenIds : [],
    blockSizeTokens: event.blockSizeTokens,
    medium,
    loraId,
    loraName,
    extraKeys: event.positional ? event.extraKeys : null,
    group,
    specKind,
    slidingWindowTokens,
    lookahead: event.positional ? event.lookahead : null,
  });
}

function malformed(reason: string, cause?: unknown): KvatlasError {
  const message = `cannot read a KV-event payload: ${reason}; expected a msgpack array [ts, events, rank] as vLLM publishes it`;
  return cause === undefined
    ? new KvatlasError("KVATLAS_EVENT_MALFORMED", message)
    : new KvatlasError("KVATLAS_EVENT_MALFORMED", message, { cause });
}
