import type { Redis } from "ioredis";
import type { RedisCommand } from "./redis.ts";

/** Answers as a pipeline of the client gives them; null when it gave none. */
export type PipelineResults = readonly (readonly [error: Error | null, value: unknown])[] | null;

type Pipeline = ReturnType<Redis["pipeline"]>;

/**
 * Sends what one turn of the event loop asks for in one write, and so in one round trip, whoever asks: a decision looks up, reads marks and reads load at the
 * same time, and a write to a socket costs more than any of them. Commands keep their order, and those of one call stay together.
 */
export class RedisTurn {
  readonly #client: Pick<Redis, "pipeline">;
  #open: { readonly pipeline: Pipeline; readonly done: Promise<PipelineResults> } | null = null;

  constructor(client: Pick<Redis, "pipeline">) {
    this.#client = client;
  }

  /** Answers to these commands, in order. */
  async send(commands: readonly RedisCommand[]): Promise<PipelineResults> {
    this.#open ??= this.#begin();
    const { pipeline, done } = this.#open;
    const from = pipeline.length;
    for (const [name, ...args] of commands) pipeline.call(name, args);
    const results = await done;
    return results === null || results.length === commands.length ? results : results.slice(from, from + commands.length);
  }

  #begin(): { readonly pipeline: Pipeline; readonly done: Promise<PipelineResults> } {
    const pipeline = this.#client.pipeline();
    const done = new Promise<PipelineResults>((resolve, reject) => {
      // Runs once all promises that are settled by now have had their turn.
      process.nextTick(() => {
        this.#open = null;
        pipeline.exec().then(resolve, reject);
      });
    });
    return { pipeline, done };
  }
}
