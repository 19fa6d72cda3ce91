import { setTimeout as wait } from "node:timers/promises";
import type { KvatlasConfig } from "@kvatlas/shared/config/schema";
import type { BlockIndex } from "@kvatlas/shared/index/block-index";
import { compareCopies, type ReplicaDump, readReplicaDumps } from "@kvatlas/shared/index/replica-dump";
import type { EndpointRecord } from "@kvatlas/shared/registry/endpoint-registry";
import type { BlockKey, EndpointId, EngineHash, ScopeId } from "@kvatlas/shared/types";
import { formatTable } from "../table.ts";
import type { Inspection } from "./inspection.ts";
import type { InspectSource } from "./source.ts";

/** Where simulators show what they hold. */
const defaultPath = "/sim/blocks";
/** The most blocks of a scope that are read; beyond, nothing is said about losses. */
const maxBlocks = 2_000_000;
const blocksPerSlice = 1_000;
const dumpTimeoutMs = 10_000;
/** How long the index may take to reach what the replicas have shown. */
const catchUpMs = 3_000;
const pollMs = 50;
const examplesShown = 5;

/** One cache of one endpoint, compared. */
interface DiffRow {
  readonly endpoint: EndpointId;
  readonly medium: string;
  readonly scope: ScopeId | null;
  /** Blocks the replica holds, and the index says it holds. */
  readonly held: number;
  readonly indexed: number;
  readonly phantom: number;
  readonly lost: number;
  readonly copies: number;
  /** Blocks that changed while they were looked at, and are not judged. */
  readonly moving: number;
  /** Batches that the index has yet to apply; null when it does not know the endpoint. */
  readonly behind: number | null;
  readonly examples: readonly BlockKey[];
}

/**
 * The index against what replicas show of themselves (simulators do, engines do not). Each replica is asked before and after the index is read, and
 * a block counts only when both answers agree on it: under load the rest is on its way.
 */
export async function inspectDiff(source: InspectSource, config: KvatlasConfig): Promise<Inspection> {
  const path = config.housekeeping.truthPath ?? defaultPath;
  const endpoints = await source.registry.endpoints();
  const addresses = [...new Set(endpoints.map(({ meta }) => meta.address))];
  const before = await dumpsOf(addresses, path);
  await caughtUp(source, endpoints, before.dumps);
  const indexed = new Map<ScopeId, ScopeContent>();
  for (const scope of new Set(endpoints.flatMap(({ meta }) => meta.scope ?? []))) indexed.set(scope, await readScope(source.index, scope));
  const after = await dumpsOf(addresses, path);
  const rows: DiffRow[] = [];
  for (const dump of before.dumps) {
    const again = after.dumps.find((other) => partOf(other) === partOf(dump));
    const record = endpoints.find(({ id }) => id === dump.endpoint);
    if (again !== undefined) rows.push(await compare(source, dump, again, record, indexed));
  }
  const silent = [...new Set([...before.silent, ...after.silent])];
  const differ = rows.filter(({ phantom, lost, copies }) => phantom + lost + copies > 0);
  const isComplete = [...indexed.values()].every((content) => content.isComplete);
  return {
    isWrong: differ.length > 0,
    json: { path, equal: differ.length === 0, isComplete, replicas: rows, silent },
    text: [
      rows.length === 0
        ? `no replica shows what it holds at ${path}: engines do not, simulators do\n`
        : formatTable(
            ["endpoint", "medium", "held", "indexed", "phantom", "lost", "copies", "moving", "behind"],
            rows.map((row) => [
              row.endpoint,
              row.medium,
              row.held,
              row.indexed,
              row.phantom,
              row.lost,
              row.copies,
              row.moving,
              row.behind ?? "?",
            ]),
          ),
      ...differ.map(({ endpoint, medium, examples }) => `${endpoint} ${medium}: e.g. ${examples.join(", ")}\n`),
      ...(isComplete ? [] : [`only ${maxBlocks} blocks per scope were read: losses are not counted\n`]),
      ...(silent.length === 0 || rows.length === 0 ? [] : [`no answer at ${path}: ${silent.join(", ")}\n`]),
      ...(rows.length > 0 && differ.length === 0 ? ["the index and the replicas agree\n"] : []),
    ].join(""),
    redisCli: [
      source.redisCli("HGETALL", source.keys.scopes),
      ...[...(await source.registry.scopes()).values()]
        .slice(0, 1)
        .map(({ tag }) => source.redisCli("HGETALL", source.keys.space(tag).seq(0))),
    ],
  };
}

interface ScopeContent {
  readonly isComplete: boolean;
  /** Copies by block, of every part that counts. */
  readonly parts: ReadonlyMap<string, ReadonlyMap<BlockKey, number>>;
}

function partOf({ endpoint, group, medium }: Pick<ReplicaDump, "endpoint" | "group" | "medium">): string {
  return `${endpoint} ${group} ${medium}`;
}

