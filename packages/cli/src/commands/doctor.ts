import type { KvatlasConfig } from "@kvatlas/shared/config/schema";
import { createLogger, type Logger, silentLogger } from "@kvatlas/shared/logger";
import { createRedisConnection } from "@kvatlas/shared/redis";
import { hasRedis } from "@kvatlas/shared/redis-topology";
import type { EndpointRecord } from "@kvatlas/shared/registry/endpoint-registry";
import { createBackends } from "../backends.ts";
import type { Command } from "../command.ts";
import { configOption, readConfig } from "../config-file.ts";
import { checkFleet } from "../doctor/endpoint-check.ts";
import { checkIndexMemory } from "../doctor/index-memory-check.ts";
import { checkRedisServers } from "../doctor/redis-check.ts";
import { askRedisServers } from "../doctor/redis-servers.ts";
import { ok, problem, skipped, type Verdict } from "../doctor/verdict.ts";
import { localEncoderOptions } from "../pool-encoder.ts";
import { redisCliLine } from "../redis-cli.ts";

/** A person is waiting. */
const redisTimeoutMs = 3_000;
const engineTimeoutMs = 3_000;
/** Instances whose last beat is older are gone; several beats of the default. */
const instanceTtlMs = 10_000;
/** Looked at to tell how much the index takes: a second of Redis' time in the background. */
const maxCensusKeys = 20_000;

export const doctorCommand: Command = {
  name: "doctor",
  summary: "checks configuration, Redis, replicas and tokenizers; a sentence per problem",
  usage: "doctor [--config FILE] [--json]",
  description: "Changes nothing. Exit code 0 when all is well, 1 with a problem, 2 when the configuration is wrong.",
  examples: ["kvatlas doctor --config kvatlas.yaml", "kvatlas doctor --config kvatlas.yaml --json"],
  options: {
    config: configOption,
    json: { type: "boolean", description: "One JSON object {ok, verdicts} on stdout, and nothing else." },
  },
  run: async (context) => {
    const { config, warnings } = await readConfig(context);
    // What Redis has to say about itself becomes a verdict; log lines would say it twice.
    const logger = createLogger({ service: "doctor", level: "silent", fileDescriptor: 2 });
    const verdicts: Verdict[] = [
      ok("config", "", `valid; ${config.pools.length} pools`),
      ...warnings.map((text) => problem("config", "", text)),
    ];
    const { verdicts: redisVerdicts, endpoints } = await checkRedis(config, logger);
    verdicts.push(...redisVerdicts);
    verdicts.push(...(await checkTokenizers(config, endpoints)));
    const isOk = verdicts.every(({ status }) => status !== "problem");
    if (context.args.flag("json")) context.stdout.write(`${JSON.stringify({ ok: isOk, verdicts }, null, 2)}\n`);
    else context.stdout.write(`${verdicts.map(line).join("")}\n${summary(verdicts)}\n`);
    return isOk ? 0 : 1;
  },
};

const marks = { ok: "ok      ", problem: "PROBLEM ", skipped: "skipped " } as const;

function line({ check, subject, status, message }: Verdict): string {
  return `${marks[status]} ${check}${subject === "" ? "" : ` ${subject}`}: ${message}\n`;
}

function summary(verdicts: readonly Verdict[]): string {
  const count = verdicts.filter(({ status }) => status === "problem").length;
  return count === 0 ? "No problems found." : `${count} problem${count === 1 ? "" : "s"} found.`;
}

/** Redis itself, then what the services have written there. */
async function checkRedis(
  config: KvatlasConfig,
  logger: Logger,
): Promise<{ readonly verdicts: readonly Verdict[]; readonly endpoints: readonly EndpointRecord[] }> {
  const { redis } = config;
  if (!hasRedis(redis)) {
    return {
      verdicts: [skipped("redis", "", "redis.url is not set: the index of `kvatlas all-in-one` is visible only inside its process.")],
      endpoints: [],
    };
  }
  const connection = createRedisConnection(redis, "background", logger);
  const backends = createBackends(redis, logger);
  try {
    if (!(await connection.connected(redisTimeoutMs))) {
      const unreachable = `Redis has not answered for ${redisTimeoutMs / 1_000} s. Is redis.url right, is it running, do user and password fit? Try: ${redisCliLine(redis, "PING")}`;
      return { verdicts: [problem("redis", "", unreachable)], endpoints: [] };
    }
    const servers = await askRedisServers(redis, connection, logger, redisTimeoutMs);
    const { registry, index } = backends.open("background");
    const nowMs = Date.now();
    const [endpoints, ingesters, routers, scopes, { loads }, census] = await Promise.all([
      registry.endpoints(),
      registry.instances("ingester", nowMs, instanceTtlMs),
      registry.instances("router", nowMs, instanceTtlMs),
      registry.scopes(),
      registry.readLoad([]),
      index.census(maxCensusKeys),
    ]);
    const verdicts = [
      ...checkRedisServers(servers),
      checkIndexMemory({ servers, census, endpoints, loads, scopes }),
      ...checkFleet(config, { endpoints, ingesters, routers, nowMs }),
    ];
    return { verdicts, endpoints };
  } catch (error) {
    return { verdicts: [problem("redis", "", error instanceof Error ? error.message : String(error))], endpoints: [] };
  } finally {
    await backends.close();
    await connection.close();
  }
}

async function checkTokenizers(config: KvatlasConfig, endpoints: readonly EndpointRecord[]): Promise<readonly Verdict[]> {
  const { checkTokenizer } = await import("../doctor/tokenizer-check.ts");
  const { createLocalPromptEncoder } = await import("@kvatlas/shared/tokenization/local-prompt-encoder");
  const verdicts: Verdict[] = [];
  for (const pool of config.pools) {
    const addresses = new Set([
      ...endpoints.filter(({ meta }) => meta.pool === pool.name && meta.ready).map(({ meta }) => meta.address),
      ...pool.endpoints.static.map(({ address }) => address),
    ]);
    verdicts.push(
      ...(await checkTokenizer(pool, {
        openEncoder: async (of) => createLocalPromptEncoder(await localEncoderOptions(of, silentLogger)),
        addresses: [...addresses].slice(0, 3),
        fetch,
        timeoutMs: engineTimeoutMs,
      })),
    );
  }
  return verdicts;
}
