import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { loadConfig } from "@kvatlas/shared/config/load";
import { describe, expect, it } from "vitest";
import { parse } from "yaml";
import { findTool, runTool } from "../support/deploy-tools.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));
const folder = `${root}deploy`;
const envoy = process.env.KVATLAS_ENVOY ?? findTool("envoy");
const promtool = findTool("promtool");

interface Service {
  readonly image: string;
  readonly command?: readonly string[];
  readonly volumes?: readonly string[];
  readonly depends_on?: readonly string[] | Readonly<Record<string, unknown>>;
  readonly deploy?: { readonly replicas: number };
  readonly ports?: readonly string[];
  readonly networks: readonly string[] | Readonly<Record<string, { readonly ipv4_address?: string }>>;
}

// There is no Docker engine where these tests run: what is checked is what can be read.
const compose = parse(readFileSync(`${folder}/compose.yaml`, "utf8"), { merge: true }) as {
  readonly services: Readonly<Record<string, Service>>;
  readonly networks: Readonly<Record<string, unknown>>;
};
const services = Object.entries(compose.services);

describe("deploy/compose.yaml", () => {
  it("has what the laptop needs: Redis, two of each service, Envoy, three replicas, Prometheus and Grafana", () => {
    expect(services.map(([name, { deploy }]) => `${name} x${deploy?.replicas ?? 1}`).sort()).toEqual([
      "envoy x1",
      "grafana x1",
      "ingester x2",
      "prometheus x1",
      "proxy x1",
      "redis x1",
      "router x2",
      "simulator-1 x1",
      "simulator-2 x1",
      "simulator-3 x1",
    ]);
  });

  it("mounts files that are there, waits for services that are there, and names versions", () => {
    for (const [name, service] of services) {
      for (const volume of service.volumes ?? []) {
        const [from = "", , mode] = volume.split(":");
        expect({ name, from, exists: existsSync(join(folder, from)), mode }).toEqual({ name, from, exists: true, mode: "ro" });
      }
      const awaited =
        service.depends_on === undefined ? [] : Array.isArray(service.depends_on) ? service.depends_on : Object.keys(service.depends_on);
      for (const other of awaited) expect(Object.keys(compose.services)).toContain(other);
      for (const network of Array.isArray(service.networks) ? service.networks : Object.keys(service.networks))
        expect(Object.keys(compose.networks)).toContain(network);
      expect(service.image).toMatch(/:(?!latest$)[\w.-]+$/);
      for (const port of service.ports ?? []) expect(port).toMatch(/^127\.0\.0\.1:/);
    }
  });

  it("configures the services with what they accept, and the addresses that replicas have", () => {
    const { config } = loadConfig({ file: { name: "kvatlas.yaml", text: readFileSync(`${folder}/compose/kvatlas.yaml`, "utf8") } });
    const replicas = services
      .filter(([name]) => name.startsWith("simulator"))
      .map(([, { networks }]) =>
        Array.isArray(networks) ? null : (Reflect.get(networks, "kvatlas") as { readonly ipv4_address: string }).ipv4_address,
      );
    expect(config.pools[0]?.endpoints.static.map(({ address }) => address)).toEqual(replicas.map((address) => `${address}:8000`));
    const gateway = readFileSync(`${folder}/compose/envoy.yaml`, "utf8");
    for (const address of replicas) expect(gateway).toContain(`address: ${address}, port_value: 8000`);
  });

  it.each(["envoy.yaml", "proxy.yaml"])(`has %s that Envoy takes`, { timeout: 60_000 }, async (name) => {
    const file = `${folder}/compose/${name}`;
    expect(parse(readFileSync(file, "utf8"))).toHaveProperty("static_resources.clusters");
    if (envoy === null) return;
    expect(await runTool(envoy, ["--mode", "validate", "-c", file, "--log-level", "error"])).toMatchObject({ code: 0 });
  });

  it.skipIf(promtool === null)(
    `has a configuration that Prometheus takes${promtool === null ? " (skipped: no promtool)" : ""}`,
    async () => {
      const result = await runTool(promtool ?? "", ["check", "config", "--syntax-only", `${folder}/compose/prometheus.yaml`]);
      expect(result).toMatchObject({ code: 0 });
    },
  );
});

describe("deploy/Dockerfile", () => {
  const text = readFileSync(`${folder}/Dockerfile`, "utf8");

  it("runs the service itself as PID 1, without rights, and knows when it is healthy", () => {
    expect(text).toMatch(/^USER 65532:65532$/m);
    expect(text).toMatch(/^ENTRYPOINT \["node", "\/app\/packages\/cli\/bin\/kvatlas.mjs"\]$/m);
    expect(text).toMatch(/^HEALTHCHECK /m);
    expect(text.match(/^FROM /gm)).toHaveLength(2);
  });

  it("copies from the build what the bundle makes, and from the checkout what is there", () => {
    expect(text).toContain("node scripts/bundle.mjs /app");
    expect(text).toContain("COPY --from=build /app /app");
    expect(existsSync(join(root, "scripts/bundle.mjs"))).toBe(true);
  });
});
