import { Counter, Gauge, Histogram, Registry } from "prom-client";
import type { EngineObserver } from "./engine/engine.ts";
import type { ResolvedOptions } from "./options.ts";

/** What the gauges read at scrape time. */
export interface RankView {
  readonly running: number;
  readonly waiting: number;
  /** Further requests that wait for KV from another engine. */
  readonly deferred: number;
  /** 0 to 1. */
  readonly kvUsage: number;
  readonly preemptions: number;
  readonly queriedTokens: number;
  readonly hitTokens: number;
  readonly hostHitTokens: number;
  readonly runningAdapters: readonly string[];
  readonly waitingAdapters: readonly string[];
}

export interface MetricsSource {
  readonly ranks: readonly RankView[];
  /** Null: paused (level 0), which none of the states names. */
  readonly sleepState: "awake" | "weights_offloaded" | "discard_all" | null;
  /** Unix time in seconds. */
  readonly processStartTime: number;
  /** Unix time in seconds, now. */
  readonly now: number;
}

export interface ReplicaMetrics {
  observer(rank: number): EngineObserver;
  text(source: MetricsSource): Promise<string>;
  readonly contentType: string;
}

const latencyBuckets = [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560];
const tokenBuckets = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000];

/** The metrics of one replica process under vLLM's names and labels (0.33 `v1/metrics/loggers.py`). */
export function createReplicaMetrics(options: ResolvedOptions): ReplicaMetrics {
  const registry = new Registry();
  const registers = [registry];
  const labelNames = ["model_name", "engine"] as const;
  const gauge = (name: string, help: string) => new Gauge({ name: `vllm:${name}`, help, labelNames, registers });
  const counter = (name: string, help: string) => new Counter({ name: `vllm:${name}_total`, help, labelNames, registers });
  const histogram = (name: string, help: string, buckets: readonly number[]) =>
    new Histogram({ name: `vllm:${name}`, help, labelNames, registers, buckets: [...buckets] });

  const running = gauge("num_requests_running", "Number of requests in model execution batches.");
  const waiting = gauge("num_requests_waiting", "Number of requests waiting to be processed.");
  const waitingByReason = new Gauge({
    name: "vllm:num_requests_waiting_by_reason",
    help: "Number of requests waiting, by reason.",
    labelNames: ["model_name", "engine", "reason"],
    registers,
  });
  const usage = gauge("kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.");
  const oldUsage = options.profile.version.startsWith("0.10.")
    ? gauge("gpu_cache_usage_perc", "GPU KV-cache usage. 1 means 100 percent usage.")
    : null;
  const queries = counter("prefix_cache_queries", "Prefix cache queries, in tokens.");
  const hits = counter("prefix_cache_hits", "Prefix cache hits, in tokens.");
  const hostQueries = counter("external_prefix_cache_queries", "External prefix cache queries, in tokens.");
  const hostHits = counter("external_prefix_cache_hits", "External prefix cache hits, in tokens.");
  const preemptions = counter("num_preemptions", "Cumulative number of preemptions.");
  const promptTokens = counter("prompt_tokens", "Number of prefill tokens processed.");
  const cachedPromptTokens = counter("prompt_tokens_cached", "Number of prompt tokens found in the cache.");
  const generationTokens = counter("generation_tokens", "Number of generation tokens processed.");
  const success = new Counter({
    name: "vllm:request_success_total",
    help: "Count of successfully processed requests.",
    labelNames: ["model_name", "engine", "finished_reason"],
    registers,
  });
  const firstToken = histogram("time_to_first_token_seconds", "Time to first token in seconds.", latencyBuckets);
  const betweenTokens = histogram("inter_token_latency_seconds", "Inter-token latency in seconds.", latencyBuckets);
  const endToEnd = histogram("e2e_request_latency_seconds", "End to end request latency in seconds.", latencyBuckets);
  const queued = histogram("request_queue_time_seconds", "Time spent in WAITING phase in seconds.", latencyBuckets);
  const promptLengths = histogram("request_prompt_tokens", "Number of prefill tokens processed.", tokenBuckets);
  const answerLengths = histogram("request_generation_tokens", "Number of generation tokens processed.", tokenBuckets);
  const stepTokens = histogram("iteration_tokens_total", "Tokens per engine step.", tokenBuckets);
  const sleep = new Gauge({
    name: "vllm:engine_sleep_state",
    help: "Engine sleep state.",
    labelNames: ["model_name", "engine", "sleep_state"],
    registers,
  });
  const lora = new Gauge({
    name: "vllm:lora_requests_info",
    help: "Running stats on LoRA requests.",
    labelNames: ["max_lora", "waiting_lora_adapters", "running_lora_adapters"],
    registers,
  });
  const started = new Gauge({
    name: "process_start_time_seconds",
    help: "Start time of the process since unix epoch in seconds.",
    registers,
  });
  registerCacheConfig(registry, options);

  const perRank = (rank: number) => ({ model_name: options.model, engine: String(rank) });
  for (let rank = 0; rank < options.dataParallelSize; rank += 1) {
    for (const metric of [queries, hits, hostQueries, hostHits, preemptions, promptTokens, cachedPromptTokens, generationTokens])
      metric.inc(perRank(rank), 0);
    for (const reason of ["stop", "length", "abort", "error"]) success.inc({ ...perRank(rank), finished_reason: reason }, 0);
    for (const metric of [firstToken, betweenTokens, endToEnd, queued, promptLengths, answerLengths, stepTokens])
      metric.zero(perRank(rank));
  }

  function read(source: MetricsSource): void {
    for (const [rank, view] of source.ranks.entries()) {
      const labels = perRank(rank);
      running.set(labels, view.running);
      waiting.set(labels, view.waiting + view.deferred);
      waitingByReason.set({ ...labels, reason: "capacity" }, view.waiting);
      waitingByReason.set({ ...labels, reason: "deferred" }, view.deferred);
      usage.set(labels, view.kvUsage);
      oldUsage?.set(labels, view.kvUsage);
      setCounter(queries, labels, view.queriedTokens);
      setCounter(hits, labels, view.hitTokens);
      setCounter(hostQueries, labels, options.hostBlocks === 0 ? 0 : view.queriedTokens - view.hitTokens);
      setCounter(hostHits, labels, view.hostHitTokens);
      setCounter(preemptions, labels, view.preemptions);
      for (const state of ["awake", "weights_offloaded", "discard_all"] as const) {
        sleep.set({ ...labels, sleep_state: state }, state === source.sleepState ? 1 : 0);
      }
    }
    started.set(source.processStartTime);
    if (options.loraAdapters.length === 0) return;
    lora.reset();
    const adapters = (names: (view: RankView) => readonly string[]) => [...new Set(source.ranks.flatMap(names))].join(",");
    lora.set(
      {
        max_lora: String(options.loraAdapters.length),
        waiting_lora_adapters: adapters((view) => view.waitingAdapters),
        running_lora_adapters: adapters((view) => view.runningAdapters),
      },
      source.now,
    );
  }

  return {
    contentType: registry.contentType,
    text: (source) => {
      read(source);
      return registry.metrics();
    },
    observer: (rank) => {
      const labels = perRank(rank);
      return {
        onAdmitted: (_, queuedMs) => queued.observe(labels, queuedMs / 1000),
        onFirstToken: (sequence, sinceArrivalMs) => {
          firstToken.observe(labels, sinceArrivalMs / 1000);
          promptTokens.inc(labels, sequence.spec.promptTokens);
          cachedPromptTokens.inc(labels, Math.max(0, sequence.cachedTokens));
          generationTokens.inc(labels, 1);
        },
        onNextToken: (sinceLastTokenMs) => {
          betweenTokens.observe(labels, sinceLastTokenMs / 1000);
          generationTokens.inc(labels, 1);
        },
        onFinished: (sequence, reason, sinceArrivalMs) => {
          success.inc({ ...labels, finished_reason: reason }, 1);
          endToEnd.observe(labels, sinceArrivalMs / 1000);
          promptLengths.observe(labels, sequence.spec.promptTokens);
          answerLengths.observe(labels, sequence.generated);
        },
        onStep: (plan) => stepTokens.observe(labels, plan.prefillTokens + plan.decodeSequences),
      };
    },
  };
}

