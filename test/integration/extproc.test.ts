import { createMemoryBackend } from "@kvatlas/shared/backend";
import type { EndpointId } from "@kvatlas/shared/types";
import { afterEach, describe, expect, it } from "vitest";
import { eventually } from "../support/eventually.ts";
import {
  type GatewayStream,
  headerMap,
  metadataDestination,
  modeNumbers,
  postHead,
  setHeadersOf,
  TestGateway,
} from "../support/gateway-stream.ts";
import { promptOf, type Rig, type RigOptions, rigModel, startRig } from "../support/router-rig.ts";

const destination = "x-gateway-destination-endpoint";
const endpoints = ["192.168.1.1:8000", "192.168.1.2:8000", "192.168.1.3:8000"];
const loads: readonly (readonly [queued: number, kvUsage: number])[] = [
  [3, 0.2],
  [0, 0.1],
  [10, 0.2],
];

const closers: (() => Promise<unknown> | unknown)[] = [];

afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

interface PickerRig extends Rig {
  readonly gateway: TestGateway;
  readonly health: TestGateway;
  /** Requests under way per endpoint, as other routers see them. */
  underWay(): Promise<Readonly<Record<string, number>>>;
}

async function startPicker(options: Partial<RigOptions> & { readonly extProc?: object } = {}): Promise<PickerRig> {
  const { extProc, router, ...rest } = options;
  const listen = { listen: "127.0.0.1:0", health: "127.0.0.1:0", tls: { mode: "off" }, drainDelayMs: 0, ...extProc };
  const rig = await startRig({ endpoints, ...rest, routerId: "picker", router: { drainTimeoutMs: 5_000, ...router, extProc: listen } });
  closers.push(() => rig.router.close());
  const at = Date.now();
  const engine = { maxTokens: null, runningLoras: [], waitingLoras: [], sleeping: false, at };
  await rig.registry.setLoad(
    new Map(
      loads.map(([waiting, kvUsage], i) => [endpoints[i] as EndpointId, { ...engine, waiting, running: waiting > 0 ? 1 : 0, kvUsage }]),
    ),
  );
  const gateway = new TestGateway(rig.router.extProcAddress ?? "");
  const health = new TestGateway(rig.router.extProcHealthAddress ?? "");
  closers.push(() => gateway.close());
  closers.push(() => health.close());
  return {
    ...rig,
    gateway,
    health,
    underWay: async () => {
      const { inflight } = await rig.registry.readLoad(["picker"]);
      return Object.fromEntries([...inflight].map(([id, { requests }]) => [id, requests]));
    },
  };
}

const completion = (more: object = {}): Buffer => Buffer.from(JSON.stringify({ model: rigModel, prompt: "test1", max_tokens: 4, ...more }));
const bodyMessage = (body: Buffer, endOfStream = true) => ({ requestBody: { body, endOfStream } });
const subsetOf = (value: object) => ({
  metadataContext: { filterMetadata: { "envoy.lb.subset_hint": { fields: { "x-gateway-destination-endpoint-subset": value } } } },
});
const listOf = (...entries: string[]) => ({ listValue: { values: entries.map((stringValue) => ({ stringValue })) } });

/** Reads the body that a gateway is told to send on; resolves when the end, or so many bytes, have come. */
async function bodyOf(
  stream: GatewayStream,
  bytes: number,
): Promise<{ readonly body: Buffer; readonly sizes: number[]; readonly ends: boolean[] }> {
  const pieces: Buffer[] = [];
  const ends: boolean[] = [];
  do {
    const chunk = (await stream.next()).requestBody?.response?.bodyMutation?.streamedResponse;
    expect(chunk).toBeDefined();
    pieces.push(chunk?.body ?? Buffer.alloc(0));
    ends.push(chunk?.endOfStream ?? false);
  } while (ends.at(-1) === false && pieces.reduce((sum, { length }) => sum + length, 0) < bytes);
  return { body: Buffer.concat(pieces), sizes: pieces.map(({ length }) => length), ends };
}

