import { createDiscoveryMetrics } from "@kvatlas/ingester/discovery/kubernetes/discovery-metrics";
import { openKubeAccess } from "@kvatlas/ingester/discovery/kubernetes/kube-access";
import { createKubeApi, type KubeApiOptions } from "@kvatlas/ingester/discovery/kubernetes/kube-api";
import { KubernetesDiscovery } from "@kvatlas/ingester/discovery/kubernetes/kubernetes-discovery";
import { systemClock } from "@kvatlas/shared/clock";
import type { KubernetesEndpoints } from "@kvatlas/shared/config/kubernetes-schema";
import { silentLogger } from "@kvatlas/shared/logger";
import { createMetricsRegistry } from "@kvatlas/shared/metrics";
import { MemoryPoolRecords } from "@kvatlas/shared/registry/memory-pool-records";
import type { PoolRecord } from "@kvatlas/shared/registry/pool-record";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { eventually } from "../support/eventually.ts";
import { inferencePool, KubeApiServer, pod, podsResource, poolResource } from "../support/kube-api-server.ts";

const alphaPools = "inference.networking.x-k8s.io/v1alpha2/inferencepools";
const policies = "inferenceextension.alibabacloud.com/v1alpha1/inferencetrafficpolicies";
const objectives = "llm-d.ai/v1alpha2/inferenceobjectives";
const models = "inference.networking.x-k8s.io/v1alpha1/inferencemodels";

const bySelector: KubernetesEndpoints = { selector: "app=vllm", targetPorts: [8000], dataParallelSize: 1 };
const byPool: KubernetesEndpoints = { inferencePool: "qwen", targetPorts: [], dataParallelSize: 1 };

let api: KubeApiServer;
let records: MemoryPoolRecords;
const closers: (() => Promise<unknown>)[] = [];

beforeEach(async () => {
  api = new KubeApiServer([poolResource]);
  records = new MemoryPoolRecords();
  await api.start();
  closers.push(() => api.close());
});
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

async function discover(
  settings: KubernetesEndpoints,
  options: KubeApiOptions & { readonly kubeconfig?: string; readonly instanceId?: string } = {},
): Promise<KubernetesDiscovery> {
  const kubeconfig = options.kubeconfig ?? (await api.kubeconfig()).path;
  const discovery = new KubernetesDiscovery(
    {
      records,
      api: createKubeApi(() => openKubeAccess({ kubeconfig, context: null }), options),
      clock: systemClock,
      logger: silentLogger,
      metrics: createDiscoveryMetrics(createMetricsRegistry("ingester", { processMetrics: false })),
    },
    {
      instanceId: options.instanceId ?? "a",
      pools: [{ name: "p", settings }],
      leaseTtlMs: 300,
      settleMs: 1,
      timing: { firstDelayMs: 10, maxDelayMs: 100, absentDelayMs: 50 },
    },
  );
  await discovery.start();
  closers.push(() => discovery.close());
  return discovery;
}

async function record(): Promise<PoolRecord | undefined> {
  return (await records.read()).get("p");
}

async function expectPods(...names: readonly string[]): Promise<void> {
  await eventually(async () =>
    expect((await record())?.targets.map((target) => target.pod)).toEqual(names.map((name) => `default/${name}`)),
  );
}

async function expectProblem(text: string): Promise<PoolRecord> {
  return eventually(async () => {
    const found = await record();
    expect(found?.problems.join("\n")).toContain(text);
    if (found === undefined) throw new Error("no record");
    return found;
  });
}

const watches = () => api.seen.filter((line) => line.startsWith("watch pods"));
const lists = () => api.seen.filter((line) => line === "list pods").length;

