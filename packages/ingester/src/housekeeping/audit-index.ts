import { setTimeout as wait } from "node:timers/promises";
import type { Clock } from "@kvatlas/shared/clock";
import type { BlockIndex, IndexPosition } from "@kvatlas/shared/index/block-index";
import { compareCopies, type ReplicaDump } from "@kvatlas/shared/index/replica-dump";
import type { Logger } from "@kvatlas/shared/logger";
import type { EndpointRecord, EndpointRegistry } from "@kvatlas/shared/registry/endpoint-registry";
import type { HousekeepingRecords } from "@kvatlas/shared/registry/housekeeping-records";
import type { BlockKey, EndpointId, EngineHash, ScopeId } from "@kvatlas/shared/types";
import { AUDIT_TASK, type AuditReport, type FindingKind } from "./audit-report.ts";
import { createPace, type Pace } from "./pace.ts";
import { sweepTask } from "./sweep-state.ts";

export interface AuditDeps {
  readonly registry: Pick<EndpointRegistry, "endpoints" | "scopes" | "acquire" | "remove" | "release">;
  readonly index: Pick<BlockIndex, "walk" | "keysOf" | "positions" | "holders" | "forget" | "census">;
  readonly records: Pick<HousekeepingRecords, "progress" | "saveProgress" | "requestRebuild">;
  readonly clock: Clock;
  readonly logger: Logger;
  /** What a replica shows of its own cache; null: replicas show nothing. */
  readonly truth: ((address: string, signal: AbortSignal) => Promise<readonly ReplicaDump[]>) | null;
}

export interface AuditOptions {
  readonly instanceId: string;
  readonly leaseTtlMs: number;
  /** Blocks per scope that are looked at, and blocks per replica that are compared beyond those. */
  readonly sampleBlocks: number;
  readonly blocksPerSecond: number;
}

const CURSOR_PREFIX = "audit ";
const SLICE_BLOCKS = 200;
const MAX_CENSUS_KEYS = 200_000;
/** A difference counts when it is there each time: an engine that works changes its cache between any two looks. */
const LOOKS = 3;
const BETWEEN_LOOKS_MS = 250;
/** How long the index may take to reach what a replica has shown; one that lags is not judged. */
const CATCH_UP_MS = 2_000;
const CATCH_UP_POLL_MS = 50;
const MAX_KEYS_IN_LOG = 5;

/** Blocks of one endpoint, one cache group and one medium. */
type Part = `${EndpointId} ${number} ${string}`;

/**
 * Compares the index with what it should be: positions with the registry, and a sample of entries with what replicas show of themselves. Each audit
 * goes on in the index where the last one ended. What it finds wrong it repairs where nobody else does, and otherwise asks the owner to begin
 * anew; nothing is written past an owner's fence.
 */
export async function auditIndex(deps: AuditDeps, options: AuditOptions, signal: AbortSignal): Promise<AuditReport> {
  const { registry, index, records, clock, logger } = deps;
  const pace = createPace(clock, { perSecond: options.blocksPerSecond }, signal);
  const findings: Record<FindingKind, number> = { stray: 0, incarnation: 0, phantom: 0, lost: 0, copies: 0 };
  const scopes = [...(await registry.scopes()).keys()];
  const suspects = await strayPositions(deps, scopes);
  const sample = await sampleOf(deps, options, scopes, pace);
  const rebuilds: EndpointId[] = [];
  let compared = 0;
  if (deps.truth !== null) {
    for (const address of new Set((await registry.endpoints()).map(({ meta }) => meta.address))) {
      const outcome = await compareReplica(deps, options, address, sample.parts, pace, signal);
      compared += outcome.compared;
      for (const kind of ["phantom", "lost", "copies"] as const) findings[kind] += outcome[kind];
      rebuilds.push(...outcome.rebuilds);
    }
  }
  // Looked at twice: an endpoint that changes its scope, or is being removed, is a stray for a moment.
  for (const [key, stray] of await strayPositions(deps, scopes)) {
    const before = suspects.get(key);
    if (before === undefined || before.position.fence !== stray.position.fence) continue;
    findings[stray.kind] += 1;
    logger.warn({ scope: stray.scope, endpoint: stray.endpoint, kind: stray.kind }, "the audit found a position that should not be");
    if (stray.kind === "stray") await forgetStray(deps, options, stray);
  }
  const census = await index.census(MAX_CENSUS_KEYS);
  const size = { blocks: 0, entries: 0, dead: 0, bytes: 0 };
  for (const { blocks, holders, bytes } of census.scopes.values()) {
    size.blocks += blocks;
    size.bytes += bytes ?? Number.NaN;
    for (const { live, dead } of holders.values()) {
      size.entries += live;
      size.dead += dead;
    }
  }
  const report: AuditReport = {
    at: clock.now(),
    sampled: sample.blocks,
    compared,
    findings,
    rebuilds,
    size: { ...size, bytes: Number.isNaN(size.bytes) ? null : size.bytes },
  };
  await records.saveProgress(AUDIT_TASK, JSON.stringify(report));
  logger.info({ ...report }, "the index was audited");
  return report;
}

