import { z } from "zod";
import type { PoolConfig } from "../config/schema.ts";

/* What discovery has found out about one configured pool. Written by whoever watches for the fleet, read by every ingester and router. */

const targetSchema = z.object({
  /** `host:port` of the HTTP server. */
  address: z.string(),
  /** `namespace/name` of the pod, and its uid: another pod may come to have its address. */
  pod: z.string(),
  uid: z.string(),
  /** Position of the port among the pool's target ports: data-parallel rank behind the pod's address. */
  rank: z.int().min(0),
  /** Where to dial for events and replays; null: the replica dials us, or is asked. */
  events: z.string().nullable(),
  replay: z.string().nullable(),
  /** The pod's readiness, as Kubernetes has it. */
  ready: z.boolean(),
  /** Label `llm-d.ai/role`, see `engine-role.ts`; null: serves requests as a whole. */
  role: z.string().nullable(),
  /** `llm-d.ai/engine-type`; null where the pod has none. */
  engine: z.string().nullable(),
  /** The pod's labels, for people. Earlier releases wrote none. */
  labels: z.record(z.string(), z.string()).default({}),
});

export const poolRecordSchema = z.object({
  /** What is watched, e.g. `InferencePool default/qwen (inference.networking.k8s.io/v1)`. */
  source: z.string(),
  /** False while the object that describes the pool is missing: then it has no replicas. */
  exists: z.boolean(),
  targets: z.array(targetSchema),
  /** What objects in the cluster say about the tracking of prefixes; null: nothing. */
  prefixCache: z
    .object({
      mode: z.enum(["precise", "estimated"]).nullable(),
      blockSize: z.int().min(1).max(65_536).nullable(),
      hashSeed: z.string().nullable(),
      /** The object that says so. */
      from: z.string(),
    })
    .nullable(),
  /** Priorities of requests by the name of an InferenceObjective. */
  objectives: z.array(z.object({ name: z.string(), priority: z.int() })),
  /** Names of models that stand for others, from InferenceModelRewrite and InferenceModel; the first one of a name wins. */
  models: z.array(
    z.object({
      name: z.string(),
      targets: z.array(z.object({ model: z.string(), weight: z.int().min(0) })).min(1),
      criticality: z.enum(["critical", "standard", "sheddable"]),
      /** The object that says so. */
      from: z.string(),
    }),
  ),
  /** What keeps the record from being true or complete, a sentence each. */
  problems: z.array(z.string()),
  /** When it was written, ms since the epoch. */
  at: z.number(),
});

export type PoolRecord = z.output<typeof poolRecordSchema>;
export type PoolTarget = z.output<typeof targetSchema>;

/** Null for what cannot be read, of another release perhaps. */
export function poolRecordFromText(text: string): PoolRecord | null {
  try {
    return poolRecordSchema.safeParse(JSON.parse(text)).data ?? null;
  } catch {
    return null;
  }
}

/**
 * The pool's settings with what the cluster says of it. Mode `off` stays, and so does a block size or seed that is configured: an operator wrote it here
 * on purpose, and it can be compared with what the cluster says in `kvatlas inspect pools`.
 */
export function effectivePool(pool: PoolConfig, record: PoolRecord | null): PoolConfig {
  const said = record?.prefixCache ?? null;
  const own = pool.prefixCache;
  if (said === null || own.mode === "off") return pool;
  return {
    ...pool,
    prefixCache: {
      ...own,
      mode: said.mode ?? own.mode,
      blockSize: own.blockSize === "auto" ? (said.blockSize ?? "auto") : own.blockSize,
      hashSeed: own.hashSeed === "auto" ? (said.hashSeed ?? "auto") : own.hashSeed,
    },
  };
}
