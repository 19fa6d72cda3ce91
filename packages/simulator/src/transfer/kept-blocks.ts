import { randomUUID } from "node:crypto";
import type { Clock } from "@kvatlas/shared/clock";
import type { Engine } from "../engine/engine.ts";
import type { Sequence } from "../engine/sequence.ts";

interface Kept {
  readonly engine: Engine;
  readonly sequence: Sequence;
  readonly tokens: number;
  readonly expiresAtMs: number;
}

/**
 * Blocks of ended prefills that wait for the engine that decodes. They are not free until that engine has read them, or has not come for them in time.
 * Bounded by the blocks there are: each entry holds some.
 */
export class KeptBlocks {
  readonly #clock: Clock;
  readonly #ttlMs: number;
  readonly #kept = new Map<string, Kept>();
  /** Of this process: blocks are asked for by it, so that those of a process that is gone are not taken for those of the next one. */
  #engineId = randomUUID();
  #timer: NodeJS.Timeout | null = null;

  constructor(clock: Clock, ttlMs: number) {
    this.#clock = clock;
    this.#ttlMs = ttlMs;
  }

  get engineId(): string {
    return this.#engineId;
  }

  /** Requests whose blocks are being kept. */
  get size(): number {
    return this.#kept.size;
  }

  keep(requestId: string, engine: Engine, sequence: Sequence): void {
    this.#expire();
    this.#kept.set(requestId, {
      engine,
      sequence,
      tokens: sequence.spec.promptTokens,
      expiresAtMs: this.#clock.monotonic() + this.#ttlMs,
    });
    this.#arm();
  }

  /** Gives the blocks of a request to the engine that asks for them, and frees them here; how many tokens they are, or null when they are not there. */
  take(engineId: string, requestId: string): number | null {
    this.#expire();
    const kept = engineId === this.#engineId ? this.#kept.get(requestId) : undefined;
    if (kept === undefined) return null;
    this.#kept.delete(requestId);
    kept.engine.release(kept.sequence);
    return kept.tokens;
  }

  /** A new process: what the old one kept is gone. */
  restart(): void {
    this.close();
    this.#engineId = randomUUID();
  }

  close(): void {
    this.#kept.clear();
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
  }

  /** Nobody may ever ask again, and an engine that is out of blocks waits for these. */
  #arm(): void {
    if (this.#timer !== null || this.#kept.size === 0) return;
    this.#timer = setTimeout(() => {
      this.#timer = null;
      this.#expire();
      this.#arm();
    }, this.#ttlMs);
    this.#timer.unref();
  }

  #expire(): void {
    const now = this.#clock.monotonic();
    for (const [requestId, kept] of this.#kept) {
      if (kept.expiresAtMs > now) return;
      this.#kept.delete(requestId);
      kept.engine.release(kept.sequence);
    }
  }
}
