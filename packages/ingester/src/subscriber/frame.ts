/** One batch as it came from a publisher, not yet decoded. */
export interface EngineFrame {
  readonly seq: number;
  readonly payload: Uint8Array;
}

/** Sequence number of the message that ends a replay: ff x 8. */
const endOfReplay = 0xffff_ffff_ffff_ffffn;

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** Eight bytes, big-endian, or null when the frame is no sequence number that fits a double. */
function readSeq(frame: Uint8Array): number | null {
  if (frame.byteLength !== 8) return null;
  const seq = viewOf(frame).getBigUint64(0);
  return seq <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(seq) : null;
}

/** A sequence number as the replay socket wants it. */
export function writeSeq(seq: number): Uint8Array {
  const bytes = new Uint8Array(8);
  viewOf(bytes).setBigUint64(0, BigInt(seq));
  return bytes;
}

/** Live message: topic, sequence number, payload (vLLM 0.10 to 0.33). Null when it is not one. */
export function parseLiveMessage(frames: readonly Uint8Array[]): (EngineFrame & { readonly topic: string }) | null {
  const [topic, seqFrame, payload] = frames;
  if (frames.length !== 3 || topic === undefined || seqFrame === undefined || payload === undefined) return null;
  const seq = readSeq(seqFrame);
  return seq === null ? null : { topic: Buffer.from(topic.buffer, topic.byteOffset, topic.byteLength).toString("utf8"), seq, payload };
}

/**
 * Replay message as a DEALER sees it: `["", seq, payload]` up to vLLM 0.25, `["", topic, seq, payload]` from 0.26 on.
 * The last message has sequence number ff x 8 and an empty payload.
 */
export function parseReplayMessage(frames: readonly Uint8Array[]): EngineFrame | "end" | null {
  const [empty] = frames;
  if (frames.length < 3 || frames.length > 4 || empty?.byteLength !== 0) return null;
  const seqFrame = frames.at(-2);
  const payload = frames.at(-1);
  if (seqFrame === undefined || payload === undefined || seqFrame.byteLength !== 8) return null;
  if (payload.byteLength === 0 && viewOf(seqFrame).getBigUint64(0) === endOfReplay) return "end";
  const seq = readSeq(seqFrame);
  return seq === null ? null : { seq, payload };
}

/** Time stamp of a batch without decoding it: msgpack `[float64, ...]`. Null for any other form. */
export function peekTimestamp(payload: Uint8Array): number | null {
  const isArray = payload[0] === 0x93 || payload[0] === 0x92;
  return isArray && payload[1] === 0xcb && payload.byteLength >= 10 ? viewOf(payload).getFloat64(2) : null;
}

/**
 * Data-parallel rank of a batch without decoding it: the last element of msgpack `[ts, events, rank]`, when that is certainly a one-byte
 * integer or nil (0). Null when only a decoder can tell: another outer form, or bytes that may belong to a wider integer.
 */
export function peekRank(payload: Uint8Array): number | null {
  const length = payload.byteLength;
  const last = payload[length - 1];
  if (payload[0] !== 0x93 || last === undefined || length < 12) return null;
  if (last === 0xc0) return 0;
  const mayBeWider = payload[length - 3] === 0xcd || payload[length - 5] === 0xce || payload[length - 2] === 0xcc;
  return last <= 0x7f && !mayBeWider ? last : null;
}
