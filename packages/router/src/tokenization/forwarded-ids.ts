import type { PoolConfig } from "@kvatlas/shared/config/schema";
import type { PromptEncoder } from "@kvatlas/shared/tokenization/prompt-encoder";
import type { ParsedRequest } from "../request/parse-request.ts";
import { withTokenIds } from "./with-token-ids.ts";

/** The ids of one request's prompt on their way to the replica, so that it need not encode the text again. */
export interface ForwardedIds {
  /** The pool's encoder; what it says of this request is kept. */
  readonly encoder: PromptEncoder;
  /** The body to send: with the ids where they are known and may be added, else as it is. */
  body(bytes: Buffer): Buffer;
}

/** Null where ids are not sent along: not asked for, no chat, no tokenizer, or a request that has ids already. */
export function forwardedIds(pool: PoolConfig, request: ParsedRequest, encoder: PromptEncoder | null): ForwardedIds | null {
  const { prompt } = request;
  if (!pool.tokenizer.forwardTokenIds || encoder === null || prompt.form !== "text" || prompt.kind !== "chat") return null;
  let tokenIds: Uint32Array | null = null;
  return {
    encoder: {
      encode: async (asked, options) => {
        const prompts = await encoder.encode(asked, options);
        const [only] = prompts;
        // With images the engine must see the messages.
        if (prompts.length === 1 && only !== undefined && only.media === undefined) tokenIds = only.tokenIds;
        return prompts;
      },
      close: () => encoder.close(),
    },
    body: (bytes) => (tokenIds === null ? bytes : (withTokenIds(bytes.toString("utf8"), tokenIds) ?? bytes)),
  };
}
