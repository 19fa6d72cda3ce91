import { rm } from "node:fs/promises";
import type { Worker } from "node:worker_threads";
import { createThreadPromptEncoder, type ThreadPromptEncoder } from "@kvatlas/router/thread-encoder";
import { createLogger, silentLogger } from "@kvatlas/shared/logger";
import { createLocalPromptEncoder } from "@kvatlas/shared/tokenization/local-prompt-encoder";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { eventually } from "../support/eventually.ts";
import { tinyTokenizerDirectory } from "../support/tiny-tokenizer.ts";
import { runnableEngines } from "../support/tokenizer-engines.ts";
import { modelDirectory } from "../support/tokenizer-models.ts";

const directory = modelDirectory("qwen3");
const chat = (content: string) => ({ kind: "chat" as const, bodyText: JSON.stringify({ messages: [{ role: "user", content }] }) });

describe.each(await runnableEngines())("an encoder in threads with the %s engine", (engine) => {
  let encoder: ThreadPromptEncoder;

  beforeAll(async () => {
    encoder = createThreadPromptEncoder({ directory, engine, threads: 2, maxQueue: 8 }, { logger: silentLogger });
    await encoder.ready;
  });
  afterAll(() => encoder.close());

  it("gives what the encoder of the calling thread gives", async () => {
    const local = createLocalPromptEncoder({ directory });
    for (const request of [chat("Hello, größer? 更大"), { kind: "completion" as const, bodyText: '{"prompt": ["a b", "c"]}' }]) {
      expect(await encoder.encode(request)).toEqual(await local.encode(request));
    }
    await local.close();
  });

  it("brings codes of errors across", async () => {
    await expect(encoder.encode({ kind: "chat", bodyText: "{" })).rejects.toMatchObject({ code: "KVATLAS_PROMPT_INVALID" });
  });

  it("refuses when too many wait, and works on", async () => {
    const results = await Promise.allSettled(Array.from({ length: 40 }, (_, i) => encoder.encode(chat(`text ${i} `.repeat(200)))));
    const refused = results.filter((result) => result.status === "rejected");
    // JavaScript holds its thread; the native engine works on several prompts beside each.
    expect(refused.length).toBe(engine === "native" ? 16 : 30);
    for (const result of refused) expect(result.reason).toMatchObject({ code: "KVATLAS_TOKENIZER_BUSY" });
    expect((await encoder.encode(chat("after")))[0]?.tokenIds.length).toBeGreaterThan(0);
  });

  it("lets a cancelled caller go while its request waits", async () => {
    const busy = Array.from({ length: 4 }, (_, i) => encoder.encode(chat(`busy ${i} `.repeat(500))));
    const aborted = encoder.encode(chat("never"), { signal: AbortSignal.abort() });
    await expect(aborted).rejects.toMatchObject({ code: "KVATLAS_DEADLINE_EXCEEDED" });
    await Promise.all(busy);
  });
});

it("a directory without a tokenizer is refused by name", async () => {
  const encoder = createThreadPromptEncoder({ directory: "/nonexistent/model", threads: 1 }, { logger: silentLogger });
  await expect(encoder.ready).rejects.toMatchObject({
    code: "KVATLAS_TOKENIZER_UNAVAILABLE",
    message: expect.stringContaining("/nonexistent/model"),
  });
  await expect(encoder.encode(chat("x"))).rejects.toMatchObject({ code: "KVATLAS_TOKENIZER_UNAVAILABLE" });
  await encoder.close();
  await encoder.close();
});

it("closing answers everything that waits", async () => {
  const encoder = createThreadPromptEncoder({ directory, threads: 1 }, { logger: silentLogger });
  const waiting = Array.from({ length: 5 }, () => encoder.encode(chat("x")));
  const settled = Promise.allSettled([...waiting, encoder.ready]);
  await encoder.close();
  const results = await settled;
  expect(results).toHaveLength(6);
  await expect(encoder.encode(chat("x"))).rejects.toMatchObject({ code: "KVATLAS_TOKENIZER_BUSY" });
});

