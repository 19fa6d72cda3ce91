import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { request as httpRequest, type IncomingMessage } from "node:http";
import { type AddressInfo, connect, createServer as createTcpServer, type Socket } from "node:net";
import { setImmediate as turn } from "node:timers/promises";
import { afterEach, describe, expect, it } from "vitest";
import { type Call, post, readAll } from "../support/http-call.ts";
import { answerOk, type HttpUpstream, startUpstream, type UpstreamHandler } from "../support/http-upstream.ts";
import { type Rig, type RigOptions, rigModel, startRig } from "../support/router-rig.ts";

const closers: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

async function upstreamOf(handler: UpstreamHandler): Promise<HttpUpstream> {
  const upstream = await startUpstream(handler);
  closers.push(() => upstream.kill());
  return upstream;
}

async function rigOf(upstreams: readonly { address: string }[], options: Partial<RigOptions> = {}): Promise<Rig> {
  // Round robin starts with the first endpoint by address, which makes "the first attempt" predictable.
  const rig = await startRig({
    endpoints: upstreams.map(({ address }) => address),
    ...options,
    pool: { prefixCache: { mode: "off" }, ...options.pool },
    router: { offPolicy: "round-robin", drainTimeoutMs: 2_000, ...options.router },
  });
  closers.push(() => rig.router.close());
  return rig;
}

const path = "/v1/completions";

function call(
  rig: Rig,
  body: string | Buffer = JSON.stringify({ model: rigModel, prompt: [1, 2, 3] }),
  headers: Record<string, string> = {},
): Call {
  return post(`${rig.url}${path}`, body, headers);
}

async function errorOf(response: IncomingMessage): Promise<{ message: string; type: string; code: number }> {
  const { body } = await readAll(response);
  return (JSON.parse(body.toString()) as { error: { message: string; type: string; code: number } }).error;
}

