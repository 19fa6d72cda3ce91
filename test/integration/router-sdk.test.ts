import { createLocalPromptEncoder } from "@kvatlas/shared/tokenization/local-prompt-encoder";
import { createSimulator } from "@kvatlas/simulator/app";
import { loadSimulatorTokenizer } from "@kvatlas/simulator/tokenizer";
import OpenAI from "openai";
import { afterEach, describe, expect, it } from "vitest";
import { answerOk, startUpstream } from "../support/http-upstream.ts";
import { type Rig, rigModel, startRig } from "../support/router-rig.ts";
import { modelDirectory } from "../support/tokenizer-models.ts";

const closers: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

async function rigOf(address: string): Promise<Rig> {
  const rig = await startRig({ endpoints: [address], router: { models: [{ name: "gpt-like", targets: [{ model: rigModel }] }] } });
  closers.push(() => rig.router.close());
  return rig;
}

describe("OpenAI's SDK", () => {
  async function clientOf(): Promise<OpenAI> {
    const replica = createSimulator({ tokenizer: await loadSimulatorTokenizer(modelDirectory("qwen3")) }, { model: rigModel, speed: 20 });
    await replica.start();
    closers.push(() => replica.close());
    const rig = await rigOf(replica.address);
    return new OpenAI({ baseURL: `${rig.url}/v1`, apiKey: "none", maxRetries: 0 });
  }

  it("streams chats, chunk by chunk, until they are finished", async () => {
    const client = await clientOf();
    const stream = await client.chat.completions.create({
      model: rigModel,
      messages: [{ role: "user", content: "Tell me about caches." }],
      max_tokens: 12,
      stream: true,
      stream_options: { include_usage: true },
    });
    let chunks = 0;
    let text = "";
    let finish: string | null = null;
    let completionTokens = 0;
    for await (const chunk of stream) {
      chunks += 1;
      text += chunk.choices[0]?.delta.content ?? "";
      finish ??= chunk.choices[0]?.finish_reason ?? null;
      completionTokens = chunk.usage?.completion_tokens ?? completionTokens;
      expect(chunk.model).toBe(rigModel);
    }
    expect(chunks).toBeGreaterThan(3);
    expect(text).not.toBe("");
    expect(finish).toBe("length");
    expect(completionTokens).toBe(12);
  });

  it("speaks to a name that stands for another model", async () => {
    const client = await clientOf();
    const { data: completion, response } = await client.completions
      .create({ model: "gpt-like", prompt: "Once upon a time", max_tokens: 3 })
      .withResponse();
    expect(completion.model).toBe("gpt-like");
    expect(completion.choices[0]?.text).not.toBe("");
    expect(response.headers.get("x-kvatlas-endpoint")).not.toBeNull();
    const models: string[] = [];
    for await (const model of client.models.list()) models.push(model.id);
    expect(models).toEqual([rigModel, "gpt-like"]);
  });

  it("understands errors, and leaves a stream when it is told to", async () => {
    const client = await clientOf();
    const error = await client.chat.completions
      .create({ model: "unknown", messages: [{ role: "user", content: "x" }] })
      .catch((caught: unknown) => caught);
    expect(error).toBeInstanceOf(OpenAI.NotFoundError);
    const stream = await client.chat.completions.create({
      model: rigModel,
      messages: [{ role: "user", content: "Count to a million." }],
      max_tokens: 5_000,
      stream: true,
    });
    for await (const chunk of stream) {
      expect(chunk.object).toBe("chat.completion.chunk");
      stream.controller.abort();
    }
    expect(stream.controller.signal.aborted).toBe(true);
  });
});

describe("an Anthropic client", () => {
  it("streams messages, with its own headers and event names", async () => {
    const events = ["message_start", "content_block_delta", "message_stop"];
    const upstream = await startUpstream((response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      for (const type of events) response.write(`event: ${type}\ndata: ${JSON.stringify({ type, message: { model: rigModel } })}\n\n`);
      response.end();
    });
    closers.push(() => upstream.kill());
    const rig = await rigOf(upstream.address);
    const body = { model: rigModel, max_tokens: 8, stream: true, messages: [{ role: "user", content: "Hello" }] };
    const response = await fetch(`${rig.url}/v1/messages`, {
      method: "POST",
      headers: { "content-type": "application/json", "x-api-key": "key", "anthropic-version": "2023-06-01" },
      body: JSON.stringify(body),
    });
    expect(response.status).toBe(200);
    const text = await response.text();
    expect([...text.matchAll(/^event: (\w+)$/gm)].map(([, name]) => name)).toEqual(events);
    const [received] = upstream.requests;
    expect(received?.headers).toMatchObject({ "x-api-key": "key", "anthropic-version": "2023-06-01" });
    expect(JSON.parse(received?.body.toString() ?? "")).toEqual(body);
  });

  it("is routed by the prefix that the engine will see", async () => {
    const replicas = [await startUpstream(answerOk), await startUpstream(answerOk)];
    for (const replica of replicas) closers.push(() => replica.kill());
    const encoder = createLocalPromptEncoder({ directory: modelDirectory("qwen3"), engine: "javascript" });
    const rig = await startRig({ endpoints: replicas.map(({ address }) => address), encoder, router: { speculationMs: 0 } });
    closers.push(() => rig.router.close());
    const content = "A long question about caches. ".repeat(20);
    const chat = {
      messages: [
        { role: "system", content: "Be brief." },
        { role: "user", content },
      ],
    };
    const [prompt] = await encoder.encode({ kind: "chat", bodyText: JSON.stringify(chat) });
    const holder = replicas[1]?.address ?? "";
    await rig.hold(holder, prompt?.tokenIds ?? [], 6);
    const ask = (path: string, body: object) =>
      fetch(`${rig.url}${path}`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ model: rigModel, ...body }),
      });
    for (const [path, body] of [
      ["/v1/messages", { max_tokens: 5, system: "Be brief.", messages: [{ role: "user", content: [{ type: "text", text: content }] }] }],
      ["/v1/responses", { instructions: "Be brief.", input: content }],
    ] as const) {
      await expect
        .poll(async () => {
          const { headers } = await ask(path, body);
          return [headers.get("x-kvatlas-mode"), headers.get("x-kvatlas-endpoint"), headers.get("x-kvatlas-matched-tokens")];
        })
        .toEqual(["precise", holder, "96"]);
    }
    expect((await ask("/v1/messages", { max_tokens: 5, thinking: { type: "disabled" }, messages: [] })).headers.get("x-kvatlas-mode")).toBe(
      "load",
    );
    expect(await rig.metric('kvatlas_router_decisions_total{mode="load",reason="not-a-plain-chat"}')).toBe(1);
  });
});
