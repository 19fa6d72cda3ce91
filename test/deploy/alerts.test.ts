import { readFileSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { parse, stringify } from "yaml";
import { findTool, runTool } from "../support/deploy-tools.ts";

const rulesFile = fileURLToPath(new URL("../../deploy/helm/kvatlas/files/rules.yaml", import.meta.url));
const promtool = findTool("promtool");
const why = promtool === null ? " (skipped: no promtool; it comes with Prometheus, e.g. Debian's package `prometheus`)" : "";

interface Alert {
  readonly alert: string;
  readonly for?: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
}

const { groups } = parse(readFileSync(rulesFile, "utf8")) as {
  readonly groups: readonly { readonly name: string; readonly rules: readonly (Alert | { readonly record: string })[] }[];
};
const alerts = groups.flatMap(({ rules }) => rules).filter((rule): rule is Alert => "alert" in rule);

/** Series by name, in promtool's notation: first value, what is added each minute, how often. */
type Series = Readonly<Record<string, string>>;

interface AlertCase {
  readonly alert: string;
  /** With these the alert fires, `minutes` after they begin. */
  readonly fires: Series;
  /** With these it does not. */
  readonly quiet: Series;
  readonly minutes: number;
  /** Of the firing alert, besides namespace and severity. */
  readonly labels?: Readonly<Record<string, string>>;
  /** As the summary shows it. */
  readonly value?: string;
}

const ns = 'namespace="llm"';
/** A counter that grows by so much a minute. */
const grows = (by: number): string => `0+${by}x200`;
const stays = (value: number): string => `${value}x200`;

const cases: readonly AlertCase[] = [
  {
    alert: "KvatlasNoReadyEndpoint",
    // Another pool is no help.
    fires: {
      [`kvatlas_router_ready_endpoints{${ns},pool="qwen",pod="a"}`]: stays(0),
      [`kvatlas_router_ready_endpoints{${ns},pool="qwen",pod="b"}`]: stays(0),
      [`kvatlas_router_ready_endpoints{${ns},pool="llama",pod="a"}`]: stays(3),
    },
    // One router that has just started knows nobody yet.
    quiet: {
      [`kvatlas_router_ready_endpoints{${ns},pool="qwen",pod="a"}`]: stays(0),
      [`kvatlas_router_ready_endpoints{${ns},pool="qwen",pod="b"}`]: stays(3),
    },
    minutes: 5,
    labels: { pool: "qwen" },
  },
  {
    alert: "KvatlasIndexUnreachable",
    fires: {
      [`kvatlas_redis_errors_total{${ns},code="timeout"}`]: grows(120),
      [`kvatlas_router_decisions_total{${ns},mode="load",reason="lookup-failed"}`]: grows(60),
      [`kvatlas_router_decisions_total{${ns},mode="precise",reason="prefix"}`]: grows(6),
    },
    quiet: {
      [`kvatlas_redis_errors_total{${ns},code="timeout"}`]: grows(120),
      [`kvatlas_router_decisions_total{${ns},mode="load",reason="lookup-failed"}`]: grows(6),
      [`kvatlas_router_decisions_total{${ns},mode="precise",reason="prefix"}`]: grows(60),
    },
    minutes: 15,
  },
  {
    alert: "KvatlasRedisRefusesWrites",
    fires: { [`kvatlas_redis_errors_total{${ns},code="OOM"}`]: grows(1) },
    quiet: { [`kvatlas_redis_errors_total{${ns},code="timeout"}`]: grows(1) },
    minutes: 15,
    labels: { code: "OOM" },
  },
  {
    alert: "KvatlasRedisMemory",
    fires: {
      [`kvatlas_redis_memory_bytes{${ns},server="a:6379",what="used"}`]: stays(90),
      [`kvatlas_redis_memory_bytes{${ns},server="a:6379",what="max"}`]: stays(100),
    },
    // No limit is no part of it.
    quiet: {
      [`kvatlas_redis_memory_bytes{${ns},server="a:6379",what="used"}`]: stays(90),
      [`kvatlas_redis_memory_bytes{${ns},server="a:6379",what="max"}`]: stays(0),
    },
    minutes: 15,
    labels: { server: "a:6379" },
    value: "90%",
  },
  {
    alert: "KvatlasSilentPublisher",
    fires: { [`kvatlas_ingester_endpoint_findings{${ns},endpoint="a:8000",finding="no-events"}`]: stays(1) },
    quiet: { [`kvatlas_ingester_endpoint_findings{${ns},endpoint="a:8000",finding="no-events"}`]: stays(0) },
    minutes: 5,
    labels: { endpoint: "a:8000" },
  },
  {
    alert: "KvatlasEndpointFinding",
    fires: { [`kvatlas_ingester_endpoint_findings{${ns},endpoint="a:8000",finding="twins"}`]: stays(1) },
    quiet: { [`kvatlas_ingester_endpoint_findings{${ns},endpoint="a:8000",finding="no-events"}`]: stays(1) },
    minutes: 20,
    labels: { endpoint: "a:8000", finding: "twins" },
  },
  {
    alert: "KvatlasEventsLost",
    fires: { [`kvatlas_ingester_lost_gaps_total{${ns},cause="no-replay"}`]: grows(1) },
    quiet: { [`kvatlas_ingester_lost_gaps_total{${ns},cause="no-replay"}`]: stays(7) },
    minutes: 20,
    labels: { cause: "no-replay" },
  },
  {
    alert: "KvatlasGapRate",
    fires: { [`kvatlas_ingester_gaps_total{${ns}}`]: grows(12) },
    quiet: { [`kvatlas_ingester_gaps_total{${ns}}`]: grows(3) },
    minutes: 60,
  },
  {
    alert: "KvatlasParityMismatch",
    fires: { [`kvatlas_router_tokenizer_audits_total{${ns},pool="qwen",result="disagree"}`]: grows(1) },
    quiet: { [`kvatlas_router_tokenizer_audits_total{${ns},pool="qwen",result="agree"}`]: grows(1) },
    minutes: 10,
    labels: { pool: "qwen" },
  },
  {
    alert: "KvatlasKeyMismatch",
    fires: {
      [`kvatlas_ingester_checked_blocks_total{${ns},result="different"}`]: grows(10),
      [`kvatlas_ingester_checked_blocks_total{${ns},result="same"}`]: grows(90),
    },
    quiet: {
      [`kvatlas_ingester_checked_blocks_total{${ns},result="different"}`]: grows(1),
      [`kvatlas_ingester_checked_blocks_total{${ns},result="same"}`]: grows(99),
    },
    minutes: 60,
  },
  {
    alert: "KvatlasRegretHigh",
    fires: { [`kvatlas_router_regret_tokens_sum{${ns}}`]: grows(30), [`kvatlas_router_prompt_tokens_total{${ns}}`]: grows(60) },
    quiet: { [`kvatlas_router_regret_tokens_sum{${ns}}`]: grows(6), [`kvatlas_router_prompt_tokens_total{${ns}}`]: grows(60) },
    minutes: 60,
    value: "50%",
  },
  {
    alert: "KvatlasRoutedByLoad",
    fires: {
      [`kvatlas_router_decisions_total{${ns},mode="load",reason="not-indexed"}`]: grows(30),
      [`kvatlas_router_decisions_total{${ns},mode="precise",reason="prefix"}`]: grows(30),
    },
    quiet: {
      [`kvatlas_router_decisions_total{${ns},mode="load",reason="not-indexed"}`]: grows(3),
      [`kvatlas_router_decisions_total{${ns},mode="precise",reason="prefix"}`]: grows(57),
    },
    minutes: 30,
    value: "50%",
  },
  {
    alert: "KvatlasSlowDecisions",
    fires: {
      [`kvatlas_router_decision_seconds_bucket{${ns},le="0.1"}`]: grows(0),
      [`kvatlas_router_decision_seconds_bucket{${ns},le="0.25"}`]: grows(60),
      [`kvatlas_router_decision_seconds_bucket{${ns},le="+Inf"}`]: grows(60),
    },
    quiet: {
      [`kvatlas_router_decision_seconds_bucket{${ns},le="0.1"}`]: grows(60),
      [`kvatlas_router_decision_seconds_bucket{${ns},le="0.25"}`]: grows(60),
      [`kvatlas_router_decision_seconds_bucket{${ns},le="+Inf"}`]: grows(60),
    },
    minutes: 30,
    value: "248.5ms",
  },
  {
    alert: "KvatlasOverPredicted",
    fires: {
      [`kvatlas_router_predictions_total{${ns},result="over"}`]: grows(30),
      [`kvatlas_router_predictions_total{${ns},result="right"}`]: grows(30),
    },
    quiet: {
      [`kvatlas_router_predictions_total{${ns},result="over"}`]: grows(3),
      [`kvatlas_router_predictions_total{${ns},result="right"}`]: grows(57),
    },
    minutes: 60,
  },
  {
    alert: "KvatlasIndexBehind",
    fires: { [`kvatlas_ingester_lag_seconds{${ns},endpoint="a:8000"}`]: stays(5) },
    quiet: { [`kvatlas_ingester_lag_seconds{${ns},endpoint="a:8000"}`]: stays(1) },
    minutes: 10,
    labels: { endpoint: "a:8000" },
    value: "5",
  },
  {
    alert: "KvatlasAuditFindings",
    fires: { [`kvatlas_ingester_audit_findings{${ns},kind="phantom"}`]: stays(2) },
    quiet: { [`kvatlas_ingester_audit_findings{${ns},kind="phantom"}`]: stays(0) },
    minutes: 20,
    labels: { kind: "phantom" },
  },
  {
    alert: "KvatlasNobodyKeepsHouse",
    fires: { [`kvatlas_ingester_audit_timestamp_seconds{${ns}}`]: stays(60) },
    quiet: { [`kvatlas_ingester_audit_timestamp_seconds{${ns}}`]: grows(60) },
    minutes: 60,
  },
  {
    alert: "KvatlasProbingDisagrees",
    fires: { [`kvatlas_router_lookups_verified_total{${ns},result="disagree"}`]: grows(1) },
    quiet: { [`kvatlas_router_lookups_verified_total{${ns},result="agree"}`]: grows(1) },
    minutes: 10,
  },
  {
    alert: "KvatlasClusterUnwatched",
    fires: { [`kvatlas_ingester_kubernetes_requests_total{${ns},resource="pods",outcome="failed"}`]: grows(2) },
    // A watch that is refused now and then, beside others that end as they should.
    quiet: {
      [`kvatlas_ingester_kubernetes_requests_total{${ns},resource="pods",outcome="failed"}`]: grows(2),
      [`kvatlas_ingester_kubernetes_requests_total{${ns},resource="pods",outcome="ok"}`]: grows(1),
    },
    minutes: 30,
    labels: { resource: "pods" },
  },
  {
    alert: "KvatlasCertificateExpires",
    fires: { [`kvatlas_extproc_certificate_expiry_timestamp_seconds{${ns},source="files"}`]: stays(6 * 86_400) },
    quiet: { [`kvatlas_extproc_certificate_expiry_timestamp_seconds{${ns},source="files"}`]: stays(30 * 86_400) },
    minutes: 90,
  },
];

/** What promtool compares with: the rule's own words, filled in. */
function expected({ alert, labels = {}, value = "" }: AlertCase) {
  const rule = alerts.find((candidate) => candidate.alert === alert);
  if (rule === undefined) throw new Error(`there is no alert ${alert}`);
  const filled = (text: string): string =>
    text.replace(/\{\{ \$labels\.(\w+) \}\}/g, (_, name: string) => labels[name] ?? "").replace(/\{\{ \$value[^}]*\}\}/g, value);
  return {
    exp_labels: { ...rule.labels, namespace: "llm", ...labels },
    exp_annotations: Object.fromEntries(Object.entries(rule.annotations).map(([name, text]) => [name, filled(text)])),
  };
}

