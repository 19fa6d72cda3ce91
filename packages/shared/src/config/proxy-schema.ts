import { z } from "zod";

/* What the proxy does besides routing: who may ask, which model a name means, how often it tries again, what happens when there is too much. */

const headerName = z
  .string()
  .regex(/^[A-Za-z0-9-]{1,64}$/)
  .meta({ form: "name of a header" });

export const accessSchema = z.strictObject({
  keysFile: z
    .string()
    .min(1)
    .nullable()
    .default(null)
    .describe(
      "File with the API keys that clients may use: a line for each, `<tenant> <sha256 of the key in hex>`. Read again when it changes. Without keysFile and keys anybody may ask.",
    ),
  keys: z
    .array(z.string().describe("`<tenant> <sha256 of the key in hex>`."))
    .default([])
    .describe("The same as a list, besides those of the file."),
});

export const upstreamSchema = z.strictObject({
  apiKeyFile: z
    .string()
    .min(1)
    .nullable()
    .default(null)
    .describe("File with the API key that replicas ask for; sent in place of what the client sent. Read again when it changes."),
  apiKey: z
    .string()
    .min(1)
    .nullable()
    .default(null)
    .describe("The key itself, best by environment (KVATLAS_ROUTER_UPSTREAM_API_KEY); apiKeyFile wins."),
});

export const modelRouteSchema = z.strictObject({
  name: z.string().min(1).max(512).describe("Model name in requests. Wins over a pool's model or an adapter of the same name."),
  targets: z
    .array(
      z.strictObject({
        model: z.string().min(1).max(512).describe("Model of a pool, or an adapter that its replicas have loaded."),
        weight: z.int().min(0).max(1_000_000).default(1).describe("Share of the requests, in relation to the other targets."),
      }),
    )
    .min(1)
    .describe(
      "What the name stands for. With several, requests are split by weight: the same session (router.sessionHeader), else the same request id, goes to the same one.",
    ),
  criticality: z
    .enum(["critical", "standard", "sheddable"])
    .default("standard")
    .describe(
      "Who goes first when there is too much (router.overload): critical before standard; sheddable is refused instead of waiting.",
    ),
  answerAs: z
    .enum(["client", "target"])
    .default("client")
    .describe("Model name in answers: as the client wrote it, or that of the target as the replica writes it."),
});

export const retryBudgetSchema = z.strictObject({
  ratio: z.number().min(0).max(1).default(0.2).describe("Retries per request, in the long run."),
  minPerSecond: z.number().min(0).max(10_000).default(10).describe("Retries that are always allowed, however few requests there are."),
});

export const overloadSchema = z.strictObject({
  enabled: z.boolean().default(false).describe("Without it every request is sent to a replica at once; engines queue by themselves."),
  maxConcurrentPerReplica: z
    .int()
    .min(1)
    .max(100_000)
    .default(256)
    .describe("Requests under way per ready replica of a pool, shared by all live routers; further ones wait."),
  maxQueued: z.int().min(1).max(1_000_000).default(1_024).describe("Requests that may wait, per pool."),
  maxWaitMs: z
    .int()
    .min(1)
    .default(30_000)
    .describe("A request that would wait longer, as far as can be predicted, is answered 429 at once; one that has waited so long, too."),
  tenantHeader: headerName
    .nullable()
    .default(null)
    .describe("Header that names the tenant when there are no API keys (their tenant wins). Tenants of one priority take turns."),
});
