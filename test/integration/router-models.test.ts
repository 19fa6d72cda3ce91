import { createMemoryBackend } from "@kvatlas/shared/backend";
import { afterEach, describe, expect, it } from "vitest";
import { type HttpUpstream, startUpstream } from "../support/http-upstream.ts";
import { describeEndpoint, type Rig, rigModel, startRig } from "../support/router-rig.ts";

const closers: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

/** A replica that answers as an engine does: with the model that it was asked for. */
async function engine(maxModelLen: number): Promise<HttpUpstream> {
  const upstream = await startUpstream((response, { method, url, body, headers }) => {
    if (method === "GET" && url === "/v1/models") {
      response.writeHead(200, { "content-type": "application/json" });
      response.end(
        JSON.stringify({
          object: "list",
          data: [
            { id: rigModel, object: "model", created: 1_700_000_000, owned_by: "vllm", root: "/models/x", max_model_len: maxModelLen },
            { id: "tuned", object: "model", created: 1_700_000_001, owned_by: "vllm", root: "/loras/tuned", parent: rigModel },
          ],
        }),
      );
      return;
    }
    const isForm = headers["content-type"]?.startsWith("multipart/") === true;
    const model = isForm ? "form" : (JSON.parse(body.toString()) as { model: string; stream?: boolean }).model;
    if (!body.includes('"stream":true')) {
      const text = JSON.stringify({ id: "x", model, usage: { model } });
      response.writeHead(200, { "content-type": "application/json", "content-length": text.length });
      response.end(text);
      return;
    }
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write(`data: {"model":"${model}","x":1}\n\nda`);
    response.end(`ta: {"model":"${model}","x":2}\n\ndata: [DONE]\n\n`);
  });
  closers.push(() => upstream.kill());
  return upstream;
}

const models = [
  {
    name: "chat",
    targets: [
      { model: rigModel, weight: 3 },
      { model: "tuned", weight: 1 },
    ],
    criticality: "critical",
  },
  { name: "old-name", targets: [{ model: rigModel }], answerAs: "target" },
  { name: "nowhere", targets: [{ model: "missing" }] },
];

async function rigOf(): Promise<{ readonly rig: Rig; readonly upstreams: readonly HttpUpstream[] }> {
  const upstreams = [await engine(8_192), await engine(4_096)];
  const backend = createMemoryBackend();
  for (const { address } of upstreams) await describeEndpoint(backend.registry, address, { scope: null, loras: { tuned: "/loras/tuned" } });
  const rig = await startRig({
    endpoints: upstreams.map(({ address }) => address),
    backend,
    pool: { prefixCache: { mode: "off" } },
    router: { models, offPolicy: "round-robin" },
  });
  closers.push(() => rig.router.close());
  return { rig, upstreams };
}

function ask(rig: Rig, body: string, headers: Record<string, string> = {}): Promise<Response> {
  return fetch(`${rig.url}/v1/completions`, { method: "POST", headers: { "content-type": "application/json", ...headers }, body });
}

const completions = (upstreams: readonly HttpUpstream[]) =>
  upstreams.flatMap(({ requests }) => requests.filter(({ method }) => method === "POST").map(({ body }) => body.toString()));

describe("a name that stands for another model", () => {
  it("is replaced in the body, and nowhere else; the answer has the name that was asked for", async () => {
    const { rig, upstreams } = await rigOf();
    const body = `{ "prompt":"the \\"model\\": \\"chat\\" ", "n" : 1.0,\n  "model" : "chat" , "x":{"model":"chat"}}`;
    const answer = await ask(rig, body, { "x-session-id": "a" });
    expect(await answer.json()).toEqual({ id: "x", model: "chat", usage: { model: "chat" } });
    const [sent = ""] = completions(upstreams);
    const target = (JSON.parse(sent) as { model: string }).model;
    expect([rigModel, "tuned"]).toContain(target);
    expect(sent).toBe(body.replace('"model" : "chat"', `"model" : "${target}"`));
  });

  it("is given back in every event of a stream", async () => {
    const { rig } = await rigOf();
    const answer = await ask(rig, '{"model":"chat","prompt":"x","stream":true}');
    expect(await answer.text()).toBe('data: {"model":"chat","x":1}\n\ndata: {"model":"chat","x":2}\n\ndata: [DONE]\n\n');
  });

  it("stays the replica's where that is wished", async () => {
    const { rig } = await rigOf();
    expect(await (await ask(rig, '{"model":"old-name","prompt":"x"}')).json()).toMatchObject({ model: rigModel });
  });

  it("goes by weight, and stays with a session", async () => {
    const { rig, upstreams } = await rigOf();
    for (let i = 0; i < 60; i++) await (await ask(rig, '{"model":"chat","prompt":"x"}', { "x-request-id": `r${i}` })).text();
    const spread = completions(upstreams).filter((body) => body.includes("tuned")).length;
    expect(spread).toBeGreaterThan(2);
    expect(spread).toBeLessThan(30);
    const before = completions(upstreams).length;
    for (let i = 0; i < 20; i++) await (await ask(rig, '{"model":"chat","prompt":"x"}', { "x-session-id": "same" })).text();
    const all = completions(upstreams);
    const [first] = all.slice(before);
    expect(all.length).toBe(before + 20);
    const tuned = all.filter((body) => body.includes("tuned")).length - spread;
    expect(tuned === 0 || tuned === 20).toBe(true);
    expect(first).toBeDefined();
  });

  it("is replaced in forms as well", async () => {
    const { rig, upstreams } = await rigOf();
    const form = new FormData();
    form.set("model", "old-name");
    form.set("file", new Blob(["sound"]));
    expect((await fetch(`${rig.url}/v1/audio/transcriptions`, { method: "POST", body: form })).status).toBe(200);
    const [sent = ""] = completions(upstreams);
    expect(sent).toContain(`name="model"\r\n\r\n${rigModel}\r\n`);
    expect(sent).toContain("sound");
  });

  it("that nobody serves is unknown", async () => {
    const { rig } = await rigOf();
    const answer = await ask(rig, '{"model":"nowhere","prompt":"x"}');
    expect(answer.status).toBe(404);
    expect(await answer.json()).toMatchObject({ error: { message: "The model `missing` does not exist." } });
  });
});

describe("GET /v1/models", () => {
  it("lists models, adapters and names, with what every replica can take", async () => {
    const { rig } = await rigOf();
    const { data } = (await (await fetch(`${rig.url}/v1/models`)).json()) as { data: readonly Record<string, unknown>[] };
    expect(data.map(({ id }) => id)).toEqual([rigModel, "tuned", "chat", "old-name", "nowhere"]);
    expect(data[0]).toEqual({
      id: rigModel,
      object: "model",
      created: 1_700_000_000,
      owned_by: "vllm",
      root: "/models/x",
      parent: null,
      max_model_len: 4_096,
    });
    expect(data[1]).toMatchObject({ root: "/loras/tuned", parent: rigModel, max_model_len: 4_096 });
    expect(data[2]).toMatchObject({ id: "chat", max_model_len: 4_096 });
    const one = await fetch(`${rig.url}/v1/models/${encodeURIComponent(rigModel)}`);
    expect(await one.json()).toEqual(data[0]);
    expect((await fetch(`${rig.url}/v1/models/none`)).status).toBe(404);
  });
});
