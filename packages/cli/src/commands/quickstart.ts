import type { Backend } from "@kvatlas/shared/backend";
import { loadConfig } from "@kvatlas/shared/config/load";
import type { RedisConfig } from "@kvatlas/shared/config/schema";
import { KvatlasError } from "@kvatlas/shared/errors";
import { type Component, createLifecycle } from "@kvatlas/shared/lifecycle";
import { createLogger } from "@kvatlas/shared/logger";
import { usageError } from "../args.ts";
import { createBackends } from "../backends.ts";
import type { Command, CommandContext } from "../command.ts";
import { parseModes, type QuickstartMode } from "../quickstart/modes.ts";
import type { Outcome } from "../quickstart/report.ts";
import { redisCliLine } from "../redis-cli.ts";

/** For everything to close; each part is idle by then. */
const closeTimeoutMs = 10_000;
const redisTimeoutMs = 5_000;
/** Replicas, services and worker threads start at the same time on one machine, which is no server's normal hour. */
const busyMachineTimeoutMs = 500;

export const quickstartCommand: Command = {
  name: "quickstart",
  summary: "shows two turns of a chat landing on the same replica, on this machine, without a GPU",
  usage: "quickstart [--replicas N] [--mode precise|estimated|off[,...]] [--redis] [--once] [--json]",
  description: [
    "Starts simulated vLLM replicas with a real tokenizer, an ingester and a router per mode on free ports, plays two rounds of a chat through",
    "each router's API and says where they went and why. Then everything stays up until Ctrl-C. The index is in memory, or in the Redis of KVATLAS_REDIS_URL.",
  ].join("\n"),
  examples: [
    "kvatlas quickstart",
    "kvatlas quickstart --mode estimated",
    "kvatlas quickstart --mode precise,estimated,off --once",
    "kvatlas quickstart --once --json",
    "kvatlas quickstart --redis --replicas 5",
    "KVATLAS_REDIS_URL=redis://localhost:6379 kvatlas quickstart --once",
  ],
  options: {
    replicas: { type: "string", value: "N", description: "Simulated replicas, 1 to 16; default 3." },
    mode: {
      type: "string",
      value: "MODE[,...]",
      description:
        "precise: by the replicas' caches (default); estimated: by what was sent where; off: round robin, shown beside any other. Several: side by side, the first one is judged.",
    },
    redis: { type: "boolean", description: "Starts a redis-server of its own for the index." },
    once: {
      type: "boolean",
      description: "Ends after the conversation: exit code 0 only if round 2 landed on the holder of its prefix, all of it found.",
    },
    json: { type: "boolean", description: "One JSON object with the result is all of stdout." },
  },
  run: async (context) => {
    const replicas = context.args.integer("replicas", { min: 1, max: 16 }) ?? 3;
    const modes = parseModes(context.args.string("mode") ?? "precise");
    const local = context.args.flag("redis") ? await (await import("../quickstart/local-redis.ts")).startLocalRedis() : null;
    try {
      const { config } = loadConfig({ env: local === null ? context.env : { ...context.env, KVATLAS_REDIS_URL: local.url } });
      const redis = { ...config.redis, commandTimeoutMs: Math.max(config.redis.commandTimeoutMs, busyMachineTimeoutMs) };
      return await runQuickstart(context, { replicas, modes, redis });
    } catch (error) {
      // Ctrl-C while it starts or plays is how a person leaves, not a failure.
      if (context.signal.aborted && !(error instanceof KvatlasError)) return 130;
      throw error;
    } finally {
      await local?.close();
    }
  },
};

interface RunOptions {
  readonly replicas: number;
  readonly modes: readonly [QuickstartMode, ...QuickstartMode[]];
  readonly redis: RedisConfig;
}

async function runQuickstart({ args, stdout, stderr, signal }: CommandContext, options: RunOptions): Promise<number> {
  const isJson = args.flag("json");
  // People read along on stdout; with --json they do on stderr.
  const say = (text: string) => (isJson ? stderr : stdout).write(text);
  say("kvatlas quickstart: starting\n");
  const [cluster, play, report, documents] = await Promise.all([
    import("../quickstart/cluster.ts"),
    import("../quickstart/play.ts"),
    import("../quickstart/report.ts"),
    import("../quickstart/documents.ts"),
  ]);
  const logger = createLogger({ service: "quickstart", level: "warn", fileDescriptor: 2 });
  const backends = createBackends(options.redis, logger);
  const started: Component[] = [];
  try {
    const backend = backends.open("background");
    const isRedis = options.redis.url !== null;
    if (isRedis) {
      for (const role of ["background", "request"] as const) await requireConnection(backends.open(role), options.redis);
      const { removeLeftovers } = await import("../quickstart/leftovers.ts");
      await removeLeftovers(backend);
    }
    const running = await cluster.startCluster({ backends, logger, started: (component) => started.push(component) }, options);
    say(`${report.describeCluster(running, isRedis ? "Redis" : "memory")}\n`);
    await play.warmUp(running, signal);
    const deps = { encoder: running.encoder, signal };
    const { redisCliForBlock } = await import("../quickstart/redis-hint.ts");
    const outcomes: Outcome[] = [];
    for (const [place, { mode, address }] of running.routers.entries()) {
      const conversation = documents.conversations[place] ?? documents.conversations[0];
      const played = await play.playConversation(deps, `http://${address}`, conversation, async (body, tokens) => {
        if (mode !== "off") await play.waitKnown(address, body, report.knownTokens(mode, tokens), signal);
      });
      outcomes.push(report.judge(mode, played));
    }
    const [main, ...comparisons] = outcomes;
    if (main === undefined) throw usageError("option --mode names no mode.");
    const result = { ...main, comparisons };
    const { played } = main;
    const redisCli = isRedis
      ? await redisCliForBlock(running.registry, options.redis, cluster.modelName, played.promptIds, played.expectedTokens)
      : null;
    say(report.describeResult(result));
    if (isJson) stdout.write(`${JSON.stringify(report.resultJson(result, running, isRedis ? "redis" : "memory", redisCli))}\n`);
    if (args.flag("once")) return result.ok ? 0 : 1;
    say(`\n${report.describeNextSteps(running, redisCli)}\nEverything stays up; Ctrl-C ends it.\n`);
    await new Promise<void>((resolve) => (signal.aborted ? resolve() : signal.addEventListener("abort", () => resolve(), { once: true })));
    return result.ok ? 0 : 1;
  } finally {
    await closeAll(started, logger);
    await backends.close();
  }
}

/** @throws KVATLAS_REDIS_UNAVAILABLE */
async function requireConnection(backend: Backend, redis: RedisConfig): Promise<void> {
  if (await backend.connected(redisTimeoutMs)) return;
  const line = redisCliLine(redis, "PING");
  throw new KvatlasError(
    "KVATLAS_REDIS_UNAVAILABLE",
    `Redis (KVATLAS_REDIS_URL) has not answered for ${redisTimeoutMs / 1_000} s. Try: ${line}. Without KVATLAS_REDIS_URL the index is in memory.`,
  );
}

/** What has been started, the failed one included, in reverse. */
async function closeAll(started: readonly Component[], logger: ReturnType<typeof createLogger>): Promise<void> {
  const asStarted = started.map(
    (component): Component => ({ name: component.name, start: async () => {}, close: () => component.close() }),
  );
  const lifecycle = createLifecycle(asStarted, { logger }, { name: "quickstart", closeTimeoutMs });
  await lifecycle.start();
  await lifecycle.close().catch(() => {});
}
