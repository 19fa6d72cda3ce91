import type { ServerResponse } from "node:http";
import { afterEach, describe, expect, it } from "vitest";
import { post, readAll } from "../support/http-call.ts";
import { type HttpUpstream, startUpstream } from "../support/http-upstream.ts";
import { type Rig, rigModel, startRig } from "../support/router-rig.ts";

const closers: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

interface Held {
  readonly rig: Rig;
  readonly upstream: HttpUpstream;
  /** Answers the oldest request that has none. */
  readonly answerOne: () => void;
}

/** A replica that answers when the test says so, behind a router that lets one request through at a time. */
async function rigOf(overload: Readonly<Record<string, unknown>> = {}): Promise<Held> {
  const open: ServerResponse[] = [];
  const upstream = await startUpstream((response) => void open.push(response));
  closers.push(() => upstream.kill());
  const rig = await startRig({
    endpoints: [upstream.address],
    pool: { prefixCache: { mode: "off" } },
    router: {
      drainTimeoutMs: 2_000,
      models: [
        { name: "urgent", targets: [{ model: rigModel }], criticality: "critical" },
        { name: "batch", targets: [{ model: rigModel }], criticality: "sheddable" },
      ],
      overload: { enabled: true, maxConcurrentPerReplica: 1, maxQueued: 3, tenantHeader: "x-tenant", ...overload },
    },
  });
  closers.push(() => rig.router.close());
  return { rig, upstream, answerOne: () => open.shift()?.end("{}") };
}

const send = (rig: Rig, name: string, headers: Record<string, string> = {}, model: string = rigModel) =>
  post(`${rig.url}/v1/completions`, JSON.stringify({ model, prompt: name, user: name }), headers);

const seen = (upstream: HttpUpstream) => upstream.requests.map(({ body }) => (JSON.parse(body.toString()) as { user: string }).user);
const queued = (rig: Rig, priority: string) => () => rig.metric(`kvatlas_router_queued_requests{priority="${priority}"}`);

describe("more requests than the replicas are to have", () => {
  it("wait, are served by priority and in turns, and are answered", async () => {
    const { rig, upstream, answerOne } = await rigOf();
    const calls = [send(rig, "first")];
    await upstream.until(() => upstream.requests.length === 1);
    calls.push(send(rig, "a1", { "x-tenant": "a" }));
    await expect.poll(queued(rig, "standard")).toBe(1);
    calls.push(send(rig, "a2", { "x-tenant": "a" }));
    await expect.poll(queued(rig, "standard")).toBe(2);
    calls.push(send(rig, "b1", { "x-tenant": "b" }));
    await expect.poll(queued(rig, "standard")).toBe(3);
    for (let answered = 1; answered <= 4; answered++) {
      answerOne();
      if (answered < 4) await upstream.until(() => upstream.requests.length === answered + 1);
    }
    for (const { response } of calls) expect((await response).statusCode).toBe(200);
    const order = seen(upstream);
    expect(order[0]).toBe("first");
    expect(order.indexOf("b1")).toBeLessThan(order.indexOf("a2"));
  });

  it("give way, or are sent away, with the time to come again", async () => {
    const { rig, upstream, answerOne } = await rigOf({ maxQueued: 1 });
    const first = send(rig, "first");
    await upstream.until(() => upstream.requests.length === 1);
    const shed = await send(rig, "batch", {}, "batch").response;
    expect(shed.statusCode).toBe(429);
    expect(Number(shed.headers["retry-after"])).toBeGreaterThanOrEqual(1);
    expect(JSON.parse((await readAll(shed)).body.toString())).toMatchObject({ error: { type: "RateLimitError", code: 429 } });
    const waiting = send(rig, "waiting");
    await expect.poll(queued(rig, "standard")).toBe(1);
    const full = await send(rig, "full").response;
    expect(full.statusCode).toBe(429);
    await readAll(full);
    const urgent = send(rig, "urgent", {}, "urgent");
    const displaced = await waiting.response;
    expect(displaced.statusCode).toBe(429);
    await readAll(displaced);
    answerOne();
    await upstream.until(() => upstream.requests.length === 2);
    answerOne();
    expect((await first.response).statusCode).toBe(200);
    expect((await urgent.response).statusCode).toBe(200);
    expect(seen(upstream)).toEqual(["first", "urgent"]);
    for (const why of ["sheddable", "full", "displaced"]) {
      const priority = why === "sheddable" ? "sheddable" : "standard";
      expect(await rig.metric(`kvatlas_router_shed_total{why="${why}",priority="${priority}"}`)).toBe(1);
    }
  });

  it("leave the queue with their clients", async () => {
    const { rig, upstream, answerOne } = await rigOf();
    const first = send(rig, "first");
    await upstream.until(() => upstream.requests.length === 1);
    const gone = send(rig, "gone");
    await expect.poll(queued(rig, "standard")).toBe(1);
    gone.abort();
    await expect.poll(queued(rig, "standard")).toBe(0);
    answerOne();
    expect((await first.response).statusCode).toBe(200);
    expect(seen(upstream)).toEqual(["first"]);
  });

  it("do not wait forever", async () => {
    const { rig, upstream } = await rigOf({ maxWaitMs: 50 });
    const first = send(rig, "first");
    await upstream.until(() => upstream.requests.length === 1);
    expect((await send(rig, "late").response).statusCode).toBe(429);
    first.abort();
  });
});
