/** In the order in which they are served. */
export const priorities = ["critical", "standard", "sheddable"] as const;
export type Priority = (typeof priorities)[number];

/** A place in the queue. */
export interface Place<T> {
  readonly priority: Priority;
  readonly tenant: string;
  /** Virtual time at which its turn begins. */
  readonly start: number;
  readonly value: T;
}

interface Tenant<T> {
  /** Virtual time at which everything it has asked for is served. */
  finish: number;
  readonly places: Set<Place<T>>;
}

interface Lane<T> {
  virtualTime: number;
  size: number;
  readonly tenants: Map<string, Tenant<T>>;
}

/** Tenants without a place that are remembered for the sake of what they had. */
const idleTenants = 256;

/**
 * Who is next: strictly by priority, and within one by start-time fair queueing over tenants, each request counting by its cost. A tenant that sends
 * a thousand requests waits for itself; one that sends its first is served next.
 */
export class FairQueue<T> {
  readonly #lanes = new Map<Priority, Lane<T>>(priorities.map((priority) => [priority, { virtualTime: 0, size: 0, tenants: new Map() }]));
  #size = 0;

  get size(): number {
    return this.#size;
  }

  sizeOf(priority: Priority): number {
    return this.#lanes.get(priority)?.size ?? 0;
  }

  /** @param cost - above 0, in any unit that is the same for all */
  push(priority: Priority, tenant: string, cost: number, value: T): Place<T> {
    const lane = this.#lane(priority);
    let owner = lane.tenants.get(tenant);
    if (owner === undefined) {
      this.#forgetIdle(lane);
      owner = { finish: 0, places: new Set() };
      lane.tenants.set(tenant, owner);
    }
    const start = Math.max(lane.virtualTime, owner.finish);
    owner.finish = start + cost;
    const place: Place<T> = { priority, tenant, start, value };
    owner.places.add(place);
    lane.size += 1;
    this.#size += 1;
    return place;
  }

  /** The one whose turn it is; null when nobody waits. */
  pop(): T | null {
    for (const priority of priorities) {
      const lane = this.#lane(priority);
      if (lane.size === 0) continue;
      let next: Place<T> | null = null;
      for (const { places } of lane.tenants.values()) {
        const [head] = places;
        if (head !== undefined && (next === null || head.start < next.start)) next = head;
      }
      if (next === null) continue;
      lane.virtualTime = next.start;
      this.remove(next);
      return next.value;
    }
    return null;
  }

  /** Leaves the queue; false when it was not in it any more. */
  remove(place: Place<T>): boolean {
    const lane = this.#lane(place.priority);
    if (lane.tenants.get(place.tenant)?.places.delete(place) !== true) return false;
    lane.size -= 1;
    this.#size -= 1;
    return true;
  }

  /** How many would be served before one that came now. */
  ahead(priority: Priority, tenant: string): number {
    let count = 0;
    for (const other of priorities) {
      const lane = this.#lane(other);
      if (other !== priority) {
        count += lane.size;
        continue;
      }
      const start = Math.max(lane.virtualTime, lane.tenants.get(tenant)?.finish ?? 0);
      for (const { places } of lane.tenants.values()) {
        for (const place of places) if (place.start <= start) count += 1;
      }
      return count;
    }
    return count;
  }

  /** The last place of the tenant that has most of them, in the lowest priority below this one: who makes room. Null when there is none. */
  lastBelow(priority: Priority): Place<T> | null {
    for (const other of priorities.toReversed()) {
      if (other === priority) return null;
      let most: Tenant<T> | null = null;
      for (const tenant of this.#lane(other).tenants.values()) {
        if (tenant.places.size > (most?.places.size ?? 0)) most = tenant;
      }
      const last = most === null ? undefined : [...most.places].at(-1);
      if (last !== undefined) return last;
    }
    return null;
  }

  #lane(priority: Priority): Lane<T> {
    const lane = this.#lanes.get(priority);
    if (lane === undefined) throw new TypeError(`there is no priority ${priority}`);
    return lane;
  }

  #forgetIdle(lane: Lane<T>): void {
    if (lane.tenants.size < lane.size + idleTenants) return;
    for (const [name, { places, finish }] of lane.tenants) {
      if (places.size === 0 && (finish <= lane.virtualTime || lane.size === 0)) lane.tenants.delete(name);
    }
  }
}
