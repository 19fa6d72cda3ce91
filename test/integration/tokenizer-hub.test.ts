import { mkdtemp, readdir, readFile, rm, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { silentLogger } from "@kvatlas/shared/logger";
import { type ModelFilesOptions, obtainModelFiles } from "@kvatlas/shared/tokenization/model-files";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { type HubServer, hubCommit, startHub } from "../support/hub-server.ts";

const repository = "Org/Model-1";
const files = {
  "tokenizer.json": JSON.stringify({ model: { type: "BPE" }, text: "größer ".repeat(20_000) }),
  "tokenizer_config.json": '{"tokenizer_class":"PreTrainedTokenizerFast"}',
  "config.json": '{"model_type":"qwen3"}',
};

let hub: HubServer;
let cacheDirectory: string;

beforeEach(async () => {
  hub = await startHub(repository, files);
  cacheDirectory = await mkdtemp(join(tmpdir(), "kvatlas-hub-"));
});
afterEach(async () => {
  await hub.close();
  await rm(cacheDirectory, { recursive: true, force: true });
});

function obtain(options: Partial<ModelFilesOptions> = {}, env: Readonly<Record<string, string>> = {}): Promise<string> {
  return obtainModelFiles(
    { hub: "huggingface", repository, cacheDirectory, ...options },
    { logger: silentLogger, fetch, env: { HF_ENDPOINT: hub.url, MODELSCOPE_ENDPOINT: hub.url, ...env }, wait: async () => {} },
  );
}

async function contents(directory: string): Promise<Record<string, string>> {
  const names = await readdir(directory);
  return Object.fromEntries(await Promise.all(names.map(async (name) => [name, await readFile(join(directory, name), "utf8")])));
}

describe("files of a Hugging Face repository", () => {
  it("are downloaded once, in huggingface_hub's layout", async () => {
    const directory = await obtain();
    expect(directory).toBe(join(cacheDirectory, "models--Org--Model-1", "snapshots", hubCommit));
    expect(await contents(directory)).toEqual(files);
    expect(await readFile(join(cacheDirectory, "models--Org--Model-1", "refs", "main"), "utf8")).toBe(hubCommit);
    hub.seen.length = 0;
    hub.storeSeen.length = 0;
    expect(await obtain()).toBe(directory);
    expect(hub.seen.map(({ method }) => method)).toEqual(["HEAD", "HEAD", "HEAD", "HEAD"]);
    expect(hub.storeSeen).toEqual([]);
  });

  it("are replaced by what changed", async () => {
    await obtain();
    hub.files.set("tokenizer_config.json", '{"legacy":true}');
    hub.storeSeen.length = 0;
    const directory = await obtain();
    expect((await contents(directory))["tokenizer_config.json"]).toBe('{"legacy":true}');
    expect(hub.storeSeen).toEqual([]);
  });

  it("are resumed where the connection broke", async () => {
    let cut = false;
    hub.intercept = (request, response) => {
      if (cut || request.method !== "GET" || request.url !== "/tokenizer.json") return false;
      cut = true;
      response.writeHead(200, { "content-length": String(Buffer.byteLength(files["tokenizer.json"])) });
      response.write(Buffer.from(files["tokenizer.json"]).subarray(0, 50_000), () => response.destroy());
      return true;
    };
    expect(await contents(await obtain())).toEqual(files);
    const ranges = hub.storeSeen.filter(({ method }) => method === "GET").map(({ range }) => range);
    expect(ranges[0]).toBeNull();
    expect(ranges[1]).toMatch(/^bytes=[1-9]\d*-$/);
  });

  it("are resumed where an earlier process ended", async () => {
    await obtain();
    const blobs = join(cacheDirectory, "models--Org--Model-1", "blobs");
    const etag = (await readdir(blobs)).find((name) => name.length === 64) ?? "";
    const left = join(blobs, `${etag}.gone.incomplete`);
    await rm(join(blobs, etag));
    await writeFile(left, Buffer.from(files["tokenizer.json"]).subarray(0, 1_000));
    await utimes(left, new Date(0), new Date(0));
    hub.storeSeen.length = 0;
    expect(await contents(await obtain())).toEqual(files);
    expect(hub.storeSeen.map(({ range }) => range)).toEqual(["bytes=1000-"]);
    expect((await readdir(blobs)).filter((name) => name.endsWith(".incomplete"))).toEqual([]);
  });

  it("are right when two processes want them at once", async () => {
    const directories = await Promise.all([obtain(), obtain(), obtain()]);
    expect(new Set(directories).size).toBe(1);
    expect(await contents(directories[0] ?? "")).toEqual(files);
  });

  it("send the token to the hub, and not to the store", async () => {
    await obtain({}, { HF_TOKEN: "hf_secret" });
    expect(new Set(hub.seen.map(({ authorization }) => authorization))).toEqual(new Set(["Bearer hf_secret"]));
    expect(new Set(hub.storeSeen.map(({ authorization }) => authorization))).toEqual(new Set([null]));
  });

  it("of a gated model are refused with what to do, and without the token", async () => {
    hub.intercept = (_, response) => {
      response.writeHead(401, { "x-error-code": "GatedRepo" }).end();
      return true;
    };
    await expect(obtain()).rejects.toMatchObject({
      code: "KVATLAS_TOKENIZER_UNAVAILABLE",
      message: expect.stringContaining(`${hub.url}/${repository} and set HF_TOKEN`),
    });
    const refused = await obtain({}, { HF_TOKEN: "hf_secret" }).catch((error: unknown) => error);
    expect(String(refused)).toContain("accept the licence");
    expect(String(refused)).not.toContain("hf_secret");
  });

  it("that are not there are refused by name", async () => {
    await expect(obtain({ repository: "Org/Other" })).rejects.toMatchObject({ message: expect.stringContaining("Org/Other") });
    hub.files.delete("tokenizer.json");
    await expect(obtain()).rejects.toMatchObject({ message: expect.stringContaining("404") });
  });

  it("come from the cache while the hub cannot be reached", async () => {
    const directory = await obtain();
    hub.intercept = (_, response) => {
      response.writeHead(503).end();
      return true;
    };
    expect(await obtain()).toBe(directory);
    hub.seen.length = 0;
    expect(await obtain({}, { HF_HUB_OFFLINE: "1" })).toBe(directory);
    expect(await obtain({ revision: hubCommit })).toBe(directory);
    expect(hub.seen).toEqual([]);
    await expect(obtain({ repository: "Org/Other" }, { HF_HUB_OFFLINE: "1" })).rejects.toMatchObject({
      message: expect.stringContaining("HF_HUB_OFFLINE"),
    });
  });

  it("are asked for again after an error that passes", async () => {
    let failures = 3;
    hub.intercept = (_, response) => {
      if (failures-- <= 0) return false;
      response.writeHead(429, { "retry-after": "1" }).end();
      return true;
    };
    expect(await contents(await obtain())).toEqual(files);
  });

  it("with another content than announced are refused and not kept", async () => {
    hub.intercept = (request, response) => {
      if (request.method !== "GET" || request.url !== "/tokenizer.json") return false;
      response.end("x".repeat(Buffer.byteLength(files["tokenizer.json"])));
      return true;
    };
    await expect(obtain()).rejects.toMatchObject({ message: expect.stringContaining("another content") });
    hub.intercept = () => false;
    expect(await contents(await obtain())).toEqual(files);
  });
});

it("files of a ModelScope repository are downloaded by its own paths, and kept apart", async () => {
  await hub.close();
  hub = await startHub(repository, files, "master");
  const directory = await obtain({ hub: "modelscope" });
  expect(directory.startsWith(join(cacheDirectory, "modelscope"))).toBe(true);
  expect(await contents(directory)).toEqual(files);
  hub.seen.length = 0;
  expect(await obtain({ hub: "modelscope" })).toBe(directory);
  expect(hub.seen).toHaveLength(1);
});
