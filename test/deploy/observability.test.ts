import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { createIngester } from "@kvatlas/ingester/app";
import { createRouter } from "@kvatlas/router/app";
import { createMemoryBackend } from "@kvatlas/shared/backend";
import { configSchema } from "@kvatlas/shared/config/schema";
import { silentLogger } from "@kvatlas/shared/logger";
import { createMetricsRegistry } from "@kvatlas/shared/metrics";
import { createRedisMetrics } from "@kvatlas/shared/redis-metrics";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { parse } from "yaml";
import { eventually } from "../support/eventually.ts";
import { comparedValues, groupedBy, metricsIn } from "../support/promql.ts";
import { testRedisUrl, uniqueKeyPrefix } from "../support/redis.ts";
import { ingesterAdmin, type KvatlasProcess, routerAddresses, startKvatlas } from "../support/services.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));
const files = `${root}deploy/helm/kvatlas/files`;
const rulesFile = `${files}/rules.yaml`;

interface Rule {
  readonly record?: string;
  readonly alert?: string;
  readonly expr: string;
  readonly labels?: Readonly<Record<string, string>>;
  readonly annotations?: Readonly<Record<string, string>>;
}

interface Dashboard {
  readonly uid: string;
  readonly panels: readonly {
    readonly title: string;
    readonly targets: readonly { readonly expr: string; readonly legendFormat?: string }[];
  }[];
}

const { groups } = parse(readFileSync(rulesFile, "utf8")) as { readonly groups: readonly { readonly rules: readonly Rule[] }[] };
const rules = groups.flatMap((group) => group.rules);
const dashboards = readdirSync(`${files}/dashboards`).map(
  (name) => JSON.parse(readFileSync(`${files}/dashboards/${name}`, "utf8")) as Dashboard,
);
const dashboardQueries = dashboards.flatMap(({ uid, panels }) =>
  panels.flatMap(({ title, targets }) =>
    targets.map(({ expr, legendFormat = "" }) => ({ where: `${uid}: ${title}`, expr, legend: legendFormat })),
  ),
);
const ruleQueries = rules.map(({ record, alert, expr, annotations }) => ({
  where: record ?? alert ?? "",
  expr,
  legend: Object.values(annotations ?? {}).join(" "),
}));
const queries = [...ruleQueries, ...dashboardQueries];

/** Labels that Prometheus gives series by where it finds them, and that of buckets. */
const givenLabels = ["namespace", "pod", "instance", "job", "le"];

/** Labels of every metric that routers and ingesters make, by name. */
async function labelsByMetric(): Promise<ReadonlyMap<string, readonly string[]>> {
  const config = configSchema.parse({
    pools: [{ name: "p", model: "m", endpoints: { kubernetes: { selector: "app=vllm" } } }],
    router: { extProc: { listen: "127.0.0.1:0" } },
  });
  const registries = [createMetricsRegistry("router"), createMetricsRegistry("ingester")] as const;
  for (const registry of registries) createRedisMetrics(registry);
  const [router, ingester] = registries;
  createRouter({ ...createMemoryBackend(), logger: silentLogger, metricsRegistry: router, createEncoder: () => null }, config);
  createIngester({ ...createMemoryBackend(), logger: silentLogger, metricsRegistry: ingester }, config);
  const named = registries
    .flatMap((registry) => registry.getMetricsAsArray())
    .map(
      // Metrics know their labels; that they do is not among their types.
      (metric) => [metric.name, (Reflect.get(metric, "labelNames") ?? []) as readonly string[]] as const,
    );
  return new Map(named);
}

