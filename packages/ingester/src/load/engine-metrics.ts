import type { EndpointLoad } from "@kvatlas/shared/registry/endpoint-registry";
import { parsePrometheusText, type Sample } from "./prometheus-text.ts";

/** What is read from an engine's `/metrics` (vLLM 0.10 to 0.33, `v1/metrics/loggers.py`), per data-parallel rank. */
export interface EngineMetrics {
  readonly ranks: ReadonlyMap<number, Omit<EndpointLoad, "at" | "sleeping"> & { readonly sleeping: boolean }>;
  /** Start of the API server process; null when it runs several of them. */
  readonly processStartSeconds: number | null;
  /** `--prefix-caching-hash-algo`, as reported. */
  readonly hashAlgorithm: string | null;
  /** `--block-size`, as reported; hybrid models emit other sizes. */
  readonly blockSizeTokens: number | null;
  readonly prefixCachingEnabled: boolean | null;
}

const names = {
  running: "vllm:num_requests_running",
  waiting: "vllm:num_requests_waiting",
  usage: "vllm:kv_cache_usage_perc",
  /** 0.10 and hidden in 0.11. */
  usageOld: "vllm:gpu_cache_usage_perc",
  lora: "vllm:lora_requests_info",
  cacheConfig: "vllm:cache_config_info",
  sleep: "vllm:engine_sleep_state",
  processStart: "process_start_time_seconds",
} as const;
const wanted: ReadonlySet<string> = new Set(Object.values(names));

/** Ranks beyond this are taken for noise. */
const maxRanks = 1_024;

function rankOf(sample: Sample): number | null {
  const engine = sample.labels.get("engine") ?? "0";
  return /^\d{1,4}$/.test(engine) && Number(engine) < maxRanks ? Number(engine) : null;
}

function positive(text: string | undefined): number | null {
  const value = Number(text);
  return text !== undefined && Number.isFinite(value) && value > 0 ? value : null;
}

function listOf(text: string | undefined): readonly string[] {
  return (text ?? "")
    .split(",")
    .map((name) => name.trim())
    .filter((name) => name !== "");
}

interface RankNumbers {
  running: number;
  waiting: number;
  usage: number | null;
  usageOld: number | null;
  capacityTokens: number | null;
  sleeping: boolean;
}

/** Numbers of each rank; samples of several models in one rank (`model_name`) add up, usage does not. */
export function readEngineMetrics(text: string): EngineMetrics {
  const samples = parsePrometheusText(text, wanted);
  const ranks = new Map<number, RankNumbers>();
  const rank = (sample: Sample): RankNumbers | null => {
    const number = rankOf(sample);
    if (number === null) return null;
    let numbers = ranks.get(number);
    if (numbers === undefined) {
      numbers = { running: 0, waiting: 0, usage: null, usageOld: null, capacityTokens: null, sleeping: false };
      ranks.set(number, numbers);
    }
    return numbers;
  };
  let processStartSeconds: number | null = null;
  let cacheConfig: Sample | null = null;
  let lora: Sample | null = null;
  for (const sample of samples) {
    switch (sample.name) {
      case names.processStart:
        processStartSeconds = sample.value;
        break;
      case names.lora:
        // A gauge whose value is the time it was set: the newest one counts.
        if (lora === null || sample.value > lora.value) lora = sample;
        break;
      default: {
        const numbers = rank(sample);
        if (numbers === null) break;
        if (sample.name === names.running) numbers.running += sample.value;
        else if (sample.name === names.waiting) numbers.waiting += sample.value;
        else if (sample.name === names.usage) numbers.usage = sample.value;
        else if (sample.name === names.usageOld) numbers.usageOld = sample.value;
        else if (sample.name === names.sleep) numbers.sleeping ||= sample.labels.get("sleep_state") === "awake" && sample.value === 0;
        else if (sample.name === names.cacheConfig) {
          cacheConfig ??= sample;
          numbers.capacityTokens = capacityTokens(sample);
        }
      }
    }
  }
  const runningLoras = listOf(lora?.labels.get("running_lora_adapters"));
  const waitingLoras = listOf(lora?.labels.get("waiting_lora_adapters"));
  const caching = cacheConfig?.labels.get("enable_prefix_caching");
  return {
    ranks: new Map(
      [...ranks].map(([number, numbers]) => [
        number,
        {
          waiting: numbers.waiting,
          running: numbers.running,
          kvUsage: Math.min(1, Math.max(0, numbers.usage ?? numbers.usageOld ?? 0)),
          maxTokens: numbers.capacityTokens,
          runningLoras,
          waitingLoras,
          sleeping: numbers.sleeping,
        },
      ]),
    ),
    processStartSeconds,
    hashAlgorithm: cacheConfig?.labels.get("prefix_caching_hash_algo") ?? null,
    blockSizeTokens: positive(cacheConfig?.labels.get("block_size")),
    prefixCachingEnabled: caching === undefined ? null : caching === "True",
  };
}

/** `kv_cache_size_tokens` (0.24+), else blocks x block size; every attribute is a string, "None" included. */
function capacityTokens(sample: Sample): number | null {
  const tokens = positive(sample.labels.get("kv_cache_size_tokens"));
  if (tokens !== null) return tokens;
  const blocks = positive(sample.labels.get("num_gpu_blocks"));
  const blockSize = positive(sample.labels.get("block_size"));
  return blocks === null || blockSize === null ? null : blocks * blockSize;
}
