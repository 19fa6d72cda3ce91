import type { KvatlasConfig } from "@kvatlas/shared/config/schema";
import { type Component, createLifecycle } from "@kvatlas/shared/lifecycle";
import { createLogger, type Logger } from "@kvatlas/shared/logger";
import { createMetricsRegistry } from "@kvatlas/shared/metrics";
import { createRedisMetrics } from "@kvatlas/shared/redis-metrics";
import { type Backends, createBackends } from "./backends.ts";
import type { CommandContext } from "./command.ts";
import { readConfig } from "./config-file.ts";

/** What a service is built from. */
export interface ServiceDeps {
  readonly config: KvatlasConfig;
  readonly logger: Logger;
  readonly metricsRegistry: ReturnType<typeof createMetricsRegistry>;
  /** Closed after all components. */
  readonly backends: Backends;
}

export interface ServiceRecipe {
  /** On every log line. */
  readonly service: string;
  /** What the configuration must have for this service beyond being valid. @throws KVATLAS_CONFIG_INVALID */
  check?(config: KvatlasConfig): void;
  /** Components in the order in which they start; nothing runs before. */
  build(deps: ServiceDeps): Promise<readonly Component[]>;
  /** For all components together. */
  closeTimeoutMs(config: KvatlasConfig): number;
}

/**
 * Configuration -> components -> run until the signal -> close within the deadline.
 * Returns the exit code: 0 after an orderly stop, 1 when closing failed; errors of configuration and start are thrown.
 */
export async function runService(context: CommandContext, recipe: ServiceRecipe): Promise<number> {
  const { config, warnings } = await readConfig(context);
  recipe.check?.(config);
  const logger = createLogger({ service: recipe.service, level: config.log.level });
  for (const warning of warnings) logger.warn(warning);
  const metricsRegistry = createMetricsRegistry(recipe.service);
  const backends = createBackends(config.redis, logger, { onRedisError: createRedisMetrics(metricsRegistry).error });
  let code = 0;
  try {
    const components = await recipe.build({ config, logger, metricsRegistry, backends });
    const closeTimeoutMs = recipe.closeTimeoutMs(config);
    const lifecycle = createLifecycle(components, { logger }, { name: recipe.service, closeTimeoutMs });
    const stopped = aborted(context.signal);
    // A stop during a start that hangs must not hang either: close() waits for it within its own deadline.
    await Promise.race([lifecycle.start(), stopped]);
    if (!context.signal.aborted) logger.info("started");
    await stopped;
    logger.info({ signal: context.signal.reason, closeTimeoutMs }, "stopping");
    code = await lifecycle.close().then(
      () => 0,
      () => 1,
    );
  } finally {
    await backends.close();
  }
  logger.info({ code }, "stopped");
  return code;
}

function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => signal.addEventListener("abort", () => resolve(), { once: true }));
}
