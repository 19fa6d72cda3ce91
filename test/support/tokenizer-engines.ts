import { loadEngineEncoder } from "@kvatlas/shared/tokenization/local-prompt-encoder";
import { modelDirectory } from "./tokenizer-models.ts";

/** The engines that run on this machine; says so when the native one does not. */
export async function runnableEngines(): Promise<readonly ("javascript" | "native")[]> {
  const { nativeMissing } = await loadEngineEncoder({ engine: "auto", directory: modelDirectory("llama2") });
  if (nativeMissing === null) return ["javascript", "native"];
  process.stderr.write(`The native tokenizer engine is not tested: ${nativeMissing}\n`);
  return ["javascript"];
}
