import { setMaxListeners } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import type { EndpointId } from "@kvatlas/shared/types";
import { type SeededRandom, seededRandom } from "../support/seeded-random.ts";
import { blockSize, type EngineFleet } from "./engine-fleet.ts";

const sharedPrefixes = 24;
const maxOutstanding = 64;
/** Requests to an engine that was asleep or dead may take until it is back. */
const drainTimeoutMs = 5_000;

export interface RequestLoad {
  readonly sent: number;
  /** Refused, reset or given up: engines die under it. */
  readonly failed: number;
  /** Sends no more; what is under way goes on. */
  stop(): void;
  /** Resolves when nothing is under way any more. */
  drained(): Promise<void>;
}

/** Sends prompts of token ids that share prefixes, to replicas in an order that `seed` decides. */
export function startLoad(fleet: EngineFleet, seed: number, requestsPerSecond: number): RequestLoad {
  const random = seededRandom(seed ^ 0x5bd1e995);
  const abort = new AbortController();
  setMaxListeners(maxOutstanding + 1, abort.signal);
  const outstanding = new Set<Promise<void>>();
  let [sent, failed, isOver] = [0, 0, false];
  const startedAt = performance.now();

  const send = (): void => {
    const { tokens, maxTokens } = promptOf(random);
    const replica = fleet.replicas[random.next() % fleet.replicas.length];
    if (replica === undefined) return;
    sent++;
    const request = fleet
      .complete(replica, tokens, maxTokens, { signal: abort.signal })
      .catch(() => {
        failed++;
      })
      .finally(() => outstanding.delete(request));
    outstanding.add(request);
  };

  void (async () => {
    while (!isOver) {
      const due = ((performance.now() - startedAt) / 1_000) * requestsPerSecond;
      // Decisions are made for every request, so that a busy moment does not change those that follow.
      while (sent < due && !isOver && outstanding.size < maxOutstanding) send();
      await sleep(5);
    }
  })();

  return {
    get sent() {
      return sent;
    },
    get failed() {
      return failed;
    },
    stop: () => {
      isOver = true;
    },
    drained: async () => {
      const timer = setTimeout(() => abort.abort(), drainTimeoutMs);
      await Promise.all(outstanding);
      clearTimeout(timer);
    },
  };
}

/** A request that certainly makes an event of this endpoint: nobody has sent its tokens before. */
export async function nudge(fleet: EngineFleet, endpoint: EndpointId): Promise<void> {
  const { replica, rank } = fleet.placeOf(endpoint);
  const begin = Math.floor(Math.random() * 0x3fff_ffff);
  const tokens = Array.from({ length: blockSize }, (_, i) => (begin + i) % 100_000);
  await fleet.complete(replica, tokens, 2, { rank });
}

function promptOf(random: SeededRandom): { readonly tokens: readonly number[]; readonly maxTokens: number } {
  const prefix = random.between(0, sharedPrefixes - 1);
  const prefixBlocks = 1 + (prefix % 10);
  const tokens = Array.from({ length: prefixBlocks * blockSize }, (_, i) => prefix * 1_000 + i);
  const ownTokens = random.between(0, 5 * blockSize);
  const begin = random.between(0, 60) * 100;
  for (let i = 0; i < ownTokens; i++) tokens.push(50_000 + begin + i);
  return { tokens, maxTokens: random.between(1, 40) };
}
