import { type ChatRequest, chatMessages } from "./chat-request.ts";
import { type ContentFormat, detectContentFormat } from "./jinja/content-format.ts";
import { strip } from "./jinja/strings.ts";
import { parseTemplate, type Template } from "./jinja/template.ts";
import { TemplateRaised, TemplateUnsupported, type Value } from "./jinja/values.ts";
import type { JsonObject } from "./lossless-json.ts";
import { cannotEncode, promptInvalid } from "./request-body.ts";
import { specialTokens } from "./special-tokens.ts";
import type { TokenizerFiles } from "./tokenizer-files.ts";

/** Models whose prompts the engine builds in code, not with the checkpoint's template. */
const OWN_RENDERER_MODEL_TYPES: ReadonlySet<string> = new Set(["gpt_oss", "deepseek_v32", "deepseek_v4", "kimi_k3", "inkling"]);

/** transformers' marker for continue_final_message; its trailing space shows whether the template trims. */
const CONTINUE_TAG = "CONTINUE_FINAL_MESSAGE_TAG ";

/** Chat requests to prompt text. */
export interface ChatRenderer {
  /** @throws KVATLAS_PROMPT_INVALID, KVATLAS_TOKENIZER_UNAVAILABLE */
  render(request: ChatRequest): string;
}

export interface ChatRendererOptions {
  readonly modelType: string;
  /** Replaces the checkpoint's template. */
  readonly chatTemplate?: string;
  readonly now: () => Date;
}

interface PreparedTemplate {
  readonly template: Template;
  readonly format: ContentFormat;
  readonly knowsDeveloper: boolean;
}

/** Parses the templates of a checkpoint once. What cannot be rendered here is said when a chat comes, so that completions still work. */
export function createChatRenderer(files: TokenizerFiles, options: ChatRendererOptions): ChatRenderer {
  const tokens = specialTokens(files.config);
  const prepared = prepareTemplates(files, options);
  return {
    render: (request) => {
      const choice = prepared(request.tools !== null);
      const messages = chatMessages(request.messages, choice.format, choice.knowsDeveloper);
      const finalText = request.continueFinalMessage ? markFinalMessage(messages) : null;
      const variables = new Map<string, Value>([...tokens, ...request.variables, ["messages", messages], ["tools", request.tools]]);
      let text: string;
      try {
        text = choice.template.render(variables);
      } catch (error) {
        if (error instanceof TemplateRaised) throw promptInvalid(`the chat template refused the request: ${error.message}`, error);
        if (error instanceof TemplateUnsupported)
          throw cannotEncode(`the chat template uses ${error.message}, which is not rendered here`, error);
        throw error;
      }
      return finalText === null ? text : cutAtMarker(text, finalText);
    },
  };
}

function prepareTemplates(files: TokenizerFiles, options: ChatRendererOptions): (withTools: boolean) => PreparedTemplate {
  if (options.chatTemplate === undefined && OWN_RENDERER_MODEL_TYPES.has(options.modelType)) {
    return () => {
      throw cannotEncode(
        `the engine renders chats of ${options.modelType} in code of its own, not with a template; send token ids or route by load`,
      );
    };
  }
  const sources = templateSources(files, options.chatTemplate);
  const prepare = (source: string | undefined): (() => PreparedTemplate) => {
    if (source === undefined) {
      return () => {
        throw cannotEncode("the checkpoint has no chat template; set one with the tokenizer's chatTemplate option");
      };
    }
    try {
      const template = parseTemplate(source, options.now);
      const ready: PreparedTemplate = {
        template,
        format: detectContentFormat(template.program),
        knowsDeveloper: /["']developer["']/.test(source),
      };
      return () => ready;
    } catch (error) {
      if (!(error instanceof TemplateUnsupported)) throw error;
      return () => {
        throw cannotEncode(`the chat template uses ${error.message}, which is not rendered here`, error);
      };
    }
  };
  const standard = prepare(sources.get("default"));
  const toolUse = sources.has("tool_use") ? prepare(sources.get("tool_use")) : standard;
  return (withTools) => (withTools ? toolUse() : standard());
}

/** Templates by name: chat_template.jinja wins over tokenizer_config.json, where one text or a list of {name, template} stands. */
function templateSources(files: TokenizerFiles, override: string | undefined): Map<string, string> {
  const single = override ?? files.chatTemplateFile;
  if (single !== null) return new Map([["default", single]]);
  const configured = files.config.chat_template;
  if (typeof configured === "string") return new Map([["default", configured]]);
  const sources = new Map<string, string>();
  const entries: unknown[] = Array.isArray(configured) ? configured : [];
  for (const entry of entries) {
    if (typeof entry !== "object" || entry === null || !("name" in entry) || !("template" in entry)) continue;
    if (typeof entry.name === "string" && typeof entry.template === "string") sources.set(entry.name, entry.template);
  }
  return sources;
}

/** Appends the marker to the last message (its last text part); returns the text without it. */
function markFinalMessage(messages: readonly JsonObject[]): string {
  const last = messages.at(-1);
  const content = last?.get("content");
  if (last !== undefined && typeof content === "string") {
    last.set("content", content + CONTINUE_TAG);
    return content;
  }
  for (const part of Array.isArray(content) ? [...content].reverse() : []) {
    const text = part instanceof Map ? part.get("text") : undefined;
    if (!(part instanceof Map) || typeof text !== "string") continue;
    part.set("text", text + CONTINUE_TAG);
    return text;
  }
  throw promptInvalid("continue_final_message needs a final message with text");
}

function cutAtMarker(text: string, finalText: string): string {
  const tag = CONTINUE_TAG.trimEnd();
  const at = text.lastIndexOf(tag);
  if (at < 0 || !text.includes(strip(finalText, "both"))) {
    throw promptInvalid("continue_final_message: the chat template drops or changes the final message");
  }
  return text.startsWith(CONTINUE_TAG, at) ? text.slice(0, at) : strip(text.slice(0, at), "right");
}
