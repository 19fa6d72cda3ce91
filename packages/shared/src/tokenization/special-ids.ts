import { KvatlasError } from "../errors.ts";

/** Ids the post-processor puts before and after a text when it is asked for special tokens. */
export interface SpecialIds {
  readonly before: readonly number[];
  readonly after: readonly number[];
}

/**
 * Found by comparing one text encoded without and with special tokens.
 *
 * @throws KVATLAS_TOKENIZER_UNAVAILABLE when the post-processor does anything else.
 */
export function specialAround(bare: readonly number[], full: readonly number[]): SpecialIds {
  const added = full.length - bare.length;
  for (let before = 0; before <= added; before++) {
    if (bare.every((id, i) => full[before + i] === id)) return { before: full.slice(0, before), after: full.slice(before + bare.length) };
  }
  throw new KvatlasError("KVATLAS_TOKENIZER_UNAVAILABLE", "the post-processor of tokenizer.json does more than put tokens around the text");
}

export function withSpecials(ids: Uint32Array, { before, after }: SpecialIds): Uint32Array {
  const all = new Uint32Array(before.length + ids.length + after.length);
  all.set(before);
  all.set(ids, before.length);
  all.set(after, before.length + ids.length);
  return all;
}
