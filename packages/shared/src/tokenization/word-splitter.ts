import { gpt2Pattern, preTokenizerSteps, type TokenizerJson } from "./engine-pipeline.ts";

/** Words of a text, one after the other without gaps: what BPE merges by itself. */
export type SplitWords = (text: string) => readonly string[];

/** Contractions in any case: the one inline flag that patterns of published tokenizers have, and JavaScript does not. */
const CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const CONTRACTIONS_SPELT = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])";
const SET = /\[(?:[^\]\\]|\\.)*\]/gs;
/** What means something else in the engine's regular expressions than here: sets in sets, other classes, flags, look-behind, anchors, the dot. */
const FOREIGN_IN_SET = /&&|^\[.*[^\\](?:\\\\)*\[|\\[wWdD]/s;
const FOREIGN_OUTSIDE = /\\[wWdDbB]|\(\?[^:!=]|[$^.]/;

/**
 * The pre-tokenizer of byte-level tokenizers, without the step to bytes, as JavaScript's regular expressions. Exact for the characters of `isPlain`
 * only. Returns null for any other pre-tokenizer.
 */
export function createWordSplitter({ pre_tokenizer: preTokenizer }: Pick<TokenizerJson, "pre_tokenizer">): SplitWords | null {
  const steps = preTokenizerSteps(preTokenizer);
  const last = steps.at(-1);
  if (last?.type !== "ByteLevel" || last.add_prefix_space === true) return null;
  const patterns: RegExp[] = [];
  for (const step of steps) {
    const source = sourceOf(step);
    if (source === null) return null;
    if (source === "") continue;
    try {
      patterns.push(new RegExp(source, "gu"));
    } catch {
      return null;
    }
  }
  return (text) => {
    let words: readonly string[] = [text];
    for (const [i, pattern] of patterns.entries())
      words = i === 0 ? isolated(text, pattern) : words.flatMap((word) => isolated(word, pattern));
    return words;
  };
}

/** Regular expression of a step, empty for none; null: the step does something else. */
function sourceOf(step: Readonly<Record<string, unknown>>): string | null {
  switch (step.type) {
    case "ByteLevel":
      return step.use_regex === false ? "" : gpt2Pattern;
    case "Digits":
      return step.individual_digits === true ? "\\p{N}" : "\\p{N}+";
    case "Split": {
      const { pattern } = step;
      if (step.behavior !== "Isolated" || step.invert === true || typeof pattern !== "object" || pattern === null) return null;
      if (!("Regex" in pattern) || typeof pattern.Regex !== "string") return null;
      const source = pattern.Regex.replaceAll(CONTRACTIONS, CONTRACTIONS_SPELT);
      return readsAlike(source) ? source : null;
    }
    default:
      return null;
  }
}

function readsAlike(source: string): boolean {
  return !FOREIGN_OUTSIDE.test(source.replaceAll(SET, "[]")) && !(source.match(SET) ?? []).some((set) => FOREIGN_IN_SET.test(set));
}

/** Matches and what lies between them. */
function isolated(text: string, pattern: RegExp): readonly string[] {
  const matches: readonly string[] = text.match(pattern) ?? [];
  let covered = 0;
  for (const match of matches) covered += match.length;
  if (covered === text.length && !matches.includes("")) return matches;
  const words: string[] = [];
  let end = 0;
  for (const match of text.matchAll(pattern)) {
    if (match[0] === "") continue;
    if (match.index > end) words.push(text.slice(end, match.index));
    words.push(match[0]);
    end = match.index + match[0].length;
  }
  if (end < text.length) words.push(text.slice(end));
  return words;
}

/**
 * Characters about which every Unicode version that counts here agrees (categories, white space, case), and which normalisation (NFC) leaves alone
 * in whatever order they come: no combining marks, no conjoining jamo, none of the letters that only case folding brings together.
 */
const PLAIN =
  /^[\t\n\r -~\u00a0-\u00a9\u00ab-\u00b9\u00bb-\u017e\u0391-\u03a1\u03a3-\u03a9\u03b1-\u03c9\u0401\u0410-\u044f\u0451\u2010-\u2027\u2030-\u203a\u20ac\u2190-\u21ff\u2200-\u22ff\u2500-\u257f\u3000-\u3003\u3008-\u3011\u3041-\u3094\u30a1-\u30fa\u30fc\u4e00-\u9fa5\uac00-\ud7a3\uff01-\uff5e\u{1f300}-\u{1f64f}\u{1f680}-\u{1f6c5}]*$/u;

export function isPlain(text: string): boolean {
  return PLAIN.test(text);
}
