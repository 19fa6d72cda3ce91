import { asksReplicas } from "@kvatlas/router/tokenization/asks-replicas";
import type { PoolConfig } from "@kvatlas/shared/config/schema";
import type { PromptEncoder } from "@kvatlas/shared/tokenization/prompt-encoder";
import { hasTokenizerFiles } from "../pool-encoder.ts";
import { ok, problem, skipped, type Verdict } from "./verdict.ts";

/** Chats that differ in what a template can get wrong: one turn, several turns with a system message, spaces and other scripts. */
const samples: readonly { readonly role: string; readonly content: string }[][] = [
  [{ role: "user", content: "Hello" }],
  [
    { role: "system", content: "You are terse." },
    { role: "user", content: "Name three whales.\n\n  - as a list\n" },
    { role: "assistant", content: "Blue, fin, sperm." },
    { role: "user", content: "Größer? 更大的呢？ 🐋  12345 != 1e5" },
  ],
];

export interface TokenizerCheckDeps {
  readonly openEncoder: (pool: PoolConfig) => Promise<PromptEncoder>;
  /** HTTP addresses of replicas of the pool that may be asked. */
  readonly addresses: readonly string[];
  readonly fetch: typeof fetch;
  /** Per question to a replica. */
  readonly timeoutMs: number;
}

/** Loads the pool's tokenizer and compares its token ids with what the engine's `/tokenize` says (vLLM 0.10 and later). */
export async function checkTokenizer(pool: PoolConfig, deps: TokenizerCheckDeps): Promise<readonly Verdict[]> {
  if (asksReplicas(pool)) {
    return [skipped("tokenizer", pool.name, `replicas encode the prompts (tokenizer.source ${pool.tokenizer.source}).`)];
  }
  if (!hasTokenizerFiles(pool.tokenizer)) {
    return [
      skipped(
        "tokenizer",
        pool.name,
        "no tokenizer.path and no tokenizer.repository: only requests that carry token ids are routed by prefix.",
      ),
    ];
  }
  const from = originOf(pool);
  const local: (readonly number[])[] = [];
  try {
    const encoder = await deps.openEncoder(pool);
    try {
      for (const messages of samples) {
        const [prompt] = await encoder.encode({ kind: "chat", bodyText: JSON.stringify({ model: pool.model, messages }) });
        local.push([...(prompt?.tokenIds ?? [])]);
      }
    } finally {
      await encoder.close();
    }
  } catch (error) {
    return [problem("tokenizer", pool.name, `${from} cannot encode a chat: ${messageOf(error)}`)];
  }
  return [ok("tokenizer", pool.name, `loads from ${from}`), await compareWithEngine(pool, local, deps)];
}

async function compareWithEngine(pool: PoolConfig, local: readonly (readonly number[])[], deps: TokenizerCheckDeps): Promise<Verdict> {
  let reason = "no replica is known";
  for (const address of deps.addresses) {
    try {
      for (const [i, messages] of samples.entries()) {
        const remote = await tokenizeRemotely(address, { model: pool.model, messages, add_generation_prompt: true }, deps);
        const ours = local[i] ?? [];
        if (ours.length === remote.length && ours.every((id, at) => id === remote[at])) continue;
        const at = ours.findIndex((id, position) => id !== remote[position]);
        const position = at === -1 ? Math.min(ours.length, remote.length) : at;
        return problem(
          "parity",
          pool.name,
          `the tokenizer at ${originOf(pool)} and the engine at ${address} disagree from token ${position} on (${ours.length} and ${remote.length} tokens): prefixes will not be found. Use the directory of the served checkpoint, and its --chat-template as tokenizer.chatTemplate.`,
        );
      }
      return ok("parity", pool.name, `${samples.length} chats have the same token ids as the engine at ${address}`);
    } catch (error) {
      reason = `${address}: ${messageOf(error)}`;
    }
  }
  return skipped("parity", pool.name, `no engine could be asked (${reason})`);
}

async function tokenizeRemotely(address: string, body: unknown, deps: TokenizerCheckDeps): Promise<readonly number[]> {
  const response = await deps.fetch(`http://${address}/tokenize`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
    signal: AbortSignal.timeout(deps.timeoutMs),
  });
  const answer: unknown = await response.json();
  if (!response.ok) throw new Error(`/tokenize answers ${response.status}`);
  const tokens: unknown = typeof answer === "object" && answer !== null ? Reflect.get(answer, "tokens") : undefined;
  if (!Array.isArray(tokens) || !tokens.every((id) => typeof id === "number"))
    throw new Error("/tokenize answers something else than tokens");
  return tokens;
}

function originOf({ tokenizer: { path, repository, revision } }: PoolConfig): string {
  return path ?? `${repository ?? ""}${revision === null ? "" : `@${revision}`}`;
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
