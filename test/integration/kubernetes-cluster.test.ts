import { randomBytes } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createDiscoveryMetrics } from "@kvatlas/ingester/discovery/kubernetes/discovery-metrics";
import { openKubeAccess } from "@kvatlas/ingester/discovery/kubernetes/kube-access";
import { createKubeApi } from "@kvatlas/ingester/discovery/kubernetes/kube-api";
import { KubernetesDiscovery } from "@kvatlas/ingester/discovery/kubernetes/kubernetes-discovery";
import { systemClock } from "@kvatlas/shared/clock";
import { silentLogger } from "@kvatlas/shared/logger";
import { createMetricsRegistry } from "@kvatlas/shared/metrics";
import { MemoryPoolRecords } from "@kvatlas/shared/registry/memory-pool-records";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { parse, parseAllDocuments } from "yaml";
import { eventually } from "../support/eventually.ts";
import { KubeCluster } from "../support/kube-cluster.ts";

/** Of a cluster in which namespaces, roles and custom resources may be made; its API server is enough, no node is needed. */
const kubeconfig = process.env.KVATLAS_TEST_KUBECONFIG ?? "";
const why = kubeconfig === "" ? ", skipped: KVATLAS_TEST_KUBECONFIG names no kubeconfig of a cluster that may be changed" : "";

const pools = "apis/inference.networking.k8s.io/v1";
const namespace = `kvatlas-${randomBytes(4).toString("hex")}`;

/** Kinds whose definitions are not among the fixtures: of any form. */
function definition(group: string, version: string, kind: string, plural: string) {
  const schema = { openAPIV3Schema: { type: "object", "x-kubernetes-preserve-unknown-fields": true } };
  return {
    apiVersion: "apiextensions.k8s.io/v1",
    kind: "CustomResourceDefinition",
    metadata: { name: `${plural}.${group}` },
    spec: {
      group,
      scope: "Namespaced",
      names: { kind, plural, singular: kind.toLowerCase() },
      versions: [{ name: version, served: true, storage: true, schema }],
    },
  };
}

/** The rules that docs/kubernetes.md asks for. */
function documentedRules(): unknown {
  const page = readFileSync(new URL("../../docs/kubernetes.md", import.meta.url), "utf8");
  const block = /```yaml\n(rules:\n[\s\S]*?)```/.exec(page)?.[1];
  if (block === undefined) throw new Error("docs/kubernetes.md no longer shows the rules of the Role");
  return (parse(block) as { readonly rules: unknown }).rules;
}

