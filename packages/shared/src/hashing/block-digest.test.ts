import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { createBlockDigest } from "./block-digest.ts";
import type { HashValue } from "./hash-value.ts";
import type { HashAlgorithm } from "./key-scheme.ts";

type JsonValue = string | number | null | { bytes?: string; int?: string; text?: string; times?: number } | JsonValue[];

interface GoldenCase {
  readonly block: number;
  readonly modulus: number;
  readonly step: number;
  readonly start: number;
  readonly parent: string;
  readonly extras: JsonValue[] | null;
  readonly lookahead: number[] | null;
  readonly digests: Readonly<Record<string, string>>;
}

const fixture = new URL("../../../../test/fixtures/hashing/golden.json", import.meta.url);
const { cases }: { cases: GoldenCase[] } = JSON.parse(readFileSync(fixture, "utf8"));

function revive(value: JsonValue): HashValue {
  if (Array.isArray(value)) return value.map(revive);
  if (value === null || typeof value !== "object") return value;
  if (value.text !== undefined) return value.text.repeat(value.times ?? 1);
  return value.bytes === undefined ? BigInt(value.int ?? 0) : Buffer.from(value.bytes, "hex");
}

describe.each<HashAlgorithm>(["sha256", "sha256_cbor", "xxhash", "xxhash_cbor"])("%s of one block", (algorithm) => {
  const digest = createBlockDigest({ kind: "native", algorithm, seed: "0" }, "");
  const parentDigits = algorithm.startsWith("sha") ? 64 : 32;

  it("equals CPython's pickle or cbor2 for blocks, ids and extras of every size", () => {
    const wrong = cases.filter((golden) => {
      const { block, modulus, step, start, parent, lookahead } = golden;
      const ids = Float64Array.from({ length: block }, (_, i) => Number((BigInt(i) * BigInt(step) + BigInt(start)) % BigInt(modulus)));
      const extras = golden.extras === null ? null : golden.extras.map(revive);
      return digest.next(parent.slice(0, parentDigits), ids, 0, block, extras, lookahead) !== golden.digests[algorithm];
    });
    expect(wrong).toEqual([]);
    expect(cases.length).toBeGreaterThan(150);
  });

  it("refuses fractions and integers past 64 bits", () => {
    for (const bad of [0.5, Number.NaN, 2 ** 60, 2n ** 64n, -(2n ** 63n) - 1n]) {
      expect(() => digest.next("00".repeat(parentDigits / 2), [1], 0, 1, [bad], null)).toThrowError(
        expect.objectContaining({ code: "KVATLAS_REQUEST_INVALID" }),
      );
    }
  });
});
