import { describe, expect, it } from "vitest";
import { metricsOfRank, readEngineMetrics } from "./engine-metrics.ts";
import { parsePrometheusText } from "./prometheus-text.ts";

describe("parsePrometheusText", () => {
  it("reads labels with escapes, times and special values, and passes over the rest", () => {
    const text = [
      "# HELP a x",
      'a{l="x\\"y\\\\z\\n,}",m="2"} 1.5 1700000000',
      "a 2e3",
      "a{} +Inf",
      "a NaN",
      "a",
      'a{l="open} 1',
      "a{l=1} 1",
      "ab 7",
      "",
      "a -1",
    ].join("\n");
    expect(parsePrometheusText(text, new Set(["a"])).map((sample) => [Object.fromEntries(sample.labels), sample.value])).toEqual([
      [{ l: 'x"y\\z\n,}', m: "2" }, 1.5],
      [{}, 2000],
      [{}, Number.POSITIVE_INFINITY],
      [{}, -1],
    ]);
  });
});

describe("readEngineMetrics", () => {
  it("reads load, capacity, adapters, sleep and process start per rank", () => {
    const metrics = readEngineMetrics(`
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_waiting{engine="0",model_name="m"} 2.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:num_requests_running{engine="1",model_name="m"} 1.0
vllm:engine_sleep_state{engine="1",model_name="m",sleep_state="awake"} 0.0
vllm:engine_sleep_state{engine="1",model_name="m",sleep_state="weights_offloaded"} 1.0
vllm:engine_sleep_state{engine="1",model_name="m",sleep_state="discard_all"} 0.0
vllm:prompt_tokens_total{engine="0",model_name="m"} 700.0
vllm:prompt_tokens_total{engine="0",model_name="m2"} 5.0
vllm:lora_requests_info{max_lora="4",running_lora_adapters="old",waiting_lora_adapters=""} 1.0
vllm:lora_requests_info{max_lora="4",running_lora_adapters="a, b",waiting_lora_adapters="c"} 2.0
vllm:cache_config_info{block_size="16",num_gpu_blocks="1000",enable_prefix_caching="True",prefix_caching_hash_algo="sha256_cbor",engine="0"} 1.0
process_start_time_seconds 1789095808.5
`);
    expect(metrics.ranks.get(0)).toMatchObject({ sleep: null, promptTokens: 705 });
    expect(metrics.ranks.get(0)?.load).toEqual({
      waiting: 2,
      running: 3,
      kvUsage: 0.25,
      maxTokens: 16_000,
      runningLoras: ["a", "b"],
      waitingLoras: ["c"],
      maxLoras: 4,
    });
    expect(metrics.ranks.get(1)).toMatchObject({ load: { running: 1, maxTokens: null }, sleep: "discarded", promptTokens: null });
    expect(metrics).toMatchObject({
      processStartSeconds: 1789095808.5,
      hashAlgorithm: "sha256_cbor",
      blockSizeTokens: 16,
      prefixCachingEnabled: true,
    });
  });

  it("reads the names and gaps of older releases", () => {
    const metrics = readEngineMetrics('vllm:gpu_cache_usage_perc{model_name="m"} 0.5\nvllm:cache_config_info{block_size="None"} 1');
    expect(metrics.ranks.get(0)).toMatchObject({ load: { kvUsage: 0.5, maxTokens: null } });
    expect(metrics).toMatchObject({ processStartSeconds: null, hashAlgorithm: null, blockSizeTokens: null, prefixCachingEnabled: null });
  });

  it.each([
    [1, 0, 0, "awake"],
    [0, 0, 0, "paused"],
    [0, 1, 0, "discarded"],
    [0, 0, 1, "discarded"],
  ])("awake %d, weights_offloaded %d, discard_all %d: %s", (awake, offloaded, discarded, sleep) => {
    const page = `vllm:engine_sleep_state{sleep_state="awake"} ${awake}
vllm:engine_sleep_state{sleep_state="weights_offloaded"} ${offloaded}
vllm:engine_sleep_state{sleep_state="discard_all"} ${discarded}`;
    expect(readEngineMetrics(page).ranks.get(0)).toMatchObject({ sleep });
  });

  it("changes progress with every counter of work", () => {
    const base = 'vllm:num_requests_running 1\nvllm:kv_cache_usage_perc 0.1\nvllm:iteration_tokens_total_count{engine="0"} ';
    const progress = (text: string) => readEngineMetrics(text).ranks.get(0)?.progress;
    expect(progress(`${base}4`)).toBe(progress(`${base}4`));
    expect(progress(`${base}5`)).not.toBe(progress(`${base}4`));
  });

  it("takes the page of an engine with its own server for that of the rank asked for", () => {
    const alone = readEngineMetrics('vllm:num_requests_running{engine="3"} 2');
    expect(metricsOfRank(alone, 0)?.load.running).toBe(2);
    expect(metricsOfRank(alone, 1)).toBeNull();
    const both = readEngineMetrics('vllm:num_requests_running{engine="1"} 2\nvllm:num_requests_running{engine="2"} 3');
    expect(metricsOfRank(both, 2)?.load.running).toBe(3);
    expect(metricsOfRank(both, 0)).toBeNull();
    expect(metricsOfRank(null, 0)).toBeNull();
  });

  it("reads nothing from what is no metrics page", () => {
    expect(readEngineMetrics("<html>").ranks.size).toBe(0);
  });
});
