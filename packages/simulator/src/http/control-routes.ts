import type { IncomingMessage, ServerResponse } from "node:http";
import type { EventPublisher, PublisherFaults } from "../events/publisher.ts";
import type { Replica, ReplicaFaults } from "../replica.ts";
import { pullPath } from "../transfer/pull-blocks.ts";
import { ApiError, isObject, type JsonObject, parseObject, readBody, sendJson } from "./http-io.ts";

/** Largest body of a control request, bytes. */
const maxControlBytes = 65_536;

/**
 * The simulator's own API under `/sim`: what is true inside, and what goes wrong on purpose. False when the path is not one of its.
 *
 * @throws ApiError
 */
export async function answerControl(replica: Replica, path: string, request: IncomingMessage, response: ServerResponse): Promise<boolean> {
  switch (`${request.method} ${path}`) {
    case "GET /sim/blocks":
      sendJson(response, 200, { ranks: replica.dumps() });
      return true;
    case "GET /sim/stats": {
      const limit = Number(new URL(request.url ?? "/", "http://replica").searchParams.get("limit") ?? 100);
      sendJson(response, 200, {
        running: replica.ranks.reduce((sum, rank) => sum + rank.engine.running, 0),
        waiting: replica.ranks.reduce((sum, rank) => sum + rank.engine.waiting, 0),
        restarts: replica.restarts,
        kept: replica.kept.size,
        ...replica.log.totals,
        ranks: replica.ranks.map((rank) => ({
          rank: rank.index,
          nextSequence: rank.publisher?.nextSequence ?? null,
          queued: rank.publisher?.queued ?? 0,
        })),
        requests: limit > 0 ? replica.log.records(limit) : [],
      });
      return true;
    }
    case `POST ${pullPath}`: {
      const asked = parseObject(await readBody(request, maxControlBytes));
      if (typeof asked.engine_id !== "string" || typeof asked.request_id !== "string")
        throw new ApiError(400, "engine_id and request_id must be strings.");
      const tokens = replica.kept.take(asked.engine_id, asked.request_id);
      if (tokens === null) throw new ApiError(404, "no blocks are kept for this request.");
      sendJson(response, 200, { tokens });
      return true;
    }
    case "GET /sim/faults":
      sendJson(response, 200, faultState(replica));
      return true;
    case "POST /sim/faults":
      await applyFaults(replica, parseObject(await readBody(request, maxControlBytes)));
      sendJson(response, 200, faultState(replica));
      return true;
    default:
      return false;
  }
}

function faultState(replica: Replica): unknown {
  return {
    ...replica.faults,
    hang: replica.isHung,
    sleeping: replica.isSleeping,
    restarts: replica.restarts,
    ranks: replica.ranks.map((rank) => ({ rank: rank.index, ...rank.publisher?.faults })),
  };
}

type Act = () => void | Promise<void>;

/** Every fault: checks the value and returns what applies it. `publishers` are those of the ranks that are meant. */
const faults: Readonly<Record<string, (value: unknown, replica: Replica, publishers: readonly EventPublisher[]) => Act>> = {
  drop: (value, _, publishers) => setEach(publishers, { dropNext: count(value, "drop") }),
  lose: (value, _, publishers) => setEach(publishers, { loseNext: count(value, "lose") }),
  pause: (value, _, publishers) => setEach(publishers, { paused: flag(value, "pause") }),
  replayHang: (value, _, publishers) => setEach(publishers, { replayHang: flag(value, "replayHang") }),
  replayLimit: (value, _, publishers) => setEach(publishers, { replayLimit: value === null ? null : count(value, "replayLimit") }),
  slowJoin: (value, replica) => set(replica, { slowJoinBatches: count(value, "slowJoin") }),
  unhealthy: (value, replica) => set(replica, { unhealthy: flag(value, "unhealthy") }),
  failNext: (value, replica) => set(replica, { failNext: failure(value) }),
  hang: (value, replica) => {
    const isHung = flag(value, "hang");
    return () => replica.hang(isHung);
  },
  resetCache: (value, replica) => {
    const isWanted = flag(value, "resetCache");
    return () => void (isWanted && replica.resetPrefixCache());
  },
  restart: (value, replica) => {
    const reopenSockets = isObject(value) && value.reopenSockets === true;
    const isWanted = isObject(value) || flag(value, "restart");
    return () => (isWanted ? replica.restart(reopenSockets) : undefined);
  },
};

function setEach(publishers: readonly EventPublisher[], change: Partial<PublisherFaults>): Act {
  return () => {
    for (const publisher of publishers) Object.assign(publisher.faults, change);
  };
}

function set(replica: Replica, change: Partial<ReplicaFaults>): Act {
  return () => void Object.assign(replica.faults, change);
}

/**
 * Applies every field of the body; all are checked before the first takes effect. `rank` limits the event faults to one rank.
 *
 * @throws ApiError 400 unknown field or wrong value
 */
export async function applyFaults(replica: Replica, body: JsonObject): Promise<void> {
  const only = body.rank === undefined ? null : count(body.rank, "rank");
  if (only !== null && only >= replica.ranks.length) throw new ApiError(400, `rank must be below ${replica.ranks.length}, got ${only}.`);
  const publishers = replica.ranks.filter((rank) => only === null || rank.index === only).flatMap((rank) => rank.publisher ?? []);
  const acts: Act[] = [];
  for (const [name, value] of Object.entries(body)) {
    if (name === "rank") continue;
    const fault = Object.hasOwn(faults, name) ? faults[name] : undefined;
    if (fault === undefined) throw new ApiError(400, `unknown fault "${name}"; there are ${Object.keys(faults).join(", ")} and rank.`);
    acts.push(fault(value, replica, publishers));
  }
  for (const act of acts) await act();
  for (const publisher of publishers) publisher.faultsChanged();
}

function count(value: unknown, name: string): number {
  if (typeof value === "number" && Number.isSafeInteger(value) && value >= 0) return value;
  throw new ApiError(400, `${name} must be a whole number, at least 0, got ${JSON.stringify(value)}.`);
}

function flag(value: unknown, name: string): boolean {
  if (typeof value === "boolean") return value;
  throw new ApiError(400, `${name} must be true or false, got ${JSON.stringify(value)}.`);
}

function failure(value: unknown): { status: number; count: number } | null {
  if (value === null) return null;
  if (!isObject(value)) throw new ApiError(400, "failNext must be {status, count} or null.");
  const status = count(value.status, "failNext.status");
  if (status < 400 || status > 599) throw new ApiError(400, `failNext.status must be from 400 to 599, got ${status}.`);
  return { status, count: count(value.count, "failNext.count") };
}
