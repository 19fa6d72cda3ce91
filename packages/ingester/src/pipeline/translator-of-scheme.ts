import type { KeyScheme } from "@kvatlas/shared/hashing/key-scheme";
import { ContentTranslator, type ContentTranslatorDeps, type ContentTranslatorOptions } from "./content-translator.ts";
import { createNativeTranslator, type KeyTranslator } from "./key-translator.ts";

/** What turns the events of an engine that hashes like this into operations. */
export function translatorOfScheme(
  scheme: KeyScheme,
  deps: ContentTranslatorDeps,
  options: Omit<ContentTranslatorOptions, "seed">,
): KeyTranslator {
  return scheme.kind === "native" ? createNativeTranslator(deps.storeOp) : new ContentTranslator(deps, { ...options, seed: scheme.seed });
}
