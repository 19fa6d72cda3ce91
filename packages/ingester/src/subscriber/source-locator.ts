import type { Clock } from "@kvatlas/shared/clock";
import { isKvatlasError } from "@kvatlas/shared/errors";
import { LRUCache } from "lru-cache";
import type { ReplicaTarget } from "../discovery/replica-target.ts";
import type { EngineClient, EventSource } from "../load/engine-client.ts";

/** What is asked before a replay may be so old. */
const keepMs = 10_000;
/** A replica that is not connected, or not up yet, may soon have another answer. */
const keepFreshMs = 1_000;
const timeoutMs = 1_000;
const maxReplicas = 4_096;

export type EventSources = ReadonlyMap<number, EventSource>;

/** Where replicas publish and answer replays: as configured, else as they say themselves at `/kv_event_sources` (vLLM 0.31 and on). */
export interface SourceLocator {
  /** Configured (or by `ingester.bindReplayPort`), else asked; null: nowhere. */
  replay(target: ReplicaTarget, signal: AbortSignal): Promise<string | null>;
  /** By rank; empty when the replica does not tell. */
  sources(address: string, signal: AbortSignal): Promise<EventSources>;
}

export function createSourceLocator(deps: { readonly engine: Pick<EngineClient, "eventSources">; readonly clock: Clock }): SourceLocator {
  const cache = new LRUCache<string, { readonly at: number; readonly sources: EventSources }>({ max: maxReplicas });

  async function within(maxAgeMs: number, address: string, signal: AbortSignal): Promise<EventSources> {
    const known = cache.get(address);
    const age = deps.clock.monotonic() - (known?.at ?? Number.NEGATIVE_INFINITY);
    if (known !== undefined && age <= (known.sources.size === 0 ? keepFreshMs : maxAgeMs)) return known.sources;
    const asked = { at: deps.clock.monotonic(), sources: await ask(address, signal) };
    cache.set(address, asked);
    return asked.sources;
  }

  async function ask(address: string, signal: AbortSignal): Promise<EventSources> {
    try {
      return await deps.engine.eventSources(address, AbortSignal.any([signal, AbortSignal.timeout(timeoutMs)]));
    } catch (error) {
      if (isKvatlasError(error)) return new Map();
      throw error;
    }
  }

  return {
    sources: (address, signal) => within(keepFreshMs, address, signal),
    replay: async (target, signal) =>
      target.replay ?? sourceOfRank(await within(keepMs, target.address, signal), target.rank)?.replay ?? null,
  };
}

/** A replica with an HTTP server of its own tells one source, under its rank in the whole data-parallel group, whatever its rank here. */
export function sourceOfRank(sources: EventSources, rank: number): EventSource | null {
  const [only] = sources.size === 1 && rank === 0 ? sources.values() : [];
  return sources.get(rank) ?? only ?? null;
}