describe("a request in full duplex", () => {
  it("is held back until its body has come, and sent where load is least", async () => {
    const { gateway } = await startPicker();
    const body = completion();
    const stream = gateway.open();
    stream.send(postHead({ "x-request-id": "test-request-id" }, { protocolConfig: { requestBodyMode: 4, responseBodyMode: 4 } }));
    stream
      .send(bodyMessage(body.subarray(0, 20), false))
      .send(bodyMessage(body.subarray(20), false))
      .send(bodyMessage(Buffer.alloc(0)));
    const head = await stream.next();
    expect(setHeadersOf(head)).toEqual({ [destination]: endpoints[1], "content-length": String(body.length) });
    expect(metadataDestination(head)).toBe(endpoints[1]);
    expect(head.requestHeaders?.response?.clearRouteCache).toBe(true);
    const told = await bodyOf(stream, body.length);
    expect(told).toEqual({ body, sizes: [body.length], ends: [true] });
  });

  it.each([
    [0, [0]],
    [61_000, [61_000]],
    [62_000, [62_000]],
    [62_001, [62_000, 1]],
    [125_000, [62_000, 62_000, 1_000]],
  ])("of %i bytes is sent on in messages of %j", async (bytes, sizes) => {
    const { gateway } = await startPicker();
    const stream = gateway.open().send(postHead({ ":path": "/v1/audio/transcriptions", "content-type": "audio/wav" }));
    stream.send(bodyMessage(Buffer.alloc(bytes, 7)));
    await stream.next();
    const told = await bodyOf(stream, bytes);
    expect(told.sizes).toEqual(sizes);
    expect(told.ends).toEqual(sizes.map((_, i) => i === sizes.length - 1));
  });

  it("with trailers ends with these, and says no length", async () => {
    const { gateway } = await startPicker();
    const body = completion();
    const stream = gateway.open().send(postHead()).send(bodyMessage(body, false)).send({ requestTrailers: {} });
    expect(setHeadersOf(await stream.next())).not.toHaveProperty("content-length");
    expect(await bodyOf(stream, body.length)).toEqual({ body, sizes: [body.length], ends: [false] });
    expect(await stream.next()).toMatchObject({ requestTrailers: {} });
  });

  it("goes where its prefix is", async () => {
    const rig = await startPicker();
    const prompt = promptOf(8_000, 7);
    // More than the others' having less to do is worth.
    await rig.hold(endpoints[2] ?? "", prompt, 400);
    const stream = rig.gateway
      .open()
      .send(postHead())
      .send(bodyMessage(completion({ prompt })));
    expect(setHeadersOf(await stream.next())[destination]).toBe(endpoints[2]);
    expect(await rig.metric('kvatlas_router_decisions_total{mode="precise",reason="prefix"}')).toBe(1);
  });

  it("names further endpoints only where they are asked for", async () => {
    const { gateway } = await startPicker({ extProc: { maxEndpoints: 3 } });
    const head = await gateway.open().send(postHead()).send(bodyMessage(completion())).next();
    expect(setHeadersOf(head)[destination]).toBe([endpoints[1], endpoints[0], endpoints[2]].join(","));
    expect(metadataDestination(head)).toBe(setHeadersOf(head)[destination]);
  });

  it("is rid of what clients must not say, and keeps what routes are matched by", async () => {
    const { gateway } = await startPicker();
    const stream = gateway.open();
    stream.send(
      postHead({
        [destination]: "169.254.169.254:80",
        "x-gateway-destination-endpoint-served": "1.2.3.4:5",
        "x-llm-d-inference-objective": "a",
        "x-gateway-inference-fairness-id": "b",
        "X-SLO-TTFT-MS": "5",
        "x-kvatlas-mode": "precise",
        "x-gateway-model-name": "m",
        "x-mine": "yes",
      }),
    );
    const head = await stream.send(bodyMessage(completion())).next();
    expect(setHeadersOf(head)[destination]).toBe(endpoints[1]);
    expect([...(head.requestHeaders?.response?.headerMutation?.removeHeaders ?? [])].sort()).toEqual([
      "x-gateway-destination-endpoint-served",
      "x-gateway-inference-fairness-id",
      "x-kvatlas-mode",
      "x-llm-d-inference-objective",
      "x-slo-ttft-ms",
    ]);
  });

  it("has its model rewritten, with the length to match, and named back in the answer", async () => {
    const models = [{ name: "alias", targets: [{ model: rigModel }] }];
    const { gateway } = await startPicker({ router: { models } });
    const stream = gateway
      .open()
      .send(postHead())
      .send(bodyMessage(completion({ model: "alias" })));
    const head = await stream.next();
    const expected = completion();
    expect(setHeadersOf(head)["content-length"]).toBe(String(expected.length));
    expect((await bodyOf(stream, expected.length)).body.toString()).toBe(expected.toString());
    stream.send({
      responseHeaders: { headers: headerMap({ ":status": "200", "content-type": "application/json", "content-length": "99" }) },
    });
    expect((await stream.next()).responseHeaders?.response?.headerMutation?.removeHeaders).toEqual(["content-length"]);
    stream.send({ responseBody: { body: Buffer.from('{"model":"org/mo'), endOfStream: false } });
    stream.send({ responseBody: { body: Buffer.from('del","x":1}'), endOfStream: false } });
    stream.send({ responseBody: { endOfStream: true } });
    const pieces: string[] = [];
    for (let i = 0; i < 3; i++) {
      const chunk = (await stream.next()).responseBody?.response?.bodyMutation?.streamedResponse;
      pieces.push(chunk?.body?.toString() ?? "");
      expect(chunk?.endOfStream ?? false).toBe(i === 2);
    }
    expect(pieces.join("")).toBe('{"model":"alias","x":1}');
  });
});

