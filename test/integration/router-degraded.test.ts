import { createMemoryBackend } from "@kvatlas/shared/backend";
import { KvatlasError } from "@kvatlas/shared/errors";
import type { BlockIndex } from "@kvatlas/shared/index/block-index";
import type { EndpointRegistry } from "@kvatlas/shared/registry/endpoint-registry";
import type { PromptEncoder } from "@kvatlas/shared/tokenization/prompt-encoder";
import { afterEach, describe, expect, it } from "vitest";
import { answerOk, type HttpUpstream, startUpstream } from "../support/http-upstream.ts";
import { promptOf, type Rig, type RigOptions, rigModel, startRig } from "../support/router-rig.ts";

const upstreams: HttpUpstream[] = [];
const rigs: Rig[] = [];

afterEach(async () => {
  await Promise.all(rigs.splice(0).map((rig) => rig.router.close()));
  await Promise.all(upstreams.splice(0).map((upstream) => upstream.kill()));
});

async function rigOf(options: Omit<RigOptions, "endpoints">, replicas = 2): Promise<Rig & { readonly endpoints: readonly string[] }> {
  const endpoints: string[] = [];
  for (let i = 0; i < replicas; i++) {
    const upstream = await startUpstream(answerOk);
    upstreams.push(upstream);
    endpoints.push(upstream.address);
  }
  const rig = await startRig({ ...options, endpoints });
  rigs.push(rig);
  return Object.assign(rig, { endpoints });
}

