import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type { ScopeSpec } from "../hashing/key-scheme.ts";
import type { EndpointId, ScopeId } from "../types.ts";
import type { EndpointLoad, EndpointMeta, EndpointRegistry, Lease } from "./endpoint-registry.ts";

const a = "10.0.0.1:8000" as EndpointId;
const b = "10.0.0.2:8000/1" as EndpointId;
const now = 1_700_000_000_000;

const meta: EndpointMeta = {
  address: "10.0.0.1:8000",
  pool: "qwen",
  model: "Qwen/Qwen3-32B",
  rank: 0,
  scope: "qwen.b16" as ScopeId,
  extrasForm: "tagged",
  lookaheadTokens: 1,
  groups: [{ id: 0, kind: "full", blockSizeTokens: 16, windowTokens: null }],
  loras: { law: "/models/law" },
  ready: true,
  processStartSeconds: 1_699_999_999.25,
  lastBatch: { seq: 17, timestampSeconds: 1_700_000_000.5 },
  owedFrom: 12,
  reportsReuse: true,
  mediaByAdapter: true,
  findings: { "seed mismatch": "got 42, expected 0" },
};

const load: EndpointLoad = {
  waiting: 3,
  running: 8,
  kvUsage: 0.625,
  maxTokens: 131_072,
  runningLoras: ["law"],
  waitingLoras: [],
  maxLoras: 4,
  sleeping: false,
  at: now,
};

