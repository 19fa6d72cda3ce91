import { randomBytes } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { openKubeAccess } from "@kvatlas/ingester/discovery/kubernetes/kube-access";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { parse } from "yaml";
import { findTool, runTool } from "../support/deploy-tools.ts";
import { eventually } from "../support/eventually.ts";
import { freePortRange } from "../support/free-ports.ts";
import { KubeCluster } from "../support/kube-cluster.ts";
import { at, listAt, type Manifest, manifestsOf } from "../support/manifests.ts";
import { testRedisUrl, uniqueKeyPrefix } from "../support/redis.ts";
import { ingesterAdmin, startKvatlas } from "../support/services.ts";

/*
 * What the guides tell, done at a real API server: their published manifests, the chart with the guide's values beside them, and what an ingester with the chart's
 * own configuration and rights makes of it. No node is needed: pods have the status that nodes would report.
 */

const root = fileURLToPath(new URL("../..", import.meta.url));
const chart = "deploy/helm/kvatlas";
const fixtures = "test/fixtures/kubernetes";
const kubeconfig = process.env.KVATLAS_TEST_KUBECONFIG ?? "";
const helm = findTool("helm");
const kubectl = findTool("kubectl");
const why =
  kubeconfig === ""
    ? "skipped: KVATLAS_TEST_KUBECONFIG names no kubeconfig of a cluster that may be changed"
    : helm === null || kubectl === null
      ? "skipped: no helm or kubectl; node scripts/install-tools.mjs helm kubectl"
      : "";

/** Named by the values files, and those of the guides. */
const namespaces = ["llm", "models", "other"];
const run = randomBytes(3).toString("hex");

interface Guide {
  /** Of docs/guides/values, and of test/fixtures/kubernetes/guides. */
  readonly values: string;
  readonly manifests: string;
  /** What `kvatlas inspect pools` has to say of its pool. */
  readonly source: string;
  readonly settings: object;
  readonly discovered: object;
}

const guides: readonly Guide[] = [
  {
    values: "ack-precise",
    manifests: "ack-precise",
    source: "qwen-inference-pool (inference.networking.x-k8s.io/v1alpha2)",
    settings: { mode: "precise", blockSize: 64, hashSeed: "42", from: "InferenceTrafficPolicy inference-policy" },
    discovered: {},
  },
  {
    values: "ack-estimated",
    manifests: "ack-estimated",
    source: "vllm-qwen-pool (inference.networking.x-k8s.io/v1alpha2)",
    settings: { mode: "estimated", from: "annotation routing-strategy" },
    discovered: {
      models: [{ name: "/model/qwen", targets: [{ model: "/model/qwen", weight: 100 }], criticality: "critical" }],
    },
  },
  {
    values: "llm-d-gateway",
    manifests: "llm-d-precise",
    source: "precise-prefix-cache-aware (inference.networking.k8s.io/v1)",
    settings: { mode: "precise" },
    discovered: {
      objectives: [{ name: "batch", priority: -1 }],
      models: [
        {
          name: "food-review",
          targets: [
            { model: "Qwen/Qwen3-32B", weight: 90 },
            { model: "food-review-2", weight: 10 },
          ],
          from: "InferenceModelRewrite canary",
        },
      ],
    },
  },
];

async function kube(args: readonly string[], input = ""): Promise<string> {
  const { code, stdout, stderr } = await runTool(kubectl ?? "", ["--kubeconfig", kubeconfig, ...args], input);
  expect({ args, code, stderr }).toEqual({ args, code: 0, stderr: "" });
  return stdout;
}

async function template(namespace: string, values: string): Promise<string> {
  const { code, stdout, stderr } = await runTool(helm ?? "", ["template", "kvatlas", chart, "-n", namespace, "-f", values]);
  expect(code, stderr).toBe(0);
  return stdout;
}

function valuesFiles(folder: string): readonly string[] {
  return readdirSync(`${root}${folder}`)
    .filter((name) => name.endsWith(".yaml"))
    .map((name) => `${folder}/${name}`);
}

function named(manifests: readonly Manifest[], kind: string, ending = ""): Manifest {
  const found = manifests.find((manifest) => manifest.kind === kind && manifest.metadata.name.endsWith(ending));
  if (found === undefined) throw new Error(`no ${kind} *${ending}`);
  return found;
}

