import type { MediaItem } from "../hashing/block-hasher.ts";

/** A request as far as tokenization is concerned. */
export interface PromptRequest {
  /** `chat` has `messages`; `completion` has `prompt`. The others are bodies of /v1/messages and /v1/responses, as only engines read them. */
  readonly kind: "chat" | "completion" | "messages" | "responses";
  /** The request body as the client wrote it: numbers and key order count, so it is not parsed and printed again on the way. */
  readonly bodyText: string;
  /** Only engines can tell its tokens: there are images and the like in it, or it is of a kind that only they read. @defaultValue false */
  readonly engineOnly?: boolean;
}

export interface EncodedPrompt {
  /** Text handed to the tokenizer; null when the request carried token ids. */
  readonly rendered: string | null;
  readonly tokenIds: Uint32Array;
  /** Images and the like, whose identifiers are part of the keys; absent where there are none. Only engines can say. */
  readonly media?: readonly MediaItem[];
}

/** OpenAI request -> token ids, exactly as the engine computes them. */
export interface PromptEncoder {
  /** Resolves when the first prompt need not wait for files to be read, rejects when they cannot be; absent where nothing is read ahead. */
  readonly ready?: Promise<void>;
  /**
   * One entry per prompt (`/v1/completions` accepts lists).
   *
   * @throws KVATLAS_PROMPT_INVALID the engine would answer 400: bad JSON, bad roles, the template raised.
   * @throws KVATLAS_TOKENIZER_UNAVAILABLE this model cannot be encoded here.
   * @throws KVATLAS_TOKENIZER_BUSY the queue is full.
   */
  encode(request: PromptRequest, options?: { readonly signal?: AbortSignal }): Promise<readonly EncodedPrompt[]>;
  close(): Promise<void>;
}

export interface LocalEncoderOptions {
  /** Directory with tokenizer.json, tokenizer_config.json and, where the checkpoint has it, config.json and chat_template.jinja. */
  readonly directory: string;
  /** Overrides the template of the directory. */
  readonly chatTemplate?: string;
  /** Overrides `model_type` of config.json. */
  readonly modelType?: string;
  /** Server-side defaults for `chat_template_kwargs`. */
  readonly chatTemplateKwargs?: Readonly<Record<string, unknown>>;
  /** Bytes of text and ids remembered, so that a growing chat is not encoded anew each turn; 0 turns it off. @defaultValue 64 MiB */
  readonly cacheBytes?: number;
  /** Clock of templates that print a date; local time. */
  readonly now?: () => Date;
}
