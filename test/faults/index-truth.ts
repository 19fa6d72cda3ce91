import { decodeEventBatch } from "@kvatlas/shared/events/vllm-decoder";
import type { IndexedBlock } from "@kvatlas/shared/index/block-index";
import type { ReplicaDump } from "@kvatlas/shared/index/replica-dump";
import type { EndpointId, Medium } from "@kvatlas/shared/types";
import { type BlockNames, nativeNames } from "./block-names.ts";
import type { GapKind } from "./lost-gaps.ts";

/** Where copies are counted: a medium and a block key, see `placeOf`. */
export type Place = string;

/** Copies by place that one endpoint holds in its only cache group. */
export type Copies = ReadonlyMap<Place, number>;

/** What the whole index says, live entries only. */
export interface IndexContent {
  readonly copies: ReadonlyMap<EndpointId, Copies>;
  /** Entries that no replica can explain: another endpoint or cache group. */
  readonly strangers: readonly string[];
}

/** What one endpoint really holds, under the names that the index has for it. */
export interface EndpointTruth {
  readonly endpoint: EndpointId;
  /** Batches that the engine has numbered. */
  readonly nextSequence: number;
  readonly copies: Copies;
  /** Hashes without a name: the test does not know its own requests. */
  readonly unnamed: readonly string[];
}

export interface Difference {
  readonly endpoint: EndpointId;
  readonly place: Place;
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
  /** Differences of endpoints that go on after events were given up, as `onGap: keep` says they may. */
  readonly kept: number;
}

export function placeOf(medium: Medium, key: string): Place {
  return `${medium} ${key}`;
}

export function readContent(blocks: Iterable<IndexedBlock>, known: ReadonlySet<EndpointId>): IndexContent {
  const copies = new Map<EndpointId, Map<Place, number>>();
  const strangers: string[] = [];
  for (const { key, holders } of blocks) {
    for (const { endpoint, group, live, copies: media } of holders) {
      if (!live) continue;
      if (!known.has(endpoint) || group !== 0) strangers.push(`${key} ${endpoint}#${group} ${JSON.stringify(media)}`);
      const held = copies.get(endpoint) ?? new Map<Place, number>();
      copies.set(endpoint, held);
      for (const [medium, count] of Object.entries(media)) held.set(placeOf(medium as Medium, key), count);
    }
  }
  return { copies, strangers };
}

/** @param dumps what a replica shows, one for each of its ranks and media */
export function truthsOf(dumps: readonly ReplicaDump[], names: BlockNames = nativeNames): readonly EndpointTruth[] {
  const endpoints = [...new Set(dumps.map(({ endpoint }) => endpoint))];
  return endpoints.map((endpoint) => {
    const parts = dumps.filter((dump) => dump.endpoint === endpoint);
    const copies = new Map<Place, number>();
    const unnamed: string[] = [];
    for (const { medium, hashes } of parts) {
      for (const [hash, count] of hashes) {
        const key = names.keyOf(hash);
        if (key === null) unnamed.push(hash);
        else copies.set(placeOf(medium, key), count);
      }
    }
    return { endpoint, nextSequence: parts[0]?.nextSequence ?? 0, copies, unnamed };
  });
}

/** True when nothing at all differs. */
export function isEqual(truths: readonly EndpointTruth[], content: IndexContent): boolean {
  return content.strangers.length === 0 && truths.every((truth) => differences(truth, content).length === 0);
}

export function differences({ endpoint, copies }: EndpointTruth, content: IndexContent): readonly Difference[] {
  const indexed = content.copies.get(endpoint) ?? new Map<Place, number>();
  const list: Difference[] = [];
  for (const place of new Set([...indexed.keys(), ...copies.keys()])) {
    const difference = { endpoint, place, indexed: indexed.get(place) ?? 0, held: copies.get(place) ?? 0 };
    if (difference.indexed !== difference.held) list.push(difference);
  }
  return list;
}

/**
 * Sorts what differs. `replayable` is what the end of the replay buffer proves to be held (`provenBy`): an index that has forgotten everything
 * before must still have that much. `mayKeep`: endpoints of which the index has gone on past a gap that nothing could fill.
 */
export function judge(
  truths: readonly EndpointTruth[],
  content: IndexContent,
  replayable: ReadonlyMap<EndpointId, Copies>,
  mayKeep: ReadonlyMap<EndpointId, GapKind> = new Map(),
): Verdict {
  const lost: Difference[] = [];
  const phantom: Difference[] = [];
  const unexplained = [...content.strangers];
  let [beyondReplay, kept] = [0, 0];
  for (const truth of truths) {
    const { endpoint } = truth;
    for (const hash of truth.unnamed) unexplained.push(`${endpoint} holds ${hash}, which no request has made`);
    const proven = replayable.get(endpoint) ?? new Map<Place, number>();
    for (const difference of differences(truth, content)) {
      const { place, indexed, held } = difference;
      if (indexed > held) {
        if (mayKeep.has(endpoint)) kept += 1;
        else phantom.push(difference);
      } else if (indexed >= Math.min(held, proven.get(place) ?? 0)) beyondReplay += 1;
      else if (mayKeep.get(endpoint) === "unanswered") kept += 1;
      else lost.push(difference);
    }
  }
  return { lost, phantom, unexplained, beyondReplay, kept };
}

/** A batch in a replay buffer. */
export interface BufferedBatch {
  readonly seq: number;
  readonly payload: Uint8Array;
}

/**
 * What is certainly held, seen from the batches `0..next-1` of which `buffered` are still there: the sum of the unbroken run of batches up to
 * the last one. Nothing when the last one is missing. Where stores are named through their parents, those count whose parent is in the run.
 */
export function provenBy(buffered: readonly BufferedBatch[], next: number, names: BlockNames = nativeNames): Copies {
  const bySeq = new Map(buffered.map((batch) => [batch.seq, batch.payload]));
  let first = next;
  while (bySeq.has(first - 1)) first -= 1;
  const copies = new Map<Place, number>();
  const named = new Set<string>();
  for (let seq = first; seq < next; seq += 1) {
    for (const event of decodeEventBatch(bySeq.get(seq) ?? new Uint8Array(0)).events) {
      if (event.kind === "cleared") {
        copies.clear();
        named.clear();
        continue;
      }
      if (event.kind === "stored" && event.tokenIds.length > 0 && (event.parent === null || named.has(event.parent))) {
        for (const hash of event.hashes) named.add(hash);
      }
      for (const hash of event.hashes) {
        const key = names.keyOf(hash);
        if (key === null || (names.needsParents && !named.has(hash))) continue;
        const place = placeOf(event.medium, key);
        const before = copies.get(place) ?? 0;
        copies.set(place, event.kind === "stored" ? before + 1 : Math.max(0, before - 1));
      }
    }
  }
  return copies;
}
