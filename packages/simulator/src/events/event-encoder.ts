import type { WireForm } from "@kvatlas/shared/events/events";
import type { PoolEvent, PoolRemoved, PoolStored } from "../engine/pool-events.ts";
import { MsgpackWriter } from "./msgpack-writer.ts";

export interface EventEncoderOptions {
  readonly wireForm: WireForm;
  /** Items of a BlockStored array, tag included: 6, 7, 8, 9, 10 or 12. */
  readonly storedArrayLength: number;
  /** Items of a BlockRemoved array, tag included: 2, 3 or 4. */
  readonly removedArrayLength: number;
  /** Whole digests as bytes (`VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES=0`); then the hashes of events are whole digests in hex. */
  readonly bytesHashes: boolean;
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

  function writeHashes(hashes: readonly string[]): void {
    writer.arrayHead(hashes.length);
    for (const one of hashes) hash(one);
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
        for (const key of keys) writer.string(key);
      }
    }
  }

  function writeStored(event: PoolStored): void {
    const always: readonly Field[] = [
      ["block_hashes", () => writeHashes(event.hashes)],
      ["parent_block_hash", () => (event.parent === null ? writer.nil() : hash(event.parent))],
      ["token_ids", () => writeTokens(event.tokenIds)],
      ["block_size", () => writer.uint(event.blockSizeTokens)],
      ["lora_id", () => (event.lora === null ? writer.nil() : writer.uint(event.lora.id))],
      ["medium", () => writer.string("GPU")],
      ["lora_name", () => (event.lora === null ? writer.nil() : writer.string(event.lora.name))],
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

  function writeRemoved(event: PoolRemoved): void {
    const always: readonly Field[] = [
      ["block_hashes", () => writeHashes([event.hash])],
      ["medium", () => writer.string("GPU")],
    ];
    writeEvent("BlockRemoved", always, [["group_idx", () => writer.uint(0)]], options.removedArrayLength, false);
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
      for (const event of events) {
        if (event.kind === "stored") writeStored(event);
        else if (event.kind === "removed") writeRemoved(event);
        else writeEvent("AllBlocksCleared", [], [], 1, false);
      }
      writer.uint(rank);
      return writer.take();
    },
  };
}
