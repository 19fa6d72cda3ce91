import { seededRandom } from "../support/seeded-random.ts";
import { type FaultKind, kindsOf, type Topology } from "./fault-schedule.ts";

/** How the processes of a rig are set up: what cannot change while they run. Several schedules run one after the other in one arrangement. */
export interface Arrangement {
  /** Who dials: the ingesters each engine, or the engines one address behind which the ingesters are. */
  readonly publishers: "connect" | "bind";
  /** Block keys are the engine's hashes, or made from token contents with a table in the store. */
  readonly keys: "native" | "content";
  readonly onGap: "reset" | "keep";
  /** Off: not once in a schedule. Fast: purges and audits several times. Truth: audits also ask the replicas what they hold. */
  readonly housekeeping: "off" | "fast" | "truth";
  /** Data-parallel ranks behind each address. */
  readonly ranks: "1" | "2";
  /** Whether blocks are also copied to host memory, with events of their own. */
  readonly host: "none" | "offload";
  /** Release of vLLM that decides on wire forms, replay layouts and order of events. */
  readonly engine: "0.10" | "0.11" | "0.22" | "0.29" | "0.32" | "0.33";
  /** Batches in the replay buffers of the two engine processes. */
  readonly buffers: "2000,40" | "400,12";
  /** Bound of the queue of undecoded events of each endpoint. */
  readonly queues: "64MiB" | "64KiB";
}

export type ArrangementName = keyof Arrangement;

/** Every value of every dimension; the first is the plain one. */
export const dimensions: { readonly [Name in ArrangementName]: readonly [Arrangement[Name], ...Arrangement[Name][]] } = {
  publishers: ["connect", "bind"],
  keys: ["native", "content"],
  onGap: ["reset", "keep"],
  housekeeping: ["off", "fast", "truth"],
  ranks: ["1", "2"],
  host: ["none", "offload"],
  engine: ["0.32", "0.10", "0.11", "0.22", "0.29", "0.33"],
  buffers: ["2000,40", "400,12"],
  queues: ["64MiB", "64KiB"],
};

export const plainArrangement: Arrangement = {
  publishers: "connect",
  keys: "native",
  onGap: "reset",
  housekeeping: "off",
  ranks: "1",
  host: "none",
  engine: "0.32",
  buffers: "2000,40",
  queues: "64MiB",
};

/** Seeds in a row that share an arrangement: starting a dozen processes takes longer than a schedule. */
export const seedsPerArrangement = 10;

/** The arrangement that a seed's schedule runs in; `fixed` overrides what the seed has drawn. */
export function arrangementOf(seed: number, fixed: Partial<Arrangement> = {}): Arrangement {
  const random = seededRandom(Math.floor(seed / seedsPerArrangement) ^ 0x2c1b3c6d);
  const drawn: Arrangement = {
    publishers: random.pick(dimensions.publishers),
    keys: random.pick(dimensions.keys),
    onGap: random.pick(dimensions.onGap),
    housekeeping: random.pick(dimensions.housekeeping),
    ranks: random.pick(dimensions.ranks),
    host: random.pick(dimensions.host),
    engine: random.pick(dimensions.engine),
    buffers: random.pick(dimensions.buffers),
    queues: random.pick(dimensions.queues),
  };
  return possible({ ...drawn, ...fixed });
}

/** Engines that dial tell where they answer replays only since 0.31: before, nothing could be replayed and nothing would have to be. */
function possible(arrangement: Arrangement): Arrangement {
  const isTold = arrangement.engine === "0.32" || arrangement.engine === "0.33";
  return arrangement.publishers === "bind" && !isTold ? { ...arrangement, engine: "0.32" } : arrangement;
}

/** Kinds of faults that there can be: replays of engines that dial do not pass a link of ours. */
export function kindsIn(topology: Topology, { publishers }: Pick<Arrangement, "publishers">): readonly FaultKind[] {
  const kinds = kindsOf(topology);
  return publishers === "connect" ? kinds : kinds.filter((kind) => kind !== "replay-cut" && kind !== "replay-stall");
}

/**
 * Reads `name=value`, as often as given.
 *
 * @throws TypeError saying what there is
 */
export function readFixed(settings: readonly string[]): Partial<Arrangement> {
  const names = Object.keys(dimensions) as ArrangementName[];
  const entries = settings.map((setting) => {
    const [given, value = ""] = setting.split("=", 2);
    const name = names.find((known) => known === given);
    if (name === undefined) throw new TypeError(`--set ${setting}: there is no "${given}"; there are ${names.join(", ")}.`);
    const values: readonly string[] = dimensions[name];
    if (!values.includes(value)) throw new TypeError(`--set ${setting}: ${name} is one of ${values.join(", ")}.`);
    return [name, value] as const;
  });
  return Object.fromEntries(entries);
}

export function isSameArrangement(left: Arrangement, right: Arrangement): boolean {
  return (Object.keys(dimensions) as ArrangementName[]).every((name) => left[name] === right[name]);
}

/** What differs from the plain arrangement, as `--set` takes it; empty when nothing does. */
export function settingsOf(arrangement: Arrangement): readonly string[] {
  return (Object.keys(dimensions) as ArrangementName[])
    .filter((name) => arrangement[name] !== plainArrangement[name])
    .map((name) => `${name}=${arrangement[name]}`);
}