interface Stray {
  readonly kind: "stray" | "incarnation";
  readonly scope: ScopeId;
  readonly endpoint: EndpointId;
  readonly position: IndexPosition;
  readonly isRegistered: boolean;
}

/** Positions that the registry does not account for, by scope and endpoint. */
async function strayPositions({ registry, index }: AuditDeps, scopes: readonly ScopeId[]): Promise<ReadonlyMap<string, Stray>> {
  const positions = await Promise.all(scopes.map(async (scope) => ({ scope, byEndpoint: await index.positions(scope) })));
  // Read last: whoever opens a scope is described before, so that what is new in the positions is known here.
  const records = new Map((await registry.endpoints()).map((record) => [record.id, record]));
  const strays = new Map<string, Stray>();
  for (const { scope, byEndpoint } of positions) {
    for (const [endpoint, position] of byEndpoint) {
      const kind = strayKind(scope, position, records.get(endpoint));
      if (kind !== null) strays.set(`${scope} ${endpoint}`, { kind, scope, endpoint, position, isRegistered: records.has(endpoint) });
    }
  }
  return strays;
}

function strayKind(scope: ScopeId, position: IndexPosition, record: EndpointRecord | undefined): Stray["kind"] | null {
  if (record === undefined) return "stray";
  // Not learned yet by this owner: it will say.
  if (record.meta.scope === null) return null;
  if (record.meta.scope !== scope) return "stray";
  return record.state.incarnation < position.incarnation ? "incarnation" : null;
}

/** A position in a scope that is not the endpoint's own makes its entries count there for ever: its owner writes elsewhere, or there is none. */
async function forgetStray(
  { registry, index, records }: AuditDeps,
  options: AuditOptions,
  { scope, endpoint, isRegistered }: Stray,
): Promise<void> {
  await records.saveProgress(sweepTask(scope), null);
  if (isRegistered) {
    await index.forget(scope, endpoint);
    return;
  }
  const lease = await registry.acquire(endpoint, options.instanceId, options.leaseTtlMs);
  if (lease === null) return;
  await index.forget(scope, endpoint);
  await registry.remove(endpoint);
  await registry.release(lease);
}

/** Live entries of the next part of every scope. */
async function sampleOf(
  { index, records }: AuditDeps,
  options: AuditOptions,
  scopes: readonly ScopeId[],
  pace: Pace,
): Promise<{ readonly blocks: number; readonly parts: ReadonlyMap<Part, readonly BlockKey[]> }> {
  const cursors = await records.progress();
  const parts = new Map<Part, BlockKey[]>();
  let blocks = 0;
  for (const scope of scopes) {
    let cursor: string | null = cursors.get(CURSOR_PREFIX + scope) ?? "0";
    for (let left = options.sampleBlocks; left > 0 && cursor !== null; left -= SLICE_BLOCKS) {
      const from: string = cursor;
      const slice = await pace.step(
        () => index.walk(scope, from, SLICE_BLOCKS),
        () => SLICE_BLOCKS,
      );
      blocks += slice.blocks.length;
      for (const { key, holders } of slice.blocks) {
        for (const { endpoint, group, live, copies } of holders) {
          if (!live) continue;
          for (const medium of Object.keys(copies)) {
            const part: Part = `${endpoint} ${group} ${medium}`;
            const keys = parts.get(part) ?? [];
            parts.set(part, keys);
            keys.push(key);
          }
        }
      }
      cursor = slice.next;
    }
    await records.saveProgress(CURSOR_PREFIX + scope, cursor ?? "0");
  }
  return { blocks, parts };
}

interface ReplicaOutcome {
  readonly compared: number;
  readonly phantom: number;
  readonly lost: number;
  readonly copies: number;
  readonly rebuilds: readonly EndpointId[];
}

interface Suspicion {
  readonly incarnation: number;
  readonly keys: readonly BlockKey[];
  readonly found: { readonly phantom: readonly BlockKey[]; readonly lost: readonly BlockKey[]; readonly copies: readonly BlockKey[] };
}

