import { readFileSync } from "node:fs";
import type { KvatlasConfig, PoolConfig } from "@kvatlas/shared/config/schema";
import { KvatlasError } from "@kvatlas/shared/errors";
import type { Logger } from "@kvatlas/shared/logger";
import type { PromptEncoder } from "@kvatlas/shared/tokenization/prompt-encoder";

/** The encoder of each pool, or null where requests that carry text are routed by load. */
export type CreateEncoder = (pool: PoolConfig) => PromptEncoder | null;

/** Encoders in worker threads, one pool of threads for each pool of replicas. Nothing is loaded before the first call. */
export async function createPoolEncoder(config: KvatlasConfig, logger: Logger): Promise<CreateEncoder> {
  if (!config.pools.some(hasLocalTokenizer)) return () => null;
  const { createThreadPromptEncoder } = await import("@kvatlas/router/thread-encoder");
  return (pool) => {
    const { path, threads, maxQueue } = pool.tokenizer;
    if (!hasLocalTokenizer(pool) || path === null) return null;
    return createThreadPromptEncoder({ ...encoderOptions(pool, path), ...(threads === null ? {} : { threads }), maxQueue }, { logger });
  };
}

export function hasLocalTokenizer({ tokenizer }: PoolConfig): boolean {
  return tokenizer.source !== "none" && tokenizer.path !== null;
}

/**
 * What a local encoder of the pool is made from.
 *
 * @throws KVATLAS_CONFIG_INVALID the chat template cannot be read.
 */
export function encoderOptions(pool: PoolConfig, directory: string): { readonly directory: string; readonly chatTemplate?: string } {
  const file = pool.tokenizer.chatTemplate;
  if (file === null) return { directory };
  try {
    return { directory, chatTemplate: readFileSync(file, "utf8") };
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new KvatlasError("KVATLAS_CONFIG_INVALID", `tokenizer.chatTemplate of pool ${pool.name}: cannot read ${file}: ${reason}.`, {
      cause: error,
    });
  }
}
