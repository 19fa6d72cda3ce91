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
export interface ForPool {
  readonly name: string;
  /** Empty where it names none. */
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

/** Null for what has no name, or is on its way out. */
export function readForPool(object: unknown): ForPool | null {
  const name = textAt(object, "metadata", "name");
  if (name === null || valueAt(object, "metadata", "deletionTimestamp") !== undefined) return null;
  return { name, pool: textAt(object, "spec", "poolRef", "name") ?? "" };
}
