import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { isKvatlasError } from "@kvatlas/shared/errors";
import { type EngineEncoder, loadEngineEncoder } from "@kvatlas/shared/tokenization/local-prompt-encoder";
import type { EncodedPrompt } from "@kvatlas/shared/tokenization/prompt-encoder";
import { beforeAll, describe, expect, it } from "vitest";
import { runnableEngines } from "../support/tokenizer-engines.ts";
import { modelDirectory } from "../support/tokenizer-models.ts";

/** One request and what vLLM 0.32 makes of it; see test/fixtures/tokenizer/README.md. */
interface GoldenCase {
  readonly id: string;
  readonly kind: "chat" | "completion";
  readonly body: unknown;
  readonly body_text?: string;
  readonly rendered: string | null;
  readonly token_ids: readonly number[] | null;
  readonly error?: string;
}

interface Golden {
  readonly model_type: string;
  readonly now: string;
  readonly sha256: Readonly<Record<string, string>>;
  readonly cases: readonly GoldenCase[];
}

const families = ["qwen3", "llama3_1", "llama3_2", "gemma3", "deepseek_v3", "mistral_nemo", "gptoss", "llama2"];

function load(family: string): Golden {
  return JSON.parse(readFileSync(new URL(`../fixtures/tokenizer/${family}.json`, import.meta.url), "utf8"));
}

async function encode(core: EngineEncoder, golden: GoldenCase): Promise<EncodedPrompt | undefined> {
  return (await core.encode({ kind: golden.kind, bodyText: golden.body_text ?? JSON.stringify(golden.body) }))[0];
}

const runs = (await runnableEngines()).flatMap((engine) => families.map((family) => ({ engine, family })));

describe.each(runs)("prompts of $family are vLLM's with the $engine engine", ({ engine, family }) => {
  const golden = load(family);
  const directory = modelDirectory(family);
  let core: EngineEncoder;

  beforeAll(async () => {
    core = await loadEngineEncoder({ engine, directory, modelType: golden.model_type, now: () => new Date(golden.now) });
    expect(core.engine).toBe(engine);
  });

  it("is loaded from the files the fixtures were made with", () => {
    for (const [file, digest] of Object.entries(golden.sha256)) {
      expect(
        createHash("sha256")
          .update(readFileSync(join(directory, file)))
          .digest("hex"),
      ).toBe(digest);
    }
  });

  it.each(golden.cases.filter((entry) => entry.error === undefined || entry.error === null))("$id", async (entry) => {
    const prompt = await encode(core, entry);
    expect(prompt?.rendered).toBe(entry.rendered);
    expect(Array.from(prompt?.tokenIds ?? [])).toEqual(entry.token_ids);
  });

  it("refuses what the engine refuses", async () => {
    for (const entry of golden.cases.filter(({ error }) => typeof error === "string")) {
      let caught: unknown = `${entry.id} was accepted`;
      try {
        await encode(core, entry);
      } catch (error) {
        caught = error;
      }
      expect(isKvatlasError(caught, "KVATLAS_PROMPT_INVALID"), `${entry.id}: ${String(caught)}`).toBe(true);
    }
  });

  it("says the same again, now that it remembers their pieces", async () => {
    for (const entry of [...golden.cases].reverse()) {
      if (typeof entry.error !== "string")
        expect(Array.from((await encode(core, entry))?.tokenIds ?? []), entry.id).toEqual(entry.token_ids);
    }
  });
});

it("a model that the engine renders in code is refused for chats, not rendered wrongly", async () => {
  const golden = load("gptoss");
  const core = await loadEngineEncoder({ directory: modelDirectory("gptoss"), modelType: golden.model_type });
  const chat = () => core.encode({ kind: "chat", bodyText: '{"messages": [{"role": "user", "content": "Hi"}]}' });
  await expect(chat()).rejects.toThrow(/gpt_oss/);
});
