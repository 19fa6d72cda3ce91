import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { KvatlasError } from "@kvatlas/shared/errors";
import { loadPromptEncoderCore, type Tokenizer } from "@kvatlas/shared/tokenization/local-prompt-encoder";
import type { PromptEncoder } from "@kvatlas/shared/tokenization/prompt-encoder";
import type { AnswerToken, AnswerVocabulary } from "./engine/answer.ts";
import { imagePlaceholder, withImages } from "./images.ts";

/** What a replica needs of a tokenizer. One instance serves any number of replicas. */
export interface SimulatorTokenizer {
  readonly prompts: PromptEncoder;
  readonly vocabulary: AnswerVocabulary;
  /** Text of ids, special tokens included. */
  decode(tokenIds: readonly number[]): string;
}

/**
 * Loads a checkpoint's tokenizer and picks the words of answers from it.
 *
 * @param directory - with tokenizer.json and tokenizer_config.json
 * @throws KVATLAS_TOKENIZER_UNAVAILABLE
 */
export async function loadSimulatorTokenizer(directory: string): Promise<SimulatorTokenizer> {
  // Encodes on this thread: prompts of a simulated replica are small, and one tokenizer serves the whole fleet.
  const core = await loadPromptEncoderCore({ directory });
  const { tokenizer } = core;
  const special = await readSpecialTokens(directory);
  const vocabulary = pickVocabulary(tokenizer, special.endOfSequence === null ? null : (special.ids.get(special.endOfSequence) ?? null));
  const prompts: PromptEncoder = { encode: async (request) => core.encode(request), close: () => Promise.resolve() };
  const imageId = special.ids.get(imagePlaceholder);
  return {
    prompts: imageId === undefined ? prompts : withImages(prompts, imageId),
    vocabulary,
    decode: (tokenIds) => decodeWithSpecials(tokenizer, special.texts, tokenIds),
  };
}

/** For replicas without a tokenizer: prompts must be token ids, answers are numbered words. */
export const numericTokenizer: SimulatorTokenizer = {
  prompts: {
    encode: () =>
      Promise.reject(
        new KvatlasError(
          "KVATLAS_TOKENIZER_UNAVAILABLE",
          "this replica has no tokenizer: send the prompt as token ids to /v1/completions, or start it with --tokenizer DIR.",
        ),
      ),
    close: () => Promise.resolve(),
  },
  vocabulary: numericVocabulary(),
  decode: (tokenIds) => tokenIds.map((id) => ` w${id}`).join(""),
};

function numericVocabulary(): AnswerVocabulary {
  const words = Array.from({ length: 4096 }, (_, i): AnswerToken => ({ id: 1000 + i, text: ` w${1000 + i}` }));
  return { openers: words.slice(0, 256), words, endOfSequence: null };
}

const openerWords =
  "The It This That There Here When What One Some Many Most Each Every After Before If So We You They In On At For With From By As No Yes";
const innerWords = [
  "the of and to in is it that was for on are as with his they at be this from have or by one had not but what all were when we there can an",
  "your which their said if do will each about how up out them then she many some so these would other into has more her two like him see time",
  "could no make than first been its who now people my made over did down only way find use may water long little very after words called just",
  "where most know get through back much before go good new write our used me man too any day same right look think also around another came",
  "come work three must because does part even place well such here take why things help put years different away again off went old number",
  "great tell men say small every found still between name should home big give air line set own under read last never us left end along while",
  "might next sound below saw something thought both few those always looked show large often together asked house world going want school",
  "important until form food keep children feet land side without boy once animals life enough took sometimes four head above kind began almost",
]
  .join(" ")
  .split(" ");

/**
 * Common words that are one token each and stay so in a running text, so that an answer sent back in the next turn tokenizes to the ids
 * that were generated.
 */
export function pickVocabulary(tokenizer: Tokenizer, endOfSequence: number | null): AnswerVocabulary {
  const encode = (text: string): Uint32Array => tokenizer.encode(text, { addSpecialTokens: false });
  const openers: AnswerToken[] = [];
  for (const word of openerWords.split(" ")) {
    const ids = encode(word);
    const [id] = ids;
    if (ids.length === 1 && id !== undefined && tokenizer.decode([id]) === word) openers.push({ id, text: word });
  }
  const [anchor] = openers;
  const words: AnswerToken[] = [];
  for (const word of innerWords) {
    if (anchor === undefined) break;
    const text = ` ${word}`;
    const ids = encode(`${anchor.text}${text}${text}`);
    const [first, id, again] = ids;
    if (ids.length === 3 && first === anchor.id && id !== undefined && id === again) words.push({ id, text });
  }
  if (openers.length > 0 && words.length >= 16) return { openers, words, endOfSequence };
  throw new KvatlasError(
    "KVATLAS_TOKENIZER_UNAVAILABLE",
    `the tokenizer has ${words.length} of ${innerWords.length} common English words as single tokens: too few to make answers of.`,
  );
}

interface SpecialTokens {
  readonly ids: ReadonlyMap<string, number>;
  readonly texts: ReadonlyMap<number, string>;
  readonly endOfSequence: string | null;
}

async function readSpecialTokens(directory: string): Promise<SpecialTokens> {
  const tokenizer = JSON.parse(await readFile(join(directory, "tokenizer.json"), "utf8")) as { readonly added_tokens?: unknown };
  const config = JSON.parse(await readFile(join(directory, "tokenizer_config.json"), "utf8")) as { readonly eos_token?: unknown };
  const ids = new Map<string, number>();
  const texts = new Map<number, string>();
  for (const added of Array.isArray(tokenizer.added_tokens) ? (tokenizer.added_tokens as unknown[]) : []) {
    const { id, content } = added as { readonly id?: unknown; readonly content?: unknown };
    if (typeof id !== "number" || typeof content !== "string") continue;
    ids.set(content, id);
    texts.set(id, content);
  }
  const eos = config.eos_token;
  const content = typeof eos === "object" && eos !== null ? (eos as { readonly content?: unknown }).content : eos;
  return { ids, texts, endOfSequence: typeof content === "string" ? content : null };
}

function decodeWithSpecials(tokenizer: Tokenizer, specials: ReadonlyMap<number, string>, tokenIds: readonly number[]): string {
  let text = "";
  let run: number[] = [];
  for (const id of tokenIds) {
    const special = specials.get(id);
    if (special === undefined) {
      run.push(id);
      continue;
    }
    text += tokenizer.decode(run) + special;
    run = [];
  }
  return text + tokenizer.decode(run);
}
