import { isKvatlasError } from "@kvatlas/shared/errors";
import type { Logger } from "@kvatlas/shared/logger";
import type { EncodedPrompt, PromptEncoder, PromptRequest } from "@kvatlas/shared/tokenization/prompt-encoder";
import { probeRequests } from "./probe-requests.ts";

export type AuditResult = "agree" | "disagree" | "unknown";

export interface AuditedEncoderDeps {
  readonly local: PromptEncoder;
  /** Asks the replicas. */
  readonly remote: PromptEncoder;
  readonly logger: Logger;
  /** 0 <= value < 1. */
  readonly random: () => number;
  readonly onAudit?: (result: AuditResult) => void;
  /** Called with where prompts are encoded from now on. */
  readonly onSource?: (source: "local" | "remote") => void;
  /** Called with why replicas encode from now on, and what to do about it. */
  readonly onFinding?: (text: string) => void;
}

export interface AuditedEncoderOptions {
  /** For the log and the probes. */
  readonly pool: string;
  readonly model: string;
  /** Fraction of prompts that is compared. */
  readonly sampleRate: number;
  /** Prompts at the beginning that all are. @defaultValue 16 */
  readonly firstAudited?: number;
}

/**
 * Encodes here, and lets a replica encode a sample of the same prompts in the background. Once the two differ, the local tokenizer is not the
 * engine's: its keys would find nothing, so from then on the replicas are asked for every prompt. What cannot be encoded here they are asked for
 * anyway.
 */
export class AuditedEncoder implements PromptEncoder {
  readonly ready: Promise<void>;
  readonly #deps: AuditedEncoderDeps;
  readonly #options: AuditedEncoderOptions;
  #source: "local" | "remote" = "local";
  #auditing = false;
  #probed = false;
  #seen = 0;
  #closed = false;

  constructor(deps: AuditedEncoderDeps, options: AuditedEncoderOptions) {
    this.#deps = deps;
    this.#options = options;
    deps.onSource?.("local");
    // Without files the replicas do it: the router need not stay unready.
    this.ready = (deps.local.ready ?? Promise.resolve()).catch((error: unknown) => {
      this.#switch("the tokenizer cannot be loaded here", { err: error });
    });
  }

  get source(): "local" | "remote" {
    return this.#source;
  }

  async encode(request: PromptRequest, callOptions?: { readonly signal?: AbortSignal }): Promise<readonly EncodedPrompt[]> {
    const { local, remote } = this.#deps;
    if (this.#source === "remote" || request.engineOnly === true) return remote.encode(request, callOptions);
    let prompts: readonly EncodedPrompt[];
    try {
      prompts = await local.encode(request, callOptions);
    } catch (error) {
      if (!isKvatlasError(error, "KVATLAS_TOKENIZER_UNAVAILABLE")) throw error;
      return remote.encode(request, callOptions);
    }
    this.#maybeAudit(request);
    return prompts;
  }

  async close(): Promise<void> {
    this.#closed = true;
    await Promise.all([this.#deps.local.close(), this.#deps.remote.close()]);
  }

  /** One at a time, and never in the way of a request. */
  #maybeAudit(request: PromptRequest): void {
    const { firstAudited = 16, sampleRate } = this.#options;
    this.#seen += 1;
    if (this.#auditing || (this.#seen > firstAudited && this.#deps.random() >= sampleRate)) return;
    this.#auditing = true;
    this.#auditAll(request).finally(() => {
      this.#auditing = false;
    });
  }

  async #auditAll(request: PromptRequest): Promise<void> {
    const probes = this.#probed ? [] : probeRequests(this.#options.model);
    for (const candidate of [request, ...probes]) {
      if (this.#closed || this.#source === "remote") return;
      const result = await this.#compare(candidate);
      if (this.#closed) return;
      this.#deps.onAudit?.(result);
      if (result === "disagree") return;
      if (result === "unknown") return;
    }
    this.#probed = true;
  }

  async #compare(request: PromptRequest): Promise<AuditResult> {
    const { local, remote, logger } = this.#deps;
    try {
      const theirs = await remote.encode(request);
      // Encoded anew: a template may print the date, and midnight may have been in between.
      const ours = await local.encode(request);
      const difference = firstDifference(ours, theirs);
      if (difference === null) return "agree";
      this.#switch("the local tokenizer and the engine disagree", difference);
      return "disagree";
    } catch (error) {
      logger.debug({ pool: this.#options.pool, err: error }, "a prompt could not be compared with a replica's encoding");
      return "unknown";
    }
  }

  #switch(why: string, about: object): void {
    if (this.#source === "remote" || this.#closed) return;
    this.#source = "remote";
    this.#deps.onSource?.("remote");
    const { pool, model } = this.#options;
    const finding = `${why}: replicas encode the prompts of this pool until the router is restarted. Give the files of the served checkpoint, and its --chat-template as tokenizer.chatTemplate; kvatlas doctor compares them.`;
    this.#deps.logger.error({ pool, model, ...about }, finding);
    this.#deps.onFinding?.(finding);
  }
}

function firstDifference(ours: readonly EncodedPrompt[], theirs: readonly EncodedPrompt[]): object | null {
  if (ours.length !== theirs.length) return { prompts: ours.length, promptsOfEngine: theirs.length };
  for (const [prompt, { tokenIds }] of ours.entries()) {
    const other = theirs[prompt]?.tokenIds ?? new Uint32Array(0);
    const length = Math.max(tokenIds.length, other.length);
    for (let at = 0; at < length; at++) {
      if (tokenIds[at] !== other[at]) return { prompt, position: at, tokens: tokenIds.length, tokensOfEngine: other.length };
    }
  }
  return null;
}