async function complete(rig: Rig, prompt: unknown): Promise<{ readonly mode: string | null; readonly status: number }> {
  const response = await fetch(`${rig.url}/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model: rigModel, prompt }),
  });
  await response.arrayBuffer();
  return { mode: response.headers.get("x-kvatlas-mode"), status: response.status };
}

/** Everything of a registry or index, with some methods replaced. */
function overriding<T extends object>(target: T, overrides: Partial<T>): T {
  return new Proxy(target, {
    get: (object, name) => {
      const own = Reflect.get(overrides, name) ?? Reflect.get(object, name);
      return typeof own === "function" ? own.bind(object) : own;
    },
  });
}

const never = () => new Promise<never>(() => {});
const unreachable = async (): Promise<never> => {
  throw new KvatlasError("KVATLAS_REDIS_UNAVAILABLE", "the test took the store away");
};

const encoderThat = (encode: PromptEncoder["encode"]): PromptEncoder => ({ encode, close: async () => {} });

function decisions(rig: Rig, mode: string, reason: string): Promise<number> {
  return rig.metric(`kvatlas_router_decisions_total{mode="${mode}",reason="${reason}"}`);
}

describe("tokenization", () => {
  it.each<[string, PromptEncoder | undefined]>([
    ["tokenize-timeout", encoderThat(never)],
    ["tokenizer-busy", encoderThat(() => Promise.reject(new KvatlasError("KVATLAS_TOKENIZER_BUSY", "full")))],
    ["prompt-invalid", encoderThat(() => Promise.reject(new KvatlasError("KVATLAS_PROMPT_INVALID", "bad role")))],
    ["tokenizer-failed", encoderThat(() => Promise.reject(new TypeError("a bug")))],
    ["no-tokenizer", encoderThat(() => Promise.reject(new KvatlasError("KVATLAS_TOKENIZER_UNAVAILABLE", "no template")))],
    ["no-tokenizer", undefined],
  ])("%s: the request is routed by load, and counted", async (reason, encoder) => {
    const rig = await rigOf({ router: { tokenizeTimeoutMs: 5 }, ...(encoder === undefined ? {} : { encoder }) });
    expect(await complete(rig, "some text")).toEqual({ mode: "load", status: 200 });
    expect(await decisions(rig, "load", reason)).toBe(1);
  });

  it("uses the tokens of the encoder", async () => {
    const prompt = promptOf(100, 1);
    const rig = await rigOf({ encoder: encoderThat(async () => [{ rendered: "text", tokenIds: Uint32Array.from(prompt) }]) });
    const [, holder = ""] = rig.endpoints;
    await rig.hold(holder, prompt, 6);
    await expect.poll(async () => complete(rig, "some text")).toEqual({ mode: "precise", status: 200 });
    expect(upstreams[1]?.requests.length).toBeGreaterThan(0);
  });
});

describe("the index", () => {
  it.each([
    ["lookup-timeout", never],
    ["index-unavailable", unreachable],
  ] as const)(
    "%s: the request is routed by load, the next one like it by what was sent where, and both are counted",
    async (reason, lookup) => {
      const backend = createMemoryBackend();
      const index: BlockIndex = overriding(backend.index, { lookup });
      const rig = await rigOf({ backend: { index, registry: backend.registry }, router: { lookupTimeoutMs: 20 } });
      await rig.hold(rig.endpoints[0] ?? "", promptOf(100, 2), 6);
      let seed = 3;
      await expect
        .poll(async () => {
          expect(await complete(rig, promptOf(100, seed++))).toEqual({ mode: "load", status: 200 });
          return decisions(rig, "load", reason);
        })
        .toBeGreaterThan(0);
      expect(await complete(rig, promptOf(100, seed - 1))).toEqual({ mode: "estimated", status: 200 });
      expect(await decisions(rig, "estimated", reason)).toBe(1);
    },
  );

  it("that knows nothing of the replicas yet leaves the decision to load", async () => {
    const rig = await rigOf({});
    expect(await complete(rig, promptOf(100, 3))).toEqual({ mode: "load", status: 200 });
    expect(await decisions(rig, "load", "not-indexed")).toBe(1);
  });

  it("is compared with exact lookups in the background", async () => {
    const rig = await rigOf({ router: { verifySampleRate: 1 } });
    const prompt = promptOf(100, 4);
    await rig.hold(rig.endpoints[0] ?? "", prompt, 6);
    await expect
      .poll(async () => {
        await complete(rig, prompt);
        return rig.metric('kvatlas_router_lookups_verified_total{result="agree"}');
      })
      .toBeGreaterThan(0);
    expect(await rig.metric('kvatlas_router_lookups_verified_total{result="disagree"}')).toBe(0);
  });
});

describe("the registry", () => {
  it.each([
    ["unreachable", unreachable],
    ["silent", never],
  ] as const)("%s from the start: configured replicas get their requests", async (_name, method) => {
    const backend = createMemoryBackend();
    const registry: EndpointRegistry = overriding(backend.registry, {
      endpoints: method,
      scopes: method,
      instances: method,
      beat: method,
      leave: method,
      readLoad: method,
      setInflight: method,
      changeInflight: method,
    });
    const rig = await rigOf({ backend: { index: backend.index, registry }, router: { lookupTimeoutMs: 20 } });
    for (let i = 0; i < 4; i++) expect(await complete(rig, promptOf(100, i))).toEqual({ mode: "load", status: 200 });
    expect((await fetch(`${rig.adminUrl}/readyz`)).status).toBe(200);
  });

  it("that goes away leaves what was known", async () => {
    const backend = createMemoryBackend();
    let gone = false;
    const sometimes = (method: "endpoints" | "readLoad" | "beat") =>
      ((...args: never[]) => (gone ? unreachable() : (backend.registry[method] as (...args: never[]) => Promise<never>)(...args))) as never;
    const registry: EndpointRegistry = overriding(backend.registry, {
      endpoints: sometimes("endpoints"),
      readLoad: sometimes("readLoad"),
      beat: sometimes("beat"),
    });
    const rig = await rigOf({ backend: { index: backend.index, registry } });
    const prompt = promptOf(100, 5);
    const [, holder = ""] = rig.endpoints;
    await rig.hold(holder, prompt, 6);
    await expect.poll(async () => (await complete(rig, prompt)).mode).toBe("precise");

    gone = true;
    await expect
      .poll(
        async () => ((await (await fetch(`${rig.url}/kvatlas/v1/endpoints`)).json()) as { registryReachable: boolean }).registryReachable,
      )
      .toBe(false);
    expect(await complete(rig, prompt)).toEqual({ mode: "precise", status: 200 });
  });
});

describe("in-flight work", () => {
  it("is published for the other routers while it lasts, and gone when the router closes", async () => {
    let finish: () => void = () => {};
    const upstream = await startUpstream((response) => {
      finish = () => answerOk(response);
    });
    upstreams.push(upstream);
    const rig = await startRig({ endpoints: [upstream.address], routerId: "one" });
    rigs.push(rig);
    const pending = complete(rig, promptOf(100, 6));
    const published = async () => (await rig.registry.readLoad(["one"])).inflight.get(upstream.address as never) ?? null;
    await expect.poll(published).toEqual({ requests: 1, prefillTokens: 100, decodeTokens: 0 });
    finish();
    await pending;
    await expect.poll(async () => (await published())?.requests ?? 0).toBe(0);
    await rig.router.close();
    expect(await rig.registry.instances("router", Date.now(), 60_000)).toEqual([]);
  });
});
