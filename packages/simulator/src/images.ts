import { createHash } from "node:crypto";
import { KvatlasError } from "@kvatlas/shared/errors";
import type { MediaItem } from "@kvatlas/shared/hashing/block-hasher";
import type { EncodedPrompt, PromptEncoder } from "@kvatlas/shared/tokenization/prompt-encoder";

/** The token that stands for images, which the tokenizers of Qwen's models all have. */
export const imagePlaceholder = "<|image_pad|>";

/** Placeholder tokens of an image, whatever it shows. */
const tokensPerImage = 64;
/** Around the placeholders, as Qwen2-VL's processor has it. */
const imageText = `<|vision_start|>${imagePlaceholder}<|vision_end|>`;

type Json = Readonly<Record<string, unknown>>;

/**
 * Encodes chats with images as a multimodal engine does: placeholder tokens for each, and an identifier that is the image's, whoever sends it. Nobody looks
 * at the image: its address, or the client's `uuid`, is what it is told by.
 *
 * @param placeholderId of {@link imagePlaceholder}
 */
export function withImages(encoder: PromptEncoder, placeholderId: number): PromptEncoder {
  return {
    encode: async (request, options) => {
      const found = request.kind === "chat" ? imagesIn(request.bodyText) : null;
      if (found === null) return encoder.encode(request, options);
      const prompts = await encoder.encode({ kind: "chat", bodyText: found.bodyText }, options);
      return prompts.map((prompt) => expanded(prompt, found.identifiers, placeholderId));
    },
    close: () => encoder.close(),
  };
}

/** The chat with text in the place of its images; null when it has none. */
function imagesIn(bodyText: string): { readonly bodyText: string; readonly identifiers: readonly string[] } | null {
  if (!bodyText.includes('"image_url"')) return null;
  const body: unknown = JSON.parse(bodyText);
  if (!isObject(body) || !Array.isArray(body.messages)) return null;
  const identifiers: string[] = [];
  const messages = body.messages.map((message: unknown) => {
    if (!isObject(message) || !Array.isArray(message.content)) return message;
    const content = message.content.map((part: unknown) => {
      if (!isObject(part) || !isObject(part.image_url) || typeof part.image_url.url !== "string") return part;
      identifiers.push(typeof part.uuid === "string" ? part.uuid : createHash("sha256").update(part.image_url.url).digest("hex"));
      return { type: "text", text: imageText };
    });
    return { ...message, content };
  });
  return identifiers.length === 0 ? null : { bodyText: JSON.stringify({ ...body, messages }), identifiers };
}

/** @throws KVATLAS_PROMPT_INVALID the text has placeholders of its own */
function expanded({ tokenIds, rendered }: EncodedPrompt, identifiers: readonly string[], placeholderId: number): EncodedPrompt {
  const ids: number[] = [];
  const media: MediaItem[] = [];
  for (const id of tokenIds) {
    if (id !== placeholderId) {
      ids.push(id);
      continue;
    }
    const identifier = identifiers[media.length];
    if (identifier !== undefined) media.push({ identifier, offset: ids.length, length: tokensPerImage });
    for (let i = 0; i < tokensPerImage; i += 1) ids.push(id);
  }
  if (ids.length === tokenIds.length + identifiers.length * (tokensPerImage - 1))
    return { rendered, tokenIds: Uint32Array.from(ids), media };
  throw new KvatlasError("KVATLAS_PROMPT_INVALID", `the chat has ${identifiers.length} images, and text that looks like more of them.`);
}

function isObject(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
