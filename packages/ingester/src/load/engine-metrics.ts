import type { EndpointLoad } from "@kvatlas/shared/registry/endpoint-registry";
import { parsePrometheusText, type Sample } from "./prometheus-text.ts";

/** `paused`: it computes nothing and keeps its cache (sleep level 0). `discarded`: the cache is gone (levels 1 and 2). */
export type SleepState = "awake" | "paused" | "discarded";

/** Numbers of one data-parallel rank. */
export interface RankMetrics {
  readonly load: Omit<EndpointLoad, "at" | "sleeping">;
  /** Null when the page does not say (before vLLM 0.11.1). */
  readonly sleep: SleepState | null;
  /** Changes whenever the engine gets anything done; what it says is for comparison only. */
  readonly progress: string;
  /** Prompt tokens it has processed since it started; null when it does not count them. */
  readonly promptTokens: number | null;
}

/** What is read from an engine's `/metrics` (vLLM 0.10 to 0.33, `v1/metrics/loggers.py`), per data-parallel rank. */
export interface EngineMetrics {
  readonly ranks: ReadonlyMap<number, RankMetrics>;
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
  promptTokens: "vllm:prompt_tokens_total",
} as const;
/** Counters that grow with an engine's work; the count of steps moves through a long prefill as well. */
const workCounters: ReadonlySet<string> = new Set([
  names.promptTokens,
  "vllm:generation_tokens_total",
  "vllm:request_success_total",
  "vllm:num_preemptions_total",
  "vllm:iteration_tokens_total_count",
]);
const wanted: ReadonlySet<string> = new Set([...Object.values(names), ...workCounters]);

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
  promptTokens: number | null;
  work: number;
  readonly sleep: Map<string, number>;
}

/** vLLM `record_sleep_state`: level 0 sets none of the three, level 1 `weights_offloaded`, level 2 `discard_all`; both give the cache up. */
function sleepStateOf(states: ReadonlyMap<string, number>): SleepState | null {
  const awake = states.get("awake");
  if (awake === undefined) return null;
  if (awake > 0) return "awake";
  return states.get("weights_offloaded") === 0 && states.get("discard_all") === 0 ? "paused" : "discarded";
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
      numbers = {
        running: 0,
        waiting: 0,
        usage: null,
        usageOld: null,
        capacityTokens: null,
        promptTokens: null,
        work: 0,
        sleep: new Map(),
      };
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
        else if (sample.name === names.sleep) numbers.sleep.set(sample.labels.get("sleep_state") ?? "", sample.value);
        else if (sample.name === names.cacheConfig) {
          cacheConfig ??= sample;
          numbers.capacityTokens = capacityTokens(sample);
        } else if (workCounters.has(sample.name)) {
          numbers.work += sample.value;
          if (sample.name === names.promptTokens) numbers.promptTokens = (numbers.promptTokens ?? 0) + sample.value;
        }
      }
    }
  }
  const runningLoras = listOf(lora?.labels.get("running_lora_adapters"));
  const waitingLoras = listOf(lora?.labels.get("waiting_lora_adapters"));
  const maxLoras = Number(lora?.labels.get("max_lora") ?? Number.NaN);
  const caching = cacheConfig?.labels.get("enable_prefix_caching");
  return {
    ranks: new Map(
      [...ranks].map(([number, numbers]) => [
        number,
        {
          load: {
            waiting: numbers.waiting,
            running: numbers.running,
            kvUsage: Math.min(1, Math.max(0, numbers.usage ?? numbers.usageOld ?? 0)),
            maxTokens: numbers.capacityTokens,
            runningLoras,
            waitingLoras,
            ...(Number.isInteger(maxLoras) && maxLoras >= 0 ? { maxLoras } : {}),
          },
          sleep: sleepStateOf(numbers.sleep),
          progress: [numbers.running, numbers.waiting, numbers.usage ?? numbers.usageOld, numbers.work].join(),
          promptTokens: numbers.promptTokens,
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

/**
 * Numbers of a rank. An engine that has an HTTP server of its own (data parallelism behind several ports) names its samples by its rank in the
 * whole group, whatever its rank behind this address is: a page of one rank is that of the rank asked for.
 */
export function metricsOfRank(metrics: EngineMetrics | null, rank: number): RankMetrics | null {
  if (metrics === null) return null;
  const [only] = metrics.ranks.size === 1 && rank === 0 ? metrics.ranks.values() : [];
  return metrics.ranks.get(rank) ?? only ?? null;
}