describe("other shapes of requests", () => {
  it("buffered: the head is answered at once, and steering goes with the body", async () => {
    const models = [{ name: "alias", targets: [{ model: rigModel }] }];
    const { gateway } = await startPicker({ router: { models } });
    const stream = gateway.open().send(postHead({}, { protocolConfig: { requestBodyMode: modeNumbers.buffered } }));
    expect(await stream.next()).toMatchObject({ requestHeaders: {} });
    const expected = completion();
    const told = await stream.send(bodyMessage(completion({ model: "alias" }))).next();
    expect(setHeadersOf(told)).toMatchObject({ [destination]: endpoints[1], "content-length": String(expected.length) });
    expect(metadataDestination(told)).toBe(endpoints[1]);
    expect(told.requestBody?.response?.bodyMutation?.body?.toString()).toBe(expected.toString());
    stream.send({ requestTrailers: {} });
    expect(await stream.next()).toMatchObject({ requestTrailers: {} });
    stream.send({ responseHeaders: { headers: headerMap({ ":status": "200" }), endOfStream: true } });
    expect(await stream.next()).toMatchObject({ responseHeaders: {} });
  });

  it("streamed, or with a body that stays with the gateway: load decides by the head alone", async () => {
    const rig = await startPicker();
    for (const mode of ["streamed", "none"] as const) {
      const named = { "x-gateway-model-name": rigModel };
      const stream = rig.gateway.open().send(postHead(named, { protocolConfig: { requestBodyMode: modeNumbers[mode] } }));
      expect(setHeadersOf(await stream.next())[destination]).toBe(endpoints[1]);
      if (mode === "none") continue;
      stream.send(bodyMessage(Buffer.from("{"), false));
      expect((await stream.next()).requestBody).toBeDefined();
    }
    const other = rig.gateway.open().send(postHead({ "x-gateway-model-name": "other" }, { protocolConfig: {} }));
    expect((await other.next()).immediateResponse?.status.code).toBe(404);
  });

  it("without a body: the head alone is answered", async () => {
    const { gateway } = await startPicker();
    const headers = headerMap({ ":method": "GET", ":path": "/v1/models?x=1" });
    const stream = gateway.open().send({ requestHeaders: { headers, endOfStream: true } });
    const head = await stream.next();
    expect(setHeadersOf(head)[destination]).toBe(endpoints[1]);
    expect(setHeadersOf(head)).not.toHaveProperty("content-length");
    expect(stream.pending).toBe(0);
  });

  it("as NGINX Gateway Fabric has them: no path, names in capitals, one large message, then half-closed", async () => {
    const rig = await startPicker();
    const prompt = promptOf(800_000, 3);
    await rig.hold(endpoints[0] ?? "", prompt.slice(0, 3_200), 200);
    const body = completion({ prompt });
    expect(body.length).toBeGreaterThan(4 * 1_024 * 1_024);
    const stream = rig.gateway.open();
    stream.send({ requestHeaders: { headers: headerMap({ "Content-Type": "application/json", Host: "x" }, "text") } });
    stream.send(bodyMessage(body)).halfClose();
    const head = await stream.next();
    expect(setHeadersOf(head)[destination]).toBe(endpoints[0]);
    expect((await bodyOf(stream, body.length)).body.equals(body)).toBe(true);
    expect(await stream.ended).toBeNull();
    await eventually(async () => expect(await rig.underWay()).toEqual({}));
  });

  it("whose body is in no message at all (observability): nothing is answered", async () => {
    const { gateway } = await startPicker();
    const stream = gateway
      .open()
      .send({ ...postHead(), observabilityMode: true })
      .halfClose();
    expect(await stream.ended).toBeNull();
    expect(stream.pending).toBe(0);
  });
});

