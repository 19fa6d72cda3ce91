import { once } from "node:events";
import { isKvatlasError } from "@kvatlas/shared/errors";
import { usageError } from "../args.ts";
import type { Command, CommandContext } from "../command.ts";
import { readRecording } from "../recording/read-recording.ts";
import { RecordedTokenizer } from "../recording/recorded-tokenizer.ts";
import { reportText } from "../recording/report-table.ts";
import { isSystemError } from "../recording/system-error.ts";
import { verifyRecording } from "../recording/verify-recording.ts";

export const verifyCommand: Command = {
  name: "verify",
  summary: "checks recordings: decoding, keys, predicted cache hits, tokens",
  usage: "verify <recording.jsonl>... [--tokenizer DIR] [--json]",
  description: [
    "Reads recordings of engines (kvatlas record writes them) and checks, with the code that runs in production, that every stored block hash can be",
    "recomputed from its tokens, that every request's cache hit is what the events before it predict, and, with --tokenizer, that every prompt has the",
    "engine's token ids. What cannot be checked is counted by reason. Exits with 1 when anything differs.",
  ].join("\n"),
  examples: ["kvatlas verify engine.jsonl", "kvatlas verify --tokenizer models/Qwen3-8B --json a.jsonl b.jsonl"],
  options: {
    tokenizer: {
      type: "string",
      value: "DIR",
      description: "Directory with tokenizer.json and tokenizer_config.json of the recorded model.",
    },
    json: { type: "boolean", description: "One JSON object per file and line instead of text." },
  },
  positionals: { name: "recording", min: 1, max: 10_000 },
  run: verify,
};

async function verify({ args, stdout, signal }: CommandContext): Promise<number> {
  const directory = args.string("tokenizer");
  const options = directory === undefined ? {} : { tokenizer: await loadTokenizer(directory) };
  let hasProblems = false;
  for (const file of args.positionals) {
    if (signal.aborted) return 1;
    const recording = await readRecording(file).catch((error: unknown) => {
      throw isSystemError(error) ? usageError(`cannot read ${file}: ${error.message}.`) : error;
    });
    const report = await verifyRecording(file, recording, options);
    hasProblems ||= report.problems.length > 0;
    const text = args.flag("json") ? `${JSON.stringify(report)}\n` : reportText(report);
    if (!stdout.write(text)) await once(stdout, "drain");
  }
  return hasProblems ? 1 : 0;
}

async function loadTokenizer(directory: string): Promise<RecordedTokenizer> {
  try {
    return await RecordedTokenizer.load(directory);
  } catch (error) {
    throw isKvatlasError(error) ? usageError(`--tokenizer ${directory}: ${error.message}`) : error;
  }
}
