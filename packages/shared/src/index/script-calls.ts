import { KvatlasError } from "../errors.ts";
import type { BlockKey, EngineHash } from "../types.ts";
import type { IndexOp, SequencedOps } from "./block-index.ts";
import { completeSeq, KEY_DIGITS, shardOf, type Watermark } from "./redis-keys.ts";

/** One call of apply-1.lua: what it does and how far it goes. */
export interface ScriptCall {
  /** Watermark the shard must have. */
  readonly expected: Watermark;
  /** Watermark it has afterwards. */
  readonly next: Watermark;
  /** Arguments from ARGV[7] on. */
  readonly runs: readonly string[];
  /** Each run is followed by the names of its blocks. */
  readonly isNamed: boolean;
  /** A key that is stored by this call; null when it stores none. */
  readonly stores: BlockKey | null;
}

/** The part of some batches that falls to each shard. Batches without operations for a shard are left out of its list. */
export function splitByShard(batches: readonly SequencedOps[], shards: number): SequencedOps[][] {
  if (shards === 1) return [batches.filter((batch) => batch.ops.some((op) => op.keys.length > 0))];
  const split: SequencedOps[][] = Array.from({ length: shards }, () => []);
  for (const { seq, ops } of batches) {
    const byShard = new Map<number, IndexOp[]>();
    for (const op of ops) {
      const keysByShard = new Map<number, BlockKey[]>();
      const namesByShard = new Map<number, EngineHash[]>();
      for (const [i, key] of op.keys.entries()) {
        const shard = shardOf(key, shards);
        append(keysByShard, shard, key);
        const name = op.names?.[i];
        if (name !== undefined) append(namesByShard, shard, name);
      }
      for (const [shard, keys] of keysByShard) {
        const names = namesByShard.get(shard);
        append(byShard, shard, { ...op, keys, ...(names === undefined ? {} : { names }) });
      }
    }
    for (const [shard, shardOps] of byShard) split[shard]?.push({ seq, ops: shardOps });
  }
  return split;
}

/**
 * Cuts what a shard still lacks of some batches into script calls of about `maxOps` block operations: small batches are grouped, a batch that is
 * larger is cut. Where it is cut does not matter: the watermark counts operations, so another owner with another `maxOps` can go on from it.
 *
 * @param batches of one shard, ascending
 * @param mark how far the shard is
 * @param last sequence number up to which `batches` is all there is; the last call moves the watermark there
 */
export function planCalls(batches: readonly SequencedOps[], mark: Watermark, last: number, maxOps: number): ScriptCall[] {
  const calls: ScriptCall[] = [];
  let call = new CallBuilder();
  let at = mark;
  const finish = (next: Watermark) => {
    calls.push(call.build(at, next));
    at = next;
    call = new CallBuilder();
  };
  for (const { seq, ops } of batches) {
    if (seq <= completeSeq(mark)) continue;
    // Operations of this batch that the shard has, and then: that have been planned.
    let done = seq === mark.seq ? (mark.part ?? 0) : 0;
    let skip = done;
    const size = ops.reduce((sum, op) => sum + op.keys.length, 0);
    if (call.count > 0 && call.count + size - done > maxOps) finish({ seq: call.seq, part: null });
    for (const op of ops) {
      let from = Math.min(skip, op.keys.length);
      skip -= from;
      while (from < op.keys.length) {
        const to = Math.min(op.keys.length, from + maxOps - call.count);
        call.add(seq, op, from, to);
        done += to - from;
        from = to;
        if (call.count >= maxOps && done < size) finish({ seq, part: done });
      }
    }
  }
  if (call.count > 0) finish({ seq: call.seq, part: null });
  const final = calls.pop();
  if (final !== undefined) calls.push({ ...final, next: { seq: Math.max(last, final.next.seq), part: null } });
  return calls;
}

/** How apply-1.lua is told what to do with a run of keys. */
const signs = { store: "+", remove: "-", confirm: "=" } as const;

interface Run {
  readonly kind: string;
  keys: string;
  /** Empty: they have none. */
  names: string;
}

class CallBuilder {
  count = 0;
  seq = 0;
  readonly #runs: Run[] = [];
  #stores: BlockKey | null = null;

  add(seq: number, op: IndexOp, from: number, to: number): void {
    const slice = from === 0 && to === op.keys.length ? op.keys : op.keys.slice(from, to);
    const keys = pack(slice, "block key");
    const names = op.names === undefined ? "" : pack(op.names.slice(from, to), "engine hash", slice.length);
    const kind = `${signs[op.op]}${op.medium}${op.group === 0 ? "" : `#${op.group}`}`;
    const last = this.#runs.at(-1);
    if (last?.kind === kind && (last.names === "") === (names === "")) {
      last.keys += keys;
      last.names += names;
    } else {
      this.#runs.push({ kind, keys, names });
    }
    if (op.op !== "remove") this.#stores = slice.at(-1) ?? this.#stores;
    this.count += slice.length;
    this.seq = seq;
  }

  build(expected: Watermark, next: Watermark): ScriptCall {
    const isNamed = this.#runs.some(({ names }) => names !== "");
    const runs = this.#runs.flatMap(({ kind, keys, names }) => (isNamed ? [kind, keys, names] : [kind, keys]));
    return { expected, next, runs, isNamed, stores: this.#stores };
  }
}

/** @throws KVATLAS_EVENT_MALFORMED for anything that is not as long as a key, or not one per key */
function pack(list: readonly string[], what: "block key" | "engine hash", count = list.length): string {
  const packed = list.join("");
  if (list.length === count && packed.length === count * KEY_DIGITS) return packed;
  const wrong = list.find((text) => text.length !== KEY_DIGITS);
  throw new KvatlasError(
    "KVATLAS_EVENT_MALFORMED",
    wrong === undefined
      ? `Got ${list.length} engine hashes for ${count} block keys; there is one for each.`
      : `Got ${what} ${JSON.stringify(wrong)}; it is ${KEY_DIGITS} hexadecimal digits.`,
  );
}

function append<K, V>(lists: Map<K, V[]>, key: K, value: V): void {
  const list = lists.get(key);
  if (list === undefined) lists.set(key, [value]);
  else list.push(value);
}
