import type { EndpointRecord } from "@kvatlas/shared/registry/endpoint-registry";
import type { EndpointId } from "@kvatlas/shared/types";

export interface MissingInput {
  /** Endpoints that somebody of the fleet should look after. */
  readonly wanted: Iterable<EndpointId>;
  readonly records: readonly EndpointRecord[];
  readonly isOwnedHere: (endpoint: EndpointId) => boolean;
  readonly nowMs: number;
  /** Age of an owner's last sign of life at which there is none. */
  readonly ownerlessAfterMs: number;
}

const MAX_SENTENCES = 20;

/** What keeps parts of the fleet out of the index, although this ingester does its work: a sentence each, the endpoint first. */
export function missingOf({ wanted, records, isOwnedHere, nowMs, ownerlessAfterMs }: MissingInput): readonly string[] {
  const byId = new Map(records.map((record) => [record.id, record]));
  const sentences: string[] = [];
  for (const endpoint of wanted) {
    const record = byId.get(endpoint);
    if (!isOwnedHere(endpoint)) {
      if (record === undefined || nowMs - record.heartbeat > ownerlessAfterMs) sentences.push(`${endpoint}: no ingester looks after it.`);
      continue;
    }
    for (const finding of Object.values(record?.meta.findings ?? {})) sentences.push(`${endpoint}: ${finding}`);
  }
  if (sentences.length <= MAX_SENTENCES) return sentences;
  return [...sentences.slice(0, MAX_SENTENCES), `${sentences.length - MAX_SENTENCES} more: kvatlas inspect endpoints.`];
}
