import { collectRuns, type EngineRun, type Exchange, loraPathsOf } from "./engine-run.ts";
import type { Traffic } from "./gap-bounds.ts";
import { checkHits } from "./hit-check.ts";
import { checkKeys } from "./key-check.ts";
import { type EngineFacts, factsOf, promptFacts, promptIdsOf } from "./prompt-facts.ts";
import type { Recording } from "./read-recording.ts";
import type { RecordedTokenizer } from "./recorded-tokenizer.ts";
import { isJson } from "./recording-line.ts";
import { renderedFor, renderedPrompts } from "./rendered-prompts.ts";
import { type RecordingReport, ReportBuilder } from "./report.ts";
import type { ResponseFacts } from "./response-facts.ts";
import { learnScheme } from "./scheme-check.ts";
import type { RankedRequest } from "./stream-walk.ts";
import { checkTokens } from "./token-check.ts";

export interface VerifyOptions {
  /** Compares prompts with the engine's own ids, and gives ids to requests whose answers have none. */
  readonly tokenizer?: RecordedTokenizer;
}

/** Checks one recording by the code that runs in production: decoder, sequence rules, hasher, index, hybrid hits, tokenizer. */
export async function verifyRecording(file: string, recording: Recording, options: VerifyOptions = {}): Promise<RecordingReport> {
  const report = new ReportBuilder();
  for (const { line, reason } of recording.malformed) report.problem("line", line, reason);
  for (const run of collectRuns(recording, report)) await verifyRun(run, options, report);
  return report.build(file);
}

async function verifyRun(run: EngineRun, { tokenizer }: VerifyOptions, report: ReportBuilder): Promise<void> {
  const loraPaths = loraPathsOf(run);
  const isForeign = tokenizer?.isForeignTo(run.meta?.tokenizerPackage ?? null) === true;
  if (isForeign) report.skip(`tokens: recorded with ${run.meta?.tokenizerPackage}`, run.exchanges.length);
  const { requestsByRank, traffic } = rankRequests(run, loraPaths, isForeign ? undefined : tokenizer, report);
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
    await checkHits({ run, rank, stream, others, schemes, traffic, requests: requestsByRank.get(rank) ?? [] }, report);
  }
}

/** Requests by the rank that served them; those of which nobody can tell are counted and left out. */
function rankRequests(
  run: EngineRun,
  loraPaths: ReadonlyMap<string, string>,
  tokenizer: RecordedTokenizer | undefined,
  report: ReportBuilder,
): { readonly requestsByRank: ReadonlyMap<number, RankedRequest[]>; readonly traffic: readonly Traffic[] } {
  const traffic: Traffic[] = [];
  const ranked = new Map<number, RankedRequest[]>();
  const engine = engineFactsOf(run, loraPaths);
  const rendered = renderedPrompts(run.http);
  const timeOf = wallClockOf(run);
  if (tokenizer !== undefined) {
    for (const { http, tokenIds } of rendered) {
      const { path, line, atMs } = http;
      checkTokens(
        tokenizer,
        { name: path, line, path, bodyText: http.requestText ?? "", at: timeOf(atMs), tokenIds, totalTokens: null },
        report,
      );
    }
  }
  for (const exchange of run.exchanges) {
    const facts = factsOf(exchange);
    const encoded = tokenizer === undefined ? null : encodeExchange(tokenizer, exchange, facts, timeOf(exchange.request.atMs), report);
    const ids = renderedFor(exchange.request, rendered) ?? encoded;
    const prompt = promptFacts(exchange, facts, engine, ids);
    const unknown = facts?.hasUsage !== true || (facts.cachedTokens === null && !engine.reportsCachedTokens);
    traffic.push({ exchange, promptIds: promptIdsOf(exchange, facts, ids), cachedTokens: unknown ? null : (facts.cachedTokens ?? 0) });
    const rank = rankOf(run, exchange);
    if (rank === null) {
      report.skip("request: data-parallel rank not known");
      continue;
    }
    const requests = ranked.get(rank) ?? [];
    ranked.set(rank, requests);
    requests.push({ exchange, prompt });
  }
  return { requestsByRank: ranked, traffic };
}

function encodeExchange(
  tokenizer: RecordedTokenizer,
  { request, response }: Exchange,
  facts: ResponseFacts | null,
  at: Date | null,
  report: ReportBuilder,
): readonly Uint32Array[] | null {
  if (response === null || facts === null || response.status < 200 || response.status > 299) {
    report.skip(response === null ? "tokens: no response" : "tokens: failed response");
    return null;
  }
  const { line, path, bodyText } = request;
  const { promptTokenIds, promptTokens } = facts;
  const question = { name: `request ${request.id}`, line, path, bodyText, at, tokenIds: promptTokenIds, totalTokens: promptTokens };
  return checkTokens(tokenizer, question, report);
}

/** The engine's wall clock by the recorder's: a live batch shows both. */
function wallClockOf(run: EngineRun): (atMs: number) => Date | null {
  for (const stream of run.streams.values()) {
    for (const { batches } of stream) {
      for (const { receivedMs, batch } of batches) {
        if (receivedMs !== null) return (atMs) => new Date(batch.timestampSeconds * 1_000 + atMs - receivedMs);
      }
    }
  }
  return () => null;
}

function engineFactsOf(run: EngineRun, loraPaths: ReadonlyMap<string, string>): EngineFacts {
  const baseModels = new Set<string>();
  for (const { path, body } of run.http) {
    if (path !== "/v1/models" || !isJson(body) || !Array.isArray(body.data)) continue;
    for (const model of body.data)
      if (isJson(model) && typeof model.id === "string" && typeof model.parent !== "string") baseModels.add(model.id);
  }
  if (baseModels.size > 0 && run.meta?.model) baseModels.add(run.meta.model);
  const adapters = new Set(loraPaths.keys());
  for (const stream of run.streams.values()) {
    for (const { batches } of stream) {
      for (const { batch } of batches)
        for (const event of batch.events) if (event.kind === "stored" && event.loraName !== null) adapters.add(event.loraName);
    }
  }
  const asked = run.meta?.args.includes("--enable-prompt-tokens-details") === true;
  return {
    loraPaths,
    isAdapter: (model) => adapters.has(model) || (baseModels.size > 0 && !baseModels.has(model)),
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
