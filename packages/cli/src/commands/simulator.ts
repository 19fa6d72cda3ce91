import { createLogger } from "@kvatlas/shared/logger";
import { createSimulatorFleet, type SimulatorFleet, type SimulatorOptions } from "@kvatlas/simulator/app";
import { parseAlgorithm } from "@kvatlas/simulator/engine-profile";
import type { LoraAdapter } from "@kvatlas/simulator/options";
import { loadSimulatorTokenizer } from "@kvatlas/simulator/tokenizer";
import { type ParsedArgs, usageError } from "../args.ts";
import type { Command } from "../command.ts";

const wireForms = ["array", "map", "map16"] as const;

export const simulatorCommand: Command = {
  name: "simulator",
  summary: "runs simulated vLLM replicas",
  usage: "simulator [--port 8001] [--replicas N] [--tokenizer DIR] [--engine-version 0.32] [options]",
  description:
    "Each replica has vLLM's OpenAI API, metrics, KV-cache events with replay, and a block pool that behaves like vLLM's. One option chooses the release; the others override parts of it.\n\n" +
    "With --replicas, ports count up: HTTP by one, event and replay ports by the data-parallel size. An events endpoint without * is dialled, as vLLM does. Faults and the true cache content: /sim (packages/simulator/README.md).",
  examples: [
    "kvatlas simulator --port 8001 --kv-events-endpoint 'tcp://*:5557' --replay-endpoint 'tcp://*:5657' --seed 42",
    "kvatlas simulator --replicas 8 --model Qwen/Qwen3-8B --tokenizer ./Qwen3-8B --hash-algo sha256_cbor --seed 42",
    "kvatlas simulator --port 0 --kv-events-endpoint tcp://127.0.0.1:5557 --topic auto --engine-version 0.22 --json",
  ],
  options: {
    port: { type: "string", value: "PORT", description: "HTTP port of the first replica; 0 picks free ones. Default 8001." },
    host: { type: "string", value: "HOST", description: "Address to listen on; 0.0.0.0 in containers. Default 127.0.0.1." },
    replicas: { type: "string", value: "N", description: "Replicas in this process. Default 1." },
    model: { type: "string", value: "NAME", description: "Served model name. Default simulated." },
    tokenizer: {
      type: "string",
      value: "DIR",
      description: "Directory with tokenizer.json and tokenizer_config.json; without it only token-id prompts are served.",
    },
    "engine-version": { type: "string", value: "VERSION", description: "vLLM release to behave like, 0.10 to 0.33. Default 0.32." },
    "kv-events-endpoint": {
      type: "string",
      value: "ENDPOINT",
      description: "ZMQ endpoint for events; with * it is bound, else dialled; none turns events off. Default tcp://*:5557.",
    },
    "replay-endpoint": {
      type: "string",
      value: "ENDPOINT",
      description: "ZMQ endpoint for replay; none turns it off. Default tcp://*:5657.",
    },
    topic: { type: "string", value: "TOPIC", description: "Topic of event messages; auto is kv@<address>@<model>. Default empty." },
    "buffer-steps": { type: "string", value: "N", description: "Batches kept for replay. Default 10000." },
    "block-size": { type: "string", value: "TOKENS", description: "Tokens per block. Default 16." },
    "num-blocks": { type: "string", value: "N", description: "Blocks per rank. Default 16384." },
    "hash-algo": { type: "string", value: "NAME", description: "Block-hash algorithm. Default: that of the release." },
    seed: { type: "string", value: "SEED", description: "PYTHONHASHSEED; absent means not set, random or fixed as the release has it." },
    "bytes-hashes": { type: "boolean", description: "Sends whole digests as bytes (VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES=0)." },
    "wire-form": { type: "string", value: "FORM", description: "array, map or map16, whatever the release." },
    "lookahead-tokens": {
      type: "string",
      value: "N",
      description: "Tokens after a block that are part of its hash (0.33 with EAGLE or MTP). Default 0.",
    },
    "host-blocks": {
      type: "string",
      value: "N",
      description: "Blocks of host memory that computed blocks are offloaded to. Default 0: none.",
    },
    "max-model-len": {
      type: "string",
      value: "TOKENS",
      description: "Longest prompt and answer. Default 131072, or what the blocks hold.",
    },
    "max-num-seqs": { type: "string", value: "N", description: "Requests that run at the same time. Default 256." },
    "max-num-batched-tokens": { type: "string", value: "TOKENS", description: "Tokens computed in one step. Default 8192." },
    "data-parallel-size": { type: "string", value: "N", description: "Ranks behind each HTTP port. Default 1." },
    lora: { type: "string", multiple: true, value: "NAME=PATH", description: "A LoRA adapter; may be repeated." },
    "prefill-tokens-per-second": { type: "string", value: "N", description: "Speed of prefill. Default 20000." },
    "decode-ms": { type: "string", value: "MS", description: "Milliseconds of a decode step. Default 8." },
    "decode-ms-per-sequence": { type: "string", value: "MS", description: "Milliseconds added per decoding sequence. Default 0.1." },
    "kv-transfer": {
      type: "boolean",
      description:
        "Hands KV blocks from replica to replica, as vLLM's NIXL connector does: for prefill and decoding on different replicas.",
    },
    "kv-transfer-ms": { type: "string", value: "MS", description: "Milliseconds to set up one transfer. Default 2." },
    "kv-transfer-tokens-per-second": { type: "string", value: "N", description: "Speed of transfers. Default 200000." },
    speed: { type: "string", value: "FACTOR", description: "Runs everything this many times faster. Default 1." },
    "answer-tokens": { type: "string", value: "N", description: "Typical length of answers that end by themselves. Default 48." },
    "stream-interval": { type: "string", value: "N", description: "Tokens per chunk of a stream. Default 1." },
    json: { type: "boolean", description: "Prints one line of JSON with all addresses when ready." },
  },
  run: async ({ args, stdout, stderr, signal }) => {
    const options = readOptions(args);
    const directory = args.string("tokenizer");
    const tokenizer = directory === undefined ? undefined : await loadSimulatorTokenizer(directory);
    const logger = createLogger({ service: "simulator", level: "warn", fileDescriptor: 2 });
    const fleet = createSimulatorFleet({ logger, ...(tokenizer === undefined ? {} : { tokenizer }) }, options);
    try {
      await fleet.start();
      const replicas = addresses(fleet);
      if (args.flag("json")) stdout.write(`${JSON.stringify({ ready: true, replicas })}\n`);
      else {
        for (const replica of replicas) {
          stdout.write(
            `${replica.url}  events ${replica.eventsEndpoint ?? "off"}  replay ${replica.replayEndpoint ?? "off"}  model ${replica.model}\n`,
          );
        }
        stderr.write("ready; stop with Ctrl-C\n");
      }
      await aborted(signal);
    } finally {
      await fleet.close();
      await tokenizer?.prompts.close();
    }
    return 0;
  },
};

