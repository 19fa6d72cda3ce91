import { describe, expect, it } from "vitest";
import type { BlockStored, WireExtra } from "../events/events.ts";
import type { EngineHash } from "../types.ts";
import { type BlockHasherOptions, createBlockHasher, type KeyExtras } from "./block-hasher.ts";
import type { HashAlgorithm, KeyScheme } from "./key-scheme.ts";
import { SchemeDetector, type SchemeDetectorOptions } from "./scheme-detector.ts";

const native = (algorithm: HashAlgorithm, seed: string): KeyScheme => ({ kind: "native", algorithm, seed });
const lora = { name: "law", path: "models/law" };
const loraPathOf = (name: string): string | undefined => (name === lora.name ? lora.path : undefined);

interface Sent {
  readonly tokens?: number;
  readonly from?: number;
  readonly to?: number;
  readonly extras?: KeyExtras;
  /** Extra keys as the engine would publish them, by block of the prompt. */
  readonly wire?: (block: number) => readonly WireExtra[] | null;
  readonly salt?: number;
}

/** An engine that hashes as `options` say and sends stores of a prompt's blocks. */
function engine(scheme: KeyScheme, options: Partial<BlockHasherOptions> = {}) {
  const hasher = createBlockHasher({ scheme, blockSizeTokens: 4, model: "m", ...options });
  const lookaheadTokens = options.lookaheadTokens ?? 0;
  return {
    store(sent: Sent = {}, changes: Partial<BlockStored> = {}): BlockStored {
      const size = hasher.blockSizeTokens;
      const tokenIds = Array.from({ length: sent.tokens ?? 16 }, (_, i) => i * 7 + (sent.salt ?? 0));
      const keys = hasher.chain(tokenIds, sent.extras).keys.map((key) => `${key}` as EngineHash);
      const from = sent.from ?? 0;
      const to = sent.to ?? keys.length;
      const blocks = Array.from({ length: to - from }, (_, i) => from + i);
      return {
        kind: "stored",
        hashes: keys.slice(from, to),
        parent: keys[from - 1] ?? null,
        tokenIds: tokenIds.slice(from * size, to * size),
        blockSizeTokens: size,
        medium: "gpu",
        loraId: sent.extras?.lora ? 1 : null,
        loraName: sent.extras?.lora?.name ?? null,
        extraKeys: blocks.map((block) => sent.wire?.(block) ?? null),
        group: 0,
        specKind: null,
        slidingWindowTokens: null,
        lookahead:
          lookaheadTokens === 0 ? null : blocks.map((block) => tokenIds.slice((block + 1) * size, (block + 1) * size + lookaheadTokens)),
        ...changes,
      };
    },
  };
}

const detectorOf = (options: SchemeDetectorOptions = {}): SchemeDetector => new SchemeDetector({ loraPathOf, ...options });
const good = (blocks: number) => ({ checked: blocks, equal: blocks, notCheckable: null, mismatch: null });

