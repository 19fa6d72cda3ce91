import { type Backend, createRedisBackend } from "@kvatlas/shared/backend";
import { configSchema } from "@kvatlas/shared/config/schema";
import { silentLogger } from "@kvatlas/shared/logger";
import { afterEach, describe, expect, it } from "vitest";
import { answerOk, startUpstream } from "../support/http-upstream.ts";
import { startRedisServer } from "../support/redis-server.ts";
import { holdPrefix, promptOf, type Rig, rigModel, startRig } from "../support/router-rig.ts";

const closers: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

function backendOf(url: string, role: "request" | "background"): Backend {
  const { redis } = configSchema.parse({ redis: { url, commandTimeoutMs: 500 } });
  const backend = createRedisBackend(redis, role, silentLogger);
  closers.push(() => backend.close());
  return backend;
}

async function replicas(n: number): Promise<string[]> {
  const endpoints: string[] = [];
  for (let i = 0; i < n; i++) {
    const upstream = await startUpstream(answerOk);
    closers.push(() => upstream.kill());
    endpoints.push(upstream.address);
  }
  return endpoints;
}

async function rigOf(url: string, endpoints: readonly string[], routerId: string): Promise<Rig> {
  const rig = await startRig({ endpoints, routerId, backend: backendOf(url, "request") });
  closers.push(() => rig.router.close());
  return rig;
}

async function dryRun(rig: Rig, tokenIds: readonly number[]): Promise<Record<string, unknown>> {
  const response = await fetch(`${rig.url}/kvatlas/v1/route`, {
    method: "POST",
    body: JSON.stringify({ model: rigModel, token_ids: tokenIds }),
  });
  const { timings: _timings, ...answer } = (await response.json()) as Record<string, unknown>;
  return answer;
}

async function complete(
  rig: Rig,
  prompt: readonly number[],
): Promise<{ readonly status: number; readonly mode: string | null; readonly endpoint: string | null }> {
  const response = await fetch(`${rig.url}/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model: rigModel, prompt }),
  });
  await response.arrayBuffer();
  return { status: response.status, mode: response.headers.get("x-kvatlas-mode"), endpoint: response.headers.get("x-kvatlas-endpoint") };
}

describe("routers that share a Redis", () => {
  it("decide alike, and a fresh one knows from its first request what the others know", async () => {
    const server = await startRedisServer();
    closers.push(() => server.stop());
    const endpoints = await replicas(4);
    const writing = backendOf(server.url, "background");
    const prompts = [1, 2, 3, 4, 5, 6, 7, 8].map((seed) => promptOf(320, seed));
    for (const [i, prompt] of prompts.entries()) {
      await holdPrefix(writing, endpoints[i % 4] ?? "", prompt, 4 + i);
      if (i < 4) await holdPrefix(writing, endpoints[(i + 1) % 4] ?? "", prompt, 2 + i);
    }
    const one = await rigOf(server.url, endpoints, "one");
    const two = await rigOf(server.url, endpoints, "two");
    for (const [i, prompt] of prompts.entries()) {
      const answer = await dryRun(one, prompt);
      expect(answer).toMatchObject({ mode: "precise", endpoint: endpoints[i % 4], matchedTokens: 16 * (4 + i) });
      expect(await dryRun(two, prompt)).toEqual(answer);
    }
  });

  it("go on by what they themselves sent where while Redis hangs or is gone, and come back by themselves", async () => {
    const server = await startRedisServer();
    closers.push(() => server.stop());
    const endpoints = await replicas(2);
    const [, holder = ""] = endpoints;
    const prompt = promptOf(320, 1);
    const writing = backendOf(server.url, "background");
    await holdPrefix(writing, holder, prompt, 19);
    const rig = await rigOf(server.url, endpoints, "one");
    expect(await complete(rig, prompt)).toEqual({ status: 200, mode: "precise", endpoint: holder });

    server.pause();
    expect(await complete(rig, prompt)).toEqual({ status: 200, mode: "estimated", endpoint: holder });
    expect(await complete(rig, promptOf(320, 2))).toMatchObject({ status: 200, mode: "load" });
    server.resume();
    await expect.poll(() => complete(rig, prompt), { timeout: 20_000 }).toEqual({ status: 200, mode: "precise", endpoint: holder });

    await server.stop();
    for (let i = 0; i < 10; i++) expect(await complete(rig, prompt)).toEqual({ status: 200, mode: "estimated", endpoint: holder });
    const again = await startRedisServer({ port: server.port });
    closers.push(() => again.stop());
    // The new one is empty; what the ingesters write again is used again.
    await expect.poll(() => holdPrefix(writing, holder, prompt, 19).then(() => "written", String), { timeout: 20_000 }).toBe("written");
    await expect.poll(() => complete(rig, prompt), { timeout: 20_000 }).toEqual({ status: 200, mode: "precise", endpoint: holder });
  });

  it("start without Redis, and use it once it is there", async () => {
    const server = await startRedisServer();
    await server.stop();
    const endpoints = await replicas(2);
    const [, holder = ""] = endpoints;
    const rig = await rigOf(server.url, endpoints, "one");
    const prompt = promptOf(320, 1);
    expect(await complete(rig, prompt)).toMatchObject({ status: 200, mode: "load" });
    const late = await startRedisServer({ port: server.port });
    closers.push(() => late.stop());
    await holdPrefix(backendOf(late.url, "background"), holder, prompt, 19);
    await expect.poll(() => complete(rig, prompt), { timeout: 20_000 }).toEqual({ status: 200, mode: "precise", endpoint: holder });
  });
});
