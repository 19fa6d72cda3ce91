import type { BlockStored } from "@kvatlas/shared/events/events";
import { type HashAlgorithm, hashAlgorithms, sameScheme } from "@kvatlas/shared/hashing/key-scheme";
import type { AssumedScheme, SchemeDetector } from "@kvatlas/shared/hashing/scheme-detector";
import type { EndpointId } from "@kvatlas/shared/types";
import type { KnownScheme } from "./fleet-schemes.ts";
import { groupKindOf } from "./group-catalog.ts";

/** What is at hand of an endpoint whose events do not describe themselves. */
export interface SchemeEvidence {
  readonly endpoint: EndpointId;
  /** Of the engine that is running, as it reports it; null when it does not. */
  readonly processStartSeconds: number | null;
  /** `--prefix-caching-hash-algo` as the engine reports it; null when it does not. */
  readonly engineAlgorithm: string | null;
  /** As configured; null: to be learned. */
  readonly algorithm: string | null;
  readonly seed: string | null;
  /** Endpoints of the pool, this one included. */
  readonly fleet: readonly KnownScheme[];
  readonly stores: readonly BlockStored[];
  readonly testimonyOf: SchemeDetector["testimonyOf"];
}

interface Candidate extends Pick<KnownScheme, "scheme" | "blockSizeTokens" | "extrasForm"> {
  /** It is this very process of the engine that hashes so. */
  readonly isSameRun: boolean;
}

/**
 * What an endpoint is taken for while no store from the root has come: what the same process of the engine was, what it was before, what most of its pool
 * are, what is configured in full, in this order. Null where nothing vouches for the algorithm.
 *
 * A guess of the seed would cost nothing but hits, for keys of a wrong seed are asked for by nobody; none is made where nobody names one, because
 * batches that wait can still be brought in under the right one, and batches that were written under a wrong one only as far as they can be replayed.
 */
export function assumedScheme(evidence: SchemeEvidence): AssumedScheme | null {
  const described = evidence.stores.filter(({ blockSizeTokens, hashes }) => blockSizeTokens > 0 && hashes.length > 0);
  const full = described.find(({ specKind, slidingWindowTokens }) => groupKindOf(specKind, slidingWindowTokens) === "full") ?? described[0];
  if (full === undefined) return null;
  const chosen = candidatesOf(evidence, full.blockSizeTokens).find(
    (candidate) => full.blockSizeTokens % candidate.blockSizeTokens === 0 && isVouchedFor(candidate, described, evidence),
  );
  if (chosen === undefined) return null;
  const { scheme, blockSizeTokens, extrasForm } = chosen;
  return { scheme, blockSizeTokens, extrasForm, lookaheadTokens: full.lookahead?.[0]?.length ?? 0 };
}

function candidatesOf({ endpoint, fleet, processStartSeconds, ...told }: SchemeEvidence, blockSizeTokens: number): readonly Candidate[] {
  const own = fleet.filter((known) => known.endpoint === endpoint);
  const isSameRun = (known: KnownScheme): boolean => processStartSeconds !== null && known.processStartSeconds === processStartSeconds;
  const others = fleet.filter((known) => known.endpoint !== endpoint);
  const alike = (a: KnownScheme, b: KnownScheme): boolean => sameScheme(a.scheme, b.scheme) && a.blockSizeTokens === b.blockSizeTokens;
  const countOf = (known: KnownScheme): number =>
    new Set(others.filter((other) => alike(other, known)).map((other) => other.endpoint)).size;
  const usualFirst = others.map((known) => ({ known, count: countOf(known) })).sort((a, b) => b.count - a.count);
  const algorithm = algorithmOf(told.engineAlgorithm ?? told.algorithm);
  const configured: readonly Candidate[] =
    algorithm === null || told.seed === null
      ? []
      : [{ scheme: { kind: "native", algorithm, seed: told.seed }, blockSizeTokens, extrasForm: null, isSameRun: false }];
  return [
    ...own.filter(isSameRun).map((known) => ({ ...known, isSameRun: true })),
    ...own.filter((known) => !isSameRun(known)).map((known) => ({ ...known, isSameRun: false })),
    ...usualFirst.map(({ known }) => ({ ...known, isSameRun: false })),
    ...configured,
  ];
}

function isVouchedFor(candidate: Candidate, stores: readonly BlockStored[], evidence: SchemeEvidence): boolean {
  const { scheme, blockSizeTokens } = candidate;
  const testimonies = stores.map((store) => evidence.testimonyOf(store, scheme, blockSizeTokens));
  if (testimonies.includes("for")) return true;
  if (testimonies.includes("against")) return false;
  if (candidate.isSameRun) return true;
  return algorithmOf(evidence.engineAlgorithm ?? evidence.algorithm) === scheme.algorithm;
}

function algorithmOf(name: string | null): HashAlgorithm | null {
  return hashAlgorithms.find((algorithm) => algorithm === name) ?? null;
}
