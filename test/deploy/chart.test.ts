import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { loadConfig } from "@kvatlas/shared/config/load";
import { describe, expect, it } from "vitest";
import { findTool, runTool } from "../support/deploy-tools.ts";
import { at, createManifestCheck, listAt, type Manifest, manifestsOf } from "../support/manifests.ts";

const chart = "deploy/helm/kvatlas";
const root = fileURLToPath(new URL("../..", import.meta.url));
const helm = findTool("helm");
const whyNot = helm === null ? " (skipped: no helm; node scripts/install-tools.mjs helm)" : "";

/** Values that people start from: the chart's own and those of the guides. */
const valueFiles = [`${chart}/examples`, "docs/guides/values"].flatMap((folder) =>
  readdirSync(`${root}${folder}`)
    .filter((name) => name.endsWith(".yaml"))
    .map((name) => `${folder}/${name}`),
);
const standalone = `${chart}/examples/standalone.yaml`;

async function template(args: readonly string[]): Promise<readonly Manifest[]> {
  const { code, stdout, stderr } = await runTool(helm ?? "", ["template", "demo", chart, "-n", "llm", ...args]);
  expect(code, stderr).toBe(0);
  return manifestsOf(stdout);
}

const rendered = new Map<string, Promise<readonly Manifest[]>>();
function renderedFrom(file: string): Promise<readonly Manifest[]> {
  const known = rendered.get(file) ?? template(["-f", file]);
  rendered.set(file, known);
  return known;
}

async function refusal(args: readonly string[]): Promise<string> {
  const { code, stderr } = await runTool(helm ?? "", ["template", "demo", chart, ...args]);
  expect(code).not.toBe(0);
  return stderr;
}

interface Pod {
  readonly owner: string;
  readonly labels: unknown;
  readonly spec: unknown;
  /** Runs for as long as the release does. */
  readonly isService: boolean;
}

function podsOf(manifests: readonly Manifest[]): readonly Pod[] {
  return manifests.flatMap((manifest): readonly Pod[] => {
    const owner = `${manifest.kind} ${manifest.metadata.name}`;
    if (manifest.kind === "Pod") return [{ owner, labels: manifest.metadata.labels, spec: manifest.spec, isService: false }];
    if (manifest.kind !== "Deployment" && manifest.kind !== "StatefulSet") return [];
    return [{ owner, labels: at(manifest, "spec.template.metadata.labels"), spec: at(manifest, "spec.template.spec"), isService: true }];
  });
}

/** An entry of a map whose name has dots. */
function entry(map: unknown, name: string): unknown {
  return typeof map === "object" && map !== null ? Reflect.get(map, name) : undefined;
}

function configOf(manifests: readonly Manifest[]): string {
  const text = manifests.map(({ data }) => entry(data, "kvatlas.yaml")).find((value) => value !== undefined);
  return String(text);
}

function selects(selector: unknown, labels: unknown): boolean {
  const wanted = typeof selector === "object" && selector !== null ? Object.entries(selector) : [];
  return wanted.length > 0 && wanted.every(([name, value]) => entry(labels, name) === value);
}