describe("a watch", () => {
  it("sees pods come, change and go, of a list of several pages", async () => {
    api.pageSize = 2;
    for (const i of [1, 2, 3, 4, 5]) api.put(podsResource, pod(`p${i}`, `10.0.0.${i}`));
    await discover(bySelector);
    await expectPods("p1", "p2", "p3", "p4", "p5");
    api.remove(podsResource, "p2");
    api.put(podsResource, pod("p6", "10.0.0.6"));
    api.put(podsResource, pod("p3", "10.0.0.3", { labels: { app: "other" } }));
    await expectPods("p1", "p4", "p5", "p6");
  });

  it.each(["orderly", "mid-line"] as const)("goes on where it ended: %s", async (how) => {
    api.put(podsResource, pod("a", "10.0.0.1"));
    await discover(bySelector);
    await expectPods("a");
    await eventually(() => expect(api.watchers).toBe(1));
    api.endWatches(how);
    api.put(podsResource, pod("b", "10.0.0.2"));
    await expectPods("a", "b");
    expect(lists()).toBe(1);
    expect(watches().length).toBeGreaterThan(1);
  });

  it("goes on from the last bookmark", async () => {
    api.put(podsResource, pod("a", "10.0.0.1"));
    await discover(bySelector);
    await eventually(() => expect(api.watchers).toBe(1));
    api.bookmark();
    // Without the bookmark, what follows would be too old.
    api.compact();
    api.endWatches("orderly");
    await eventually(() => expect(watches().length).toBeGreaterThan(1));
    api.put(podsResource, pod("b", "10.0.0.2"));
    await expectPods("a", "b");
    expect(lists()).toBe(1);
  });

  it.each(["event", "answer"] as const)("begins with a list again when its version is too old: 410 as an %s", async (form) => {
    api.put(podsResource, pod("a", "10.0.0.1"));
    api.put(podsResource, pod("b", "10.0.0.2"));
    await discover(bySelector);
    await expectPods("a", "b");
    await eventually(() => expect(api.watchers).toBe(1));
    // What goes while nobody watches is seen to be gone all the same.
    api.intercept = (_request, response) => {
      response.socket?.destroy();
      return true;
    };
    api.endWatches(form === "event" ? "gone" : "mid-line");
    await eventually(() => expect(api.watchers).toBe(0));
    api.remove(podsResource, "a");
    api.compact();
    api.intercept = () => false;
    await expectPods("b");
    expect(lists()).toBeGreaterThan(1);
  });

  it("takes another error event for a reason to list again", async () => {
    api.put(podsResource, pod("a", "10.0.0.1"));
    await discover(bySelector);
    await eventually(() => expect(api.watchers).toBe(1));
    api.endWatches("internal-error");
    await eventually(() => expect(lists()).toBe(2));
    api.put(podsResource, pod("b", "10.0.0.2"));
    await expectPods("a", "b");
  });

  it("that is silent is taken for dead", async () => {
    await discover(bySelector, { silenceMs: 100 });
    await eventually(() => expect(watches().length).toBeGreaterThan(2));
    expect(lists()).toBe(1);
  });

  it("takes objects that come byte by byte, and is not upset by nonsense", async () => {
    await discover(bySelector);
    await eventually(() => expect(api.watchers).toBe(1));
    const [watcher] = api.responses();
    const line = `${JSON.stringify({ type: "ADDED", object: { ...pod("slow", "10.0.0.9"), metadata: { name: "slow", namespace: "default", uid: "u", labels: {}, resourceVersion: "101" } } })}\n`;
    for (const byte of Buffer.from(line)) watcher?.write(Buffer.of(byte));
    watcher?.write('{"type":"SOMETHING","object":{}}\n\n{"type":"ADDED"}\n[]\n');
    await expectPods("slow");
    watcher?.write("no json\n");
    await eventually(() => expect(watches().length).toBeGreaterThan(1));
  });
});

describe("an API server", () => {
  it("that is away leaves what is known, with the reason, until it is back", async () => {
    api.put(podsResource, pod("a", "10.0.0.1"));
    await discover(bySelector);
    await expectPods("a");
    api.intercept = (_request, response) => {
      response.socket?.destroy();
      return true;
    };
    api.endWatches("mid-line");
    const known = await expectProblem("cannot be reached");
    expect(known.targets).toHaveLength(1);
    api.intercept = () => false;
    api.put(podsResource, pod("b", "10.0.0.2"));
    await expectPods("a", "b");
    expect((await record())?.problems).toEqual([]);
  });

  it("that says 429 and 500 is asked again", async () => {
    let refusals = 4;
    api.intercept = (_request, response) => {
      if (refusals === 0) return false;
      refusals -= 1;
      response.writeHead(refusals % 2 === 0 ? 429 : 500, { "retry-after": "1" });
      response.end("too much");
      return true;
    };
    api.put(podsResource, pod("a", "10.0.0.1"));
    await discover(bySelector);
    await expectPods("a");
    expect(refusals).toBe(0);
  });

  it("that does not answer is given up on, and asked again", async () => {
    let ignored = 0;
    api.intercept = () => ignored++ < 2;
    api.put(podsResource, pod("a", "10.0.0.1"));
    await discover(bySelector, { answerTimeoutMs: 50 });
    await expectPods("a");
  });

  it("that no longer takes the token is asked with the one that the file has by then", async () => {
    api.token = "first";
    api.put(podsResource, pod("a", "10.0.0.1"));
    const { path, writeToken } = await api.kubeconfig();
    await discover(bySelector, { kubeconfig: path });
    await expectPods("a");
    api.token = "second";
    api.endWatches("orderly");
    await expectProblem("401");
    api.put(podsResource, pod("b", "10.0.0.2"));
    await writeToken("second");
    await expectPods("a", "b");
    expect((await record())?.problems).toEqual([]);
  });

  it("that forbids is explained by the rule that is missing", async () => {
    api.put(podsResource, pod("a", "10.0.0.1"));
    api.forbidden.add("pods");
    await discover(bySelector);
    const { problems } = await expectProblem(
      'add to its Role in namespace default the rule {apiGroups: [""], resources: ["pods"], verbs: ["get", "list", "watch"]}',
    );
    expect(problems.join()).toContain('User "system:serviceaccount:default:kvatlas" cannot list resource "pods"');
    api.forbidden.clear();
    await expectPods("a");
  });

  it("without a kubeconfig that could be read is a problem with a name", async () => {
    await discover(bySelector, { kubeconfig: "/nowhere/config" });
    await expectProblem("/nowhere/config cannot be read");
  });
});

