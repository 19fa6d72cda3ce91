import type { Clock } from "@kvatlas/shared/clock";
import type { PoolConfig } from "@kvatlas/shared/config/schema";
import type { Logger } from "@kvatlas/shared/logger";
import { obtainModelFiles } from "@kvatlas/shared/tokenization/model-files";
import type { PromptEncoder } from "@kvatlas/shared/tokenization/prompt-encoder";
import { asksReplicas } from "./asks-replicas.ts";
import { AuditedEncoder } from "./audited-encoder.ts";
import { createRemoteEncoder } from "./remote-encoder.ts";
import { createThreadPromptEncoder } from "./thread-encoder.ts";
import type { TokenizerMetrics } from "./tokenizer-metrics.ts";

/** What a router gives to the encoder of a pool. */
export interface EncoderContext {
  /** `host:port` of replicas of the pool that may be asked. */
  readonly addresses: () => readonly string[];
  /** Sent to replicas; null: none. */
  readonly apiKey?: () => string | null;
  readonly metrics: TokenizerMetrics;
  /** Told of what is wrong with the pool's tokenizer, for people. */
  readonly onFinding?: (text: string) => void;
}

export interface ModelEncoderDeps extends EncoderContext {
  readonly clock: Clock;
  readonly logger: Logger;
  readonly random: () => number;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Text of tokenizer.chatTemplate; undefined without one. */
  readonly chatTemplate?: string;
}

/** The encoder a pool's `tokenizer` section asks for; null for none. */
export function createModelEncoder(pool: PoolConfig, deps: ModelEncoderDeps): PromptEncoder | null {
  const { source, path, repository, auditSampleRate } = pool.tokenizer;
  const { metrics } = deps;
  const logger = deps.logger.child({ pool: pool.name });
  const remote = (): PromptEncoder =>
    createRemoteEncoder(
      { addresses: deps.addresses, clock: deps.clock, ...(deps.apiKey === undefined ? {} : { apiKey: deps.apiKey }) },
      { maxQueue: pool.tokenizer.maxQueue },
    );
  if (asksReplicas(pool)) {
    metrics.source(pool.name, "remote");
    return remote();
  }
  if (source === "none" || (path === null && repository === null)) return null;
  const local = localEncoder(pool, { ...deps, logger });
  if (source === "local") {
    metrics.source(pool.name, "local");
    return local;
  }
  return new AuditedEncoder(
    {
      local,
      remote: remote(),
      logger,
      random: deps.random,
      onAudit: (result) => metrics.audited(pool.name, result),
      onSource: (now) => metrics.source(pool.name, now),
      ...(deps.onFinding === undefined ? {} : { onFinding: deps.onFinding }),
    },
    { pool: pool.name, model: pool.model, sampleRate: auditSampleRate },
  );
}

function localEncoder({ name, tokenizer }: PoolConfig, deps: ModelEncoderDeps): PromptEncoder {
  const { path, repository, hub, revision, cacheDirectory, engine, threads, maxQueue } = tokenizer;
  const { logger, env } = deps;
  return createThreadPromptEncoder(
    {
      directory: path ?? (() => obtainModelFiles({ hub, repository: repository ?? "", revision, cacheDirectory }, { logger, fetch, env })),
      engine,
      maxQueue,
      ...(threads === null ? {} : { threads }),
      ...(deps.chatTemplate === undefined ? {} : { chatTemplate: deps.chatTemplate }),
    },
    { logger, onThreadFailure: () => deps.metrics.threadFailed(name), onThreadEnded: () => deps.metrics.threadEnded(name) },
  );
}
