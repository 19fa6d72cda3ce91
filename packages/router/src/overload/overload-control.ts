import type { IncomingHttpHeaders } from "node:http";
import type { Clock } from "@kvatlas/shared/clock";
import type { RouterConfig } from "@kvatlas/shared/config/schema";
import { answersRequests } from "@kvatlas/shared/registry/engine-role";
import type { FleetPool, FleetSnapshot } from "../fleet/fleet.ts";
import { Admission, type Asking, type Permit, type ShedReason } from "./admission.ts";
import type { Priority } from "./fair-queue.ts";

export interface OverloadDeps {
  readonly clock: Clock;
  readonly onShed: (why: ShedReason, priority: Priority) => void;
  readonly onWaited: (priority: Priority, ms: number) => void;
}

/** A client as far as it may leave: an HTTP response, or what is like one. */
export interface LeavingClient {
  readonly destroyed: boolean;
  readonly socket?: { readonly destroyed: boolean } | null;
  once(event: "close", listener: () => void): unknown;
  off(event: "close", listener: () => void): unknown;
}

/** Tenants are told apart by so much of their names. */
const maxTenantChars = 128;

const free: Permit = { release: () => {} };

/** Admission by pool. Turned off, everybody passes. */
export class OverloadControl {
  readonly #deps: OverloadDeps;
  readonly #config: RouterConfig["overload"];
  readonly #pools = new Map<string, { readonly admission: Admission; limit: number }>();

  constructor(deps: OverloadDeps, config: RouterConfig["overload"]) {
    this.#deps = deps;
    this.#config = config;
  }

  /** Whose turn a request takes: that of its API key, else of the configured header, else of all that name none. */
  tenantOf(keyTenant: string | null, headers: IncomingHttpHeaders): string {
    const { enabled, tenantHeader } = this.#config;
    if (!enabled || keyTenant !== null || tenantHeader === null) return keyTenant ?? "";
    const value = headers[tenantHeader.toLowerCase()];
    return typeof value === "string" ? value.slice(0, maxTenantChars) : "";
  }

  queued(priority: Priority): number {
    let sum = 0;
    for (const { admission } of this.#pools.values()) sum += admission.queued(priority);
    return sum;
  }

  /** Resolves with a permit when it is the request's turn, with null when the client has left. @throws HttpError 429 */
  async enter(client: LeavingClient, pool: FleetPool, fleet: FleetSnapshot, asking: Asking): Promise<Permit | null> {
    if (!this.#config.enabled) return free;
    const room = this.#roomOf(pool.config.name);
    room.limit = concurrencyOf(pool, fleet, this.#config.maxConcurrentPerReplica);
    const answer = room.admission.ask(asking);
    if (!("permit" in answer)) return answer;
    const onClose = (): void => answer.leave();
    client.once("close", onClose);
    if (client.destroyed || client.socket?.destroyed === true) answer.leave();
    try {
      return await answer.permit;
    } finally {
      client.off("close", onClose);
    }
  }

  #roomOf(pool: string): { readonly admission: Admission; limit: number } {
    const known = this.#pools.get(pool);
    if (known !== undefined) return known;
    const room: { limit: number; readonly admission: Admission } = {
      limit: 1,
      admission: new Admission({ ...this.#deps, limit: () => room.limit }, this.#config),
    };
    this.#pools.set(pool, room);
    return room;
  }
}

/** This router's share of what the ready replicas of a pool may have under way; all of them share it equally. */
export function concurrencyOf(pool: FleetPool, fleet: Pick<FleetSnapshot, "routers">, perReplica: number): number {
  const ready = pool.endpoints.filter(({ ready, role }) => ready && answersRequests(role)).length;
  // While none is ready, requests have to pass to be told so.
  if (ready === 0) return Number.MAX_SAFE_INTEGER;
  return Math.max(1, Math.floor((ready * perReplica) / Math.max(1, fleet.routers.length)));
}