function readOptions(args: ParsedArgs): SimulatorOptions & { readonly replicas: number } {
  const port = args.integer("port", { min: 0, max: 65_535 }) ?? 8001;
  const host = args.string("host") ?? "127.0.0.1";
  const topic = args.string("topic");
  const algorithm = args.string("hash-algo");
  return {
    replicas: args.integer("replicas", { min: 1, max: 1024 }) ?? 1,
    listen: `${host.includes(":") ? `[${host}]` : host}:${port}`,
    kvEventsEndpoint: endpoint(args, "kv-events-endpoint", port === 0 ? "tcp://*:0" : "tcp://*:5557"),
    replayEndpoint: endpoint(args, "replay-endpoint", port === 0 ? "tcp://*:0" : "tcp://*:5657"),
    topic: topic === "auto" ? null : (topic ?? ""),
    seed: args.string("seed") ?? null,
    bytesHashes: args.flag("bytes-hashes"),
    kvTransfer: args.flag("kv-transfer"),
    loraAdapters: args.strings("lora").map(adapter),
    ...defined({
      model: args.string("model"),
      engineVersion: args.string("engine-version"),
      hashAlgorithm: algorithm === undefined ? undefined : parseAlgorithm(algorithm),
      wireForm: wireForm(args.string("wire-form")),
      bufferSteps: args.integer("buffer-steps"),
      blockSizeTokens: args.integer("block-size"),
      numBlocks: args.integer("num-blocks"),
      lookaheadTokens: args.integer("lookahead-tokens"),
      hostBlocks: args.integer("host-blocks"),
      maxModelLen: args.integer("max-model-len"),
      maxNumSeqs: args.integer("max-num-seqs"),
      maxNumBatchedTokens: args.integer("max-num-batched-tokens"),
      dataParallelSize: args.integer("data-parallel-size"),
      prefillTokensPerSecond: args.number("prefill-tokens-per-second"),
      decodeMs: args.number("decode-ms"),
      decodeMsPerSequence: args.number("decode-ms-per-sequence"),
      kvTransferMs: args.number("kv-transfer-ms"),
      kvTransferTokensPerSecond: args.number("kv-transfer-tokens-per-second"),
      speed: args.number("speed"),
      typicalAnswerTokens: args.integer("answer-tokens"),
      streamInterval: args.integer("stream-interval"),
    }),
  };
}

/** Options that were given; absent ones keep the simulator's defaults. */
function defined<T extends object>(options: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]?: Exclude<T[K], undefined>;
  };
}

function endpoint(args: ParsedArgs, name: string, fallback: string): string | null {
  const value = args.string(name) ?? fallback;
  return value === "none" ? null : value;
}

function wireForm(text: string | undefined): (typeof wireForms)[number] | undefined {
  if (text === undefined) return undefined;
  const found = wireForms.find((form) => form === text);
  if (found === undefined) throw usageError(`option --wire-form: got "${text}", expected one of ${wireForms.join(", ")}.`);
  return found;
}

function adapter(text: string): LoraAdapter {
  const at = text.indexOf("=");
  if (at > 0 && at < text.length - 1) return { name: text.slice(0, at), path: text.slice(at + 1) };
  throw usageError(`option --lora: got "${text}", expected NAME=PATH.`);
}

function addresses(fleet: SimulatorFleet) {
  return fleet.simulators.map((simulator) => ({
    address: simulator.address,
    url: simulator.url,
    model: simulator.options.model,
    eventsEndpoint: simulator.eventsEndpoint,
    replayEndpoint: simulator.replayEndpoint,
    publishers: simulator.publishers,
    topic: simulator.topic,
  }));
}

function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => signal.addEventListener("abort", () => resolve(), { once: true }));
}