/** Compares one replica's endpoints with what it shows, several times. */
async function compareReplica(
  deps: AuditDeps,
  options: AuditOptions,
  address: string,
  sample: ReadonlyMap<Part, readonly BlockKey[]>,
  pace: Pace,
  signal: AbortSignal,
): Promise<ReplicaOutcome> {
  const { registry, records, logger, truth } = deps;
  const suspicions = new Map<Part, Suspicion>();
  let compared = 0;
  for (let look = 0; look < LOOKS; look += 1) {
    if (look > 0) await wait(BETWEEN_LOOKS_MS, undefined, { signal });
    const dumps = await truth?.(address, signal).catch((error: unknown) => {
      signal.throwIfAborted();
      logger.debug({ err: error, address }, "a replica does not show what it holds");
      return null;
    });
    if (dumps === null || dumps === undefined) return { compared, phantom: 0, lost: 0, copies: 0, rebuilds: [] };
    const endpoints = new Map((await registry.endpoints()).map((record) => [record.id, record]));
    for (const dump of dumps) {
      const part: Part = `${dump.endpoint} ${dump.group} ${dump.medium}`;
      const before = suspicions.get(part);
      const record = endpoints.get(dump.endpoint);
      const scope = record?.meta.scope ?? null;
      if (record === undefined || scope === null || (look > 0 && before === undefined)) continue;
      const position = await caughtUp(deps, scope, dump, signal);
      if (position === null || (before !== undefined && before.incarnation !== position.incarnation)) {
        suspicions.delete(part);
        continue;
      }
      const held = await truthByKey(deps, scope, position.incarnation, dump);
      const keys = before?.keys ?? [...(sample.get(part) ?? []), ...strideOf([...held.keys()], options.sampleBlocks, deps.clock.now())];
      const indexed = await readCopies(deps, scope, dump, keys, pace);
      const difference = compareCopies(keys, indexed, held);
      if (look === 0) compared += difference.compared;
      const wrong = [...difference.phantom, ...difference.lost, ...difference.copies];
      if (wrong.length === 0) suspicions.delete(part);
      else suspicions.set(part, { incarnation: position.incarnation, keys: wrong, found: difference });
    }
    if (suspicions.size === 0) break;
  }
  const rebuilds = new Set<EndpointId>();
  const outcome = { compared, phantom: 0, lost: 0, copies: 0 };
  for (const [part, { incarnation, found }] of suspicions) {
    const endpoint = part.slice(0, part.indexOf(" ")) as EndpointId;
    const { phantom, lost, copies } = found;
    outcome.phantom += phantom.length;
    outcome.lost += lost.length;
    outcome.copies += copies.length;
    const examples = [...phantom, ...lost, ...copies].slice(0, MAX_KEYS_IN_LOG);
    logger.warn(
      { endpoint, incarnation, phantom: phantom.length, lost: lost.length, copies: copies.length, examples },
      "the index differs from what a replica holds",
    );
    // A loss costs a hit; a phantom, or a count that will become one, costs every request that believes it.
    if (phantom.length + copies.length === 0) continue;
    const reason = `an audit found ${phantom.length} phantoms and ${copies.length} wrong counts, e.g. ${[...phantom, ...copies][0]}`;
    await records.requestRebuild({ endpoint, incarnation, reason });
    rebuilds.add(endpoint);
  }
  return { ...outcome, rebuilds: [...rebuilds] };
}

/** The endpoint's position once everything that the dump rests on is applied; null when that does not come about. */
async function caughtUp(
  { index, clock }: AuditDeps,
  scope: ScopeId,
  dump: ReplicaDump,
  signal: AbortSignal,
): Promise<IndexPosition | null> {
  const deadline = clock.monotonic() + CATCH_UP_MS;
  for (;;) {
    const position = (await index.positions(scope)).get(dump.endpoint);
    if (position === undefined) return null;
    if (position.applied !== null && position.applied >= dump.nextSequence - 1) return position;
    if (clock.monotonic() >= deadline) return null;
    await wait(CATCH_UP_POLL_MS, undefined, { signal });
  }
}

/** What the dump says, by block key: under a native scheme the engine's hash is the key. */
async function truthByKey(
  { registry, index }: AuditDeps,
  scope: ScopeId,
  incarnation: number,
  { endpoint, group, hashes }: ReplicaDump,
): Promise<ReadonlyMap<BlockKey, number>> {
  const spec = (await registry.scopes()).get(scope);
  if (spec?.scheme.kind !== "content") return hashes as ReadonlyMap<BlockKey, number>;
  const names = [...hashes.keys()].map((hash) => ({ hash: hash as EngineHash, group }));
  const keys = await index.keysOf(scope, { endpoint, incarnation }, names);
  const held = new Map<BlockKey, number>();
  for (const [i, copies] of [...hashes.values()].entries()) {
    const key = keys[i] ?? null;
    if (key !== null) held.set(key, (held.get(key) ?? 0) + copies);
  }
  return held;
}

async function readCopies(
  { index }: AuditDeps,
  scope: ScopeId,
  { endpoint, group, medium }: ReplicaDump,
  keys: readonly BlockKey[],
  pace: Pace,
): Promise<ReadonlyMap<BlockKey, number>> {
  const copies = new Map<BlockKey, number>();
  for (let from = 0; from < keys.length; from += SLICE_BLOCKS) {
    const slice = keys.slice(from, from + SLICE_BLOCKS);
    const holders = await pace.step(
      () => Promise.all(slice.map((key) => index.holders(scope, key))),
      () => slice.length,
    );
    for (const [i, key] of slice.entries()) {
      const mine = holders[i]?.find((holder) => holder.endpoint === endpoint && holder.group === group && holder.live);
      const count = mine?.copies[medium] ?? 0;
      if (count > 0) copies.set(key, count);
    }
  }
  return copies;
}

/** At most `count` of a list, evenly spread, from another one on each time. */
function strideOf<T>(list: readonly T[], count: number, seed: number): readonly T[] {
  if (count === 0) return [];
  const stride = Math.max(1, Math.ceil(list.length / count));
  return list.filter((_, i) => (i + seed) % stride === 0);
}
