import { createIngester } from "@kvatlas/ingester/app";
import { createRedisBackend } from "@kvatlas/shared/backend";
import { silentLogger } from "@kvatlas/shared/logger";
import { createMetricsRegistry } from "@kvatlas/shared/metrics";
import type { EndpointId } from "@kvatlas/shared/types";
import { expect, it, onTestFinished } from "vitest";
import { eventually } from "../support/eventually.ts";
import { startFakeEngine } from "../support/fake-engine.ts";
import { testConfig } from "../support/ingest-rig.ts";
import { freePort, startRedisServer } from "../support/redis-server.ts";
import { TestPublisher } from "../support/test-publisher.ts";

interface Answer {
  readonly status: number;
  readonly body: { readonly ready: boolean; readonly reasons: readonly string[]; readonly missing: readonly string[] };
}

it("/readyz of an ingester names what is missing: of itself, and of the fleet", async () => {
  const redis = await startRedisServer();
  onTestFinished(() => redis.stop());
  const publisher = await TestPublisher.start({});
  onTestFinished(() => publisher.close());
  const engineWith = async (pages: Record<string, string | object>) => {
    const engine = await startFakeEngine(pages);
    onTestFinished(() => engine.close());
    return engine.address;
  };
  const gone = `127.0.0.1:${await freePort()}`;
  const mute = await engineWith({ "/metrics": "" });
  const silent = await engineWith({
    "/metrics": 'vllm:num_requests_running{engine="0"} 0\nvllm:prompt_tokens_total{engine="0"} 50000\n',
    "/kv_event_sources": { "0": { endpoint: publisher.events, replay_endpoint: publisher.replay } },
  });
  const deaf = await engineWith({ "/metrics": "" });
  const foreign = await engineWith({ "/metrics": "" });
  const events = `tcp://127.0.0.1:${await freePort()}`;
  const config = testConfig([
    {
      name: "p",
      model: "m",
      endpoints: { static: [...[gone, mute, silent, foreign].map((address) => ({ address })), { address: deaf, events }] },
    },
  ]);
  const backend = createRedisBackend({ ...config.redis, url: redis.url }, "background", silentLogger);
  onTestFinished(() => backend.close());
  // Somebody holds its lease, and does nothing for it.
  expect(await backend.registry.acquire(foreign as EndpointId, "stranger", 600_000)).not.toBeNull();
  const ingester = createIngester(
    { ...backend, logger: silentLogger, metricsRegistry: createMetricsRegistry("ingester", { processMetrics: false }) },
    config,
    { instanceId: "i0" },
  );
  onTestFinished(() => ingester.close());
  await ingester.start();
  const readyz = async (): Promise<Answer> => {
    const response = await fetch(`http://${ingester.adminAddress()}/readyz`);
    return { status: response.status, body: (await response.json()) as Answer["body"] };
  };

  await eventually(async () => {
    const { status, body } = await readyz();
    // What replicas lack is no reason to restart an ingester.
    expect({ status, reasons: body.reasons }).toEqual({ status: 200, reasons: [] });
    const text = body.missing.join("\n");
    expect(text).toContain(`${foreign}: no ingester looks after it.`);
    expect(text).toContain(`${gone}: Nothing answers at http://${gone}.`);
    expect(text).toContain(`${mute}: http://${mute}/kv_event_sources names no publisher`);
    expect(text).toContain(`${deaf}: No connection to the publisher at ${events}`);
    expect(text).toContain(`${silent}: The engine has processed 50000 prompt tokens and published nothing`);
  }, 40_000);

  await redis.stop();
  await eventually(async () => {
    const { status, body } = await readyz();
    expect(status).toBe(503);
    expect(body.reasons.join(" ")).toMatch(/the registry has not answered for \d+ s/);
  });
  const again = await startRedisServer({ port: redis.port });
  onTestFinished(() => again.stop());
  await eventually(async () => expect(await readyz()).toMatchObject({ status: 200, body: { ready: true } }));
}, 120_000);
