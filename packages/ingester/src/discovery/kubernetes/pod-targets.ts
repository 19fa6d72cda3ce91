import type { PoolTarget } from "@kvatlas/shared/registry/pool-record";
import { integerAt, listAt, textAt, valueAt } from "./json-path.ts";

/** What of a pod matters. */
export interface PodFacts {
  readonly namespace: string;
  readonly name: string;
  readonly uid: string;
  /** With brackets for IPv6; null until it has one. */
  readonly host: string | null;
  /** Condition Ready, and not on its way out. */
  readonly isReady: boolean;
  /** Being deleted, or over: gone, as far as requests are concerned. */
  readonly isLeaving: boolean;
  /** Of the annotation; null without one. */
  readonly activePorts: string | null;
  readonly role: string | null;
  readonly engine: string | null;
  readonly labels: Readonly<Record<string, string>>;
}

/** Of a pod's labels the first so many, by name, are told of. */
const maxLabels = 32;

/** Labels and annotations have moved from the second prefix to the first one. */
const prefixes = ["llm-d.ai", "inference.networking.k8s.io"] as const;

export function readPod(object: unknown): PodFacts | null {
  const name = textAt(object, "metadata", "name");
  const uid = textAt(object, "metadata", "uid");
  if (name === null || uid === null) return null;
  const ip = textAt(object, "status", "podIP");
  const phase = textAt(object, "status", "phase");
  const isLeaving = valueAt(object, "metadata", "deletionTimestamp") !== undefined || phase === "Succeeded" || phase === "Failed";
  const isReady = listAt(object, "status", "conditions").some(
    (condition) => textAt(condition, "type") === "Ready" && textAt(condition, "status") === "True",
  );
  const labelled = (label: string) => prefixed(object, "labels", label);
  return {
    namespace: textAt(object, "metadata", "namespace") ?? "default",
    name,
    uid,
    host: ip === null ? null : ip.includes(":") ? `[${ip}]` : ip,
    isReady: isReady && !isLeaving,
    isLeaving,
    activePorts: prefixed(object, "annotations", "active-ports"),
    role: labelled("role") || null,
    engine: labelled("engine-type") || null,
    labels: labelsOf(object),
  };
}

function labelsOf(object: unknown): Readonly<Record<string, string>> {
  const labels = valueAt(object, "metadata", "labels");
  if (typeof labels !== "object" || labels === null) return {};
  const named = Object.entries(labels).flatMap(([name, value]) => (typeof value === "string" ? [[name, value] as const] : []));
  return Object.fromEntries(named.sort(([a], [b]) => (a < b ? -1 : 1)).slice(0, maxLabels));
}

/** Null where there is none; may be empty. */
function prefixed(object: unknown, where: "labels" | "annotations", name: string): string | null {
  for (const prefix of prefixes) {
    const value = valueAt(object, "metadata", where, `${prefix}/${name}`);
    if (typeof value === "string") return value;
  }
  return null;
}

export interface PortSettings {
  readonly targetPorts: readonly number[];
  readonly eventsPort: number | null;
  readonly replayPort: number | null;
}

/**
 * One replica per pod and active port, sorted. The rules are those of the reference endpoint picker (Gateway API Inference Extension, llm-d-router), but for
 * one: a pod that is not ready keeps its place, unready, because its cache is still there and it may be back in a moment.
 */
export function targetsOfPods(pods: Iterable<PodFacts>, settings: PortSettings): readonly PoolTarget[] {
  const targets = new Map<string, PoolTarget>();
  // Of two pods that claim one address (host network) the ready one has it.
  const sorted = [...pods].sort((a, b) => Number(b.isReady) - Number(a.isReady) || (nameOf(a) < nameOf(b) ? -1 : 1));
  for (const pod of sorted) {
    if (pod.host === null || pod.isLeaving) continue;
    const active = activePorts(pod.activePorts, settings.targetPorts);
    for (const [rank, port] of settings.targetPorts.entries()) {
      const address = `${pod.host}:${port}`;
      if (!active.has(port) || targets.has(address)) continue;
      const at = (base: number | null) => (base === null || base + rank > 65_535 ? null : `tcp://${pod.host}:${base + rank}`);
      targets.set(address, {
        address,
        pod: nameOf(pod),
        uid: pod.uid,
        rank,
        events: at(settings.eventsPort),
        replay: at(settings.replayPort),
        ready: pod.isReady,
        role: pod.role,
        engine: pod.engine,
        labels: pod.labels,
      });
    }
  }
  return [...targets.values()].sort((a, b) => (a.address < b.address ? -1 : 1));
}

function nameOf(pod: PodFacts): string {
  return `${pod.namespace}/${pod.name}`;
}

/** Of the annotation's list, what are target ports; all of them without the annotation, none when it is empty. */
export function activePorts(annotation: string | null, targetPorts: readonly number[]): ReadonlySet<number> {
  if (annotation === null) return new Set(targetPorts);
  const named = annotation.split(",").map((part) => part.trim());
  return new Set(
    named
      .filter((part) => /^\d+$/.test(part))
      .map(Number)
      .filter((port) => targetPorts.includes(port)),
  );
}

/** Ports of a list of `{number}`. */
export function portNumbers(ports: readonly unknown[]): readonly number[] {
  const numbers = ports.map((port) => integerAt(port, "number")).filter((port) => port !== null && port > 0 && port <= 65_535);
  return [...new Set(numbers as number[])];
}
