import { mkdtemp, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

/**
 * A directory with a tokenizer that is read in no time: each byte of the text is a token, and chats are their messages one after the other. The caller
 * removes it.
 */
export async function tinyTokenizerDirectory(): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), "kvatlas-tiny-tokenizer-"));
  const tokenizer = {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: [],
    normalizer: null,
    pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true },
    post_processor: null,
    decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: { type: "BPE", dropout: null, unk_token: null, fuse_unk: false, byte_fallback: false, vocab: byteVocabulary(), merges: [] },
  };
  const config = {
    tokenizer_class: "PreTrainedTokenizerFast",
    chat_template: "{% for message in messages %}{{ message.content }}{% endfor %}",
  };
  await writeFile(join(directory, "tokenizer.json"), JSON.stringify(tokenizer));
  await writeFile(join(directory, "tokenizer_config.json"), JSON.stringify(config));
  await writeFile(join(directory, "config.json"), JSON.stringify({ model_type: "qwen3" }));
  return directory;
}

/** The printable characters that stand for bytes in byte-level tokenizers, as GPT-2 has them. */
function byteVocabulary(): Readonly<Record<string, number>> {
  const isPrintable = (byte: number) => (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || (byte >= 174 && byte <= 255);
  const vocabulary: Record<string, number> = {};
  let next = 256;
  for (let byte = 0; byte < 256; byte++) vocabulary[String.fromCharCode(isPrintable(byte) ? byte : next++)] = byte;
  return vocabulary;
}
