import { createPrivateKey, X509Certificate } from "node:crypto";
import { readFileSync, unwatchFile, watchFile } from "node:fs";
import { KvatlasError } from "@kvatlas/shared/errors";
import type { Logger } from "@kvatlas/shared/logger";
import type { KeyPair } from "./self-signed.ts";

export interface CertificateFilesOptions {
  readonly certFile: string;
  readonly keyFile: string;
  /** @defaultValue 1000 */
  readonly intervalMs?: number;
}

/**
 * Certificate and key that are read again when either file changes. They count only together: while one has been replaced and the other has not, what was
 * read before stays in force.
 */
export class CertificateFiles {
  readonly #options: CertificateFilesOptions;
  readonly #logger: Logger;
  #onChange: (() => void) | null = null;

  constructor(options: CertificateFilesOptions, logger: Logger) {
    this.#options = options;
    this.#logger = logger;
  }

  /** @throws KVATLAS_CONFIG_INVALID a file cannot be read, or the two do not belong together */
  read(): KeyPair {
    const { certFile, keyFile } = this.#options;
    try {
      const pair = { certificate: readFileSync(certFile), key: readFileSync(keyFile) };
      if (!new X509Certificate(pair.certificate).checkPrivateKey(createPrivateKey(pair.key))) {
        throw new Error("the key is not that of the certificate");
      }
      return pair;
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      throw new KvatlasError("KVATLAS_CONFIG_INVALID", `router.extProc.tls: cannot use ${certFile} with ${keyFile}: ${why}.`, {
        cause: error,
      });
    }
  }

  /** Calls `onRead` after each change that can be used. */
  watch(onRead: (pair: KeyPair) => void): void {
    const { certFile, keyFile, intervalMs = 1_000 } = this.#options;
    this.#onChange = () => {
      try {
        onRead(this.read());
        this.#logger.info({ certFile }, "certificate read again");
      } catch (error) {
        this.#logger.warn({ certFile, err: error }, "changed certificate cannot be used yet: the one before stays in force");
      }
    };
    for (const path of [certFile, keyFile]) watchFile(path, { interval: intervalMs, persistent: false }, this.#onChange);
  }

  close(): void {
    if (this.#onChange === null) return;
    for (const path of [this.#options.certFile, this.#options.keyFile]) unwatchFile(path, this.#onChange);
  }
}