describe("threads that end", () => {
  const threads: Worker[] = [];
  const onWorker = (worker: Worker): void => {
    threads.push(worker);
  };
  let failures = 0;
  let encoder: ThreadPromptEncoder;

  beforeAll(async () => {
    process.on("worker", onWorker);
    encoder = createThreadPromptEncoder(
      { directory, threads: 1 },
      {
        logger: silentLogger,
        onThreadFailure: () => {
          failures += 1;
        },
      },
    );
    await encoder.ready;
  });
  afterAll(async () => {
    process.off("worker", onWorker);
    await encoder.close();
  });

  it("fail the requests they are at, are counted and replaced", async () => {
    expect(threads).toHaveLength(1);
    const expected = await encoder.encode(chat("after all"));
    const at = encoder.encode(chat("never answered ".repeat(20_000)));
    const failed = expect(at).rejects.toMatchObject({
      code: "KVATLAS_TOKENIZER_UNAVAILABLE",
      message: expect.stringContaining("thread ended"),
    });
    await threads[0]?.terminate();
    await failed;
    expect(failures).toBe(1);
    expect(await encoder.encode(chat("after all"))).toEqual(expected);
    expect(threads).toHaveLength(2);
  });

  it("are replaced while nobody asks, too", async () => {
    await threads.at(-1)?.terminate();
    expect((await encoder.encode(chat("later")))[0]?.tokenIds.length).toBeGreaterThan(0);
    expect(failures).toBe(1);
  });
});

describe("threads that end before they are ready", () => {
  const threads: Worker[] = [];
  let tiny = "";
  /** So many of the next threads end as soon as they are started. */
  let toEnd = 0;
  const onWorker = (worker: Worker): void => {
    threads.push(worker);
    if (toEnd === 0) return;
    toEnd -= 1;
    void worker.terminate();
  };
  beforeAll(async () => {
    tiny = await tinyTokenizerDirectory();
    process.on("worker", onWorker);
  });
  afterAll(async () => {
    process.off("worker", onWorker);
    await rm(tiny, { recursive: true, force: true });
  });

  function startEncoder(endingFirst: number) {
    toEnd = endingFirst;
    threads.length = 0;
    const counts = { lost: 0, ended: 0 };
    const encoder = createThreadPromptEncoder(
      { directory: tiny, threads: 1, engine: "javascript", restartAfterMs: 0 },
      {
        logger: silentLogger,
        onThreadFailure: () => {
          counts.lost += 1;
        },
        onThreadEnded: () => {
          counts.ended += 1;
        },
      },
    );
    return { encoder, counts };
  }

  it("are replaced when they are the first ones", async () => {
    const { encoder, counts } = startEncoder(3);
    await encoder.ready;
    expect(counts).toEqual({ lost: 0, ended: 3 });
    await encoder.close();
    // Threads that are closed have not ended by themselves.
    expect(counts).toEqual({ lost: 0, ended: 3 });
    expect(threads).toHaveLength(4);
  });

  it("are replaced when they are replacements, and what waits for them is answered", async () => {
    const { encoder, counts } = startEncoder(0);
    const expected = await encoder.encode(chat("after all"));
    toEnd = 2;
    await threads[0]?.terminate();
    expect(await Promise.all([encoder.encode(chat("after all")), encoder.encode(chat("after all"))])).toEqual([expected, expected]);
    expect(threads).toHaveLength(4);
    expect(counts).toEqual({ lost: 0, ended: 3 });
    await encoder.close();
  });

  it("are given up when none stays, and tried again later", async () => {
    const { encoder } = startEncoder(0);
    await encoder.ready;
    toEnd = Number.POSITIVE_INFINITY;
    await threads[0]?.terminate();
    await eventually(() => expect(encoder.encode(chat("x"))).rejects.toMatchObject({ code: "KVATLAS_TOKENIZER_UNAVAILABLE" }));
    toEnd = 0;
    await eventually(async () => expect((await encoder.encode(chat("x")))[0]?.tokenIds.length).toBe(1));
    await encoder.close();
  });
});

it("a directory that leaves open which rules apply is warned of by name", async () => {
  const lines: string[] = [];
  const logger = createLogger({ service: "test", level: "warn", destination: { write: (line) => lines.push(line) } });
  const encoder = createThreadPromptEncoder({ directory: modelDirectory("llama2"), threads: 1 }, { logger });
  await encoder.ready;
  await encoder.close();
  expect(lines.join("")).toContain("config.json");
});
