import { KvatlasError } from "../errors.ts";
import { enginePipeline, type TokenizerJson } from "./engine-pipeline.ts";
import { createSegmentCache } from "./segment-encoder.ts";
import { type SpecialIds, specialAround, withSpecials } from "./special-ids.ts";
import type { TextEngine } from "./text-engine.ts";
import { DEFAULT_CACHE_BYTES, type TokenizerFiles } from "./tokenizer-files.ts";
import { createWordEncoder, trusted, wordProbe } from "./word-encoder.ts";

type Binding = typeof import("tokenizers");

/** Why the binding cannot be loaded here; null when it can. */
export async function nativeEngineMissing(): Promise<string | null> {
  const loaded = await loadBinding();
  return "missing" in loaded ? loaded.missing : null;
}

async function loadBinding(): Promise<{ readonly binding: Binding } | { readonly missing: string }> {
  try {
    return { binding: await import("tokenizers") };
  } catch (error) {
    return { missing: firstLine(error) };
  }
}

/**
 * Hugging Face's Rust tokenizers (npm `tokenizers`), the code that the engine itself runs. The package is optional: its binaries exist for
 * common platforms only. Encoding runs in the process's thread pool, off the calling thread.
 *
 * @throws KVATLAS_TOKENIZER_UNAVAILABLE when the binding loads and the tokenizer does not.
 */
export async function createNativeEngine(
  files: Pick<TokenizerFiles, "tokenizer" | "config">,
  modelType: string,
  cacheBytes: number = DEFAULT_CACHE_BYTES,
): Promise<{ readonly engine: TextEngine } | { readonly missing: string }> {
  const loaded = await loadBinding();
  if ("missing" in loaded) return loaded;
  const { binding } = loaded;
  const json = enginePipeline(files.tokenizer, files.config, modelType);
  let tokenizer: InstanceType<Binding["Tokenizer"]>;
  try {
    tokenizer = binding.Tokenizer.fromString(JSON.stringify(json));
  } catch (error) {
    throw new KvatlasError("KVATLAS_TOKENIZER_UNAVAILABLE", `tokenizer.json cannot be loaded: ${firstLine(error)}`, { cause: error });
  }
  // The engine asks for neither, whatever the file says.
  tokenizer.disableTruncation();
  tokenizer.disablePadding();

  const bare = { addSpecialTokens: false };
  const encodeBare = async (text: string): Promise<number[]> => (await tokenizer.encode(text, null, bare)).getIds();
  const full = await tokenizer.encode("a", null, { addSpecialTokens: true });
  const special: SpecialIds = specialAround(await encodeBare("a"), full.getIds());
  const split = createSegmentCache(json, cacheBytes);
  const words = split === null ? null : trusted(createWordEncoder(json), await encodeBare(wordProbe));

  const encodePieces = async (text: string): Promise<Uint32Array> => {
    if (split === null) return Uint32Array.from(await encodeBare(text));
    const { missing, finish } = split(text);
    const pieces: (Uint32Array | null)[] = missing.map((piece) => words?.(piece) ?? null);
    const left = missing.filter((_, i) => pieces[i] === null);
    // Pieces of a batch are shared out among the cores; one alone saves the detour.
    const [only] = left;
    if (only === undefined) return finish(pieces.filter((ids) => ids !== null));
    const encodings = left.length === 1 ? [await tokenizer.encode(only, null, bare)] : await tokenizer.encodeBatch(left, bare);
    const encoded = encodings.values();
    return finish(pieces.map((ids) => ids ?? Uint32Array.from(encoded.next().value?.getIds() ?? [])));
  };

  const engine: TextEngine = {
    name: "native",
    vocabSize: vocabSizeOf(json),
    special,
    encode: async (text, { addSpecialTokens }) => {
      const ids = text === "" ? new Uint32Array(0) : await encodePieces(text);
      return addSpecialTokens ? withSpecials(ids, special) : ids;
    },
  };
  return { engine };
}

function vocabSizeOf({ model, added_tokens: added }: TokenizerJson): number {
  let size = Array.isArray(model.vocab) ? model.vocab.length : 0;
  if (typeof model.vocab === "object" && model.vocab !== null && !Array.isArray(model.vocab)) {
    for (const id of Object.values(model.vocab)) if (typeof id === "number") size = Math.max(size, id + 1);
  }
  for (const { id } of added) size = Math.max(size, id + 1);
  return size;
}

/** A binding that does not load lists every file it tried. */
function firstLine(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  return text.split("\n", 1)[0] ?? text;
}
