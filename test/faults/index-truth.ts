import { decodeEventBatch } from "@kvatlas/shared/events/vllm-decoder";
import type { IndexedBlock } from "@kvatlas/shared/index/block-index";
import type { ReplicaDump } from "@kvatlas/shared/index/replica-dump";
import type { BlockKey, EndpointId } from "@kvatlas/shared/types";

/** Copies by block that one endpoint holds in its only medium and group. */
export type Copies = ReadonlyMap<string, number>;

/** What the whole index says, live entries only. */
export interface IndexContent {
  readonly copies: ReadonlyMap<EndpointId, Copies>;
  /** Entries that no replica can explain: another endpoint, medium or cache group. */
  readonly strangers: readonly string[];
}

export interface Difference {
  readonly endpoint: EndpointId;
  readonly key: BlockKey;
  readonly indexed: number;
  readonly held: number;
}

export interface Verdict {
  /** Held by the replica, its store still in the replica's replay buffer, and missing in the index (or with fewer copies). */
  readonly lost: readonly Difference[];
  /** In the index, live, and not held (or with more copies than there are). */
  readonly phantom: readonly Difference[];
  readonly unexplained: readonly string[];
  /** Held, missing in the index, and beyond what the replay buffer can prove: colder, not wrong. */
  readonly beyondReplay: number;
}

export function readContent(blocks: Iterable<IndexedBlock>, known: ReadonlySet<EndpointId>): IndexContent {
  const copies = new Map<EndpointId, Map<string, number>>();
  const strangers: string[] = [];
  for (const { key, holders } of blocks) {
    for (const { endpoint, group, live, copies: media } of holders) {
      if (!live) continue;
      const { gpu, ...others } = media;
      if (!known.has(endpoint) || group !== 0 || Object.keys(others).length > 0)
        strangers.push(`${key} ${endpoint}#${group} ${JSON.stringify(media)}`);
      const held = copies.get(endpoint) ?? new Map<string, number>();
      copies.set(endpoint, held.set(key, gpu ?? 0));
    }
  }
  return { copies, strangers };
}

/** True when nothing at all differs. */
export function isEqual(dumps: readonly ReplicaDump[], content: IndexContent): boolean {
  return content.strangers.length === 0 && dumps.every((dump) => differences(dump, content).length === 0);
}

export function differences(dump: ReplicaDump, content: IndexContent): readonly Difference[] {
  const indexed = content.copies.get(dump.endpoint) ?? new Map<string, number>();
  const list: Difference[] = [];
  for (const key of new Set([...indexed.keys(), ...dump.hashes.keys()])) {
    const difference = { endpoint: dump.endpoint, key: key as BlockKey, indexed: indexed.get(key) ?? 0, held: dump.hashes.get(key) ?? 0 };
    if (difference.indexed !== difference.held) list.push(difference);
  }
  return list;
}

/**
 * Sorts what differs. `replayable` is what the end of the replay buffer proves to be held (`provenBy`): an index that has forgotten everything
 * before must still have that much.
 */
export function judge(dumps: readonly ReplicaDump[], content: IndexContent, replayable: ReadonlyMap<EndpointId, Copies>): Verdict {
  const lost: Difference[] = [];
  const phantom: Difference[] = [];
  let beyondReplay = 0;
  for (const dump of dumps) {
    const proven = replayable.get(dump.endpoint) ?? new Map<string, number>();
    for (const difference of differences(dump, content)) {
      const { key, indexed, held } = difference;
      if (indexed > held) phantom.push(difference);
      else if (indexed < Math.min(held, proven.get(key) ?? 0)) lost.push(difference);
      else beyondReplay += 1;
    }
  }
  return { lost, phantom, unexplained: content.strangers, beyondReplay };
}

/** A batch in a replay buffer. */
export interface BufferedBatch {
  readonly seq: number;
  readonly payload: Uint8Array;
}

/**
 * What is certainly held, seen from the batches `0..next-1` of which `buffered` are still there: the sum of the unbroken run of batches up to
 * the last one. Nothing when the last one is missing.
 */
export function provenBy(buffered: readonly BufferedBatch[], next: number): Copies {
  const bySeq = new Map(buffered.map((batch) => [batch.seq, batch.payload]));
  let first = next;
  while (bySeq.has(first - 1)) first -= 1;
  const copies = new Map<string, number>();
  for (let seq = first; seq < next; seq += 1) {
    for (const event of decodeEventBatch(bySeq.get(seq) ?? new Uint8Array(0)).events) {
      if (event.kind === "cleared") copies.clear();
      else if (event.kind === "stored") for (const hash of event.hashes) copies.set(hash, (copies.get(hash) ?? 0) + 1);
      else for (const hash of event.hashes) copies.set(hash, Math.max(0, (copies.get(hash) ?? 0) - 1));
    }
  }
  return copies;
}
