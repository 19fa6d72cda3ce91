import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { eventually } from "../support/eventually.ts";
import { type KvatlasProcess, ready, routerAddresses, startKvatlas } from "../support/services.ts";

interface Replica {
  readonly url: string;
  readonly eventsEndpoint: string;
  readonly replayEndpoint: string;
}

const model = "simulated";
/** Token ids need no tokenizer. */
const prompt = Array.from({ length: 100 }, (_, i) => 1_000 + i);

describe("kvatlas all-in-one, configured by environment alone", { timeout: 120_000 }, () => {
  const started: KvatlasProcess[] = [];
  let router = "";
  let admin = "";

  beforeAll(async () => {
    const simulator = startKvatlas(["simulator", "--port", "0", "--replicas", "2", "--json"]);
    started.push(simulator);
    const replicas = await simulator.line((line) => (line.ready === true ? (line.replicas as readonly Replica[]) : undefined));
    const pool = {
      name: "pool",
      model,
      endpoints: {
        static: replicas.map(({ url, eventsEndpoint, replayEndpoint }) => ({
          address: url.replace("http://", ""),
          events: eventsEndpoint.replace("*", "127.0.0.1"),
          replay: replayEndpoint.replace("*", "127.0.0.1"),
        })),
      },
    };
    const service = startKvatlas(["all-in-one"], {
      KVATLAS_POOLS: JSON.stringify([pool]),
      KVATLAS_ROUTER_LISTEN: "127.0.0.1:0",
      KVATLAS_ROUTER_ADMIN: "127.0.0.1:0",
      KVATLAS_ROUTER_LOOKUP_TIMEOUT_MS: "5000",
      KVATLAS_INGESTER_ADMIN: "127.0.0.1:0",
      KVATLAS_ROUTER_LISTN: "typo",
    });
    started.push(service);
    const addresses = await routerAddresses(service);
    router = addresses.url;
    admin = addresses.admin;
    await ready(admin);
    await service.line((line) => (String(line.msg).includes("Did you mean KVATLAS_ROUTER_LISTEN?") ? line : undefined));
  }, 120_000);

  afterAll(async () => {
    for (const service of started.reverse()) expect(await service.stop()).toEqual({ code: 0, signal: null });
  });

  it("sends a prompt to the replica that has served it before", async () => {
    const response = await fetch(`${router}/v1/completions`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ model, prompt, max_tokens: 1 }),
    });
    expect(response.status).toBe(200);
    await response.arrayBuffer();
    const holder = response.headers.get("x-kvatlas-endpoint");
    await eventually(async () => {
      const dryRun = await fetch(`${router}/kvatlas/v1/route`, { method: "POST", body: JSON.stringify({ model, token_ids: prompt }) });
      expect(await dryRun.json()).toMatchObject({ endpoint: holder, mode: "precise", matchedTokens: 96 });
    });
  });

  it("serves the metrics of both services on either admin port", async () => {
    const text = await (await fetch(`${admin}/metrics`)).text();
    expect(text).toContain("kvatlas_router_decisions_total");
    expect(text).toContain("kvatlas_ingester_events_total");
  });
});