describe("subsets", () => {
  const cases: readonly (readonly [string, object, string | number])[] = [
    ["all", listOf(...endpoints), endpoints[1] ?? ""],
    ["one, whatever its load", listOf("192.168.1.3:8000"), endpoints[2] ?? ""],
    ["by IP alone", listOf("192.168.1.3"), endpoints[2] ?? ""],
    ["a text with blanks", { stringValue: "  192.168.1.1:8000 ,  ,  192.168.1.3:8000  " }, endpoints[0] ?? ""],
    ["another port", listOf("192.168.1.1:9999"), 503],
    ["nobody's", listOf("192.168.1.99:8000"), 503],
    ["empty", listOf(), 503],
    ["not addresses", listOf("localhost", "", ":::"), 503],
  ];
  it.each(cases)("%s", async (_, subset, expected) => {
    const { gateway } = await startPicker();
    const stream = gateway
      .open()
      .send(postHead({}, subsetOf(subset)))
      .send(bodyMessage(completion()));
    const answer = await stream.next();
    if (typeof expected === "string") {
      expect(setHeadersOf(answer)[destination]).toBe(expected);
      return;
    }
    expect(answer.immediateResponse?.status.code).toBe(expected);
    expect(setHeadersOf(answer)["x-llm-d-request-dropped-reason"]).toBe("rejected-no-endpoints");
  });

  it("may come with the body, and a namespace without the key is none", async () => {
    const { gateway } = await startPicker();
    const stream = gateway.open().send(postHead({}, { metadataContext: { filterMetadata: { "envoy.lb.subset_hint": { fields: {} } } } }));
    stream.send({ ...bodyMessage(completion()), ...subsetOf(listOf("192.168.1.3:8000")) });
    expect(setHeadersOf(await stream.next())[destination]).toBe(endpoints[2]);
    const other = gateway.open().send(postHead({}, { metadataContext: { filterMetadata: { "envoy.lb.subset_hint": {} } } }));
    expect(setHeadersOf(await other.send(bodyMessage(completion())).next())[destination]).toBe(endpoints[1]);
  });
});

