import { createPrivateKey, X509Certificate } from "node:crypto";
import { readFileSync, unwatchFile, watchFile } from "node:fs";
import { createSecureContext } from "node:tls";
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
 * Certificate and key that are read again when either file changes. What is looked at are the paths, not the files behind them: a mounted Secret is renewed by
 * a link to another folder. The two count only together, and whole: while one has been replaced and the other has not, or half of one has been written, what was
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

  /** @throws KVATLAS_CONFIG_INVALID a file cannot be read, or the two cannot be used together */
  read(): KeyPair {
    const { certFile, keyFile } = this.#options;
    try {
      const pair = { certificate: readFileSync(certFile), key: readFileSync(keyFile) };
      if (!new X509Certificate(pair.certificate).checkPrivateKey(createPrivateKey(pair.key))) {
        throw new Error("the key is not that of the certificate");
      }
      // All of the chain, as a server reads it.
      createSecureContext({ cert: pair.certificate, key: pair.key });
      return pair;
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      throw new KvatlasError("KVATLAS_CONFIG_INVALID", `router.extProc.tls: cannot use ${certFile} with ${keyFile}: ${why}.`, {
        cause: error,
      });
    }
  }

  /** Calls `onRead` after each change: with what can be used now, or null where nothing can. */
  watch(onRead: (pair: KeyPair | null) => void): void {
    const { certFile, keyFile, intervalMs = 1_000 } = this.#options;
    this.#onChange = () => {
      const pair = this.#readAgain();
      onRead(pair);
      if (pair !== null) this.#logger.info({ certFile, expires: expiryOf(pair).toISOString() }, "certificate read again");
    };
    for (const path of [certFile, keyFile]) watchFile(path, { interval: intervalMs, persistent: false }, this.#onChange);
  }

  close(): void {
    if (this.#onChange === null) return;
    for (const path of [this.#options.certFile, this.#options.keyFile]) unwatchFile(path, this.#onChange);
  }

  #readAgain(): KeyPair | null {
    try {
      return this.read();
    } catch (error) {
      this.#logger.warn(
        { certFile: this.#options.certFile, err: error },
        "changed certificate cannot be used: the one before stays in force",
      );
      return null;
    }
  }
}

/** Until when the certificate is valid; of a chain, the first one. */
export function expiryOf({ certificate }: KeyPair): Date {
  return new Date(new X509Certificate(certificate).validTo);
}