/** Brings a counter to a value that only grows. */
function setCounter(metric: Counter<"model_name" | "engine">, labels: { model_name: string; engine: string }, value: number): void {
  metric.remove(labels);
  metric.inc(labels, value);
}

/** Every value as Python prints it. */
function registerCacheConfig(registry: Registry, options: ResolvedOptions): void {
  const config: Readonly<Record<string, string>> = {
    block_size: String(options.blockSizeTokens),
    cache_dtype: "auto",
    calculate_kv_scales: "False",
    cpu_offload_gb: "0",
    enable_prefix_caching: options.enablePrefixCaching ? "True" : "False",
    gpu_memory_utilization: "0.9",
    is_attention_free: "False",
    kv_cache_size_tokens: String(options.numBlocks * options.blockSizeTokens),
    num_cpu_blocks: "None",
    num_gpu_blocks: String(options.numBlocks),
    num_gpu_blocks_override: "None",
    prefix_caching_hash_algo: options.hashAlgorithm,
    sliding_window: "None",
    swap_space: "4",
  };
  const info = new Gauge({
    name: "vllm:cache_config_info",
    help: "Information of the LLMEngine CacheConfig",
    labelNames: [...Object.keys(config), "engine"],
    registers: [registry],
  });
  for (let rank = 0; rank < options.dataParallelSize; rank += 1) info.set({ ...config, engine: String(rank) }, 1);
}