describe("refusals", () => {
  const post = (body: Buffer) => [postHead(), bodyMessage(body)];
  const cases: readonly (readonly [string, readonly object[], number])[] = [
    ["no JSON", post(Buffer.from("no healthy upstream")), 400],
    ["an unknown model", post(completion({ model: "other" })), 404],
    ["a body that is too large", [postHead(), bodyMessage(Buffer.alloc(3_000), false), bodyMessage(Buffer.alloc(3_000), false)], 413],
    ["a body that is announced to be too large", [postHead({ "content-length": "5000" })], 413],
    ["adapters", [postHead({ ":path": "/v1/load_lora_adapter" }), bodyMessage(Buffer.from("{}"))], 403],
    ["controls of engines", [postHead({ ":path": "/sleep" }), bodyMessage(Buffer.from("{}"))], 404],
  ];
  it.each(cases)("%s", async (_, messages, status) => {
    const rig = await startPicker({ router: { maxBodyBytes: 4_096 } });
    const stream = rig.gateway.open();
    for (const message of messages) stream.send(message);
    const answer = await stream.next();
    expect(answer.immediateResponse?.status.code).toBe(status);
    expect(setHeadersOf(answer)).toMatchObject({ "content-type": "application/json" });
    expect(JSON.parse(answer.immediateResponse?.body.toString() ?? "")).toMatchObject({ error: { code: status } });
    expect(await stream.ended).toBeNull();
    expect(await rig.metric(`kvatlas_extproc_refused_total{status="${status}"}`)).toBe(1);
    expect(await rig.metric("kvatlas_router_body_bytes")).toBe(0);
  });

  it("nobody to send it to", async () => {
    const { gateway } = await startPicker({ endpoints: [] });
    for (const message of [
      { requestHeaders: { headers: headerMap({ ":method": "GET", ":path": "/v1/models" }), endOfStream: true } },
      { ...postHead(), requestHeaders: { headers: headerMap({ ":path": "/v1/completions" }), endOfStream: true } },
    ]) {
      const answer = await gateway.open().send(message).next();
      expect(answer.immediateResponse?.status.code).toBe(message.requestHeaders.headers.headers.length > 1 ? 503 : 400);
    }
  });

  it("too much at a time, with the time to come again", async () => {
    const overload = { enabled: true, maxConcurrentPerReplica: 1, maxQueued: 1, maxWaitMs: 60_000 };
    const models = [{ name: "batch", targets: [{ model: rigModel }], criticality: "sheddable" }];
    const rig = await startPicker({ endpoints: endpoints.slice(0, 1), router: { overload, models } });
    const first = rig.gateway.open().send(postHead()).send(bodyMessage(completion()));
    await first.next();
    const refused = await rig.gateway
      .open()
      .send(postHead())
      .send(bodyMessage(completion({ model: "batch" })))
      .next();
    expect(refused.immediateResponse?.status.code).toBe(429);
    expect(setHeadersOf(refused)).toMatchObject({ "retry-after": "1", "x-llm-d-request-dropped-reason": "rejected-saturated" });
    const waiting = rig.gateway.open().send(postHead()).send(bodyMessage(completion()));
    const leaving = rig.gateway.open().send(postHead()).send(bodyMessage(completion()));
    expect((await leaving.next()).immediateResponse?.status.code).toBe(429);
    first.cancel();
    expect(setHeadersOf(await waiting.next())[destination]).toBe(endpoints[0]);
  });

  it("who has no key", async () => {
    const { gateway } = await startPicker({ router: { access: { keys: [`red ${"0".repeat(64)}`] } } });
    const answer = await gateway
      .open()
      .send(postHead({ authorization: "Bearer wrong" }))
      .next();
    expect(answer.immediateResponse?.status.code).toBe(401);
  });
});

