import { ServerCredentials } from "@grpc/grpc-js";
import type { KeyPair } from "./self-signed.ts";

/** TLS whose certificate may be replaced while the server runs: new connections get the new one. */
export class ReplaceableCredentials extends ServerCredentials {
  constructor(pair: KeyPair) {
    super({}, { cert: pair.certificate, key: pair.key });
  }

  replace(pair: KeyPair): void {
    this.updateSecureContextOptions({ cert: pair.certificate, key: pair.key });
  }

  override _equals(other: ServerCredentials): boolean {
    return this === other;
  }
}