describe("forwarding", () => {
  it("passes request bytes, path, query and headers on as they are", async () => {
    const upstream = await upstreamOf(answerOk);
    const rig = await rigOf([upstream]);
    const body = `{ "model":"${rigModel}",\n "prompt" : [1, 2.0e0],"seed":123456789012345678901, "x": "\\u00e9é", "model":"${rigModel}" }`;
    const request = httpRequest(`${rig.url}${path}?a=1&b=%20`, {
      method: "POST",
      headers: {
        "Content-Type": "application/json",
        Authorization: "Bearer key",
        "X-Custom": "kept",
        "x-kvatlas-endpoint": "spoofed",
        "X-Gateway-Destination-Endpoint": "10.0.0.1:8000",
        traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        tracestate: "a=b",
        Connection: "X-Hop, keep-alive",
        "X-Hop": "dropped",
        TE: "trailers",
      },
    });
    request.end(body);
    const [response] = (await once(request, "response")) as [IncomingMessage];
    expect((await readAll(response)).body.toString()).toBe('{"ok":true}');

    const [received] = upstream.requests;
    expect(received?.body.toString()).toBe(body);
    expect(received?.url).toBe(`${path}?a=1&b=%20`);
    expect(received?.headers).toMatchObject({ authorization: "Bearer key", "x-custom": "kept", "content-type": "application/json" });
    expect(received?.rawHeaders).toContain("X-Custom");
    expect(received?.headers).toMatchObject({
      traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
      tracestate: "a=b",
    });
    expect(Object.keys(received?.headers ?? {})).not.toEqual(expect.arrayContaining(["x-kvatlas-endpoint"]));
    expect(received?.headers).not.toHaveProperty("x-gateway-destination-endpoint");
    expect(received?.headers).not.toHaveProperty("x-hop");
    expect(received?.headers).not.toHaveProperty("te");
    expect(received?.headers["x-request-id"]).toBe(response.headers["x-request-id"]);
    expect(received?.headers["x-request-id"]).toMatch(/^[0-9a-f-]{36}$/);
  });

  it("keeps a client's request id, and answers with the replica's status and headers", async () => {
    const upstream = await upstreamOf((response) => {
      response.writeHead(
        418,
        "Short And Stout",
        [
          ["X-Twice", "1"],
          ["X-Twice", "2"],
          ["x-kvatlas-mode", "spoofed"],
          ["content-type", "text/plain"],
        ].flat(),
      );
      response.end("tea");
    });
    const rig = await rigOf([upstream]);
    const response = await call(rig, undefined, { "x-request-id": "abc-1" }).response;
    expect(response.statusCode).toBe(418);
    expect(response.statusMessage).toBe("Short And Stout");
    expect(response.rawHeaders.filter((_, i) => response.rawHeaders[i - 1] === "X-Twice")).toEqual(["1", "2"]);
    expect(response.headers).toMatchObject({ "x-request-id": "abc-1", "x-kvatlas-mode": "off", "x-kvatlas-endpoint": upstream.address });
    expect(upstream.requests[0]?.headers["x-request-id"]).toBe("abc-1");
    await readAll(response);
  });

  it("streams every chunk when it comes, before the next one exists", async () => {
    const chunks = ["data: one\n\n", "data: two\n\n", "data: [DONE]\n\n"];
    let send: (chunk: string | null) => void = () => {};
    const upstream = await upstreamOf((response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      send = (chunk) => (chunk === null ? response.end() : void response.write(chunk));
    });
    const rig = await rigOf([upstream]);
    const pending = call(rig);
    await upstream.until(() => upstream.requests.length === 1);
    send(chunks[0] ?? "");
    const response = await pending.response;
    for (const [i, chunk] of chunks.entries()) {
      if (i > 0) send(chunk);
      const [received] = (await once(response, "data")) as [Buffer];
      expect(received.toString()).toBe(chunk);
    }
    send(null);
    await once(response, "end");
    expect(response.complete).toBe(true);
  });

  it("sends the head of a silent event stream on after a moment", async () => {
    const upstream = await upstreamOf((response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.flushHeaders();
    });
    const rig = await rigOf([upstream]);
    const { response, abort } = call(rig);
    expect((await response).statusCode).toBe(200);
    abort();
    await upstream.until(() => upstream.abandoned === 1);
  });

  it("keeps large bodies equal both ways", async () => {
    const answer = randomBytes(5_000_000);
    const upstream = await upstreamOf((response, { body }) => {
      response.writeHead(200, { "x-digest": createHash("sha256").update(body).digest("hex") });
      response.end(answer);
    });
    const rig = await rigOf([upstream]);
    const body = JSON.stringify({ model: rigModel, prompt: randomBytes(3_000_000).toString("hex") });
    const response = await call(rig, body).response;
    expect(response.headers["x-digest"]).toBe(createHash("sha256").update(body).digest("hex"));
    expect((await readAll(response)).body.equals(answer)).toBe(true);
  });

  it("holds a fast replica back when the client does not read", async () => {
    const total = 64 * 1024 * 1024;
    const piece = Buffer.alloc(64 * 1024, 7);
    let sent = 0;
    let stalled = false;
    const upstream = await upstreamOf(async (response) => {
      response.writeHead(200, { "content-type": "application/octet-stream" });
      while (sent < total && !response.destroyed) {
        sent += piece.length;
        if (!response.write(piece)) {
          stalled = true;
          const settled = new AbortController();
          const { signal } = settled;
          await Promise.race([once(response, "drain", { signal }), once(response, "close", { signal })]).finally(() => settled.abort());
          stalled = false;
        }
      }
      response.end();
    });
    const rig = await rigOf([upstream]);
    const response = await call(rig).response;
    // Nothing is read: the sender comes to rest when the buffers of the sockets are full, long before it has sent everything.
    let before = -1;
    await expect
      .poll(
        () => {
          const still = stalled && sent === before;
          before = sent;
          return still;
        },
        { interval: 200, timeout: 20_000 },
      )
      .toBe(true);
    expect(sent).toBeLessThan(total / 2);
    let received = 0;
    response.on("data", (chunk: Buffer) => {
      received += chunk.length;
    });
    await once(response, "end");
    expect(received).toBe(total);
  });
});

describe("a client that leaves", () => {
  it("is noticed before the first byte", async () => {
    const upstream = await upstreamOf(() => {});
    const rig = await rigOf([upstream]);
    const { abort } = call(rig);
    await upstream.until(() => upstream.requests.length === 1);
    abort();
    await upstream.until(() => upstream.abandoned === 1);
    await expect.poll(() => rig.metric('kvatlas_router_requests_total{outcome="client-gone",status="none"}')).toBe(1);
  });

  it("is noticed while the replica is silent", async () => {
    const upstream = await upstreamOf((response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write("data: one\n\n");
    });
    const rig = await rigOf([upstream]);
    const { response, abort } = call(rig);
    await once(await response, "data");
    abort();
    await upstream.until(() => upstream.abandoned === 1);
  });

  it("is noticed while chunks are coming", async () => {
    const upstream = await upstreamOf(async (response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      while (!response.destroyed) {
        response.write("data: more\n\n");
        await turn();
      }
    });
    const rig = await rigOf([upstream]);
    const { response, abort } = call(rig);
    await once(await response, "data");
    abort();
    await upstream.until(() => upstream.abandoned === 1);
    await expect.poll(() => rig.metric('kvatlas_router_requests_total{outcome="client-gone",status="2xx"}')).toBe(1);
  });
});