describe.skipIf(why !== "")(`a real API server${why === "" ? "" : ` (${why})`}`, { timeout: 300_000 }, () => {
  const closers: (() => Promise<unknown>)[] = [];
  let folder = "";
  let cluster: KubeCluster;
  let server: URL;

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "kvatlas-guides-"));
    const access = await openKubeAccess({ kubeconfig, context: null });
    server = access.server;
    cluster = new KubeCluster(access);
    for (const name of [...namespaces, ...guides.map(({ values }) => `${values}-${run}`)])
      await cluster.send("POST", "/api/v1/namespaces", { metadata: { name } }, [409]);
    for (const file of ["crds.yaml", "crds-guides.yaml"]) {
      await kube(["apply", "--server-side", "--force-conflicts", "-f", `${fixtures}/${file}`]);
      await kube(["wait", "--for=condition=Established", "--timeout=120s", "-f", `${fixtures}/${file}`]);
    }
    // Until kubectl and the API server agree on what is served.
    await eventually(
      () => kube(["apply", "--server-side", "--dry-run=server", "--validate=strict", "-n", "llm", "-f", `${fixtures}/guides`]),
      60_000,
    );
  }, 180_000);
  afterAll(async () => {
    for (const close of closers.splice(0).reverse()) await close();
    for (const { values } of guides) await cluster?.send("DELETE", `/api/v1/namespaces/${values}-${run}`, null, [404, 409]);
    await rm(folder, { recursive: true, force: true });
  });

  it.each([...valuesFiles(`${chart}/examples`), ...valuesFiles("docs/guides/values")])(
    "accepts what is rendered with %s",
    async (values) => {
      await kube(["apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-"], await template("llm", values));
    },
  );

  it.each(guides)("shows what is understood of the guide $values", async (guide) => {
    const namespace = `${guide.values}-${run}`;
    const apply = ["apply", "--server-side", "--validate=strict", "-n", namespace, "-f"];
    await kube([...apply, `${fixtures}/guides/${guide.manifests}.yaml`]);
    const rendered = await template(namespace, `docs/guides/values/${guide.values}.yaml`);
    await kube([...apply, "-"], rendered);
    const chartObjects = manifestsOf(rendered);

    // The guide's pool asks the Service that the chart has made.
    const published = manifestsOf(readFileSync(`${root}${fixtures}/guides/${guide.manifests}.yaml`, "utf8"));
    const pool = [...published, ...chartObjects].find(({ kind }) => kind === "InferencePool");
    const picker = at(pool, "spec.extensionRef.name") ?? at(pool, "spec.endpointPickerRef.name");
    expect(chartObjects.filter(({ kind }) => kind === "Service").map(({ metadata }) => metadata.name)).toContain(picker);

    // The pods that a controller would make of the guide's model server.
    const labels = at(named(published, "Deployment"), "spec.template.metadata.labels") as Readonly<Record<string, string>>;
    for (const i of [1, 2]) await cluster.createPod(namespace, `replica-${i}`, `10.88.0.${i}`, labels);
    await cluster.createPod(namespace, "another", "10.88.0.9", { app: "another" });

    // The chart's ingester: its configuration, its account and no other rights.
    const account = String(at(named(chartObjects, "Deployment", "-ingester"), "spec.template.spec.serviceAccountName"));
    const issued = await cluster.send("POST", `/api/v1/namespaces/${namespace}/serviceaccounts/${account}/token`, {
      apiVersion: "authentication.k8s.io/v1",
      kind: "TokenRequest",
      spec: { expirationSeconds: 3_600 },
    });
    const access = join(folder, `${guide.values}.kubeconfig`);
    const config = join(folder, `${guide.values}.json`);
    await writeFile(
      access,
      JSON.stringify({
        "current-context": "test",
        clusters: [{ name: "test", cluster: { server: server.href, "insecure-skip-tls-verify": true } }],
        users: [{ name: "test", user: { token: at(issued, "status.token") } }],
        contexts: [{ name: "test", context: { cluster: "test", user: "test", namespace } }],
      }),
    );
    const { data } = named(chartObjects, "ConfigMap") as Manifest & { readonly data: Readonly<Record<string, string>> };
    const shipped = parse(data["kvatlas.yaml"] ?? "") as { readonly ingester: object };
    await writeFile(
      config,
      JSON.stringify({
        ...shipped,
        redis: { url: testRedisUrl(), keyPrefix: uniqueKeyPrefix(), commandTimeoutMs: 10_000 },
        kubernetes: { kubeconfig: access },
        ingester: {
          ...shipped.ingester,
          admin: "127.0.0.1:0",
          ...(at(shipped, "ingester.bind") === undefined ? {} : { bind: `tcp://127.0.0.1:${await freePortRange(1)}` }),
        },
      }),
    );
    const ingester = startKvatlas(["ingester", "--config", config]);
    closers.push(() => ingester.stop());
    await ingesterAdmin(ingester);
    const shown = await eventually(async () => {
      const inspect = startKvatlas(["inspect", "pools", "--config", config, "--json"]);
      expect((await inspect.ended).code, inspect.stderr).toBe(0);
      const { pools } = JSON.parse(inspect.stdout) as { readonly pools: readonly unknown[] };
      expect(listAt(pools[0], "discovered.targets")).toHaveLength(2);
      expect(pools[0]).toMatchObject({ settings: guide.settings, discovered: guide.discovered });
      return pools;
    }, 120_000);
    const targets = [1, 2].map((i) => ({
      address: `10.88.0.${i}:8000`,
      pod: `${namespace}/replica-${i}`,
      ready: true,
      labels,
    }));
    expect(shown).toMatchObject([
      { configured: true, discovered: { source: `InferencePool ${namespace}/${guide.source}`, exists: true, targets, problems: [] } },
    ]);
  });
});
