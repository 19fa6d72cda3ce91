import { text as readAll } from "node:stream/consumers";
import type { KvatlasConfig } from "@kvatlas/shared/config/schema";
import { createLogger } from "@kvatlas/shared/logger";
import { didYouMean } from "@kvatlas/shared/nearest";
import { usageError } from "../args.ts";
import type { Command, CommandContext } from "../command.ts";
import { configOption, readConfig } from "../config-file.ts";
import type { Inspection } from "../inspect/inspection.ts";
import { type InspectSource, withSource } from "../inspect/source.ts";

const kinds = ["endpoints", "pools", "block", "prompt", "stats", "quality", "diff"] as const;

export const inspectCommand: Command = {
  name: "inspect",
  summary: "shows endpoints, pools, blocks, prompts and counts of the index in Redis, and whether it is right",
  usage: "inspect endpoints | pools | block <key> | prompt <text> | stats | quality | diff   [--config FILE] [--json]",
  description: [
    "Reads only. Also prints the redis-cli command that shows the same.",
    "",
    "  endpoints      every endpoint with its owner, incarnation, readiness, load and findings",
    "  pools          what was discovered of each pool: replicas, mode, what objects in the cluster say, problems",
    "  block <key>    who holds one block; keys as `inspect prompt --json` lists them",
    "  prompt <text>  who holds how much of a prompt's prefix; - reads the text from stdin",
    "  stats          instances, scopes, blocks and bytes, entries and progress of every endpoint, the last audit",
    "  quality        how well routers' decisions turned out: hits, what was passed up, predictions against what engines report",
    "  diff           the index against what the replicas hold, where they show it (simulators); exit code 1 when they differ",
  ].join("\n"),
  examples: [
    "KVATLAS_REDIS_URL=redis://localhost:6379 kvatlas inspect endpoints",
    "kvatlas inspect block 9f8e7d6c5b4a3921 --config kvatlas.yaml",
    "kvatlas inspect prompt 'Tell me about whales' --config kvatlas.yaml --pool qwen",
    "kvatlas inspect prompt --body - --config kvatlas.yaml --json < request.json",
  ],
  options: {
    config: configOption,
    json: { type: "boolean", description: "One JSON object on stdout, and nothing else." },
    pool: { type: "string", value: "NAME", description: "prompt: pool whose tokenizer and model apply; not needed when there is one." },
    body: { type: "boolean", description: "prompt: the text is the body of an OpenAI request, not a user message." },
  },
  positionals: { name: "what to show (endpoints, pools, block <key>, prompt <text>, stats, quality or diff)", min: 1, max: 2 },
  run: async (context) => {
    const inspect = await chooseInspection(context);
    const { config } = await readConfig(context);
    const logger = createLogger({ service: "inspect", level: "warn", fileDescriptor: 2 });
    const { json, text, redisCli, isWrong } = await withSource(config, logger, (source) => inspect(source, config));
    if (context.args.flag("json")) context.stdout.write(`${JSON.stringify({ ...json, redisCli }, null, 2)}\n`);
    else context.stdout.write(`${text}${redisCli.map((line) => `\n$ ${line}`).join("")}\n`);
    return isWrong === true ? 1 : 0;
  },
};

type Inspect = (source: InspectSource, config: KvatlasConfig) => Promise<Inspection>;

async function chooseInspection(context: CommandContext): Promise<Inspect> {
  const [kind = "", subject] = context.args.positionals;
  if (subject !== undefined && (kind === "endpoints" || kind === "pools" || kind === "stats" || kind === "quality" || kind === "diff"))
    throw usageError(`"inspect ${kind}" takes no argument, got "${subject}".`);
  switch (kind) {
    case "endpoints":
      return (await import("../inspect/endpoints.ts")).inspectEndpoints;
    case "pools":
      return (await import("../inspect/pools.ts")).inspectPools;
    case "stats":
      return (await import("../inspect/stats.ts")).inspectStats;
    case "quality":
      return (await import("../inspect/quality.ts")).inspectQuality;
    case "diff":
      return (await import("../inspect/diff.ts")).inspectDiff;
    case "block": {
      if (subject === undefined) throw usageError('"inspect block" needs a block key: 16 hex digits.');
      const { inspectBlock } = await import("../inspect/block.ts");
      return (source) => inspectBlock(source, subject);
    }
    case "prompt": {
      if (subject === undefined) throw usageError('"inspect prompt" needs a text, or - to read it from stdin.');
      const { choosePool, inspectPrompt } = await import("../inspect/prompt.ts");
      const text = subject === "-" ? await readAll(context.stdin) : subject;
      return (source, config) => {
        const pool = choosePool(config, context.args.string("pool"));
        const bodyText = context.args.flag("body")
          ? text
          : JSON.stringify({ model: pool.model, messages: [{ role: "user", content: text }] });
        return inspectPrompt(source, { pool, request: { kind: isCompletion(bodyText) ? "completion" : "chat", bodyText } });
      };
    }
    default:
      throw usageError(`"inspect ${kind}" is unknown: expected ${kinds.join(", ")}.${didYouMean(kind, kinds)}`);
  }
}

/** A body without messages is one of /v1/completions; what is no JSON is refused by the encoder. */
function isCompletion(bodyText: string): boolean {
  try {
    const body: unknown = JSON.parse(bodyText);
    return typeof body === "object" && body !== null && !("messages" in body);
  } catch {
    return false;
  }
}