describe("answers", () => {
  const sse = [
    'data: {"choices":[]}\n\n',
    'data: {"usage":{"prompt_tokens":8000,"prompt_tokens_details":{"cached_tokens":6400}}}\n\ndata: [DONE]\n\n',
    "",
  ];

  it("are passed on piece by piece; what engines say of their cache is compared with what was predicted", async () => {
    const rig = await startPicker();
    const prompt = promptOf(8_000, 7);
    // More than the others' having less to do is worth.
    await rig.hold(endpoints[2] ?? "", prompt, 400);
    const stream = rig.gateway
      .open()
      .send(postHead())
      .send(bodyMessage(completion({ prompt, stream: true })));
    await stream.next();
    await stream.next();
    await eventually(async () => expect(await rig.underWay()).toEqual({ [endpoints[2] ?? ""]: 1 }));
    stream.send({ responseHeaders: { headers: headerMap({ ":status": "200", "content-type": "text/event-stream" }), endOfStream: false } });
    expect(setHeadersOf(await stream.next())).toMatchObject({ "x-kvatlas-endpoint": endpoints[2], "x-kvatlas-mode": "precise" });
    for (const [i, text] of sse.entries()) {
      stream.send({ responseBody: { body: Buffer.from(text), endOfStream: i === 2 } });
      const chunk = (await stream.next()).responseBody?.response?.bodyMutation?.streamedResponse;
      expect(chunk?.body?.toString() ?? "").toBe(text);
      expect(chunk?.endOfStream ?? false).toBe(i === 2);
    }
    await eventually(async () => expect(await rig.underWay()).toEqual({}));
    expect(await rig.metric('kvatlas_router_predictions_total{result="exact"}')).toBe(1);
    expect(await rig.metric('kvatlas_router_requests_total{outcome="completed",status="2xx"}')).toBe(1);
    stream.cancel();
    await eventually(async () => expect(await rig.metric("kvatlas_extproc_open_streams")).toBe(0));
    expect(await rig.metric('kvatlas_router_requests_total{outcome="completed",status="2xx"}')).toBe(1);
  });

  it("may end with trailers, and may be handed over in other modes", async () => {
    const rig = await startPicker();
    for (const mode of ["duplex", "streamed", "buffered", "none"] as const) {
      const stream = rig.gateway.open();
      stream.send(postHead({}, { protocolConfig: { requestBodyMode: 4, responseBodyMode: modeNumbers[mode] } }));
      stream.send(bodyMessage(completion()));
      await stream.next();
      await stream.next();
      stream.send({ responseHeaders: { headers: headerMap({ ":status": "200" }), endOfStream: false } });
      await stream.next();
      if (mode !== "none") {
        stream.send({ responseBody: { body: Buffer.from("x"), endOfStream: false } });
        const { response } = (await stream.next()).responseBody ?? {};
        expect(response?.bodyMutation?.streamedResponse?.body.toString()).toBe(mode === "duplex" ? "x" : undefined);
      }
      stream.send({ responseTrailers: {} });
      expect(await stream.next()).toMatchObject({ responseTrailers: {} });
      stream.cancel();
    }
    await eventually(async () => expect(await rig.underWay()).toEqual({}));
    expect(await rig.metric('kvatlas_router_requests_total{outcome="completed",status="2xx"}')).toBe(4);
  });

  it("of another endpoint move the request over to that one", async () => {
    const rig = await startPicker();
    const stream = rig.gateway.open().send(postHead()).send(bodyMessage(completion()));
    await stream.next();
    await stream.next();
    const served = { "envoy.lb": { fields: { "x-gateway-destination-endpoint-served": { stringValue: endpoints[0] ?? "" } } } };
    stream.send({
      responseHeaders: { headers: headerMap({ ":status": "200" }), endOfStream: false },
      metadataContext: { filterMetadata: served },
    });
    expect(setHeadersOf(await stream.next())["x-kvatlas-endpoint"]).toBe(endpoints[0]);
    await eventually(async () => expect(await rig.underWay()).toEqual({ [endpoints[0] ?? ""]: 1 }));
    expect(await rig.metric('kvatlas_extproc_served_elsewhere_total{known="true"}')).toBe(1);
  });
});