describe("a replica that dies", () => {
  it("in mid-stream leaves a broken answer, not a finished one", async () => {
    for (const framing of [
      { "content-type": "text/event-stream" },
      { "content-length": "1000" },
      { "content-type": "text/event-stream", connection: "close" },
    ]) {
      const upstream = await upstreamOf((response) => {
        response.writeHead(200, framing as Record<string, string>);
        response.write("data: one\n\n", () => response.socket?.destroy());
      });
      const rig = await rigOf([upstream]);
      const { body, broken } = await readAll(await call(rig).response);
      expect(broken).toBe(true);
      expect(body.toString()).toBe("data: one\n\n");
      await expect.poll(() => rig.metric('kvatlas_router_requests_total{outcome="cut",status="2xx"}')).toBe(1);
    }
  });

  it("in mid-stream while the client does not read, too", async () => {
    let upstreamSocket: Socket | null = null;
    const upstream = await upstreamOf((response) => {
      response.writeHead(200, { "content-type": "text/event-stream", connection: "close" });
      upstreamSocket = response.socket;
      response.write(Buffer.alloc(32 * 1024 * 1024, 7));
    });
    const rig = await rigOf([upstream]);
    const response = await call(rig).response;
    await once(response, "readable");
    await turn();
    (upstreamSocket as Socket | null)?.resetAndDestroy();
    await upstream.until(() => upstream.abandoned === 1);
    expect((await readAll(response)).broken).toBe(true);
    // The router is still there.
    expect((await fetch(`${rig.adminUrl}/livez`)).status).toBe(200);
  });

  it("before the first byte is replaced by another, once per request", async () => {
    const dying: UpstreamHandler = (response) => void response.socket?.destroy();
    const upstreams = [await upstreamOf(dying), await upstreamOf(answerOk)];
    const rig = await rigOf(upstreams);
    const response = await call(rig).response;
    expect(response.statusCode).toBe(200);
    expect((await readAll(response)).body.toString()).toBe('{"ok":true}');
    const second = await call(rig).response;
    expect(second.statusCode).toBe(200);
    await readAll(second);
    expect(await rig.metric('kvatlas_router_retries_total{why="cut"}')).toBe(1);
  });

  it("after it announced an event stream is replaced, too", async () => {
    const upstreams = [
      await upstreamOf((response) => {
        response.writeHead(200, { "content-type": "text/event-stream" });
        response.flushHeaders();
        response.socket?.end();
      }),
      await upstreamOf((response) => {
        response.writeHead(200, { "content-type": "text/event-stream" });
        response.end("data: [DONE]\n\n");
      }),
    ];
    const rig = await rigOf(upstreams);
    for (let i = 0; i < 2; i++) {
      const { body, broken } = await readAll(await call(rig).response);
      expect({ body: body.toString(), broken }).toEqual({ body: "data: [DONE]\n\n", broken: false });
    }
  });

  it("cannot be connected to: another one is asked at once, with the same body", async () => {
    const gone = await startUpstream(answerOk);
    await gone.kill();
    const alive = await upstreamOf(answerOk);
    const rig = await rigOf([gone, alive]);
    const body = JSON.stringify({ model: rigModel, prompt: [5, 6, 7] });
    for (let i = 0; i < 4; i++) {
      const response = await call(rig, body).response;
      expect(response.statusCode).toBe(200);
      expect(response.headers["x-kvatlas-endpoint"]).toBe(alive.address);
      await readAll(response);
    }
    expect(alive.requests.map((request) => request.body.toString())).toEqual([body, body, body, body]);
    // Once is enough: the endpoint is kept out of the way afterwards.
    expect(await rig.metric('kvatlas_router_retries_total{why="connect"}')).toBe(1);
  });

  it("is not retried more often than allowed", async () => {
    const dying: UpstreamHandler = (response) => void response.socket?.destroy();
    const upstreams = [await upstreamOf(dying), await upstreamOf(dying), await upstreamOf(dying)];
    const rig = await rigOf(upstreams, { router: { maxAttempts: 2 } });
    const response = await call(rig).response;
    expect(response.statusCode).toBe(502);
    expect(response.headers["retry-after"]).toBe("1");
    expect(await errorOf(response)).toMatchObject({ type: "BadGatewayError", code: 502 });
    expect(upstreams.reduce((sum, upstream) => sum + upstream.requests.length, 0)).toBe(2);
  });

  it("answers 503 where another one can do better", async () => {
    const upstreams = [
      await upstreamOf((response) => {
        response.writeHead(503);
        response.end("queue is full");
      }),
      await upstreamOf(answerOk),
    ];
    const rig = await rigOf(upstreams);
    for (let i = 0; i < 2; i++) {
      const response = await call(rig).response;
      expect(response.statusCode).toBe(200);
      await readAll(response);
    }
  });

  it("is silent for longer than allowed", async () => {
    const upstream = await upstreamOf(() => {});
    const rig = await rigOf([upstream], { router: { firstByteTimeoutMs: 50 } });
    const response = await call(rig).response;
    expect(response.statusCode).toBe(504);
    expect(await errorOf(response)).toMatchObject({ type: "GatewayTimeoutError", code: 504 });
    await upstream.until(() => upstream.abandoned === 1);
  });
});

