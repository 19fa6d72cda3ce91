import type { Exchange } from "./engine-run.ts";
import type { CheckablePrompt } from "./prompt-facts.ts";
import type { ReportBuilder } from "./report.ts";
import { StreamWalk, type StreamWalkInput } from "./stream-walk.ts";
import { overlapping, placeStream } from "./timeline.ts";

/**
 * Predicts the cache hit of every request of one publisher that can be predicted, from the batches that the engine had emitted before it, and
 * compares it with the engine's own count.
 */
export async function checkHits(input: StreamWalkInput, report: ReportBuilder): Promise<void> {
  const { run, stream, others, requests } = input;
  const overlapped = overlapping(run.exchanges);
  const checkable: { readonly exchange: Exchange; readonly prompt: CheckablePrompt }[] = [];
  for (const { exchange, prompt } of requests) {
    if ("skip" in prompt) report.skip(`request: ${prompt.skip}`);
    else if (overlapped.has(exchange)) report.skip("request: concurrent with others");
    else checkable.push({ exchange, prompt });
  }
  const placed = placeStream(stream, others);
  if (placed === null && stream.some(({ batches }) => batches.length > 0)) {
    report.skip("request: no live frames by which to place batches in time", checkable.length);
    return;
  }
  const walk = new StreamWalk(input, placed ?? []);
  checkable.sort((a, b) => a.exchange.request.atMs - b.exchange.request.atMs);
  for (const { exchange, prompt } of checkable) {
    const outcome = await walk.predict(exchange, prompt);
    if ("skip" in outcome) {
      report.skip(`request: ${outcome.skip}`);
      continue;
    }
    const { request } = exchange;
    report.compare("requests", outcome.tokens === prompt.cachedTokens, request.line, () => {
      const blocks = `${outcome.tokens / outcome.blockSize} of ${outcome.limit} blocks of ${outcome.blockSize}`;
      return `request ${request.id}: the engine took ${prompt.cachedTokens} of ${prompt.tokenIds.length} tokens from its cache, the events before it predict ${outcome.tokens} (${blocks})`;
    });
  }
}
