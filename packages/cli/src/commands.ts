import type { CommandEntry } from "./dispatch.ts";

/** Every command; summaries are repeated here so that the list is printed without loading any of them. */
export const commands: readonly CommandEntry[] = [
  {
    name: "quickstart",
    summary: "shows two turns of a chat landing on the same replica, on this machine, without a GPU",
    load: async () => (await import("./commands/quickstart.ts")).quickstartCommand,
  },
  {
    name: "router",
    summary: "runs the router: OpenAI-compatible proxy and /kvatlas API",
    load: async () => (await import("./commands/router.ts")).routerCommand,
  },
  {
    name: "ingester",
    summary: "runs the ingester: KV-cache events of the replicas into the index",
    load: async () => (await import("./commands/ingester.ts")).ingesterCommand,
  },
  {
    name: "all-in-one",
    summary: "runs ingester and router in one process; no Redis needed",
    load: async () => (await import("./commands/all-in-one.ts")).allInOneCommand,
  },
  {
    name: "simulator",
    summary: "runs simulated vLLM replicas",
    load: async () => (await import("./commands/simulator.ts")).simulatorCommand,
  },
  {
    name: "inspect",
    summary: "shows endpoints, pools, blocks, prompts and counts of the index in Redis, and whether it is right",
    load: async () => (await import("./commands/inspect.ts")).inspectCommand,
  },
  {
    name: "doctor",
    summary: "checks configuration, Redis, replicas and tokenizers; a sentence per problem",
    load: async () => (await import("./commands/doctor.ts")).doctorCommand,
  },
  {
    name: "tokenize",
    summary: "prints prompt text, token ids and block keys of OpenAI request bodies",
    load: async () => (await import("./commands/tokenize.ts")).tokenizeCommand,
  },
  {
    name: "record",
    summary: "records events and requests of a running engine",
    load: async () => (await import("./commands/record.ts")).recordCommand,
  },
  {
    name: "verify",
    summary: "checks recordings: decoding, keys, predicted cache hits, tokens",
    load: async () => (await import("./commands/verify.ts")).verifyCommand,
  },
];