describe("time-outs", () => {
  it("cut an answer that pauses for too long", async () => {
    const upstream = await upstreamOf((response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write("data: one\n\n");
    });
    const rig = await rigOf([upstream], { router: { idleTimeoutMs: 100 } });
    const { body, broken } = await readAll(await call(rig).response);
    expect({ body: body.toString(), broken }).toEqual({ body: "data: one\n\n", broken: true });
    await upstream.until(() => upstream.abandoned === 1);
    await expect.poll(() => rig.metric('kvatlas_router_requests_total{outcome="cut",status="2xx"}')).toBe(1);
  });

  it("do not count pauses that are short enough, however many there are", async () => {
    const upstream = await upstreamOf(async (response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      for (let i = 0; i < 12 && !response.destroyed; i++) {
        response.write("data: more\n\n");
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
      response.end("data: [DONE]\n\n");
    });
    const rig = await rigOf([upstream], { router: { idleTimeoutMs: 450 } });
    expect((await readAll(await call(rig).response)).broken).toBe(false);
  });

  it("cut an answer that goes on for too long", async () => {
    const upstream = await upstreamOf(async (response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      while (!response.destroyed) {
        response.write("data: more\n\n");
        await turn();
      }
    });
    const rig = await rigOf([upstream], { router: { totalTimeoutMs: 200 } });
    expect((await readAll(await call(rig).response)).broken).toBe(true);
    await upstream.until(() => upstream.abandoned === 1);
  });
});

describe("the retry budget", () => {
  it("ends second attempts when there are too many of them", async () => {
    const dying: UpstreamHandler = (response) => void response.socket?.destroy();
    const rig = await rigOf([await upstreamOf(dying), await upstreamOf(dying)], {
      router: { retryBudget: { ratio: 0, minPerSecond: 0.1 } },
    });
    for (let i = 0; i < 3; i++) {
      const response = await call(rig).response;
      expect(response.statusCode).toBe(502);
      await readAll(response);
    }
    expect(await rig.metric('kvatlas_router_retries_total{why="cut"}')).toBe(1);
    expect(await rig.metric('kvatlas_router_retries_total{why="over-budget"}')).toBe(2);
  });
});

describe("what engines take for JSON", () => {
  it("is forwarded, byte for byte", async () => {
    const upstream = await upstreamOf(answerOk);
    const rig = await rigOf([upstream]);
    const body = `{"model":"${rigModel}","prompt":"x","temperature":NaN,"logit_bias":{"1":-Infinity}}`;
    const response = await call(rig, body).response;
    expect(response.statusCode).toBe(200);
    await readAll(response);
    expect(upstream.requests[0]?.body.toString()).toBe(body);
    const broken = await call(rig, `{"model":"${rigModel}","prompt":NaNs}`).response;
    expect(broken.statusCode).toBe(400);
    await readAll(broken);
  });
});

describe("requests that are refused", () => {
  it("are answered as an OpenAI server answers", async () => {
    const upstream = await upstreamOf(answerOk);
    const rig = await rigOf([upstream], { router: { maxBodyBytes: 10_000 } });
    const cases = [
      ["{ not json", 400, "BadRequestError"],
      ["[1,2]", 400, "BadRequestError"],
      [Buffer.from([0x7b, 0xff, 0xfe, 0x7d]), 400, "BadRequestError"],
      [JSON.stringify({ model: "unknown", prompt: "x" }), 404, "NotFoundError"],
      ["x".repeat(20_000), 413, "RequestTooLargeError"],
    ] as const;
    for (const [body, status, type] of cases) {
      const response = await call(rig, body).response;
      expect(response.statusCode).toBe(status);
      expect(response.headers["content-type"]).toBe("application/json");
      expect(response.headers["x-request-id"]).toBeDefined();
      expect(await errorOf(response)).toMatchObject({ type, code: status });
    }
    expect(upstream.requests).toHaveLength(0);
    expect((await fetch(`${rig.url}/sleep`, { method: "POST" })).status).toBe(404);
    expect((await fetch(`${rig.url}/kvatlas/v1/route`)).status).toBe(405);
    expect((await fetch(`${rig.url}/v1/load_lora_adapter`, { method: "POST" })).status).toBe(403);
    const messages = await fetch(`${rig.url}/v1/messages`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ model: "unknown", messages: [] }),
    });
    expect(messages.status).toBe(404);
    expect(await messages.json()).toMatchObject({ type: "error", error: { type: "not_found_error" } });
  });

  it("never quote the prompt", async () => {
    const rig = await rigOf([await upstreamOf(answerOk)]);
    const error = await errorOf(await call(rig, '{"prompt": "secret words" oops}').response);
    expect(error.message).not.toContain("secret");
  });

  it("include chunked bodies without a length", async () => {
    const rig = await rigOf([await upstreamOf(answerOk)], { router: { maxBodyBytes: 10_000 } });
    const response = await call(rig, "y".repeat(30_000), { "transfer-encoding": "chunked" }).response;
    expect(response.statusCode).toBe(413);
    await readAll(response);
  });

  it("say when no replica is ready", async () => {
    const rig = await rigOf([]);
    const response = await call(rig).response;
    expect(response.statusCode).toBe(503);
    expect(response.headers["retry-after"]).toBe("1");
    expect((await fetch(`${rig.adminUrl}/readyz`)).status).toBe(503);
    await readAll(response);
  });

  it("leave the server alive when they are no HTTP at all", async () => {
    const rig = await rigOf([await upstreamOf(answerOk)]);
    const { hostname, port } = new URL(rig.url);
    const socket = connect(Number(port), hostname);
    socket.on("error", () => {});
    socket.resume();
    socket.end("\x16\x03\x01 nonsense\r\n\r\n");
    await once(socket, "close");
    expect((await call(rig).response).statusCode).toBe(200);
  });
});

