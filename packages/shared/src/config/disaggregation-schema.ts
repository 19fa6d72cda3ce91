import { z } from "zod";

/* How requests are divided between replicas for prefill and replicas for decoding, in pools that have both. */

export const disaggregationSchema = z.strictObject({
  minUncachedTokens: z
    .int()
    .min(0)
    .max(16_777_216)
    .default(512)
    .describe("A request is divided only if the replica that decodes would have to compute more prompt tokens than this by itself."),
  maxRecomputeRatio: z
    .number()
    .min(1)
    .max(1_000)
    .default(4)
    .describe("Not divided when the replica for prefill would compute more than this many times the tokens that the decoding one lacks."),
  transferFactor: z
    .number()
    .min(0)
    .max(100)
    .default(0.25)
    .describe("cost policy: missFactor for choosing where to decode, where tokens that are not cached are transferred, not computed."),
  prefillTimeoutMs: z
    .int()
    .min(1)
    .default(120_000)
    .describe("How long the prefill step may take, waiting included; past it the request is computed as a whole where it decodes."),
});

export type DisaggregationConfig = z.output<typeof disaggregationSchema>;
