import { hash } from "node:crypto";
import { mkdtemp, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { isKvatlasError } from "@kvatlas/shared/errors";
import { createLogger } from "@kvatlas/shared/logger";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { answerOk, type HttpUpstream, startUpstream } from "../support/http-upstream.ts";
import { type Rig, type RigOptions, rigModel, startRig } from "../support/router-rig.ts";

const closers: (() => Promise<unknown>)[] = [];
let folder = "";

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "kvatlas-access-"));
});

afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
  await rm(folder, { recursive: true, force: true });
});

async function rigOf(
  router: NonNullable<RigOptions["router"]>,
  options: Partial<RigOptions> = {},
): Promise<Rig & { upstream: HttpUpstream }> {
  const upstream = await startUpstream(answerOk);
  closers.push(() => upstream.kill());
  const rig = await startRig({ endpoints: [upstream.address], pool: { prefixCache: { mode: "off" } }, ...options, router });
  closers.push(() => rig.router.close());
  return Object.assign(rig, { upstream });
}

function ask(rig: Rig, headers: Record<string, string> = {}, path = "/v1/completions"): Promise<Response> {
  return fetch(`${rig.url}${path}`, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: JSON.stringify({ model: rigModel, prompt: "secret words" }),
  });
}

const entry = (tenant: string, key: string) => `${tenant} ${hash("sha256", key)}`;

describe("API keys", () => {
  it("are asked for when there are any, in either header, and go no further", async () => {
    const rig = await rigOf({ access: { keys: [entry("red", "sk-red")] } });
    const refused = await ask(rig);
    expect(refused.status).toBe(401);
    expect(refused.headers.get("www-authenticate")).toBe("Bearer");
    expect(await refused.json()).toMatchObject({ error: { type: "AuthenticationError", code: 401 } });
    expect((await ask(rig, { authorization: "Bearer wrong" })).status).toBe(401);
    expect((await ask(rig, { authorization: "Bearer sk-red" })).status).toBe(200);
    expect((await ask(rig, { "x-api-key": "sk-red" })).status).toBe(200);
    const anthropic = await ask(rig, {}, "/v1/messages");
    expect(anthropic.status).toBe(401);
    expect(await anthropic.json()).toMatchObject({ type: "error", error: { type: "authentication_error" } });
    expect((await fetch(`${rig.url}/v1/models`)).status).toBe(401);
    expect((await fetch(`${rig.url}/kvatlas/v1/endpoints`)).status).toBe(401);
    expect((await fetch(`${rig.url}/health`)).status).toBe(200);
    for (const { headers } of rig.upstream.requests) {
      expect(headers).not.toHaveProperty("authorization");
      expect(headers).not.toHaveProperty("x-api-key");
    }
    expect(await rig.metric('kvatlas_router_requests_total{outcome="refused",status="4xx"}')).toBe(5);
  });

  it("change with their file, without a restart; a broken file changes nothing", async () => {
    const file = join(folder, "keys");
    await writeFile(file, entry("red", "old"));
    const rig = await rigOf({ access: { keysFile: file } });
    expect((await ask(rig, { authorization: "Bearer old" })).status).toBe(200);
    // As mounted secrets change: by another file in the place of the first.
    await writeFile(`${file}.next`, entry("red", "new"));
    await rename(`${file}.next`, file);
    await expect.poll(async () => (await ask(rig, { authorization: "Bearer new" })).status, { timeout: 15_000 }).toBe(200);
    expect((await ask(rig, { authorization: "Bearer old" })).status).toBe(401);
    await writeFile(file, "red not-a-digest, longer than it was before");
    await writeFile(`${file}.last`, `${entry("red", "new")}\n${entry("blue", "last")}`);
    await rename(`${file}.last`, file);
    await expect.poll(async () => (await ask(rig, { authorization: "Bearer last" })).status, { timeout: 15_000 }).toBe(200);
    expect((await ask(rig, { authorization: "Bearer new" })).status).toBe(200);
  });

  it("that cannot be read keep the router from starting", async () => {
    const failure = await rigOf({ access: { keysFile: join(folder, "missing") } }).catch((error: unknown) => error);
    expect(isKvatlasError(failure, "KVATLAS_CONFIG_INVALID")).toBe(true);
    expect(String(failure)).toContain("router.access.keysFile");
  });
});

describe("the key of the replicas", () => {
  it("takes the place of what the client sent, and is read again when it changes", async () => {
    const file = join(folder, "upstream");
    await writeFile(file, "engine-1\n");
    const rig = await rigOf({ upstream: { apiKeyFile: file } });
    expect((await ask(rig, { authorization: "Bearer of-client" })).status).toBe(200);
    expect(rig.upstream.requests.at(-1)?.headers.authorization).toBe("Bearer engine-1");
    await writeFile(`${file}.next`, "engine-22");
    await rename(`${file}.next`, file);
    await expect
      .poll(
        async () => {
          await ask(rig);
          return rig.upstream.requests.at(-1)?.headers.authorization;
        },
        { timeout: 15_000 },
      )
      .toBe("Bearer engine-22");
  });
});

describe("the log", () => {
  it("has neither keys nor prompts in it", async () => {
    const lines: string[] = [];
    const rig = await rigOf(
      { access: { keys: [entry("red", "sk-client-key")] }, upstream: { apiKey: "sk-engine-key" } },
      { logger: createLogger({ service: "router", level: "trace", destination: { write: (line) => lines.push(line) } }) },
    );
    expect((await ask(rig, { authorization: "Bearer sk-client-key" })).status).toBe(200);
    expect((await ask(rig, { authorization: "Bearer sk-other-key" })).status).toBe(401);
    expect((await ask(rig, { authorization: "Bearer sk-client-key" }, "/v1/nothing?key=sk-client-key")).status).toBe(200);
    await rig.upstream.kill();
    expect((await ask(rig, { authorization: "Bearer sk-client-key" })).status).toBe(503);
    const text = lines.join("");
    expect(text).toContain("request handled");
    expect(text).toContain('"tenant":"red"');
    expect(text).not.toMatch(/sk-client-key|sk-engine-key|sk-other-key|secret words/);
    expect(text).not.toContain(hash("sha256", "sk-client-key"));
  });
});