describe("other paths", () => {
  it("are forwarded by load, forms included", async () => {
    const upstream = await upstreamOf(answerOk);
    const rig = await rigOf([upstream]);
    const form = new FormData();
    form.set("model", rigModel);
    form.set("file", new Blob([randomBytes(1_000)]));
    expect((await fetch(`${rig.url}/v1/audio/transcriptions`, { method: "POST", body: form })).status).toBe(200);
    expect(
      (
        await fetch(`${rig.url}/v1/embeddings`, {
          method: "POST",
          headers: { "content-type": "application/json" },
          body: JSON.stringify({ model: rigModel, input: "x" }),
        })
      ).status,
    ).toBe(200);
    expect((await fetch(`${rig.url}/v1/responses/resp_1`)).status).toBe(200);
    expect(upstream.requests.map(({ method, url }) => `${method} ${url}`)).toEqual([
      "POST /v1/audio/transcriptions",
      "POST /v1/embeddings",
      "GET /v1/responses/resp_1",
    ]);
  });
});

describe("closing", () => {
  it("lets running answers finish, and accepts nothing new", async () => {
    let finish: () => void = () => {};
    const upstream = await upstreamOf((response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write("data: one\n\n");
      finish = () => response.end("data: [DONE]\n\n");
    });
    const rig = await rigOf([upstream], { router: { drainTimeoutMs: 20_000 } });
    const response = await call(rig).response;
    await once(response, "readable");
    const closing = rig.router.close();
    await expect
      .poll(() =>
        call(rig).response.then(
          () => "accepted",
          () => "refused",
        ),
      )
      .toBe("refused");
    finish();
    expect((await readAll(response)).body.toString()).toBe("data: one\n\ndata: [DONE]\n\n");
    await closing;
  });

  it("cuts what is still running at the end of the drain", async () => {
    const upstream = await upstreamOf((response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write("data: one\n\n");
    });
    const rig = await rigOf([upstream], { router: { drainTimeoutMs: 100 } });
    const response = await call(rig).response;
    const reading = readAll(response);
    await once(response, "data");
    await rig.router.close();
    expect((await reading).broken).toBe(true);
    await upstream.until(() => upstream.abandoned === 1);
  });

  it("frees the port", async () => {
    const rig = await rigOf([await upstreamOf(answerOk)]);
    const port = Number(new URL(rig.url).port);
    await rig.router.close();
    const server = createTcpServer().listen(port, "127.0.0.1");
    await once(server, "listening");
    expect((server.address() as AddressInfo).port).toBe(port);
    server.close();
  });
});