/** The behaviour every EndpointRegistry shares. `create` is called before each test and gives an empty one. */
export function endpointRegistryContract(create: () => Promise<EndpointRegistry>): void {
  let registry: EndpointRegistry;
  beforeEach(async () => {
    registry = await create();
  });
  afterEach(() => registry.close());

  async function acquired(endpoint: EndpointId, owner: string, ttlMs = 60_000): Promise<Lease> {
    const lease = await registry.acquire(endpoint, owner, ttlMs);
    if (lease === null) throw new Error(`${endpoint} is taken`);
    return lease;
  }

  describe("instances", () => {
    it("are those that have beaten within the time-to-live, by role", async () => {
      await registry.beat("ingester", "i-2", now);
      await registry.beat("ingester", "i-1", now - 2_000);
      await registry.beat("ingester", "i-old", now - 3_000);
      await registry.beat("ingester", "i-ahead", now + 3_600_000);
      await registry.beat("ingester", "i-2", now);
      await registry.beat("ingester", "i-1", now - 2_000);
      await registry.beat("router", "r-1", now);
      expect(await registry.instances("ingester", now, 3_000)).toEqual(["i-1", "i-2"]);
      expect(await registry.instances("router", now, 3_000)).toEqual(["r-1"]);
      await registry.leave("ingester", "i-2");
      expect(await registry.instances("ingester", now, 3_000)).toEqual(["i-1"]);
    });
  });

  describe("leases", () => {
    it("belong to one owner at a time, and every acquisition raises the fence", async () => {
      const first = await acquired(a, "i-1");
      expect(await registry.acquire(a, "i-2", 60_000)).toBeNull();
      const again = await acquired(a, "i-1");
      expect(again.fence).toBeGreaterThan(first.fence);
      await registry.release(again);
      const next = await acquired(a, "i-2");
      expect(next.fence).toBeGreaterThan(again.fence);
      expect(await registry.state(a)).toMatchObject({ owner: "i-2", fence: next.fence });
    });

    it("end when they are not renewed, and can then be taken by another owner", async () => {
      const lease = await acquired(a, "i-1", 50);
      const next = await vi.waitFor(() => acquired(a, "i-2"), { timeout: 10_000, interval: 5 });
      expect(next.fence).toBeGreaterThan(lease.fence);
      expect(await registry.renew(lease, 60_000)).toBe(false);
      expect(await registry.renew(next, 60_000)).toBe(true);
      // A late release of the former owner changes nothing.
      await registry.release(lease);
      expect(await registry.acquire(a, "i-1", 60_000)).toBeNull();
    });

    it("go on when they are renewed too late, as long as nobody else has taken them", async () => {
      const lease = await acquired(a, "i-1", 1);
      // Right whether or not it has run out by then.
      await new Promise((resolve) => setTimeout(resolve, 20));
      expect(await registry.renew(lease, 60_000)).toBe(true);
      expect(await registry.acquire(a, "i-2", 60_000)).toBeNull();
    });

    it("that were given back are not renewed", async () => {
      const lease = await acquired(a, "i-1");
      await registry.release(lease);
      expect(await registry.renew(lease, 60_000)).toBe(false);
      await acquired(a, "i-2");
    });

    it("of one owner's earlier life are not renewed", async () => {
      const first = await acquired(a, "i-1");
      await acquired(a, "i-1");
      expect(await registry.renew(first, 60_000)).toBe(false);
    });

    it("have a higher fence after the endpoint was removed and came back", async () => {
      const first = await acquired(a, "i-1");
      await registry.remove(a);
      expect((await acquired(a, "i-2")).fence).toBeGreaterThan(first.fence);
    });
  });

  describe("endpoints", () => {
    it("are described in part or whole by their owner", async () => {
      const lease = await acquired(a, "i-1");
      expect(await registry.endpoints()).toEqual([]);
      expect(await registry.describe(lease, { address: "10.0.0.1:8000", pool: "qwen" }, now)).toBe(true);
      const [partial] = await registry.endpoints();
      expect(partial).toMatchObject({ id: a, heartbeat: now, meta: { pool: "qwen", model: "", scope: null, groups: [], ready: false } });
      expect(await registry.describe(lease, meta, now + 1)).toBe(true);
      const [whole] = await registry.endpoints();
      expect(whole).toEqual({ id: a, heartbeat: now + 1, meta, state: { incarnation: 0, from: 0, owner: "i-1", fence: lease.fence } });
      expect(await registry.describe(lease, { ready: false, scope: null, lastBatch: null, processStartSeconds: null }, now + 2)).toBe(true);
      expect((await registry.endpoints())[0]?.meta).toEqual({
        ...meta,
        ready: false,
        scope: null,
        lastBatch: null,
        processStartSeconds: null,
      });
    });

    it("are listed by id, and not any more once removed", async () => {
      for (const endpoint of [b, a]) await registry.describe(await acquired(endpoint, "i-1"), { pool: "p" }, now);
      expect((await registry.endpoints()).map((record) => record.id)).toEqual([a, b]);
      await registry.remove(a);
      expect((await registry.endpoints()).map((record) => record.id)).toEqual([b]);
      expect(await registry.state(a)).toEqual({ incarnation: 0, from: 0, owner: null, fence: 0 });
    });

    it("refuse an owner that a later fence has overtaken, or whose endpoint was removed", async () => {
      const old = await acquired(a, "i-1");
      await registry.describe(old, { pool: "before" }, now);
      await registry.release(old);
      const next = await acquired(a, "i-2");
      expect(await registry.describe(old, { pool: "after" }, now)).toBe(false);
      expect(await registry.startIncarnation(old, 0)).toBeNull();
      expect((await registry.endpoints())[0]?.meta.pool).toBe("before");
      await registry.remove(a);
      expect(await registry.describe(next, { pool: "after" }, now)).toBe(false);
      expect(await registry.startIncarnation(next, 0)).toBeNull();
      expect(await registry.endpoints()).toEqual([]);
    });
  });

  describe("incarnations", () => {
    it("grow, with the sequence number at which each begins", async () => {
      const lease = await acquired(a, "i-1");
      expect((await registry.state(a)).incarnation).toBe(0);
      const first = await registry.startIncarnation(lease, 0);
      expect(await registry.state(a)).toEqual({ incarnation: first, from: 0, owner: "i-1", fence: lease.fence });
      const second = await registry.startIncarnation(lease, 4711);
      expect(second).toBeGreaterThan(first ?? 0);
      expect(await registry.state(a)).toEqual({ incarnation: second, from: 4711, owner: "i-1", fence: lease.fence });
    });

    it("are never used twice, even after the endpoint was removed", async () => {
      const first = await registry.startIncarnation(await acquired(a, "i-1"), 0);
      await registry.remove(a);
      expect(await registry.startIncarnation(await acquired(a, "i-1"), 0)).toBeGreaterThan(first ?? 0);
    });
  });

  describe("scopes", () => {
    it("keep the number of shards that the first writer fixed", async () => {
      const spec: ScopeSpec = { model: "m", blockSizeTokens: 16, scheme: { kind: "native", algorithm: "sha256_cbor", seed: "0" } };
      const scope = "m.b16" as ScopeId;
      const shards = await registry.ensureScope(scope, spec);
      expect(shards).toBeGreaterThan(0);
      expect(await registry.ensureScope(scope, spec)).toBe(shards);
      expect(await registry.scopes()).toEqual(new Map([[scope, { ...spec, shards, tag: expect.stringMatching(/^[0-9A-Za-z]{3}$/) }]]));
    });
  });

  describe("load", () => {
    it("is what was set last for each endpoint, and is gone with the endpoint", async () => {
      await registry.describe(await acquired(a, "i-1"), { pool: "p" }, now);
      await registry.setLoad(new Map([[a, load]]));
      await registry.setLoad(new Map([[b, { ...load, maxTokens: null, waiting: 0 }]]));
      await registry.setLoad(new Map());
      expect((await registry.readLoad([])).loads).toEqual(
        new Map([
          [a, load],
          [b, { ...load, maxTokens: null, waiting: 0 }],
        ]),
      );
      await registry.remove(a);
      expect([...(await registry.readLoad([])).loads.keys()]).toEqual([b]);
    });

    it("sums the work that the named routers have in flight, each as it said last", async () => {
      await registry.setInflight("r-1", new Map([[a, { requests: 9, prefillTokens: 9, decodeTokens: 9 }]]), 60_000);
      await registry.setInflight("r-1", new Map([[b, { requests: 1, prefillTokens: 100, decodeTokens: 10 }]]), 60_000);
      await registry.setInflight("r-2", new Map([[b, { requests: 2, prefillTokens: 0, decodeTokens: 30 }]]), 60_000);
      await registry.setInflight("r-3", new Map([[b, { requests: 50, prefillTokens: 0, decodeTokens: 0 }]]), 60_000);
      const { inflight } = await registry.readLoad(["r-1", "r-2", "r-unknown"]);
      expect(inflight).toEqual(new Map([[b, { requests: 3, prefillTokens: 100, decodeTokens: 40 }]]));
      await registry.setInflight("r-1", new Map(), 60_000);
      expect((await registry.readLoad(["r-1"])).inflight).toEqual(new Map());
    });

    it("changes what a router has under way at some endpoints", async () => {
      await registry.changeInflight("r-1", new Map([[a, { requests: 1, prefillTokens: 5, decodeTokens: 0 }]]), 60_000);
      await registry.changeInflight("r-1", new Map([[b, { requests: 2, prefillTokens: 7, decodeTokens: 1 }]]), 60_000);
      await registry.changeInflight("r-1", new Map([[a, { requests: 0, prefillTokens: 0, decodeTokens: 0 }]]), 60_000);
      await registry.changeInflight("r-1", new Map(), 60_000);
      expect((await registry.readLoad(["r-1"])).inflight).toEqual(
        new Map([
          [a, { requests: 0, prefillTokens: 0, decodeTokens: 0 }],
          [b, { requests: 2, prefillTokens: 7, decodeTokens: 1 }],
        ]),
      );
      await registry.changeInflight("r-1", new Map([[a, { requests: 1, prefillTokens: 0, decodeTokens: 0 }]]), 50);
      await vi.waitFor(async () => expect((await registry.readLoad(["r-1"])).inflight.size).toBe(0), { timeout: 10_000, interval: 5 });
      await registry.changeInflight("r-1", new Map([[b, { requests: 1, prefillTokens: 0, decodeTokens: 0 }]]), 60_000);
      expect([...(await registry.readLoad(["r-1"])).inflight.keys()]).toEqual([b]);
    });

    it("leaves out routers that have fallen silent", async () => {
      await registry.setInflight("r-1", new Map([[a, { requests: 1, prefillTokens: 0, decodeTokens: 0 }]]), 50);
      await vi.waitFor(async () => expect((await registry.readLoad(["r-1"])).inflight.size).toBe(0), { timeout: 10_000, interval: 5 });
    });
  });

  describe("changes", () => {
    it("are told to listeners until they stop listening; a heartbeat is none", async () => {
      let heard = 0;
      const stop = registry.onChange(() => {
        heard += 1;
      });
      const lease = await acquired(a, "i-1");
      // A subscription may begin a moment later than the first change.
      let model = 0;
      await vi.waitFor(
        async () => {
          model += 1;
          await registry.describe(lease, { model: `m${model}` }, now);
          expect(heard).toBeGreaterThan(0);
        },
        { timeout: 10_000, interval: 5 },
      );
      const described = heard;
      await registry.startIncarnation(lease, 0);
      await vi.waitFor(() => expect(heard).toBeGreaterThan(described), { timeout: 10_000, interval: 5 });
      // What was told before may still be on its way, so a few more calls are no surprise; fifty would be.
      const before = heard;
      for (let beat = 0; beat < 50; beat += 1) await registry.describe(lease, { model: `m${model}` }, now + beat);
      await registry.describe(lease, { model: "changed" }, now);
      await vi.waitFor(() => expect(heard).toBeGreaterThan(before), { timeout: 10_000, interval: 5 });
      expect(heard).toBeLessThan(before + 50);
      stop();
      const after = heard;
      await registry.describe(lease, { model: "last" }, now);
      await registry.state(a);
      expect(heard).toBe(after);
    });
  });
}