describe("rules and dashboards", { timeout: 120_000 }, () => {
  const started: KvatlasProcess[] = [];
  let exported: ReadonlySet<string> = new Set();

  beforeAll(async () => {
    const env = {
      KVATLAS_REDIS_URL: testRedisUrl(),
      KVATLAS_REDIS_KEY_PREFIX: uniqueKeyPrefix(),
      KVATLAS_POOLS: JSON.stringify([{ name: "p", model: "m", endpoints: { kubernetes: { selector: "app=vllm" } } }]),
      KVATLAS_KUBERNETES_KUBECONFIG: "/nowhere",
      KVATLAS_ROUTER_LISTEN: "127.0.0.1:0",
      KVATLAS_ROUTER_ADMIN: "127.0.0.1:0",
      KVATLAS_INGESTER_ADMIN: "127.0.0.1:0",
    };
    const router = startKvatlas(["router"], env);
    const ingester = startKvatlas(["ingester"], env);
    started.push(router, ingester);
    const admins = [(await routerAddresses(router)).admin, await ingesterAdmin(ingester)];
    const texts = await Promise.all(
      admins.map((admin) =>
        eventually(async () => {
          const answer = await fetch(`${admin}/metrics`);
          expect(answer.status).toBe(200);
          return answer.text();
        }, 30_000),
      ),
    );
    exported = new Set(texts.flatMap((text) => [...text.matchAll(/^# TYPE (\S+) /gm)].map(([, name = ""]) => name)));
  }, 120_000);

  afterAll(async () => {
    await Promise.all(started.map((service) => service.stop()));
  });

  it("ask for metrics that routers and ingesters export", () => {
    expect(queries.length).toBeGreaterThan(50);
    const unknown = queries.flatMap(({ where, expr }) =>
      metricsIn(expr)
        .filter(({ metric }) => !exported.has(metric))
        .map(({ metric }) => `${where}: ${metric}`),
    );
    expect(unknown).toEqual([]);
    expect(queries.filter(({ expr }) => metricsIn(expr).length === 0 && !/\bkvatlas:/.test(expr))).toEqual([]);
  });

  it("ask by labels that the metrics have, and for values that the code knows", async () => {
    const labels = await labelsByMetric();
    const unknown = queries.flatMap(({ where, expr, legend }) => {
      const selected = metricsIn(expr);
      const known = new Set([
        ...givenLabels,
        ...selected.flatMap(({ metric }) => labels.get(metric) ?? []),
        ...rules.filter(({ record }) => record !== undefined && expr.includes(record)).flatMap((rule) => groupedBy(rule.expr)),
      ]);
      const shown = [...legend.matchAll(/\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}/g)].map(([, label = ""]) => label);
      return [
        ...selected.flatMap(({ metric, labels: asked }) =>
          asked
            .filter((label) => !givenLabels.includes(label) && labels.get(metric)?.includes(label) !== true)
            .map((label) => `${metric}{${label}}`),
        ),
        ...[...groupedBy(expr), ...shown].filter((label) => !known.has(label)),
      ].map((label) => `${where}: ${label}`);
    });
    expect(unknown).toEqual([]);
    const sources = readdirSync(`${root}packages`, { recursive: true, encoding: "utf8" })
      .filter((name) => /^[a-z]+\/src\/.*\.ts$/.test(name) && !name.endsWith(".test.ts"))
      .map((name) => readFileSync(`${root}packages/${name}`, "utf8"))
      .join("\n");
    const values = new Set(queries.flatMap(({ expr }) => comparedValues(expr)));
    expect(values.size).toBeGreaterThan(10);
    expect([...values].filter((value) => !sources.includes(`"${value}"`) && !new RegExp(`\\b${value}:`).test(sources))).toEqual([]);
  });

  it("ask for recorded series that are recorded", () => {
    const recorded = new Set(rules.map(({ record }) => record));
    const asked = queries.flatMap(({ expr }) => expr.match(/\bkvatlas:[a-z0-9_:]+/g) ?? []);
    expect(asked.filter((name) => !recorded.has(name))).toEqual([]);
  });

  it("link every alert to a section of the runbook", () => {
    const runbook = readFileSync(`${root}docs/operations.md`, "utf8");
    const anchors = new Set([...runbook.matchAll(/<a id="([a-z-]+)"><\/a>/g)].map(([, id]) => id));
    const alerts = rules.filter(({ alert }) => alert !== undefined);
    for (const { alert, labels, annotations } of alerts) {
      expect({ alert, severity: labels?.severity }).toEqual({ alert, severity: expect.stringMatching(/^(critical|warning|info)$/) });
      const [page, anchor] = (annotations?.runbook_url ?? "").split("#");
      expect({ alert, page, isThere: anchors.has(anchor) }).toEqual({ alert, page: "RUNBOOK_URL", isThere: true });
    }
  });
});
