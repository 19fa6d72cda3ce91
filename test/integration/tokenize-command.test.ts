import { spawn } from "node:child_process";
import { text } from "node:stream/consumers";
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";
import { modelDirectory } from "../support/tokenizer-models.ts";

const main = fileURLToPath(new URL("../../packages/cli/src/main.ts", import.meta.url));

async function tokenize(
  args: readonly string[],
  input: string,
): Promise<{ readonly code: number | null; readonly lines: unknown[]; readonly stderr: string }> {
  const child = spawn(process.execPath, ["--conditions=@kvatlas/source", "--import", "tsx", main, "tokenize", ...args], { stdio: "pipe" });
  const exit = new Promise<number | null>((resolve) => child.once("exit", resolve));
  child.stdin.on("error", () => undefined);
  child.stdin.end(input);
  const [stdout, stderr, code] = await Promise.all([text(child.stdout), text(child.stderr), exit]);
  const lines = stdout
    .split("\n")
    .filter((line) => line !== "")
    .map((line): unknown => JSON.parse(line));
  return { code, lines, stderr };
}

it("answers every line, refused ones with their number", async () => {
  const bodies = [
    '{"messages": [{"role": "user", "content": "Hi there"}], "chat_template_kwargs": {"enable_thinking": false}}',
    "not json",
    '{"prompt": ["a", "b"]}',
    `{"prompt": [${Array.from({ length: 16 }, (_, i) => i + 1).join(",")}]}`,
    '{"messages": []}',
  ];
  const args = ["--tokenizer", modelDirectory("qwen3"), "--scheme", "sha256_cbor", "--seed", "0", "--block-size", "16"];
  const { code, lines, stderr } = await tokenize(args, `${bodies.join("\n")}\n`);
  expect(stderr).toBe("");
  expect(code).toBe(0);
  expect(lines).toMatchObject([
    { rendered: "<|im_start|>user\nHi there<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n", keys: [] },
    { error: { line: 2, code: "KVATLAS_PROMPT_INVALID" } },
    {
      prompts: [
        { rendered: "a", token_ids: [64] },
        { rendered: "b", token_ids: [65] },
      ],
    },
    { rendered: null, keys: [expect.stringMatching(/^[0-9a-f]{16}$/)] },
    { error: { line: 5, code: "KVATLAS_PROMPT_INVALID" } },
  ]);
});

it("wrong usage exits 2", async () => {
  const { code, stderr } = await tokenize(["--tokenizer", modelDirectory("qwen3"), "--scheme", "md5"], "");
  expect(code).toBe(2);
  expect(stderr).toContain("md5");
});

it("takes files from one place, and the engine that is asked for", async () => {
  const both = await tokenize(["--tokenizer", "/x", "--repository", "a/b"], "");
  expect([both.code, both.stderr]).toEqual([2, expect.stringContaining("--tokenizer or --repository")]);
  const engine = await tokenize(["--tokenizer", modelDirectory("llama2"), "--engine", "rust"], "");
  expect([engine.code, engine.stderr]).toEqual([2, expect.stringContaining("auto, javascript, native")]);
  const { code, lines } = await tokenize(["--tokenizer", modelDirectory("llama2"), "--engine", "javascript"], '{"prompt": "Hi"}\n');
  expect([code, lines]).toEqual([0, [{ rendered: "Hi", token_ids: [1, 15359] }]]);
});
