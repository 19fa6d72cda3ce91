import { readEngineMetrics } from "@kvatlas/ingester/load/engine-metrics";
import type { EngineAnswer, EngineHttp } from "./engine-http.ts";
import { isJson } from "./recording-line.ts";

/** Fields of a meta line. What cannot be learned from outside (arguments, environment) is left empty. */
export interface EngineDescription extends Readonly<Record<string, unknown>> {
  readonly engine: string;
  readonly engine_version: string | null;
  readonly model: string | null;
  readonly block_size: number | null;
  readonly algo: string | null;
  readonly seed: string | null;
}

/**
 * Asks an engine for what it tells about itself.
 *
 * @throws KVATLAS_ENDPOINT_UNAVAILABLE the engine does not answer
 */
export async function describeEngine(
  http: EngineHttp,
  known: { readonly engine: string; readonly seed: string | null; readonly topic: string },
): Promise<{ readonly meta: EngineDescription; readonly answers: readonly EngineAnswer[] }> {
  const answers: EngineAnswer[] = [];
  for (const path of ["/version", "/v1/models", "/kv_event_sources", "/metrics"]) answers.push(await http.ask(path));
  const bodyOf = (path: string): unknown => answers.find((answer) => answer.path === path && answer.status === 200)?.body ?? null;
  const version = bodyOf("/version");
  const metrics = bodyOf("/metrics");
  const cache = typeof metrics === "string" ? readEngineMetrics(metrics) : null;
  const meta: EngineDescription = {
    engine: known.engine,
    args: [],
    env: known.seed === null ? {} : { PYTHONHASHSEED: known.seed },
    seed_set: known.seed !== null,
    engine_version: isJson(version) && typeof version.version === "string" ? version.version : null,
    model: baseModelOf(bodyOf("/v1/models")),
    block_size: cache?.blockSizeTokens ?? null,
    algo: cache?.hashAlgorithm ?? null,
    seed: known.seed,
    tokenizer_package: null,
    topic: known.topic === "" ? null : known.topic,
  };
  return { meta, answers };
}

/** First model that is no adapter. */
function baseModelOf(models: unknown): string | null {
  const data = isJson(models) && Array.isArray(models.data) ? models.data : [];
  const base = data.find((model) => isJson(model) && typeof model.parent !== "string");
  return isJson(base) && typeof base.id === "string" ? base.id : null;
}
