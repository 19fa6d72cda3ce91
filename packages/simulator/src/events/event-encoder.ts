import type { WireForm } from "@kvatlas/shared/events/events";
import type { ExtrasForm } from "@kvatlas/shared/hashing/key-scheme";
import type { ExtraKey, HostStored, PoolEvent, PoolStored } from "../engine/pool-events.ts";
import { MsgpackWriter } from "./msgpack-writer.ts";

export interface EventEncoderOptions {
  readonly wireForm: WireForm;
  /** Items of a BlockStored array, tag included: 6, 7, 8, 9, 10 or 12. */
  readonly storedArrayLength: number;
  /** Items of a BlockRemoved array, tag included: 2, 3 or 4. */
  readonly removedArrayLength: number;
  /** Whole digests as bytes (`VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES=0`); then the hashes of events are whole digests in hex. */
  readonly bytesHashes: boolean;
  /** The hashes of host-memory events are bytes in any case; then all hashes are whole digests in hex. */
  readonly hostHashesAreBytes: boolean;
  readonly hostBlockSizeIsZero: boolean;
  /** Images are told by their identifier alone where it is `plain` (up to 0.18), else with their offset as well. */
  readonly extrasForm: ExtrasForm;
  /** `session_id` in stores (0.30+). */
  readonly hasSessionId: boolean;
}

/** Encodes the batches of one publisher; keeps one buffer. */
export interface EventEncoder {
  /**
   * The payload frame of one batch.
   *
   * @param timestampSeconds - since the epoch
   */
  encode(timestampSeconds: number, events: readonly PoolEvent[], rank: number): Buffer;
}

type Field = readonly [name: string, write: () => void];

/**
 * Batches in the wire form of a release, field by field in declaration order: arrays up to 0.23, maps since 0.24, a map16 head on stores in
 * 0.33. Source: vLLM `distributed/kv_events.py` through msgspec, which leaves out unset fields of maps but not of arrays.
 */
export function createEventEncoder(options: EventEncoderOptions): EventEncoder {
  const writer = new MsgpackWriter();
  const hash = (hex: string): void => (options.bytesHashes ? writer.binaryHex(hex) : writer.uint64Hex(hex.slice(-16)));

  function writeHashes(hashes: readonly string[], asBytes = options.bytesHashes): void {
    writer.arrayHead(hashes.length);
    for (const one of hashes) {
      if (asBytes) writer.binaryHex(one);
      else writer.uint64Hex(one.slice(-16));
    }
  }

  function writeLora(lora: PoolStored["lora"], field: "id" | "name"): void {
    if (lora === null) writer.nil();
    else if (field === "id") writer.uint(lora.id);
    else writer.string(lora.name);
  }

  function writeTokens(tokens: ArrayLike<number>): void {
    writer.arrayHead(tokens.length);
    for (let i = 0; i < tokens.length; i += 1) writer.uint(tokens[i] ?? 0);
  }

  function writeExtraKeys(event: PoolStored): void {
    writer.arrayHead(event.extraKeys.length);
    for (const keys of event.extraKeys) {
      if (keys === null) writer.nil();
      else {
        writer.arrayHead(keys.length);
        for (const key of keys) writeExtraKey(key);
      }
    }
  }

  function writeExtraKey(key: ExtraKey): void {
    if (typeof key === "string" || options.extrasForm === "plain") {
      writer.string(typeof key === "string" ? key : key[0]);
      return;
    }
    writer.arrayHead(2);
    writer.string(key[0]);
    writer.int(key[1]);
  }

  function writeStored(event: PoolStored): void {
    const always: readonly Field[] = [
      ["block_hashes", () => writeHashes(event.hashes)],
      ["parent_block_hash", () => (event.parent === null ? writer.nil() : hash(event.parent))],
      ["token_ids", () => writeTokens(event.tokenIds)],
      ["block_size", () => writer.uint(event.blockSizeTokens)],
      ["lora_id", () => writeLora(event.lora, "id")],
      ["medium", () => writer.string("GPU")],
      ["lora_name", () => writeLora(event.lora, "name")],
    ];
    const optional: readonly (Field | null)[] = [
      event.extraKeys.length === 0 ? null : ["extra_keys", () => writeExtraKeys(event)],
      ["group_idx", () => writer.uint(0)],
      ["kv_cache_spec_kind", () => writer.string("full_attention")],
      null, // kv_cache_spec_sliding_window
      null, // locality
      null, // ownership
      event.sessionId === null || !options.hasSessionId ? null : ["session_id", () => writer.string(event.sessionId ?? "")],
      event.lookahead === null ? null : ["lookahead_token_ids", () => writeLookahead(event.lookahead ?? [])],
    ];
    writeEvent("BlockStored", always, optional, options.storedArrayLength, options.wireForm === "map16");
  }

  function writeLookahead(lists: readonly (readonly number[])[]): void {
    writer.arrayHead(lists.length);
    for (const list of lists) writeTokens(list);
  }

  function writeHostStored(event: HostStored): void {
    const always: readonly Field[] = [
      ["block_hashes", () => writeHashes(event.hashes, options.bytesHashes || options.hostHashesAreBytes)],
      ["parent_block_hash", () => writer.nil()],
      ["token_ids", () => writer.arrayHead(0)],
      ["block_size", () => writer.uint(options.hostBlockSizeIsZero ? 0 : event.blockSizeTokens)],
      ["lora_id", () => writeLora(event.lora, "id")],
      ["medium", () => writer.string("CPU")],
      ["lora_name", () => writeLora(event.lora, "name")],
    ];
    writeEvent(
      "BlockStored",
      always,
      [null, null, null, null, null, null, null, null],
      options.storedArrayLength,
      options.wireForm === "map16",
    );
  }

  function writeRemoved(hashes: readonly string[], medium: "GPU" | "CPU"): void {
    const always: readonly Field[] = [
      ["block_hashes", () => writeHashes(hashes, options.bytesHashes || (medium === "CPU" && options.hostHashesAreBytes))],
      ["medium", () => writer.string(medium)],
    ];
    const group: Field | null = medium === "GPU" ? ["group_idx", () => writer.uint(0)] : null;
    writeEvent("BlockRemoved", always, [group], options.removedArrayLength, false);
  }

  function writeOne(event: PoolEvent): void {
    switch (event.kind) {
      case "stored":
        writeStored(event);
        return;
      case "removed":
        writeRemoved([event.hash], "GPU");
        return;
      case "host-stored":
        writeHostStored(event);
        return;
      case "host-removed":
        writeRemoved(event.hashes, "CPU");
        return;
      default:
        writeEvent("AllBlocksCleared", [], [], 1, false);
    }
  }

  function writeEvent(
    tag: string,
    always: readonly Field[],
    optional: readonly (Field | null)[],
    arrayLength: number,
    wide: boolean,
  ): void {
    if (options.wireForm === "array") {
      const fields = [...always, ...optional].slice(0, arrayLength - 1);
      writer.arrayHead(fields.length + 1);
      writer.string(tag);
      for (const field of fields) {
        if (field === null) writer.nil();
        else field[1]();
      }
      return;
    }
    const fields = [...always, ...optional.filter((field) => field !== null)];
    writer.mapHead(fields.length + 1, wide);
    writer.string("type");
    writer.string(tag);
    for (const [name, write] of fields) {
      writer.string(name);
      write();
    }
  }

  return {
    encode: (timestampSeconds, events, rank) => {
      writer.arrayHead(3);
      writer.float(timestampSeconds);
      writer.arrayHead(events.length);
      for (const event of events) writeOne(event);
      writer.uint(rank);
      return writer.take();
    },
  };
}
