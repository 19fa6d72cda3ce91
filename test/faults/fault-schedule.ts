import { type SeededRandom, seededRandom } from "../support/seeded-random.ts";

/** Everything that goes wrong on purpose where there is one Redis; `docs/ingestion.md` says what repairs each. */
export const faultKinds = [
  "ingester-kill",
  "ingester-pause",
  "ingester-leave",
  "ingester-join",
  "events-cut",
  "events-stall",
  "events-slow",
  "replay-cut",
  "replay-stall",
  "replay-hang",
  "replay-short",
  "redis-link-cut",
  "redis-link-stall",
  "redis-link-slow",
  "redis-pause",
  "redis-empty",
  "redis-restart",
  "redis-rollback",
  "redis-scripts",
  "redis-clients",
  "engine-restart",
  "engine-reopen",
  "engine-kill",
  "engine-reset",
  "engine-sleep",
  "engine-slow-join",
  "batches-dropped",
  "batches-lost",
] as const;

export type Topology = "single" | "sentinel" | "cluster";

/** Everything that goes wrong on purpose with a Redis whose primaries have replicas. */
const replicatedKind = "redis-failover";

export type FaultKind = (typeof faultKinds)[number] | typeof replicatedKind;

/** Ingesters reach servers that they are told of directly, so nothing can be put between; and no server's file decides what comes back. */
const singleOnly: ReadonlySet<FaultKind> = new Set([
  "redis-link-cut",
  "redis-link-stall",
  "redis-link-slow",
  "redis-empty",
  "redis-restart",
  "redis-rollback",
]);

/** A topology's kinds, always in the same order: what a seed decides depends on it. */
export function kindsOf(topology: Topology): readonly FaultKind[] {
  return topology === "single" ? faultKinds : [...faultKinds.filter((kind) => !singleOnly.has(kind)), replicatedKind];
}

/** One fault: what, where, from when to when. Times are ms after the load has begun. */
export interface Fault {
  readonly kind: FaultKind;
  readonly atMs: number;
  /** Faults of a moment have 0. */
  readonly durationMs: number;
  /** Which replica, ingester or engine process; the rig takes it modulo what there is. */
  readonly target: number;
  /** A second choice: which ingester's link to a replica (0: all of them), how many batches, how many ms of delay. */
  readonly amount: number;
}

export interface Schedule {
  readonly seed: number;
  readonly faults: readonly Fault[];
  /** How long requests are sent. */
  readonly loadMs: number;
  /** Requests per second over all replicas. */
  readonly requestsPerSecond: number;
}

/** How long each kind lasts, ms, and what its amount means. Pauses and stalls are sometimes longer than the lease (2 s). */
const shapes: Readonly<Record<FaultKind, { readonly durationMs: readonly [number, number]; readonly amount?: readonly [number, number] }>> =
  {
    "ingester-kill": { durationMs: [0, 2_000] },
    "ingester-pause": { durationMs: [200, 3_000] },
    "ingester-leave": { durationMs: [200, 2_000] },
    "ingester-join": { durationMs: [500, 3_000] },
    "events-cut": { durationMs: [20, 2_000], amount: [0, 2] },
    "events-stall": { durationMs: [100, 2_500], amount: [0, 2] },
    "events-slow": { durationMs: [200, 2_000], amount: [20, 400] },
    "replay-cut": { durationMs: [100, 2_000] },
    "replay-stall": { durationMs: [100, 2_000] },
    "replay-hang": { durationMs: [100, 1_500] },
    "replay-short": { durationMs: [100, 1_500], amount: [0, 20] },
    "redis-link-cut": { durationMs: [20, 2_500] },
    "redis-link-stall": { durationMs: [50, 2_500] },
    "redis-link-slow": { durationMs: [100, 2_000], amount: [5, 100] },
    "redis-pause": { durationMs: [50, 2_500] },
    "redis-empty": { durationMs: [0, 1_500] },
    "redis-restart": { durationMs: [0, 1_500] },
    "redis-rollback": { durationMs: [100, 1_500] },
    "redis-scripts": { durationMs: [0, 0] },
    "redis-clients": { durationMs: [0, 0] },
    // How long the replica hears nothing before its primary dies: what is written meanwhile is acknowledged and lost.
    "redis-failover": { durationMs: [0, 400] },
    "engine-restart": { durationMs: [0, 0] },
    "engine-reopen": { durationMs: [0, 0] },
    "engine-kill": { durationMs: [0, 1_500] },
    "engine-reset": { durationMs: [0, 0] },
    "engine-sleep": { durationMs: [50, 1_500] },
    "engine-slow-join": { durationMs: [0, 0], amount: [1, 8] },
    "batches-dropped": { durationMs: [0, 0], amount: [1, 60] },
    "batches-lost": { durationMs: [0, 0], amount: [1, 5] },
  };

const maxFaults = 5;
/** Time that faults begin in; they may end later. */
const faultWindowMs: readonly [number, number] = [500, 2_500];

/** A schedule is nothing but its seed (and the kinds it may use): equal seeds give equal decisions. */
export function scheduleOf(seed: number, kinds: readonly FaultKind[] = faultKinds): Schedule {
  const [first, ...rest] = kinds;
  if (first === undefined) throw new RangeError("A schedule needs at least one kind of fault.");
  const random = seededRandom(seed);
  const windowMs = random.between(...faultWindowMs);
  const count = random.between(1, maxFaults);
  const faults = Array.from({ length: count }, () => faultOf(random, random.pick([first, ...rest]), windowMs));
  faults.sort((left, right) => left.atMs - right.atMs);
  const endMs = Math.max(...faults.map((fault) => fault.atMs + fault.durationMs));
  // Sometimes the load goes on when all is well again, sometimes it ends in the middle of the trouble.
  const loadMs = random.chance(0.6) ? endMs + random.between(50, 600) : random.between(Math.min(300, endMs), endMs);
  return { seed, faults, loadMs, requestsPerSecond: random.pick([15, 40, 80]) };
}

function faultOf(random: SeededRandom, kind: FaultKind, windowMs: number): Fault {
  const { durationMs, amount } = shapes[kind];
  return {
    kind,
    atMs: random.between(0, windowMs),
    durationMs: random.between(...durationMs),
    target: random.between(0, 4_095),
    amount: amount === undefined ? 0 : random.between(...amount),
  };
}
