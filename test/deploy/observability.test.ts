import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { parse } from "yaml";
import { findTool, runTool } from "../support/deploy-tools.ts";
import { eventually } from "../support/eventually.ts";
import { testRedisUrl, uniqueKeyPrefix } from "../support/redis.ts";
import { ingesterAdmin, type KvatlasProcess, routerAddresses, startKvatlas } from "../support/services.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));
const files = `${root}deploy/helm/kvatlas/files`;
const rulesFile = `${files}/rules.yaml`;
const promtool = findTool("promtool");

interface Rule {
  readonly record?: string;
  readonly alert?: string;
  readonly expr: string;
  readonly labels?: Readonly<Record<string, string>>;
  readonly annotations?: Readonly<Record<string, string>>;
}

interface Dashboard {
  readonly uid: string;
  readonly panels: readonly { readonly title: string; readonly targets: readonly { readonly expr: string }[] }[];
}

const { groups } = parse(readFileSync(rulesFile, "utf8")) as { readonly groups: readonly { readonly rules: readonly Rule[] }[] };
const rules = groups.flatMap((group) => group.rules);
const dashboards = readdirSync(`${files}/dashboards`).map(
  (name) => JSON.parse(readFileSync(`${files}/dashboards/${name}`, "utf8")) as Dashboard,
);
const dashboardQueries = dashboards.flatMap(({ uid, panels }) =>
  panels.flatMap(({ title, targets }) => targets.map(({ expr }) => ({ where: `${uid}: ${title}`, expr }))),
);
const queries = [...rules.map(({ record, alert, expr }) => ({ where: record ?? alert ?? "", expr })), ...dashboardQueries];

/** Names of metrics in a query of ours. What a histogram is made of counts as the histogram. */
function metricsIn(expr: string): readonly string[] {
  const names = expr.match(/\b(?:kvatlas|process|nodejs)_[a-z0-9_]+\b/g) ?? [];
  return names.map((name) => name.replace(/_(?:bucket|sum|count)$/, ""));
}

describe("rules and dashboards", { timeout: 120_000 }, () => {
  const started: KvatlasProcess[] = [];
  let exported: ReadonlySet<string> = new Set();

  beforeAll(async () => {
    const env = {
      KVATLAS_REDIS_URL: testRedisUrl(),
      KVATLAS_REDIS_KEY_PREFIX: uniqueKeyPrefix(),
      KVATLAS_POOLS: JSON.stringify([{ name: "p", model: "m", endpoints: { static: [{ address: "127.0.0.1:9" }] } }]),
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
        .filter((name) => !exported.has(name))
        .map((name) => `${where}: ${name}`),
    );
    expect(unknown).toEqual([]);
    expect(queries.filter(({ expr }) => metricsIn(expr).length === 0 && !/\bkvatlas:/.test(expr))).toEqual([]);
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

  it.skipIf(promtool === null)(`are what Prometheus reads${promtool === null ? " (skipped: no promtool)" : ""}`, async () => {
    expect(await runTool(promtool ?? "", ["check", "rules", rulesFile])).toMatchObject({ code: 0 });
  });
});