describe("settling the scheme", () => {
  it.each<[KeyScheme, SchemeDetectorOptions["hints"]]>([
    [native("sha256", "0"), {}],
    [native("sha256_cbor", "42"), {}],
    [native("sha256_cbor", "vllm-none-hash"), {}],
    [native("xxhash", "0"), {}],
    [native("xxhash_cbor", "7"), { seed: "7" }],
    [native("sha256_cbor_64bit", "random"), { seed: "random", algorithm: "sha256_cbor_64bit" }],
    [native("sha256", "vllm-none-hash"), { seed: "42", algorithm: "sha256_cbor", engineAlgorithms: ["sha256", "blake3"] }],
  ])("finds %j with hints %j", (scheme, hints = {}) => {
    const detector = detectorOf({ hints });
    expect(detector.checkStore(engine(scheme).store())).toEqual(good(4));
    expect(detector.found).toEqual({ scheme, blockSizeTokens: 4, lookaheadTokens: 0 });
  });

  it("takes content when the seed is random, and says what was configured", () => {
    const random = engine(native("sha256", "a93b"));
    const detector = detectorOf({ hints: { algorithm: "sha256", seed: "0" } });
    expect(detector.checkStore(random.store())).toMatchObject({ checked: 0, notCheckable: "content scheme" });
    expect(detector.found?.scheme).toEqual({ kind: "content", seed: "0" });
    expect(detector.contradiction).toBe(
      `configured algorithm sha256 and seed "0", but no known algorithm and seed reproduce the engine's hashes; keys are made from token contents`,
    );
  });

  it("reports a configuration that the events contradict, and follows the events", () => {
    const detector = detectorOf({ hints: { algorithm: "sha256_cbor", seed: "7" } });
    detector.checkStore(engine(native("sha256", "0")).store());
    expect(detector.found?.scheme).toEqual(native("sha256", "0"));
    expect(detector.contradiction).toBe(
      `configured algorithm sha256_cbor and seed "7", but the engine hashes with algorithm sha256 and seed "0"`,
    );
    const right = detectorOf({ hints: { algorithm: "sha256" } });
    right.checkStore(engine(native("sha256", "0")).store());
    expect(right.contradiction).toBeNull();
  });

  it("waits for a store that describes itself", () => {
    const { store } = engine(native("sha256", "0"));
    const detector = detectorOf();
    const useless = [
      store({ from: 1 }),
      store({}, { tokenIds: [], blockSizeTokens: 0 }),
      store({}, { tokenIds: [1, 2, 3, 4, 5] }),
      store({}, { blockSizeTokens: 2 ** 31 }),
    ];
    for (const event of useless) {
      expect(detector.checkStore(event).notCheckable).toBe("scheme unknown");
      expect(detector.found).toBeNull();
    }
    expect(detector.checkStore(store({}, { hashes: [], extraKeys: null }))).toEqual(good(0));
    expect(detector.checkStore(store())).toEqual(good(4));
  });

  it("is not led astray by salted prompts of releases that hide the salt", () => {
    const { store } = engine(native("sha256_cbor", "42"), { extrasForm: "plain" });
    const salted = store({ extras: { cacheSalt: "s" } }, { extraKeys: null });
    const detector = detectorOf();
    detector.checkStore(salted, "array");
    expect(detector.found).toBeNull();
    expect(detector.checkStore(store({}, { extraKeys: null }), "array")).toEqual(good(4));
    expect(detector.extrasForm).toBe("plain");
    // All traffic salted: content in the end, or the configuration where it is complete.
    const lost = detectorOf();
    const told = detectorOf({ hints: { algorithm: "sha256_cbor", seed: "42" } });
    for (const each of [lost, told]) for (let i = 0; i < 8; i++) each.checkStore(salted, "array");
    expect(lost.found?.scheme.kind).toBe("content");
    expect(told.found?.scheme).toEqual(native("sha256_cbor", "42"));
  });

  it("does not wait for ever where only the first store describes itself", () => {
    const { store } = engine(native("sha256", "random"));
    const detector = detectorOf();
    detector.checkStore(store({}, { extraKeys: null }), "array");
    for (let i = 0; i < 7; i++) {
      expect(detector.found).toBeNull();
      detector.checkStore(store({ from: 1, salt: i }, { extraKeys: null }), "array");
    }
    expect(detector.found).toEqual({ scheme: { kind: "content", seed: "" }, blockSizeTokens: 4, lookaheadTokens: 0 });
  });

  it("waits longer for an adapter's path, and takes what comes first", () => {
    const paths = new Map<string, string>();
    const { store } = engine(native("sha256", "0"));
    const event = store({ extras: { lora: { name: "med", path: "models/med" } }, wire: () => ["med"] });
    const create = (): SchemeDetector => new SchemeDetector({ loraPathOf: (name) => paths.get(name) });
    const [patient, late] = [create(), create()];
    for (let i = 0; i < 63; i++) patient.checkStore(event);
    expect(patient.found).toBeNull();
    for (let i = 0; i < 64; i++) late.checkStore(event);
    expect(late.found?.scheme.kind).toBe("content");
    paths.set("med", "models/med");
    expect(patient.checkStore(event)).toEqual(good(4));
    expect(patient.extrasForm).toBe("tagged");
  });

  it("keeps a scheme whatever mismatches later", () => {
    const detector = detectorOf();
    detector.checkStore(engine(native("sha256", "0")).store());
    const other = engine(native("sha256", "1")).store({ salt: 1 });
    for (let i = 0; i < 5; i++)
      expect(detector.checkStore(other)).toMatchObject({ checked: 4, equal: 0, mismatch: { block: 0, got: other.hashes[0] } });
    expect(detector.found?.scheme).toEqual(native("sha256", "0"));
  });

  it("finds the hash block below a group's block", () => {
    const fine = engine(native("sha256", "0"), { blockSizeTokens: 4 }).store({ tokens: 48 });
    const coarse = { ...fine, blockSizeTokens: 12, hashes: fine.hashes.filter((_, i) => i % 3 === 2), extraKeys: [null, null, null, null] };
    const detector = detectorOf();
    expect(detector.checkStore(coarse)).toEqual(good(4));
    expect(detector.found?.blockSizeTokens).toBe(4);
    const next = engine(native("sha256", "0"), { blockSizeTokens: 4 }).store({ tokens: 60, from: 12 });
    expect(detector.checkStore(next)).toEqual(good(3));
  });

  it("takes a configured content scheme and what an earlier owner found as settled", () => {
    const { store } = engine(native("sha256", "0"));
    const content = detectorOf({ hints: { algorithm: "content", seed: "s" } });
    content.checkStore(store({ from: 1 }));
    expect(content.found).toEqual({ scheme: { kind: "content", seed: "s" }, blockSizeTokens: 4, lookaheadTokens: 0 });
    expect(content.contradiction).toBeNull();
    const known = detectorOf({ known: { scheme: native("sha256", "0"), blockSizeTokens: 4, lookaheadTokens: 0, extrasForm: "offset" } });
    expect(known.extrasForm).toBe("offset");
    expect(known.checkStore(store({ from: 1 })).notCheckable).toBe("unknown parent");
    expect(known.checkStore(store())).toEqual(good(4));
    expect(known.checkStore(store({ from: 1 }))).toEqual(good(3));
  });
});