function promtoolTests(): string {
  const test = (series: Series, { alert, minutes }: AlertCase, expectation: readonly object[]) => ({
    interval: "1m",
    input_series: Object.entries(series).map(([name, values]) => ({ series: name, values })),
    alert_rule_test: [{ eval_time: `${minutes}m`, alertname: alert, exp_alerts: expectation }],
  });
  return stringify({
    rule_files: [rulesFile],
    evaluation_interval: "1m",
    tests: cases.flatMap((one) => [test(one.fires, one, [expected(one)]), test(one.quiet, one, [])]),
  });
}

describe("alerts", () => {
  it("have a case each in which they fire and one in which they do not", () => {
    expect(cases.map(({ alert }) => alert).sort()).toEqual(alerts.map(({ alert }) => alert).sort());
  });

  it.skipIf(promtool === null)(`fire when they should, and only then, as Prometheus evaluates them${why}`, async () => {
    const folder = await mkdtemp(join(tmpdir(), "kvatlas-alerts-"));
    try {
      const file = join(folder, "alerts.yaml");
      await writeFile(file, promtoolTests());
      expect(await runTool(promtool ?? "", ["check", "rules", rulesFile])).toMatchObject({ code: 0 });
      const { code, stdout, stderr } = await runTool(promtool ?? "", ["test", "rules", file]);
      expect(code, `${stdout}${stderr}`).toBe(0);
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  });
});
