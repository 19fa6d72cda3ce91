import type { BlockKey, EndpointId, Medium } from "../types.ts";

/** What one endpoint really holds, as the replica itself shows it. */
export interface ReplicaDump {
  readonly endpoint: EndpointId;
  readonly group: number;
  readonly medium: Medium;
  /** Batches the engine has numbered so far; once they are applied and `unpublished` is 0, the index must equal `hashes`. */
  readonly nextSequence: number;
  readonly unpublished: number;
  /** Engine hash (16 hex digits) -> copies. */
  readonly hashes: ReadonlyMap<string, number>;
}

const media: readonly Medium[] = ["gpu", "cpu", "storage", "other"];

/**
 * Reads what a replica answers to `GET /sim/blocks`: `{ranks: [{rank, group, medium, nextSequence, unpublished, hashes: {hash: copies}}]}`.
 * What is malformed is left out.
 *
 * @param address of the replica; ranks above 0 are endpoints `<address>/<rank>`
 */
export function readReplicaDumps(address: string, body: unknown): readonly ReplicaDump[] {
  const ranks = isRecord(body) && Array.isArray(body.ranks) ? body.ranks : [];
  return ranks.flatMap((dump: unknown): ReplicaDump[] => {
    if (!isRecord(dump) || !isRecord(dump.hashes) || !isCount(dump.rank)) return [];
    const medium = media.find((known) => known === dump.medium) ?? "gpu";
    return [
      {
        endpoint: (dump.rank === 0 ? address : `${address}/${dump.rank}`) as EndpointId,
        group: isCount(dump.group) ? dump.group : 0,
        medium,
        nextSequence: isCount(dump.nextSequence) ? dump.nextSequence : 0,
        unpublished: isCount(dump.unpublished) ? dump.unpublished : 0,
        hashes: new Map(Object.entries(dump.hashes).filter((pair): pair is [string, number] => isCount(pair[1]) && pair[1] > 0)),
      },
    ];
  });
}

/** How the index and the replica differ in some blocks; keys of `copies` are known to both. */
export interface DumpDifference {
  readonly compared: number;
  readonly phantom: readonly BlockKey[];
  readonly lost: readonly BlockKey[];
  readonly copies: readonly BlockKey[];
}

/** Copies by block: what the index has against what is true, for the given blocks. */
export function compareCopies(
  keys: Iterable<BlockKey>,
  indexed: ReadonlyMap<BlockKey, number>,
  truth: ReadonlyMap<BlockKey, number>,
): DumpDifference {
  const phantom: BlockKey[] = [];
  const lost: BlockKey[] = [];
  const copies: BlockKey[] = [];
  let compared = 0;
  for (const key of new Set(keys)) {
    compared += 1;
    const has = indexed.get(key) ?? 0;
    const is = truth.get(key) ?? 0;
    if (has === is) continue;
    if (is === 0) phantom.push(key);
    else if (has === 0) lost.push(key);
    else copies.push(key);
  }
  return { compared, phantom, lost, copies };
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isCount(value: unknown): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}
