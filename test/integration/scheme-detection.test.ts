import { decodeEventBatch } from "@kvatlas/shared/events/vllm-decoder";
import { SchemeDetector } from "@kvatlas/shared/hashing/scheme-detector";
import { describe, expect, it } from "vitest";
import { mergedStreams, readRecording, recordingFiles } from "../support/recordings.ts";

interface Expected {
  /** Algorithm and seed of each engine start, or content. */
  readonly schemes: readonly string[];
  readonly extrasForm: string | null;
  /** Stored hashes, live and replayed merged; how many are recomputed, how many come out equal. */
  readonly hashes: number;
  readonly checked: number;
  readonly equal: number;
  readonly why?: string;
}

const cbor42 = "sha256_cbor 42";
const all = (schemes: readonly string[], extrasForm: string | null, hashes: number): Expected => ({
  schemes,
  extrasForm,
  hashes,
  checked: hashes,
  equal: hashes,
});

const expectations: Readonly<Record<string, Expected>> = {
  // Events before 0.17 carry no extra keys: the four blocks of the salted prompt cannot come out equal.
  "v0.10.1-sha256cbor64bit-b16.jsonl": { ...all(["sha256_cbor_64bit 42"], "plain", 160), equal: 156 },
  "v0.11.2-array-b16.jsonl": { ...all([cbor42], "plain", 160), equal: 156 },
  "v0.22.1-array-b16.jsonl": all([cbor42], "offset", 159),
  "v0.32-central-two-engines-b16.jsonl": all([cbor42, cbor42, cbor42, cbor42], null, 124),
  "v0.32-chats-b16.jsonl": all([cbor42], null, 89),
  "v0.32-chunked-prefill-b16.jsonl": all(["sha256 42"], null, 317),
  "v0.32-evictions-b16.jsonl": all([cbor42], null, 461),
  // A salted prompt, whose salt the sliding groups' masked stores do not show.
  "v0.32-hybrid-gemma3-b32.jsonl": { ...all([cbor42], "tagged", 118), checked: 114, equal: 114, why: "masked blocks not located" },
  "v0.32-lora-b32.jsonl": all([cbor42], "tagged", 31),
  "v0.32-replay-b16.jsonl": all([cbor42], null, 184),
  "v0.32-request-forms-b16.jsonl": all([cbor42], null, 73),
  "v0.32-sha256-b64.jsonl": all(["sha256 0"], null, 53),
  // Two starts with random seeds, then two with seed 7, which only the configuration can tell.
  "v0.32-xxhash-b32.jsonl": {
    ...all(["content", "content", "xxhash_cbor 7", "xxhash 7"], null, 34),
    checked: 10,
    equal: 10,
    why: "content scheme",
  },
};

describe("scheme detection on recordings of real engines", () => {
  it.each(recordingFiles())("%s", (file) => {
    const recording = readRecording(file);
    const totals = { hashes: 0, checked: 0, equal: 0 };
    const schemes: string[] = [];
    const forms = new Set<string | null>();
    const reasons = new Set<string>();
    for (const frames of mergedStreams(recording).values()) {
      const hints = file.includes("xxhash") ? { seed: "7" } : {};
      const detector = new SchemeDetector({ hints, loraPathOf: (name) => recording.loraPaths.get(name) });
      for (const { payload } of frames) {
        const batch = decodeEventBatch(payload);
        for (const event of batch.events) {
          if (event.kind !== "stored") continue;
          const check = detector.checkStore(event, batch.wireForm);
          totals.hashes += event.hashes.length;
          totals.checked += check.checked;
          totals.equal += check.equal;
          expect(check.mismatch === null).toBe(check.equal === check.checked);
          if (check.notCheckable !== null) reasons.add(check.notCheckable);
        }
      }
      const scheme = detector.found?.scheme;
      schemes.push(scheme?.kind === "native" ? `${scheme.algorithm} ${scheme.seed}` : `${scheme?.kind}`);
      forms.add(detector.extrasForm);
    }
    const { why, extrasForm, ...numbers } = expectations[file] ?? all([], null, 0);
    expect({ schemes, ...totals }).toEqual(numbers);
    expect([...forms]).toEqual([extrasForm]);
    expect([...reasons]).toEqual(why === undefined ? [] : [why]);
  });
});