describe.skipIf(kubeconfig === "")(`a real API server${why}`, () => {
  let folder = "";
  const records = new MemoryPoolRecords();
  const closers: (() => Promise<unknown>)[] = [];
  let cluster: KubeCluster;
  let server: URL;

  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), "kvatlas-cluster-"));
    const access = await openKubeAccess({ kubeconfig, context: null });
    server = access.server;
    cluster = new KubeCluster(access);
    await cluster.send("POST", "/api/v1/namespaces", { metadata: { name: namespace } });
    const fixtures = parseAllDocuments(readFileSync(new URL("../fixtures/kubernetes/crds.yaml", import.meta.url), "utf8"));
    const definitions = fixtures
      .map((document) => document.toJS() as ReturnType<typeof definition> | null)
      .filter((found) => found?.metadata?.name.startsWith("inferencepools.") === true);
    await cluster.installDefinitions([
      ...definitions.filter((found) => found !== null),
      definition("inferenceextension.alibabacloud.com", "v1alpha1", "InferenceTrafficPolicy", "inferencetrafficpolicies"),
      definition("llm-d.ai", "v1alpha2", "InferenceObjective", "inferenceobjectives"),
    ]);
  }, 60_000);
  afterAll(async () => {
    for (const close of closers.splice(0).reverse()) await close();
    await cluster?.send("DELETE", `/api/v1/namespaces/${namespace}`, null, [404, 409]);
    if (folder !== "") rmSync(folder, { recursive: true, force: true });
  });

  const record = async () => (await records.read()).get("p");
  const replicas = async () => (await record())?.targets.map(({ address, ready }) => `${address} ${ready}`);

  it("is watched by a service account with the documented rights, which are named while they are missing", {
    timeout: 120_000,
  }, async () => {
    const accounts = `/api/v1/namespaces/${namespace}/serviceaccounts`;
    await cluster.send("POST", accounts, { metadata: { name: "ingester" } });
    const issued = (await cluster.send("POST", `${accounts}/ingester/token`, {
      apiVersion: "authentication.k8s.io/v1",
      kind: "TokenRequest",
      spec: { expirationSeconds: 3600 },
    })) as { readonly status: { readonly token: string } };
    const path = join(folder, "config");
    const config = {
      "current-context": "test",
      clusters: [{ name: "test", cluster: { server: server.href, "insecure-skip-tls-verify": true } }],
      users: [{ name: "test", user: { token: issued.status.token } }],
      contexts: [{ name: "test", context: { cluster: "test", user: "test", namespace } }],
    };
    writeFileSync(path, JSON.stringify(config));
    const discovery = new KubernetesDiscovery(
      {
        records,
        api: createKubeApi(() => openKubeAccess({ kubeconfig: path, context: null })),
        clock: systemClock,
        logger: silentLogger,
        metrics: createDiscoveryMetrics(createMetricsRegistry("ingester", { processMetrics: false })),
      },
      {
        instanceId: "a",
        pools: [{ name: "p", settings: { inferencePool: "qwen", targetPorts: [], dataParallelSize: 1, eventsPort: 5557 } }],
        leaseTtlMs: 3_000,
        timing: { maxDelayMs: 500, absentDelayMs: 500, watchSeconds: 5 },
      },
    );
    closers.push(() => discovery.close());
    await discovery.start();
    await eventually(async () => {
      const problems = (await record())?.problems.join("\n") ?? "";
      expect(problems).toContain('resources: ["inferencepools"]');
      expect(problems).toContain(`system:serviceaccount:${namespace}:ingester`);
    });

    const rbac = `/apis/rbac.authorization.k8s.io/v1/namespaces/${namespace}`;
    await cluster.send("POST", `${rbac}/roles`, { metadata: { name: "ingester" }, rules: documentedRules() });
    await cluster.send("POST", `${rbac}/rolebindings`, {
      metadata: { name: "ingester" },
      roleRef: { apiGroup: "rbac.authorization.k8s.io", kind: "Role", name: "ingester" },
      subjects: [{ kind: "ServiceAccount", name: "ingester", namespace }],
    });
    await eventually(async () =>
      expect(await record()).toMatchObject({ exists: false, problems: [expect.stringContaining("does not exist")] }),
    );

    const poolPath = `/${pools}/namespaces/${namespace}/inferencepools`;
    await cluster.send("POST", poolPath, {
      apiVersion: "inference.networking.k8s.io/v1",
      kind: "InferencePool",
      metadata: { name: "qwen", annotations: { "inference.networking.x-k8s.io/routing-strategy": "PREFIX_CACHE" } },
      spec: {
        selector: { matchLabels: { app: "vllm" } },
        targetPorts: [{ number: 8000 }],
        endpointPickerRef: { name: "epp", port: { number: 9002 } },
      },
    });
    await cluster.createPod(namespace, "a", "10.9.0.1", { app: "vllm", "llm-d.ai/role": "decode" });
    await cluster.createPod(namespace, "other", "10.9.0.9", { app: "web" });
    await eventually(async () => expect(await replicas()).toEqual(["10.9.0.1:8000 true"]));
    expect(await record()).toMatchObject({
      source: `InferencePool ${namespace}/qwen (inference.networking.k8s.io/v1)`,
      prefixCache: { mode: "estimated" },
      targets: [{ pod: `${namespace}/a`, role: "decode", events: "tcp://10.9.0.1:5557" }],
      problems: [],
    });

    await cluster.createPod(namespace, "b", "10.9.0.2", { app: "vllm" });
    await cluster.setReady(namespace, "a", false);
    await eventually(async () => expect(await replicas()).toEqual(["10.9.0.1:8000 false", "10.9.0.2:8000 true"]));
    await cluster.send("PATCH", `${poolPath}/qwen`, { spec: { targetPorts: [{ number: 8000 }, { number: 8001 }] } });
    await eventually(async () => expect(await replicas()).toHaveLength(4));
    const deletion = { gracePeriodSeconds: 0 };
    await cluster.send("DELETE", `/api/v1/namespaces/${namespace}/pods/a`, deletion);
    await eventually(async () => expect(await replicas()).toEqual(["10.9.0.2:8000 true", "10.9.0.2:8001 true"]));

    await cluster.send("POST", `/apis/inferenceextension.alibabacloud.com/v1alpha1/namespaces/${namespace}/inferencetrafficpolicies`, {
      apiVersion: "inferenceextension.alibabacloud.com/v1alpha1",
      kind: "InferenceTrafficPolicy",
      metadata: { name: "track" },
      spec: {
        poolRef: { name: "qwen" },
        profile: {
          single: {
            trafficPolicy: {
              prefixCache: {
                mode: "tracking",
                trackingConfig: { indexerConfig: { tokenProcessorConfig: { blockSize: 64, hashSeed: "42" } } },
              },
            },
          },
        },
      },
    });
    await cluster.send("POST", `/apis/llm-d.ai/v1alpha2/namespaces/${namespace}/inferenceobjectives`, {
      apiVersion: "llm-d.ai/v1alpha2",
      kind: "InferenceObjective",
      metadata: { name: "urgent" },
      spec: { poolRef: { name: "qwen" }, priority: 7 },
    });
    await eventually(async () =>
      expect(await record()).toMatchObject({
        prefixCache: { mode: "precise", blockSize: 64, hashSeed: "42" },
        objectives: [{ name: "urgent", priority: 7 }],
      }),
    );

    await cluster.send("DELETE", `${poolPath}/qwen`);
    await eventually(async () => expect(await record()).toMatchObject({ exists: false, targets: [] }));
  });
});
