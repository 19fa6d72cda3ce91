import type { Clock } from "@kvatlas/shared/clock";
import { isKvatlasError } from "@kvatlas/shared/errors";
import { LRUCache } from "lru-cache";
import type { ReplicaTarget } from "../discovery/replica-target.ts";
import type { EngineClient, EventSource } from "../load/engine-client.ts";

/** Answers are asked again after this time; a replica that is not up yet soon has one. */
const keepMs = 10_000;
const timeoutMs = 1_000;
const maxReplicas = 4_096;

/**
 * Where a replica answers replays: as configured (or by `ingester.bindReplayPort`), else what the replica itself says at `/kv_event_sources`
 * (vLLM 0.31 and on), else nowhere.
 */
export function createReplayLocator(deps: {
  readonly engine: Pick<EngineClient, "eventSources">;
  readonly clock: Clock;
}): (target: ReplicaTarget, signal: AbortSignal) => Promise<string | null> {
  const cache = new LRUCache<string, { readonly at: number; readonly sources: ReadonlyMap<number, EventSource> }>({ max: maxReplicas });
  return async (target, signal) => {
    if (target.replay !== null) return target.replay;
    let known = cache.get(target.address);
    if (known === undefined || deps.clock.monotonic() - known.at > keepMs) {
      known = { at: deps.clock.monotonic(), sources: await ask(target.address, signal) };
      cache.set(target.address, known);
    }
    return known.sources.get(target.rank)?.replay ?? null;
  };

  async function ask(address: string, signal: AbortSignal): Promise<ReadonlyMap<number, EventSource>> {
    try {
      return await deps.engine.eventSources(address, AbortSignal.any([signal, AbortSignal.timeout(timeoutMs)]));
    } catch (error) {
      if (isKvatlasError(error)) return new Map();
      throw error;
    }
  }
}
