import { loadEngineEncoder } from "@kvatlas/shared/tokenization/local-prompt-encoder";
import { expect, it } from "vitest";
import { type SeededRandom, seededRandom } from "../support/seeded-random.ts";
import { runnableEngines } from "../support/tokenizer-engines.ts";
import { modelDirectory } from "../support/tokenizer-models.ts";

/** Families that differ in kind: byte-level with NFC, with many added tokens, Metaspace. */
const families = [
  { family: "qwen3", modelType: "qwen3" },
  { family: "deepseek_v3", modelType: "deepseek_v3" },
  { family: "llama2", modelType: "llama" },
];
const pieces = [
  "the",
  " cache",
  "größer",
  "更大的",
  "🐋",
  "\u0301",
  "  ",
  "\n",
  "\t",
  "\u00a0",
  "\u0085",
  "123456",
  "²½①",
  "!=",
  "{}",
  "'ll",
  "aaaaaaaa",
  "العربية",
  "हिन्दी",
  "\u200d",
  "<|im_start|>",
  "<|im_end|>",
  "<think>",
  "<｜User｜>",
  "<s>",
  "</s>",
  "<|",
] as const;

/** Without what keeps a text from being encoded by remembered words. */
const plainPieces = [
  "the",
  " cache",
  "größer",
  "更大的",
  "🐋",
  "  ",
  "\n",
  "\t",
  "123456",
  "²½",
  "!=",
  "{}",
  "aaaaaaaa",
  "<|im_end|>",
  "</s>",
  "<|",
  "DON'T",
  "we'll",
  "XMLHttp",
  " \n \n",
  "\r\n\r\n",
  "   ",
  "…",
  "1234567",
  "こんにちは",
  "\u00a0 ",
] as const;

function textOf(random: SeededRandom): string {
  const from = random.chance(0.5) ? pieces : plainPieces;
  return Array.from({ length: random.between(1, 30) }, () => random.pick<string>(from)).join(random.chance(0.5) ? " " : "");
}

const engines = await runnableEngines();

it.runIf(engines.includes("native")).each(families)(
  "both engines encode random texts of $family alike, remembered or not",
  async (options) => {
    const { family, modelType } = options;
    const load = (engine: "native" | "javascript", cacheBytes?: number) =>
      loadEngineEncoder({ engine, directory: modelDirectory(family), modelType, ...(cacheBytes === undefined ? {} : { cacheBytes }) });
    const [native, forgetful, javascript] = [await load("native"), await load("native", 0), await load("javascript")];
    const random = seededRandom(5);
    const history: string[] = [];
    for (let i = 0; i < 120; i++) {
      // Some texts begin like an earlier one, as chats do.
      const text = (random.chance(0.5) ? (history.at(-1) ?? "") : "").slice(0, 2_000) + textOf(random);
      history.push(text);
      const request = { kind: "completion" as const, bodyText: JSON.stringify({ prompt: text }) };
      const expected = (await forgetful.encode(request))[0];
      expect((await native.encode(request))[0], JSON.stringify(text)).toEqual(expected);
      expect((await javascript.encode(request))[0], JSON.stringify(text)).toEqual(expected);
    }
  },
  // Nine tokenizers are read.
  180_000,
);
