import type { KvatlasConfig, PoolConfig } from "@kvatlas/shared/config/schema";
import type { Logger } from "@kvatlas/shared/logger";
import type { PromptEncoder } from "@kvatlas/shared/tokenization/prompt-encoder";

/** The encoder of each pool, or null where requests that carry text are routed by load. */
export type CreateEncoder = (pool: PoolConfig) => PromptEncoder | null;

export async function createPoolEncoder(config: KvatlasConfig, logger: Logger): Promise<CreateEncoder> {
  if (!config.pools.some(hasLocalTokenizer)) return () => null;
  const { createThreadPromptEncoder } = await import("@kvatlas/router/thread-encoder");
  return (pool) => {
    if (!hasLocalTokenizer(pool) || pool.tokenizer.path === null) return null;
    const { path, chatTemplate, threads, maxQueue } = pool.tokenizer;
    return createThreadPromptEncoder(
      {
        directory: path,
        ...(chatTemplate === null ? {} : { chatTemplateFile: chatTemplate }),
        ...(threads === null ? {} : { threads }),
        maxQueue,
      },
      { logger },
    );
  };
}

function hasLocalTokenizer({ tokenizer }: PoolConfig): boolean {
  return tokenizer.source !== "none" && tokenizer.path !== null;
}
