/** The tokens that answers are made of. */
export interface AnswerVocabulary {
  /** Tokens an answer can begin with, and their text. */
  readonly openers: readonly AnswerToken[];
  /** Tokens that follow; each begins with a space where the tokenizer has such tokens. */
  readonly words: readonly AnswerToken[];
  /** End-of-sequence token; null: answers that end by themselves end with a word. */
  readonly endOfSequence: number | null;
}

export interface AnswerToken {
  readonly id: number;
  readonly text: string;
}

export interface AnswerRequest {
  readonly promptTokenIds: ArrayLike<number>;
  /** Tells the choices of one request apart. */
  readonly choice: number;
  readonly maxTokens: number;
  readonly minTokens: number;
  readonly ignoresEndOfSequence: boolean;
  readonly stop: readonly string[];
  readonly stopTokenIds: readonly number[];
  /** Answers that end by themselves are half to one and a half times this long. */
  readonly typicalTokens: number;
}

export interface Answer {
  readonly tokenIds: readonly number[];
  /** Text of each token, cut where a stop string begins. */
  readonly texts: readonly string[];
  readonly finishReason: "stop" | "length";
  /** The stop string or token that ended it; null otherwise. */
  readonly stopReason: string | number | null;
}

/** The whole answer to a prompt. The same prompt and choice always get the same answer, of which `maxTokens` only cuts the end. */
export function planAnswer(request: AnswerRequest, vocabulary: AnswerVocabulary): Answer {
  const random = createRandom(hashTokens(request.promptTokenIds) ^ Math.imul(request.choice + 1, 0x9e3779b1));
  const natural = Math.max(request.minTokens + 1, Math.ceil(request.typicalTokens * (0.5 + random())), 1);
  const endsByItself = !request.ignoresEndOfSequence && natural <= request.maxTokens;
  const length = endsByItself ? natural : request.maxTokens;
  const tokenIds: number[] = [];
  const texts: string[] = [];
  let text = "";
  for (let i = 0; i < length; i += 1) {
    if (endsByItself && i === length - 1 && vocabulary.endOfSequence !== null) {
      tokenIds.push(vocabulary.endOfSequence);
      texts.push("");
      break;
    }
    const choices = i === 0 ? vocabulary.openers : vocabulary.words;
    const token = choices[Math.floor(random() * choices.length)] ?? { id: 0, text: "" };
    tokenIds.push(token.id);
    texts.push(token.text);
    text += token.text;
    if (i + 1 < request.minTokens) continue;
    if (request.stopTokenIds.includes(token.id)) return { tokenIds, texts, finishReason: "stop", stopReason: token.id };
    const stop = firstStop(text, token.text.length, request.stop);
    if (stop !== null) return { tokenIds, texts: cutTexts(texts, stop.at), finishReason: "stop", stopReason: stop.text };
  }
  return { tokenIds, texts, finishReason: endsByItself ? "stop" : "length", stopReason: null };
}

/** Looks at the end of the text only: what came before the last `fresh` characters has been looked at. */
function firstStop(text: string, fresh: number, stops: readonly string[]): { readonly at: number; readonly text: string } | null {
  let found: { readonly at: number; readonly text: string } | null = null;
  for (const stop of stops) {
    if (stop === "") continue;
    const at = text.indexOf(stop, Math.max(0, text.length - fresh - stop.length));
    if (at >= 0 && (found === null || at < found.at)) found = { at, text: stop };
  }
  return found;
}

function cutTexts(texts: readonly string[], end: number): string[] {
  let position = 0;
  return texts.map((text) => {
    const kept = text.slice(0, Math.max(0, end - position));
    position += text.length;
    return kept;
  });
}

/** FNV-1a over 32-bit units. */
function hashTokens(tokens: ArrayLike<number>): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < tokens.length; i += 1) hash = Math.imul(hash ^ (tokens[i] ?? 0), 0x01000193);
  return hash >>> 0;
}

/** mulberry32: numbers in [0, 1) from a 32-bit state. */
function createRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 0x1_0000_0000;
  };
}
