import { readFileSync, unwatchFile, watchFile } from "node:fs";
import { KvatlasError } from "@kvatlas/shared/errors";
import type { Component } from "@kvatlas/shared/lifecycle";
import type { Logger } from "@kvatlas/shared/logger";

export interface WatchedFileOptions<T> {
  readonly path: string;
  /** Of the configuration, for messages. */
  readonly setting: string;
  /** Throws an Error whose message repeats nothing of the text. */
  readonly parse: (text: string) => T;
  /** @defaultValue 1000 */
  readonly intervalMs?: number;
}

/**
 * A small file whose changes count at once. What is looked at is the path, not the file behind it, so that mounted secrets, which are replaced by a
 * link to other files, are noticed. A change that cannot be read leaves what was there before in force, and is logged.
 */
export class WatchedFile<T> implements Component {
  readonly name = "watched-file";
  readonly #options: WatchedFileOptions<T>;
  readonly #logger: Logger;
  #value: T | null = null;
  readonly #onChange = (): void => this.#reload();

  constructor(options: WatchedFileOptions<T>, logger: Logger) {
    this.#options = options;
    this.#logger = logger;
  }

  /** Null before the start. */
  get value(): T | null {
    return this.#value;
  }

  /** @throws KVATLAS_CONFIG_INVALID the file cannot be read or parsed */
  async start(): Promise<void> {
    try {
      this.#value = this.#read();
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      throw new KvatlasError("KVATLAS_CONFIG_INVALID", `${this.#options.setting}: cannot use ${this.#options.path}: ${why}`, {
        cause: error,
      });
    }
    watchFile(this.#options.path, { interval: this.#options.intervalMs ?? 1_000, persistent: false }, this.#onChange);
  }

  async close(): Promise<void> {
    unwatchFile(this.#options.path, this.#onChange);
  }

  #read(): T {
    return this.#options.parse(readFileSync(this.#options.path, "utf8"));
  }

  #reload(): void {
    const { path, setting } = this.#options;
    try {
      this.#value = this.#read();
      this.#logger.info({ path, setting }, "file read again");
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      this.#logger.error({ path, setting, why }, "changed file cannot be used: what was read before stays in force");
    }
  }
}
