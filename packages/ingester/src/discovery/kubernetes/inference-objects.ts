import type { PoolRecord } from "@kvatlas/shared/registry/pool-record";
import { integerAt, listAt, textAt, valueAt } from "./json-path.ts";
import { portNumbers } from "./pod-targets.ts";

/* Readers of the objects that describe a pool and its requests. Of what they do not know they take no notice. */

export interface PoolFacts {
  readonly name: string;
  /** Of a pod's labels, as the API server takes it. */
  readonly labelSelector: string;
  readonly targetPorts: readonly number[];
  readonly isLeaving: boolean;
  /** Annotation `inference.networking.x-k8s.io/routing-strategy`; null without one. */
  readonly routingStrategy: string | null;
  /** `<namespace>/<name>:<port>` of the endpoint picker's service; null where none is named. */
  readonly endpointPicker: string | null;
}

const strategyAnnotation = "inference.networking.x-k8s.io/routing-strategy";
const defaultPickerPort = 9_002;

/** `inference.networking.k8s.io/v1` */
export function readPoolV1(object: unknown): PoolFacts | null {
  const port = integerAt(object, "spec", "endpointPickerRef", "port", "number");
  return readPool(object, {
    labels: valueAt(object, "spec", "selector", "matchLabels"),
    targetPorts: portNumbers(listAt(object, "spec", "targetPorts")),
    picker: textAt(object, "spec", "endpointPickerRef", "name"),
    pickerPort: port,
  });
}

/** `inference.networking.x-k8s.io/v1alpha2`: a flat selector, one port, `extensionRef`. */
export function readPoolAlpha(object: unknown): PoolFacts | null {
  return readPool(object, {
    labels: valueAt(object, "spec", "selector"),
    targetPorts: portNumbers([{ number: valueAt(object, "spec", "targetPortNumber") }]),
    picker: textAt(object, "spec", "extensionRef", "name"),
    pickerPort: integerAt(object, "spec", "extensionRef", "portNumber") ?? defaultPickerPort,
  });
}

interface PoolParts {
  readonly labels: unknown;
  readonly targetPorts: readonly number[];
  readonly picker: string | null;
  readonly pickerPort: number | null;
}

function readPool(object: unknown, { labels, targetPorts, picker, pickerPort }: PoolParts): PoolFacts | null {
  const name = textAt(object, "metadata", "name");
  if (name === null || typeof labels !== "object" || labels === null) return null;
  const terms = Object.entries(labels).map(([label, value]) => `${label}=${String(value)}`);
  return {
    name,
    labelSelector: terms.sort().join(","),
    targetPorts,
    isLeaving: valueAt(object, "metadata", "deletionTimestamp") !== undefined,
    routingStrategy: textAt(object, "metadata", "annotations", strategyAnnotation),
    endpointPicker: picker === null ? null : `${textAt(object, "metadata", "namespace") ?? "default"}/${picker}:${pickerPort ?? "?"}`,
  };
}

/** One of the objects that name the pool they are for. */
interface ForPool {
  readonly name: string;
  readonly pool: string;
}

export interface PolicyFacts extends ForPool {
  /** `prefixCache.mode`, e.g. `tracking`; null where it is left out. */
  readonly mode: string | null;
  readonly blockSize: number | null;
  readonly hashSeed: string | null;
  readonly model: string | null;
}

/** `inferenceextension.alibabacloud.com/v1alpha1`: how ACK's gateway is told to track prefixes. */
export function readPolicy(object: unknown): PolicyFacts | null {
  const about = readForPool(object);
  if (about === null) return null;
  const prefixCache = valueAt(object, "spec", "profile", "single", "trafficPolicy", "prefixCache");
  const tracking = valueAt(prefixCache, "trackingConfig");
  const tokens = valueAt(tracking, "indexerConfig", "tokenProcessorConfig");
  const blockSize = integerAt(tokens, "blockSize");
  const seed = valueAt(tokens, "hashSeed");
  return {
    ...about,
    mode: textAt(prefixCache, "mode"),
    blockSize: blockSize !== null && blockSize >= 1 && blockSize <= 65_536 ? blockSize : null,
    hashSeed: typeof seed === "string" || typeof seed === "number" ? String(seed) : null,
    model: textAt(prefixCache, "model") ?? textAt(tracking, "model"),
  };
}

export interface ObjectiveFacts extends ForPool {
  readonly priority: number;
}

/** `llm-d.ai/v1alpha2`, before that of the Gateway API Inference Extension. */
export function readObjective(object: unknown): ObjectiveFacts | null {
  const about = readForPool(object);
  return about === null ? null : { ...about, priority: integerAt(object, "spec", "priority") ?? 0 };
}

type ModelEntry = PoolRecord["models"][number];

export interface ModelFacts extends ForPool {
  /** RFC 3339 */
  readonly createdAt: string;
  readonly models: readonly Omit<ModelEntry, "from">[];
  /** Parts that cannot be done, a sentence each. */
  readonly problems: readonly string[];
}

/** InferenceModelRewrite: names of models in requests, and what they become. */
export function readRewrite(object: unknown): ModelFacts | null {
  const about = readForPool(object);
  if (about === null) return null;
  const models: Omit<ModelEntry, "from">[] = [];
  const problems: string[] = [];
  for (const [i, rule] of listAt(object, "spec", "rules").entries()) {
    const targets = weighted(listAt(rule, "targets"), "modelRewrite");
    const names = listAt(rule, "matches").map((match) => textAt(match, "model", "value"));
    if (names.length === 0)
      problems.push(`InferenceModelRewrite ${about.name}: rule ${i} is for every model name, which is not supported; name them.`);
    if (targets.length > 0) for (const name of names) if (name !== null) models.push({ name, targets, criticality: "standard" });
  }
  return { ...about, createdAt: createdAt(object), models, problems };
}

/** InferenceModel (v1alpha1 and v1alpha2, superseded by the two above): a name, its targets, how critical it is. */
export function readModel(object: unknown): ModelFacts | null {
  const about = readForPool(object);
  const name = textAt(object, "spec", "modelName");
  if (about === null || name === null) return null;
  const targets = weighted(listAt(object, "spec", "targetModels"), "name");
  const said = (textAt(object, "spec", "criticality") ?? "").toLowerCase();
  const criticality = said === "critical" || said === "sheddable" ? said : "standard";
  return {
    ...about,
    createdAt: createdAt(object),
    models: [{ name, targets: targets.length > 0 ? targets : [{ model: name, weight: 1 }], criticality }],
    problems: [],
  };
}

function weighted(targets: readonly unknown[], field: string): ModelEntry["targets"] {
  const read = targets.flatMap((target) => {
    const model = textAt(target, field);
    return model === null ? [] : [{ model, weight: Math.min(1_000_000, Math.max(0, integerAt(target, "weight") ?? 1)) }];
  });
  return read.some(({ weight }) => weight > 0) ? read : [];
}

function readForPool(object: unknown): ForPool | null {
  const name = textAt(object, "metadata", "name");
  const pool = textAt(object, "spec", "poolRef", "name");
  return name === null || pool === null || valueAt(object, "metadata", "deletionTimestamp") !== undefined ? null : { name, pool };
}

function createdAt(object: unknown): string {
  return textAt(object, "metadata", "creationTimestamp") ?? "";
}

/** Order of objects that say something about the same: the oldest first, then by name. */
export function byAge(a: ModelFacts, b: ModelFacts): number {
  return a.createdAt === b.createdAt ? (a.name < b.name ? -1 : 1) : a.createdAt < b.createdAt ? -1 : 1;
}