describe("an InferencePool", () => {
  const ports = async () => (await record())?.targets.map(({ address }) => address);

  it("may come after its pods, change its ports and its selector, and go", async () => {
    api.put(podsResource, pod("a", "10.0.0.1"));
    api.put(podsResource, pod("b", "10.0.0.2", { labels: { app: "other" } }));
    await discover(byPool);
    await eventually(async () => expect(await record()).toMatchObject({ exists: false, targets: [] }));
    for (const [count, addresses] of [
      [2, ["10.0.0.1:8000", "10.0.0.1:8001"]],
      [1, ["10.0.0.1:8000"]],
      [3, ["10.0.0.1:8000", "10.0.0.1:8001", "10.0.0.1:8002"]],
    ] as const) {
      api.put(poolResource, inferencePool("qwen", [8000, 8001, 8002].slice(0, count)));
      await eventually(async () => expect(await ports()).toEqual(addresses));
    }
    api.put(poolResource, inferencePool("qwen", [8000], {}, "other"));
    await eventually(async () => expect(await ports()).toEqual(["10.0.0.2:8000"]));
    api.put(poolResource, inferencePool("qwen", [8000], { deletionTimestamp: "2026-01-01T00:00:00Z" }, "other"));
    await eventually(async () => expect(await record()).toMatchObject({ exists: false, targets: [] }));
  });

  it("of v1alpha2 counts where v1 has none", async () => {
    api.install(alphaPools);
    api.put(podsResource, pod("a", "10.0.0.1"));
    api.put(alphaPools, {
      metadata: { name: "qwen" },
      spec: { selector: { app: "vllm" }, targetPortNumber: 9000, extensionRef: { name: "epp" } },
    });
    await discover(byPool);
    await eventually(async () => expect(await ports()).toEqual(["10.0.0.1:9000"]));
    expect((await record())?.source).toContain("v1alpha2");
    api.put(poolResource, inferencePool("qwen", [8000]));
    await eventually(async () => expect(await ports()).toEqual(["10.0.0.1:8000"]));
  });

  it("that may not be seen is not taken for one that is gone", async () => {
    api.put(podsResource, pod("a", "10.0.0.1"));
    api.put(poolResource, inferencePool("qwen", [8000]));
    const first = await discover(byPool);
    await eventually(async () => expect(await ports()).toEqual(["10.0.0.1:8000"]));
    await first.close();
    api.forbidden.add("inferencepools");
    await discover(byPool, { instanceId: "b" });
    const { targets } = await expectProblem('resources: ["inferencepools"]');
    expect(targets).toHaveLength(1);
  });

  it("whose kind is unknown for a moment stays, and goes when it is unknown for good", async () => {
    api.put(podsResource, pod("a", "10.0.0.1"));
    api.put(poolResource, inferencePool("qwen", [8000]));
    await discover(byPool);
    await eventually(async () => expect(await ports()).toEqual(["10.0.0.1:8000"]));
    const exists: (boolean | undefined)[] = [];
    closers.push(async () => stop());
    const stop = records.onChange(async () => exists.push((await record())?.exists));
    let answers = 1;
    api.intercept = (request, response) => {
      if (answers === 0 || request.url?.includes("inference.networking.k8s.io") !== true) return false;
      answers -= 1;
      response.writeHead(404);
      response.end();
      return true;
    };
    api.endWatches("gone");
    const lists = () => api.seen.filter((line) => line === "list inferencepools").length;
    const seen = lists();
    await eventually(() => expect([answers, lists() > seen + 1]).toEqual([0, true]));
    api.put(podsResource, pod("b", "10.0.0.2"));
    await expectPods("a", "b");
    expect(exists).not.toContain(false);
    api.uninstall(poolResource);
    api.endWatches("gone");
    await eventually(async () => expect(await record()).toMatchObject({ exists: false, targets: [] }));
  });

  it("is tracked as the policy in its namespace says, also when the policy's kind is installed later", async () => {
    api.put(podsResource, pod("a", "10.0.0.1"));
    const annotations = { "inference.networking.x-k8s.io/routing-strategy": "PREFIX_CACHE" };
    api.put(poolResource, inferencePool("qwen", [8000], { annotations }));
    await discover(byPool);
    await eventually(async () => expect((await record())?.prefixCache?.mode).toBe("estimated"));
    api.install(policies);
    const tokenProcessorConfig = { blockSize: 64, hashSeed: "42" };
    const prefixCache = { mode: "tracking", trackingConfig: { indexerConfig: { tokenProcessorConfig } } };
    api.put(policies, {
      metadata: { name: "track" },
      spec: { poolRef: { name: "qwen" }, profile: { single: { trafficPolicy: { prefixCache } } } },
    });
    api.put(policies, { metadata: { name: "other" }, spec: { poolRef: { name: "elsewhere" } } });
    await eventually(async () =>
      expect((await record())?.prefixCache).toEqual({
        mode: "precise",
        blockSize: 64,
        hashSeed: "42",
        from: "InferenceTrafficPolicy track",
      }),
    );
    api.remove(policies, "track");
    await eventually(async () => expect((await record())?.prefixCache?.mode).toBe("estimated"));
  });

  it("names the objects, and the rules of them, that cannot be applied", async () => {
    const rewrites = "llm-d.ai/v1alpha2/inferencemodelrewrites";
    api.install(rewrites);
    api.install(models);
    api.put(poolResource, inferencePool("qwen", [8000]));
    const rules = [
      { matches: [{ model: { type: "Exact", value: "a" } }], targets: [{ modelRewrite: "b" }] },
      { targets: [{ modelRewrite: "c" }] },
    ];
    api.put(rewrites, { metadata: { name: "canary" }, spec: { poolRef: { name: "qwen" }, rules } });
    api.put(rewrites, { metadata: { name: "lost" }, spec: { rules } });
    api.put(models, { metadata: { name: "m" }, spec: { poolRef: { name: "qwen" }, modelName: "a" } });
    await discover(byPool);
    await eventually(async () =>
      expect(await record()).toMatchObject({
        models: [{ name: "a", targets: [{ model: "b", weight: 1 }], from: "InferenceModelRewrite canary" }],
        problems: [
          "InferenceModelRewrite canary: rule 1 is for every model name, which is not supported; name them.",
          'InferenceModel m: "a" is said by InferenceModelRewrite canary already, which counts.',
          "InferenceModelRewrite lost: it names no pool (spec.poolRef.name); it is not applied.",
        ],
      }),
    );
  });

  it("has the priorities and names of models of its own namespace's objects", async () => {
    api.install(objectives);
    api.install(models);
    api.put(poolResource, inferencePool("qwen", [8000]));
    api.put(objectives, { metadata: { name: "urgent" }, spec: { poolRef: { name: "qwen" }, priority: 10 } });
    api.put(objectives, { metadata: { name: "far", namespace: "elsewhere" }, spec: { poolRef: { name: "qwen" }, priority: 1 } });
    api.put(models, {
      metadata: { name: "m" },
      spec: { poolRef: { name: "qwen" }, modelName: "chat", criticality: "Sheddable", targetModels: [{ name: "qwen", weight: 1 }] },
    });
    await discover(byPool);
    await eventually(async () =>
      expect(await record()).toMatchObject({
        objectives: [{ name: "urgent", priority: 10 }],
        models: [{ name: "chat", criticality: "sheddable", targets: [{ model: "qwen", weight: 1 }], from: "InferenceModel m" }],
      }),
    );
  });
});

describe("several instances", () => {
  it("watch one at a time; the next one goes on from what was written, and whoever lost its turn writes nothing", async () => {
    api.put(podsResource, pod("a", "10.0.0.1"));
    const first = await discover(bySelector);
    await expectPods("a");
    await discover(bySelector, { instanceId: "b" });
    expect(await records.leader()).toBe("a");
    api.intercept = (_request, response) => {
      response.socket?.destroy();
      return true;
    };
    await first.close();
    await eventually(async () => expect(await records.leader()).toBe("b"));
    // The new one sees nothing, and takes nothing away.
    const known = await expectProblem("cannot be reached");
    expect(known.targets).toHaveLength(1);
    api.intercept = () => false;
    api.put(podsResource, pod("b", "10.0.0.2"));
    await expectPods("a", "b");
    expect(await records.lead("a", 300, new Map([["p", null]]))).toBe(false);
    await expectPods("a", "b");
  });

  it("one that sees nothing for long lets another one try", async () => {
    api.forbidden.add("pods");
    const blind = await discover(bySelector, { instanceId: "blind" });
    await expectProblem("may not be seen");
    await eventually(async () => expect(await records.leader()).toBeNull());
    await blind.close();
  });
});
