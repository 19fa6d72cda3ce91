import { z } from "zod";
import { tokenizerEngineChoices } from "../tokenization/engine-choice.ts";

/** `pools[].tokenizer`: how prompts become token ids. */
export const tokenizerSchema = z.strictObject({
  source: z
    .enum(["auto", "local", "remote", "none"])
    .default("auto")
    .describe(
      "local: here, from path or repository. remote: the replicas are asked (render endpoints, else /tokenize). auto: local when path or repository is given, compared with the replicas in the background; what they encode otherwise, or what cannot be encoded here, they are asked for. Without either, in a precise pool, they are asked for everything. none: only requests that carry token ids are routed by prefix.",
    ),
  path: z
    .string()
    .nullable()
    .default(null)
    .describe("Directory with tokenizer.json, tokenizer_config.json and, where present, config.json and chat_template.jinja."),
  repository: z
    .string()
    .regex(/^[A-Za-z0-9][A-Za-z0-9._-]*(\/[A-Za-z0-9][A-Za-z0-9._-]*)?$/)
    .meta({ form: "a model's name on the hub, like Qwen/Qwen3-32B" })
    .nullable()
    .default(null)
    .describe("Model whose tokenizer is downloaded once and kept on disk; path wins. HF_TOKEN and HF_ENDPOINT are honoured."),
  hub: z.enum(["huggingface", "modelscope"]).default("huggingface").describe("Where repository is."),
  revision: z.string().min(1).nullable().default(null).describe("Branch, tag or commit of repository; null: main, on ModelScope master."),
  cacheDirectory: z
    .string()
    .nullable()
    .default(null)
    .describe("Where downloads are kept, in huggingface_hub's layout; null: HF_HUB_CACHE, HF_HOME/hub or ~/.cache/huggingface/hub."),
  engine: z
    .enum(tokenizerEngineChoices)
    .default("auto")
    .describe("What encodes: native (the Rust code of the engines, where its binary loads), javascript, or auto: native if it can be had."),
  chatTemplate: z.string().nullable().default(null).describe("File with a chat template that replaces the directory's."),
  threads: z
    .int()
    .min(1)
    .max(64)
    .nullable()
    .default(null)
    .describe("Worker threads; null: 1 for the native engine, which uses all cores by itself; else cores - 1, at least 1, at most 4."),
  maxQueue: z.int().min(1).default(256).describe("Requests that may wait for a thread; further ones are routed by load."),
  auditSampleRate: z
    .number()
    .min(0)
    .max(1)
    .default(0.001)
    .describe("Fraction of prompts that auto encodes on a replica as well, in the background, to compare. The first ones always are."),
  forwardTokenIds: z
    .boolean()
    .default(false)
    .describe(
      "Send the router's token ids along with chats (kv_transfer_params.prompt_token_ids), so that replicas need not encode them again. Needs vLLM 0.32 or later on all replicas.",
    ),
});
