import type { PromptRequest } from "@kvatlas/shared/tokenization/prompt-encoder";

/** Prompts that differ in what templates and tokenizers get wrong: roles, spaces, other scripts, numbers, leading and trailing whitespace. */
export function probeRequests(model: string): readonly PromptRequest[] {
  const chats = [
    [{ role: "user", content: "Hello" }],
    [
      { role: "system", content: "You are terse." },
      { role: "user", content: "Name three whales.\n\n  - as a list\n" },
      { role: "assistant", content: "Blue, fin, sperm." },
      { role: "user", content: "Größer? 更大的呢？ 🐋  12345 != 1e5" },
    ],
  ];
  return [
    ...chats.map((messages): PromptRequest => ({ kind: "chat", bodyText: JSON.stringify({ model, messages }) })),
    { kind: "completion", bodyText: JSON.stringify({ model, prompt: "  def f(x):\n\treturn x ** 2  # ²½①\n\n" }) },
  ];
}