describe.skipIf(helm === null)(`the chart${whyNot}`, { timeout: 180_000 }, () => {
  it("passes helm lint --strict with every values file", async () => {
    for (const file of valueFiles) {
      const { code, stdout } = await runTool(helm ?? "", ["lint", "--strict", chart, "-f", file]);
      expect({ file, code, errors: stdout.match(/\[(?:ERROR|WARNING)\].*/g) ?? [] }).toEqual({ file, code: 0, errors: [] });
    }
  });

  describe.each(valueFiles)("with %s", (file) => {
    it("renders objects that Kubernetes and the custom resources' owners know", async () => {
      const check = createManifestCheck();
      expect((await renderedFrom(file)).flatMap(check)).toEqual([]);
    });

    it("renders a configuration that the services accept, and variables that are settings", async () => {
      const manifests = await renderedFrom(file);
      const names = podsOf(manifests)
        .flatMap(({ spec }) => listAt(spec, "containers"))
        .flatMap((container) => listAt(container, "env"))
        .map((variable) => String(at(variable, "name")))
        .filter((name) => name.startsWith("KVATLAS_") && name !== "KVATLAS_REDIS_URL");
      const { config } = loadConfig({ file: { name: file, text: configOf(manifests) } });
      expect(config.pools.length).toBeGreaterThan(0);
      const { warnings } = loadConfig({
        file: { name: file, text: configOf(manifests) },
        env: Object.fromEntries(names.map((name) => [name, name.endsWith("LEVEL") ? "debug" : "set"])),
      });
      expect(warnings).toEqual([]);
    });

    it("gives no pod more than it needs", async () => {
      for (const { owner, spec, isService } of podsOf(await renderedFrom(file))) {
        expect
          .soft({
            owner,
            nonRoot: at(spec, "securityContext.runAsNonRoot"),
            seccomp: at(spec, "securityContext.seccompProfile.type"),
            host: [at(spec, "hostNetwork"), at(spec, "hostPID"), at(spec, "hostIPC")],
            hostPaths: listAt(spec, "volumes").filter((volume) => at(volume, "hostPath") !== undefined),
            links: at(spec, "enableServiceLinks"),
          })
          .toEqual({
            owner,
            nonRoot: true,
            seccomp: "RuntimeDefault",
            host: [undefined, undefined, undefined],
            hostPaths: [],
            links: false,
          });
        for (const container of listAt(spec, "containers")) {
          expect.soft({ owner, security: at(container, "securityContext") }).toEqual({
            owner,
            security: {
              allowPrivilegeEscalation: false,
              readOnlyRootFilesystem: true,
              privileged: false,
              capabilities: { drop: ["ALL"] },
            },
          });
          const limits = [
            at(container, "resources.requests.cpu"),
            at(container, "resources.requests.memory"),
            at(container, "resources.limits.memory"),
          ];
          expect.soft({ owner, unlimited: limits.filter((limit) => limit === undefined) }).toEqual({ owner, unlimited: [] });
          if (!isService) continue;
          expect.soft(at(container, "readinessProbe"), owner).toBeDefined();
          expect.soft(at(container, "livenessProbe"), owner).toBeDefined();
        }
      }
    });

    it("gives rights to ingesters only, to read only, and only where pods are found at the API server", async () => {
      const manifests = await renderedFrom(file);
      const { config } = loadConfig({ file: { name: file, text: configOf(manifests) } });
      const watches = config.pools.some((pool) => pool.endpoints.kubernetes !== undefined);
      const roles = manifests.filter(({ kind }) => kind === "Role");
      expect(manifests.filter(({ kind }) => kind.startsWith("ClusterRole"))).toEqual([]);
      expect(roles.length > 0).toBe(watches);
      for (const rule of roles.flatMap((role) => listAt(role, "rules"))) {
        expect(listAt(rule, "verbs")).toEqual(["get", "list", "watch"]);
        expect([...listAt(rule, "resources"), ...listAt(rule, "apiGroups")]).not.toContain("*");
        expect(listAt(rule, "resources")).not.toContain("secrets");
      }
      for (const { owner, spec } of podsOf(manifests))
        expect({ owner, token: at(spec, "automountServiceAccountToken") }).toEqual({
          owner,
          token: watches && owner.endsWith("-ingester"),
        });
      for (const binding of manifests.filter(({ kind }) => kind === "RoleBinding"))
        expect(at(binding, "subjects.0.name")).toMatch(/-ingester$/);
    });

    it("labels objects alike, and selects what is there", async () => {
      const manifests = await renderedFrom(file);
      const pods = podsOf(manifests);
      const names = manifests.map(({ apiVersion, kind, metadata }) => `${apiVersion} ${kind} ${metadata.namespace ?? ""} ${metadata.name}`);
      expect(new Set(names).size).toBe(names.length);
      for (const { kind, metadata } of manifests) {
        expect(metadata.name.length).toBeLessThanOrEqual(63);
        if (metadata.name.endsWith("-more")) continue;
        expect({
          kind,
          of: metadata.labels?.["app.kubernetes.io/part-of"],
          instance: metadata.labels?.["app.kubernetes.io/instance"],
        }).toEqual({
          kind,
          of: "kvatlas",
          instance: "demo",
        });
      }
      const selectors = manifests.flatMap((manifest) => {
        const path = {
          Service: "spec.selector",
          PodDisruptionBudget: "spec.selector.matchLabels",
          NetworkPolicy: "spec.podSelector.matchLabels",
        }[manifest.kind];
        if (manifest.metadata.name.endsWith("-baseline") || path === undefined) return [];
        return [{ owner: `${manifest.kind} ${manifest.metadata.name}`, selector: at(manifest, path) }];
      });
      for (const { owner, selector } of selectors)
        expect({ owner, pods: pods.filter(({ labels }) => selects(selector, labels)).length }).toEqual({ owner, pods: 1 });
      for (const manifest of manifests.filter(({ kind }) => kind === "Deployment" || kind === "StatefulSet"))
        expect(selects(at(manifest, "spec.selector.matchLabels"), at(manifest, "spec.template.metadata.labels"))).toBe(true);
    });

    it("sends Services to ports that pods have", async () => {
      const manifests = await renderedFrom(file);
      const pods = podsOf(manifests);
      for (const service of manifests.filter(({ kind, metadata }) => kind === "Service" && !metadata.name.endsWith("-baseline"))) {
        const pod = pods.find(({ labels }) => selects(at(service, "spec.selector"), labels));
        const open = listAt(pod?.spec, "containers").flatMap((container) => listAt(container, "ports").map((port) => at(port, "name")));
        for (const port of listAt(service, "spec.ports")) expect(open).toContain(at(port, "targetPort"));
      }
    });
  });

  it("rolls pods when the configuration changes, and only then", async () => {
    const checksums = async (args: readonly string[]) =>
      (await template(["-f", standalone, ...args]))
        .filter(({ kind }) => kind === "Deployment")
        .map((manifest) => entry(at(manifest, "spec.template.metadata.annotations"), "checksum/config"));
    const [before, same, other] = await Promise.all([
      checksums([]),
      checksums(["--set", "router.replicaCount=5"]),
      checksums(["--set", "config.router.missFactor=3"]),
    ]);
    expect(same).toEqual(before);
    expect(other).not.toEqual(before);
    expect(new Set(other).size).toBe(1);
  });

  it("keeps credentials out of the configuration", async () => {
    const manifests = await renderedFrom(`${chart}/examples/gateway-istio.yaml`);
    expect(configOf(manifests)).not.toMatch(/password|username/);
    const router = podsOf(manifests).find(({ owner }) => owner.endsWith("-router"));
    const env = listAt(router?.spec, "containers").flatMap((container) => listAt(container, "env"));
    expect(env.find((variable) => at(variable, "name") === "KVATLAS_REDIS_PASSWORD")).toMatchObject({
      valueFrom: { secretKeyRef: { name: "redis-credentials", key: "password" } },
    });
  });

  it.each(valueFiles)("asks the Secrets that it makes for keys that they have, also in a trial with %s", async (file) => {
    const manifests = await template(["-f", file, "--set", "redis.mode=bundled,redis.auth.existingSecret="]);
    const made = new Map(manifests.filter(({ kind }) => kind === "Secret").map(({ metadata, data }) => [metadata.name, data]));
    expect(made.size).toBeGreaterThan(0);
    const asked = podsOf(manifests)
      .flatMap(({ spec }) => listAt(spec, "containers"))
      .flatMap((container) => listAt(container, "env"))
      .map((variable) => at(variable, "valueFrom.secretKeyRef"))
      .filter((reference) => made.has(String(at(reference, "name"))));
    expect(asked.length).toBeGreaterThan(0);
    for (const reference of asked) expect(Object.keys(made.get(String(at(reference, "name"))) ?? {})).toContain(at(reference, "key"));
  });

  it("lets its own test ask the routers, whoever else may", async () => {
    const from = JSON.stringify([{ podSelector: { matchLabels: { app: "prometheus" } } }]);
    const manifests = await template([
      "-f",
      standalone,
      "--set-json",
      `networkPolicy.metricsFrom=${from}`,
      "--set-json",
      `networkPolicy.requestsFrom=${from}`,
    ]);
    const tester = podsOf(manifests).find(({ owner }) => owner.endsWith("-test"));
    const policies = manifests.filter(({ kind }) => kind === "NetworkPolicy");
    const open = (name: string) =>
      listAt(
        policies.find(({ metadata }) => metadata.name.endsWith(name)),
        "spec.ingress",
      ).map((rule) => listAt(rule, "from").some((peer) => selects(at(peer, "podSelector.matchLabels"), tester?.labels)));
    expect(open("-router")).toEqual([true, true]);
    expect(open("-ingester")).toEqual([false]);
  });

  it("takes the commands of the guides as they are written, and the image that they push", async () => {
    const pages = ["docs/guides/README.md", "docs/guides/ack-precise.md", "docs/guides/ack-estimated.md", "docs/guides/llm-d-precise.md"];
    const texts = [...pages, `${chart}/README.md`].map((name) => ({ name, text: readFileSync(`${root}${name}`, "utf8") }));
    const pushed = new Set(texts.flatMap(({ text }) => [...text.matchAll(/docker buildx build .* -t (\S+)/g)].map(([, image]) => image)));
    expect(pushed.size).toBe(1);
    const commands = texts.flatMap(({ name, text }) =>
      [...text.matchAll(/^helm install (.*)$/gm)].map(([, args = ""]) => ({ name, args })),
    );
    expect(commands.length).toBeGreaterThan(4);
    for (const { name, args } of commands) {
      // In a shell, as people run them; what stands in angle brackets is theirs to fill in.
      const script = `"$HELM" template ${args.replaceAll("<registry>", "registry.example")}`;
      const env = `HELM='${helm ?? ""}' NAMESPACE=llm`;
      const { code, stdout, stderr } = await runTool("sh", ["-c", `export ${env}; ${script}`]);
      expect({ name, args, code, stderr }).toEqual({ name, args, code: 0, stderr: "" });
      const images = podsOf(manifestsOf(stdout))
        .filter(({ owner }) => /-(router|ingester|test)$/.test(owner))
        .flatMap(({ spec }) => listAt(spec, "containers"))
        .map((container) => String(at(container, "image")).replace("registry.example", "<registry>"));
      expect(new Set(images)).toEqual(pushed);
    }
  });

  it("leaves time to drain", async () => {
    const manifests = await renderedFrom(standalone);
    const { config } = loadConfig({ file: { name: standalone, text: configOf(manifests) } });
    const grace = at(podsOf(manifests).find(({ owner }) => owner.endsWith("-router"))?.spec, "terminationGracePeriodSeconds");
    expect(Number(grace)).toBeGreaterThan(config.router.drainTimeoutMs / 1000 + 5);
  });

  it.each([
    ["no pool", [], "pools is empty"],
    ["a mode that is none", ["-f", standalone, "--set", "mode=sidecar"], "standalone"],
    ["a value that is none", ["-f", standalone, "--set", "routr.replicaCount=2"], "routr"],
    ["an external Redis that is not named", ["-f", standalone, "--set", "redis.mode=external"], "redis.mode is external and none is named"],
    ["credentials in the URL", ["-f", standalone, "--set", "redis.mode=external,redis.url=redis://a:b@c:6379"], "url"],
    ["a pool of nothing", ["-f", standalone, "--set", "inferencePool.create=true"], "without inferencePool.matchLabels"],
    [
      "a route to nowhere",
      ["-f", standalone, "--set", "gateway.enabled=true,gateway.httpRoute.create=true"],
      "without gateway.httpRoute.parentRefs",
    ],
    [
      "verification of what cannot be verified",
      ["-f", standalone, "--set", "gateway.enabled=true,gateway.backendTLS.create=true"],
      "a self-signed certificate cannot be verified",
    ],
  ])("refuses %s, and says why", async (_, args, message) => {
    expect(await refusal(args)).toContain(message);
  });

  it("has every value in its schema, and no other", () => {
    const schema: unknown = JSON.parse(readFileSync(`${root}${chart}/values.schema.json`, "utf8"));
    expect(at(schema, "additionalProperties")).toBe(false);
  });
});
