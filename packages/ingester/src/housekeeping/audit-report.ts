/** Under which `HousekeepingRecords` keep the last report. */
export const AUDIT_TASK = "audit";

/** What an audit can find. */
export const findingKinds = ["stray", "incarnation", "phantom", "lost", "copies"] as const;

/**
 * - `stray`: an endpoint counts in a scope that is not its own, or is not registered at all
 * - `incarnation`: the registry is behind the index: it has lost what it had acknowledged
 * - `phantom`: the index says that a replica holds a block, the replica says it does not
 * - `lost`: the other way round
 * - `copies`: both know the block, and count different copies
 */
export type FindingKind = (typeof findingKinds)[number];

export interface AuditReport {
  /** ms since the epoch. */
  readonly at: number;
  /** Blocks of the index that were looked at, and blocks that were compared with a replica. */
  readonly sampled: number;
  readonly compared: number;
  readonly findings: Readonly<Record<FindingKind, number>>;
  /** Endpoints whose owners were asked to begin anew. */
  readonly rebuilds: readonly string[];
  /** Null where the store does not tell. */
  readonly size: { readonly blocks: number; readonly entries: number; readonly dead: number; readonly bytes: number | null };
}

/** Null for what is no report. */
export function reportFromText(text: string | undefined): AuditReport | null {
  try {
    const value = JSON.parse(text ?? "null") as AuditReport | null;
    const isReport =
      typeof value?.at === "number" &&
      typeof value.size === "object" &&
      findingKinds.every((kind) => typeof value.findings?.[kind] === "number");
    return isReport ? value : null;
  } catch {
    return null;
  }
}
