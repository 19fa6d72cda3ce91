import type { IncomingHttpHeaders } from "node:http";
import type { RouterConfig } from "@kvatlas/shared/config/schema";
import { KvatlasError } from "@kvatlas/shared/errors";
import type { Component } from "@kvatlas/shared/lifecycle";
import type { Logger } from "@kvatlas/shared/logger";
import { HttpError } from "../request/openai-error.ts";
import { type ApiKey, parseApiKeys, tenantOfKey } from "./api-keys.ts";
import { WatchedFile } from "./watched-file.ts";

/** What replicas are told instead of what the client said. */
export interface UpstreamCredentials {
  /** Credentials of clients are for this router and go no further. */
  readonly dropClients: boolean;
  readonly apiKey: string | null;
}

/** A header's worth of text. */
const maxKeyChars = 4_096;

/** Who may ask, and what the router says to replicas for itself. Files are read again when they change. */
export class AccessGuard implements Component {
  readonly name = "access-guard";
  readonly #listed: readonly ApiKey[];
  readonly #file: WatchedFile<readonly ApiKey[]> | null;
  readonly #upstreamFile: WatchedFile<string> | null;
  readonly #upstreamKey: string | null;

  /** @throws KVATLAS_CONFIG_INVALID a key of the list is none */
  constructor(config: Pick<RouterConfig, "access" | "upstream">, logger: Logger) {
    const { access, upstream } = config;
    const { keys, problems } = parseApiKeys(access.keys);
    if (problems.length > 0) throw new KvatlasError("KVATLAS_CONFIG_INVALID", `router.access.keys: ${problems.join(" ")}`);
    this.#listed = keys;
    this.#upstreamKey = upstream.apiKey;
    this.#file =
      access.keysFile === null
        ? null
        : new WatchedFile({ path: access.keysFile, setting: "router.access.keysFile", parse: keysOfFile }, logger);
    this.#upstreamFile =
      upstream.apiKeyFile === null
        ? null
        : new WatchedFile({ path: upstream.apiKeyFile, setting: "router.upstream.apiKeyFile", parse: keyOfFile }, logger);
  }

  get isOpen(): boolean {
    return this.#file === null && this.#listed.length === 0;
  }

  get credentials(): UpstreamCredentials {
    return { dropClients: !this.isOpen, apiKey: this.#upstreamFile?.value ?? this.#upstreamKey };
  }

  /**
   * Tenant of the request's key (`authorization: Bearer`, or `x-api-key` as Anthropic clients send it); null where no key is asked for.
   *
   * @throws HttpError 401
   */
  tenantOf(headers: IncomingHttpHeaders): string | null {
    if (this.isOpen) return null;
    const presented = presentedKey(headers);
    if (presented === null) throw new HttpError(401, "no API key: send it as authorization: Bearer <key>.");
    const tenant = tenantOfKey(this.#listed, presented);
    const ofFile = tenantOfKey(this.#file?.value ?? [], presented);
    const found = tenant ?? ofFile;
    if (found === null) throw new HttpError(401, "the API key is not valid.");
    return found;
  }

  async start(): Promise<void> {
    await this.#file?.start();
    await this.#upstreamFile?.start();
  }

  async close(): Promise<void> {
    await this.#file?.close();
    await this.#upstreamFile?.close();
  }
}

function presentedKey(headers: IncomingHttpHeaders): string | null {
  const { authorization } = headers;
  const other = headers["x-api-key"];
  const key = authorization === undefined ? other : /^bearer +(\S+)\s*$/i.exec(authorization)?.[1];
  return typeof key === "string" && key !== "" && key.length <= maxKeyChars ? key : null;
}

function keysOfFile(text: string): readonly ApiKey[] {
  const { keys, problems } = parseApiKeys(text.split("\n"));
  if (problems.length > 0) throw new Error(problems.slice(0, 5).join(" "));
  return keys;
}

function keyOfFile(text: string): string {
  const key = text.trim();
  if (!/^[\x21-\x7e]{1,4096}$/.test(key)) throw new Error("expected one API key, of visible ASCII characters.");
  return key;
}