async function dumpsOf(
  addresses: readonly string[],
  path: string,
): Promise<{ readonly dumps: readonly ReplicaDump[]; readonly silent: readonly string[] }> {
  const silent: string[] = [];
  const dumps = await Promise.all(
    addresses.map(async (address) => {
      try {
        const response = await fetch(`http://${address}${path}`, { signal: AbortSignal.timeout(dumpTimeoutMs) });
        const found = response.ok ? readReplicaDumps(address, await response.json()) : [];
        if (found.length === 0) silent.push(address);
        return found;
      } catch {
        silent.push(address);
        return [];
      }
    }),
  );
  return { dumps: dumps.flat(), silent };
}

/** Waits, within bounds, until the index has what the dumps rest on. */
async function caughtUp(source: InspectSource, endpoints: readonly EndpointRecord[], dumps: readonly ReplicaDump[]): Promise<void> {
  const deadline = performance.now() + catchUpMs;
  while (performance.now() < deadline) {
    const lags = await Promise.all(
      dumps.map((dump) => lagOf(source.index, endpoints.find(({ id }) => id === dump.endpoint)?.meta.scope ?? null, dump)),
    );
    if (lags.every((lag) => lag === null || lag === 0)) return;
    await wait(pollMs);
  }
}

async function lagOf(index: BlockIndex, scope: ScopeId | null, dump: ReplicaDump): Promise<number | null> {
  if (scope === null) return null;
  const applied = (await index.positions(scope)).get(dump.endpoint)?.applied ?? null;
  return applied === null ? null : Math.max(0, dump.nextSequence - 1 - applied);
}

async function readScope(index: BlockIndex, scope: ScopeId): Promise<ScopeContent> {
  const parts = new Map<string, Map<BlockKey, number>>();
  let cursor: string | null = "0";
  for (let read = 0; cursor !== null && read < maxBlocks; ) {
    const slice: Awaited<ReturnType<BlockIndex["walk"]>> = await index.walk(scope, cursor, blocksPerSlice);
    read += slice.blocks.length;
    cursor = slice.next;
    for (const { key, holders } of slice.blocks) {
      for (const { endpoint, group, live, copies } of holders) {
        if (!live) continue;
        for (const [medium, count] of Object.entries(copies)) {
          const part = `${endpoint} ${group} ${medium}`;
          const blocks = parts.get(part) ?? new Map<BlockKey, number>();
          parts.set(part, blocks.set(key, count));
        }
      }
    }
  }
  return { isComplete: cursor === null, parts };
}

async function compare(
  source: InspectSource,
  before: ReplicaDump,
  after: ReplicaDump,
  record: EndpointRecord | undefined,
  indexed: ReadonlyMap<ScopeId, ScopeContent>,
): Promise<DiffRow> {
  const scope = record?.meta.scope ?? null;
  const content = scope === null ? undefined : indexed.get(scope);
  const blocks = content?.parts.get(partOf(before)) ?? new Map<BlockKey, number>();
  const [held, heldAfter] = await Promise.all([byBlockKey(source, record, before), byBlockKey(source, record, after)]);
  const known = new Set([...blocks.keys(), ...held.keys(), ...heldAfter.keys()]);
  const steady = [...known].filter((key) => held.get(key) === heldAfter.get(key));
  const { phantom, lost, copies } = compareCopies(steady, blocks, held);
  const losses = content?.isComplete === false ? [] : lost;
  return {
    endpoint: before.endpoint,
    medium: before.group === 0 ? before.medium : `${before.medium}#${before.group}`,
    scope,
    held: held.size,
    indexed: blocks.size,
    phantom: phantom.length,
    lost: losses.length,
    copies: copies.length,
    moving: known.size - steady.length,
    behind: await lagOf(source.index, scope, before),
    examples: [...phantom, ...losses, ...copies].slice(0, examplesShown),
  };
}

/** The dump by block key; under the content scheme through what the index knows of the engine's names. */
async function byBlockKey(
  { registry, index }: InspectSource,
  record: EndpointRecord | undefined,
  { group, hashes }: ReplicaDump,
): Promise<ReadonlyMap<BlockKey, number>> {
  const scope = record?.meta.scope ?? null;
  const spec = scope === null ? undefined : (await registry.scopes()).get(scope);
  if (record === undefined || scope === null || spec?.scheme.kind !== "content") return hashes as ReadonlyMap<BlockKey, number>;
  const names = [...hashes.keys()].map((hash) => ({ hash: hash as EngineHash, group }));
  const keys = await index.keysOf(scope, { endpoint: record.id, incarnation: record.state.incarnation }, names);
  const blocks = new Map<BlockKey, number>();
  for (const [i, [hash, copies]] of [...hashes].entries()) {
    // One that the index does not know is a loss: shown by the engine's hash.
    const key = (keys[i] ?? hash) as BlockKey;
    blocks.set(key, (blocks.get(key) ?? 0) + copies);
  }
  return blocks;
}