describe("recomputing stores", () => {
  const scheme = native("sha256_cbor", "0");
  const media = [{ identifier: "img", offset: 5, length: 4 }];
  const pair = (block: number): readonly WireExtra[] | null => (block === 1 || block === 2 ? [["img", 5 - block * 4]] : null);

  it("follows parents, and says when one is unknown", () => {
    const { store } = engine(scheme);
    const detector = detectorOf({ maxParents: 2 });
    expect(detector.checkStore(store({ to: 2 }))).toEqual(good(2));
    expect(detector.checkStore(store({ from: 2 }))).toEqual(good(2));
    expect(detector.checkStore(store({ from: 1, to: 2 })).notCheckable).toBe("unknown parent");
  });

  it("does not build on a block that came out different", () => {
    const { store } = engine(scheme);
    const detector = detectorOf();
    const event = store();
    const bad = { ...event, hashes: event.hashes.map((hash, i) => (i === 1 ? ("00000000000000aa" as EngineHash) : hash)) };
    expect(detector.checkStore(bad)).toMatchObject({
      checked: 4,
      equal: 3,
      mismatch: { block: 1, expected: event.hashes[1], got: "00000000000000aa" },
    });
    expect(detector.digestOf(event.hashes[0] ?? ("" as EngineHash))).toMatch(/^[0-9a-f]{64}$/);
    expect(detector.digestOf(event.hashes[2] ?? ("" as EngineHash))).toBeUndefined();
  });

  it.each(["plain", "offset", "tagged"] as const)("learns the %s form from media", (extrasForm) => {
    const { store } = engine(scheme, { extrasForm });
    const wire = (block: number): readonly WireExtra[] | null => (extrasForm === "plain" ? pair(block) && ["img"] : pair(block));
    const detector = detectorOf();
    detector.checkStore(store());
    expect(detector.extrasForm).toBeNull();
    expect(detector.checkStore(store({ extras: { media }, wire, salt: 1 }))).toEqual(good(4));
    expect(detector.extrasForm).toBe(extrasForm);
  });

  it("learns the form from the first store of all", () => {
    const extras: KeyExtras = { lora, cacheSalt: "s" };
    const wire = (block: number): readonly WireExtra[] => (block === 0 ? ["law", "s"] : ["law"]);
    const detector = detectorOf();
    expect(detector.checkStore(engine(scheme).store({ extras, wire }))).toEqual(good(4));
    expect(detector.extrasForm).toBe("tagged");
  });

  it("leaves the untagged form open where a salt alone does not tell it, and settles it later", () => {
    const { store } = engine(scheme, { extrasForm: "offset" });
    const detector = detectorOf();
    expect(detector.checkStore(store({ extras: { cacheSalt: "s" }, wire: (block) => (block === 0 ? ["s"] : null) }))).toEqual(good(4));
    expect(detector.extrasForm).toBeNull();
    detector.checkStore(store({ extras: { media }, wire: pair, salt: 1 }));
    expect(detector.extrasForm).toBe("offset");
    // A salt is no longer tried as tagged: it would be another engine's.
    const tagged = engine(scheme).store({ extras: { cacheSalt: "s" }, wire: (block) => (block === 0 ? ["s"] : null), salt: 2 });
    expect(detector.checkStore(tagged).equal).toBe(0);
  });

  it("does not judge an adapter whose path it does not know", () => {
    const other = { name: "med", path: "models/med" };
    const { store } = engine(scheme);
    const detector = detectorOf();
    const event = store({ extras: { lora: other }, wire: () => ["med"] });
    expect(detector.checkStore(event).notCheckable).toBe("scheme unknown");
    expect(detector.found).toBeNull();
    detector.checkStore(store());
    expect(detector.checkStore(event)).toMatchObject({ checked: 0, notCheckable: "lora path unknown" });
    // 0.11.1 to 0.13 send an adapter's number only.
    expect(detector.checkStore(store({}, { loraId: 1, extraKeys: null })).notCheckable).toBe("lora name unknown");
  });

  it("takes the adapter's name where a release sends no extra keys", () => {
    const { store } = engine(scheme, { extrasForm: "plain" });
    const detector = detectorOf();
    expect(detector.checkStore(store({ extras: { lora } }, { extraKeys: null }), "array")).toEqual(good(4));
    expect(detector.extrasForm).toBe("plain");
  });

  it("includes lookahead tokens", () => {
    const { store } = engine(scheme, { lookaheadTokens: 2 });
    const detector = detectorOf();
    expect(detector.checkStore(store({ tokens: 19 }), "map16")).toEqual(good(4));
    expect(detector.found?.lookaheadTokens).toBe(2);
    expect(detector.extrasForm).toBe("tagged");
    const masked = store({ tokens: 19, salt: 1 });
    expect(detector.checkStore({ ...masked, hashes: masked.hashes.slice(3), lookahead: masked.lookahead?.slice(3) ?? null })).toMatchObject(
      {
        checked: 0,
        notCheckable: "masked blocks not located",
      },
    );
  });

  it("locates the hashes of a store that dropped some", () => {
    const { store } = engine(scheme);
    const detector = detectorOf();
    detector.checkStore(store());
    const whole = store({ tokens: 24, salt: 1 });
    const masked = { ...whole, hashes: whole.hashes.slice(3, 5), extraKeys: [null, null] };
    expect(detector.checkStore(masked)).toEqual(good(2));
    expect(detector.checkStore({ ...masked, hashes: masked.hashes.toReversed() }).notCheckable).toBe(null);
    const strange = store({ tokens: 24, salt: 2 });
    const foreign = { ...strange, hashes: [...strange.hashes.slice(1, 2), "00000000000000aa" as EngineHash], extraKeys: [null, null] };
    expect(detector.checkStore(foreign)).toMatchObject({ checked: 0, notCheckable: "masked blocks not located" });
    const adapter = store({ tokens: 24, salt: 3, extras: { lora }, wire: () => ["law"] });
    expect(detector.checkStore({ ...adapter, hashes: adapter.hashes.slice(4), extraKeys: [["law"], ["law"]] })).toEqual(good(2));
  });

  it("knows a hash again that another group's store told", () => {
    const { store } = engine(scheme);
    const detector = detectorOf();
    const salted = store({ extras: { cacheSalt: "s" }, wire: (block) => (block === 0 ? ["s"] : null) });
    detector.checkStore(salted);
    const masked = { ...salted, hashes: salted.hashes.slice(2), extraKeys: [null, null], group: 1 };
    expect(detector.checkStore(masked)).toEqual(good(2));
  });

  it("goes on from a digest that the caller computed", () => {
    const extras: KeyExtras = { cacheSalt: "hidden" };
    const { store } = engine(scheme);
    const detector = detectorOf();
    detector.checkStore(store());
    const chain = createBlockHasher({ scheme, blockSizeTokens: 4, model: "m" }).chain([1, 8, 15, 22], extras);
    const rest = store({ extras, from: 1, salt: 1 }, { extraKeys: null });
    expect(detector.checkStore(rest).notCheckable).toBe("unknown parent");
    detector.remember(chain.end.parent);
    expect(detector.checkStore(rest)).toEqual(good(3));
  });

  it.each<[readonly WireExtra[], string]>([
    [[1.5], "extra keys unreadable"],
    [[["img", 0.5]], "extra keys unreadable"],
    [[[["deep"]]], "mismatch"],
    [[null], "mismatch"],
  ])("never throws on extras such as %j", (extras, outcome) => {
    const detector = detectorOf();
    detector.checkStore(engine(scheme).store());
    const check = detector.checkStore(engine(scheme).store({ wire: () => extras, salt: 1 }));
    expect(check.equal).toBe(0);
    if (outcome !== "mismatch") expect(check.notCheckable).toBe(outcome);
  });
});
