import { KvatlasError } from "@kvatlas/shared/errors";
import { type ReplicaDump, readReplicaDumps } from "@kvatlas/shared/index/replica-dump";
import type { Dispatcher } from "undici";
import { type EngineMetrics, readEngineMetrics } from "./engine-metrics.ts";

/** Answers past these are cut off: an engine's page has some hundred kB. */
const maxMetricsBytes = 8 * 1024 * 1024;
const maxJsonBytes = 1024 * 1024;
/** A million blocks. */
const maxDumpBytes = 64 * 1024 * 1024;

export interface EngineModels {
  /** Base models served, by the names clients use. */
  readonly names: readonly string[];
  /** Adapters by name, with the path they were loaded from. */
  readonly loras: Readonly<Record<string, string>>;
}

/** Where one rank publishes, from `/kv_event_sources`. */
export interface EventSource {
  readonly endpoint: string | null;
  readonly replay: string | null;
}

/** The few calls an ingester makes to a replica's HTTP server; none needs an API key in vLLM but `/v1/models`. */
export interface EngineClient {
  /** True for 200. Rejects when the server does not answer. */
  health(address: string, signal: AbortSignal): Promise<boolean>;
  metrics(address: string, signal: AbortSignal): Promise<EngineMetrics>;
  /** Null when the server does not let us (API key) or has no such route. */
  models(address: string, signal: AbortSignal): Promise<EngineModels | null>;
  /** Null when the server does not tell: the route needs vLLM's development mode. */
  isSleeping(address: string, signal: AbortSignal): Promise<boolean | null>;
  /** By rank, with `*` replaced by the replica's host; empty before vLLM 0.31. */
  eventSources(address: string, signal: AbortSignal): Promise<ReadonlyMap<number, EventSource>>;
  /** What a replica shows of its own cache; engines do not, simulators do. */
  dumps(address: string, path: string, signal: AbortSignal): Promise<readonly ReplicaDump[]>;
}

/** @throws KVATLAS_ENDPOINT_UNAVAILABLE (all methods) when the server does not answer, or not with what was asked for. */
export function createEngineClient(dispatcher: Dispatcher): EngineClient {
  async function get(address: string, path: string, maxBytes: number, signal: AbortSignal): Promise<{ status: number; text: string }> {
    try {
      const response = await dispatcher.request({ origin: `http://${address}`, path, method: "GET", signal });
      const chunks: Buffer[] = [];
      let bytes = 0;
      for await (const chunk of response.body) {
        const buffer = Buffer.from(chunk);
        bytes += buffer.byteLength;
        if (bytes > maxBytes) throw new Error(`answer is longer than ${maxBytes} bytes`);
        chunks.push(buffer);
      }
      return { status: response.statusCode, text: Buffer.concat(chunks).toString("utf8") };
    } catch (error) {
      throw new KvatlasError("KVATLAS_ENDPOINT_UNAVAILABLE", `GET http://${address}${path} got no usable answer.`, { cause: error });
    }
  }

  function json(address: string, path: string, text: string): unknown {
    try {
      return JSON.parse(text);
    } catch (error) {
      throw new KvatlasError("KVATLAS_ENDPOINT_UNAVAILABLE", `GET http://${address}${path} did not answer with JSON.`, { cause: error });
    }
  }

  return {
    health: async (address, signal) => (await get(address, "/health", maxJsonBytes, signal)).status === 200,
    metrics: async (address, signal) => {
      const { status, text } = await get(address, "/metrics", maxMetricsBytes, signal);
      if (status !== 200)
        throw new KvatlasError("KVATLAS_ENDPOINT_UNAVAILABLE", `GET http://${address}/metrics answered ${status}, expected 200.`);
      return readEngineMetrics(text);
    },
    models: async (address, signal) => {
      const { status, text } = await get(address, "/v1/models", maxJsonBytes, signal);
      return status === 200 ? readModels(json(address, "/v1/models", text)) : null;
    },
    isSleeping: async (address, signal) => {
      const { status, text } = await get(address, "/is_sleeping", maxJsonBytes, signal);
      const body = status === 200 ? json(address, "/is_sleeping", text) : null;
      return isRecord(body) && typeof body.is_sleeping === "boolean" ? body.is_sleeping : null;
    },
    eventSources: async (address, signal) => {
      const { status, text } = await get(address, "/kv_event_sources", maxJsonBytes, signal);
      if (status !== 200) return new Map();
      return readEventSources(json(address, "/kv_event_sources", text), address);
    },
    dumps: async (address, path, signal) => {
      const { status, text } = await get(address, path, maxDumpBytes, signal);
      if (status !== 200)
        throw new KvatlasError("KVATLAS_ENDPOINT_UNAVAILABLE", `GET http://${address}${path} answered ${status}, expected 200.`);
      return readReplicaDumps(address, json(address, path, text));
    },
  };
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

const maxModels = 1_000;

/** vLLM `/v1/models`: an adapter has a `parent`, and `root` is the path it was loaded from. */
export function readModels(body: unknown): EngineModels {
  const names: string[] = [];
  const loras: [string, string][] = [];
  const data = isRecord(body) && Array.isArray(body.data) ? body.data : [];
  for (const entry of data.slice(0, maxModels)) {
    if (!isRecord(entry) || typeof entry.id !== "string") continue;
    if (typeof entry.parent === "string") loras.push([entry.id, typeof entry.root === "string" ? entry.root : ""]);
    else names.push(entry.id);
  }
  return { names, loras: Object.fromEntries(loras) };
}

/** vLLM 0.31+ `/kv_event_sources`: one object per rank; `*` stands for the host of that rank. */
export function readEventSources(body: unknown, address: string): ReadonlyMap<number, EventSource> {
  const host = address.replace(/:\d+$/, "");
  const located = (value: unknown): string | null =>
    typeof value === "string" && /^tcp:\/\/\S+:\d+$/.test(value)
      ? value.replace(/^tcp:\/\/(\*|0\.0\.0\.0|\[::\]):/, () => `tcp://${host}:`)
      : null;
  const sources = new Map<number, EventSource>();
  if (!isRecord(body)) return sources;
  for (const [key, source] of Object.entries(body)) {
    const rank = Number(key);
    if (!Number.isInteger(rank) || rank < 0 || !isRecord(source)) continue;
    sources.set(rank, { endpoint: located(source.endpoint), replay: located(source.replay_endpoint) });
  }
  return sources;
}
