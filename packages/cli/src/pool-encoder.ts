import { readFileSync } from "node:fs";
import type { EncoderContext } from "@kvatlas/router/tokenization/model-encoder";
import { systemClock } from "@kvatlas/shared/clock";
import type { KvatlasConfig, PoolConfig } from "@kvatlas/shared/config/schema";
import { KvatlasError } from "@kvatlas/shared/errors";
import type { Logger } from "@kvatlas/shared/logger";
import type { EngineEncoderOptions } from "@kvatlas/shared/tokenization/local-prompt-encoder";
import { obtainModelFiles } from "@kvatlas/shared/tokenization/model-files";
import type { PromptEncoder } from "@kvatlas/shared/tokenization/prompt-encoder";

/** The encoder of each pool, or null where requests that carry text are routed by load. */
export type CreateEncoder = (pool: PoolConfig, context: EncoderContext) => PromptEncoder | null;

/** Encoders as the pools' `tokenizer` sections ask for them. Nothing is loaded before the first call. */
export async function createPoolEncoder(config: KvatlasConfig, logger: Logger): Promise<CreateEncoder> {
  if (!config.pools.some(({ tokenizer, prefixCache }) => tokenizer.source !== "none" && prefixCache.mode !== "off")) return () => null;
  const { createModelEncoder } = await import("@kvatlas/router/tokenization/model-encoder");
  return (pool, context) => {
    const chatTemplate = chatTemplateOf(pool);
    return createModelEncoder(pool, {
      ...context,
      clock: systemClock,
      logger,
      random: Math.random,
      env: process.env,
      ...(chatTemplate === null ? {} : { chatTemplate }),
    });
  };
}

/** Whether prompts can be encoded without asking a replica. */
export function hasTokenizerFiles({ source, path, repository }: PoolConfig["tokenizer"]): boolean {
  return source !== "none" && source !== "remote" && (path !== null || repository !== null);
}

/**
 * What a local encoder of the pool is made from; files of a repository are downloaded unless they are in the cache.
 *
 * @throws KVATLAS_CONFIG_INVALID the pool has no local tokenizer, or its chat template cannot be read
 * @throws KVATLAS_TOKENIZER_UNAVAILABLE the files cannot be had
 */
export async function localEncoderOptions(pool: PoolConfig, logger: Logger): Promise<EngineEncoderOptions> {
  const { path, repository, hub, revision, cacheDirectory, engine } = pool.tokenizer;
  if (path === null && repository === null) {
    throw new KvatlasError(
      "KVATLAS_CONFIG_INVALID",
      `pool ${pool.name} has no tokenizer: set its tokenizer.path, the directory of the model's tokenizer, or tokenizer.repository, its name on the hub.`,
    );
  }
  const chatTemplate = chatTemplateOf(pool);
  const directory =
    path ?? (await obtainModelFiles({ hub, repository: repository ?? "", revision, cacheDirectory }, { logger, fetch, env: process.env }));
  return { directory, engine, ...(chatTemplate === null ? {} : { chatTemplate }) };
}

function chatTemplateOf(pool: PoolConfig): string | null {
  const file = pool.tokenizer.chatTemplate;
  if (file === null) return null;
  try {
    return readFileSync(file, "utf8");
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new KvatlasError("KVATLAS_CONFIG_INVALID", `tokenizer.chatTemplate of pool ${pool.name}: cannot read ${file}: ${reason}.`, {
      cause: error,
    });
  }
}