describe("streams that break off", () => {
  const phases: readonly (readonly [string, (stream: GatewayStream) => Promise<void>])[] = [
    ["before anything", async () => {}],
    ["after the head", async (stream) => void stream.send(postHead())],
    ["in the body", async (stream) => void stream.send(postHead()).send(bodyMessage(Buffer.from("{"), false))],
    [
      "once the endpoint is known",
      async (stream) => {
        stream.send(postHead()).send(bodyMessage(completion()));
        await stream.next();
        await stream.next();
      },
    ],
    [
      "in the answer",
      async (stream) => {
        stream.send(postHead()).send(bodyMessage(completion()));
        await stream.next();
        await stream.next();
        stream.send({ responseHeaders: { headers: headerMap({ ":status": "200" }), endOfStream: false } });
        await stream.next();
      },
    ],
  ];
  for (const how of ["cancelled", "half-closed"] as const) {
    it.each(phases)(`leave nothing behind when ${how} %s`, async (_, until) => {
      const rig = await startPicker();
      const stays = rig.gateway.open().send(postHead()).send(bodyMessage(completion()));
      await stays.next();
      const stream = rig.gateway.open();
      await until(stream);
      // A stream that ends in the moment in which it begins may never reach the router.
      await eventually(async () => expect(await rig.metric("kvatlas_extproc_open_streams")).toBe(2));
      if (how === "cancelled") stream.cancel();
      else stream.halfClose();
      await stream.ended;
      await eventually(async () => {
        expect(await rig.metric("kvatlas_extproc_open_streams")).toBe(1);
        expect(await rig.metric("kvatlas_router_body_bytes")).toBe(0);
        const underWay = Object.values(await rig.underWay());
        expect(underWay.reduce((sum, requests) => sum + requests, 0)).toBe(1);
      });
    });
  }
});

describe("health", () => {
  it("answers under every name in use, at both ports, and not under others", async () => {
    const { gateway, health } = await startPicker();
    for (const side of [gateway, health]) {
      for (const name of ["", "liveness", "readiness", "inference-extension", "envoy.service.ext_proc.v3.ExternalProcessor"]) {
        expect(await side.check(name)).toBe(1);
      }
      await expect(side.check("other")).rejects.toMatchObject({ code: 5 });
      expect(Object.keys(await side.listHealth())).toHaveLength(5);
    }
  });

  it("is not ready without replicas, and alive", async () => {
    const { health } = await startPicker({ endpoints: [] });
    expect(await health.check("readiness")).toBe(2);
    expect(await health.check("liveness")).toBe(1);
  });

  it("tells those who watch of every change, to the end", async () => {
    const rig = await startPicker({ endpoints: [] });
    const known = rig.health.watch("readiness");
    expect((await known.next()).value).toBe(2);
    await rig.hold(endpoints[0] ?? "", promptOf(64, 1), 1);
    expect((await known.next()).value).toBe(1);
    const others = [rig.gateway.watch("liveness"), rig.gateway.watch("other")] as const;
    expect(await Promise.all(others.map(async (watch) => (await watch.next()).value))).toEqual([1, 3]);
    // One that leaves is no reason for the others to hear nothing.
    await others[0].return();
    const closed = rig.router.close();
    expect((await known.next()).value).toBe(2);
    expect((await known.next()).done).toBe(true);
    expect((await others[1].next()).done).toBe(true);
    await closed;
  });

  it("says so first when the router stops, while running requests go on", async () => {
    // Long enough for what follows on any machine.
    const rig = await startPicker({ extProc: { drainDelayMs: 4_000 }, router: { drainTimeoutMs: 60_000 }, backend: createMemoryBackend() });
    const running = rig.gateway.open().send(postHead());
    expect(await rig.health.check("readiness")).toBe(1);
    const closed = rig.router.close();
    expect(await rig.health.check("readiness")).toBe(2);
    expect(await rig.health.check("liveness")).toBe(1);
    const late = rig.gateway.open().send(postHead()).send(bodyMessage(completion()));
    for (const stream of [running.send(bodyMessage(completion())), late]) {
      expect(setHeadersOf(await stream.next())[destination]).toBe(endpoints[1]);
      await stream.next();
      stream.send({ responseHeaders: { headers: headerMap({ ":status": "200" }), endOfStream: true } });
      await stream.next();
      stream.halfClose();
    }
    await closed;
  });
});
