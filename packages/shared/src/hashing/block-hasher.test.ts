import { describe, expect, it } from "vitest";
import { createBlockDigest } from "./block-digest.ts";
import { type BlockHasherOptions, createBlockHasher, type KeyExtras } from "./block-hasher.ts";
import type { ExtrasForm, HashAlgorithm, KeyScheme } from "./key-scheme.ts";

// Computed by running the hash functions, seed and extra-key code of vLLM itself, of the releases named (0.10.0 to 0.33.0).

const tokens = (count: number): Uint32Array => Uint32Array.from({ length: count }, (_, i) => i);
const native = (algorithm: HashAlgorithm, seed: string): KeyScheme => ({ kind: "native", algorithm, seed });
const hex = (decimal: string | bigint): string => BigInt(decimal).toString(16).padStart(16, "0");

function keysOf(
  scheme: KeyScheme,
  tokenIds: ArrayLike<number>,
  options: Partial<BlockHasherOptions> = {},
  extras?: KeyExtras,
): readonly string[] {
  return createBlockHasher({ scheme, blockSizeTokens: 16, model: "m", ...options }).chain(tokenIds, extras).keys;
}

function digestsOf(scheme: KeyScheme, tokenIds: ArrayLike<number>, blockSizeTokens = 16): string[] {
  const digest = createBlockDigest(scheme, "m");
  const digests = [digest.root(null)];
  for (let at = 0; at + blockSizeTokens <= tokenIds.length; at += blockSizeTokens) {
    digests.push(digest.next(digests.at(-1) ?? "", tokenIds, at, at + blockSizeTokens, null, null));
  }
  return digests;
}

describe("native block hashes without extras", () => {
  it.each([
    [
      "sha256_cbor",
      "0",
      [
        "4e1195df020de59e0d65a33a4279f1183e7ae4e5d980e309f8b55adff2e61c3e",
        "d830de3d42c00f25a2949b5d12d98642664a44872c1614c5b0147556276afc9c",
        "fedd9e4abebebbe6f6cf96b682f08d316063fe2f22a5c552192dd62904fcccac",
        "ee4c34c217da17ac84268f864db16efed5fcefe10fcc4a9625a719adc68e654f",
      ],
    ],
    [
      "sha256_cbor",
      "42",
      [
        "9fa6eb003f14425eb9c8e6baacfbcaab26257357b829c7bfa74ffcc4f31c1780",
        "63876f948a5f9ef88191c7d6554fbeeea5c622d4da15d0d527bd352623590b0d",
      ],
    ],
    [
      "sha256_cbor",
      "vllm-none-hash",
      [
        "9bd96a485ad84efdafb72ee48a1d7a69bcead0f8f0433173941b276b9581eef0",
        "dc918a88b139e5afe60b88eda27508d4aee16c10fdc354791efea06206ac0749",
        "c300ec275d7bf08af8fc63e76cdc0086911bbc7091e03c5cf892553bef84ef0c",
        "117dad852830e0103c12d7c7f8b7cf58434ea8751d1f42ee07b1c93711e4da6c",
      ],
    ],
    [
      "sha256",
      "0",
      [
        "1973e23848344dc43a988a9b478663803cfffe1243480253f9a3cf004b14aa7c",
        "6358e31578a64b75ebe28cdb99d3beae65de82a2087321dc6ec84ae048faaaa6",
        "3c3c50f324aefbdfbb124dfdc541efac3e94e59c40f4be08afe70601eeca92c8",
        "0728d91353ef7b6761329eaaf146e88046d84f6384628314a0a6c35dd9b88e0a",
      ],
    ],
    [
      "sha256",
      "42",
      [
        "c0bc02c9fc92a4944335649961b9e55cc41b194bece4801e8c6ef0f0f3f5884a",
        "63921f8159563637aa932c18cfc4224074360df1a31b1c60a90e3b9363805a81",
      ],
    ],
    [
      "sha256",
      "vllm-none-hash",
      [
        "066b1e8987e027138e98701c46128929378935f9b6cd1549105ae6b4f0d71198",
        "fe8fa5dda3210d0ca2031e37cbe3b001186773cd1c710beb2d45fcb51d434798",
        "8be7aaa33831156d316f1f463ae57e643deb63f42e633e2d631df88815cc4629",
        "9d537f74907f6ada2b6cccb46b9845df2ebdbaf60c73d8679cf1da81b15b302c",
      ],
    ],
  ] as const)("%s, seed %j: whole digests", (algorithm, seed, expected) => {
    expect(digestsOf(native(algorithm, seed), tokens(48)).slice(0, expected.length)).toEqual(expected);
  });

  it.each([
    ["xxhash", "0", "6fb31cc38bba6066183f7f2104b9c051", ["12446601617588617037", "15415768829451575322", "9624497515420564099"]],
    ["xxhash_cbor", "0", "1ebe36576dcb573f26b99533a20aaeca", ["4168120356241826254", "9934807162112882475", "13167754217454818525"]],
    ["sha256_cbor_64bit", "0", hex("17921330210090130494"), ["12941760810052526044", "5577291256583458507", "12698515083774402719"]],
    ["sha256_cbor_64bit", "42", hex("12056132650316601216"), ["16553778285757840538", "7593088494653211726", "17790978254717238851"]],
  ] as const)("%s, seed %j: root and keys", (algorithm, seed, root, keys) => {
    expect(createBlockDigest(native(algorithm, seed), "m").root(null)).toBe(root);
    expect(keysOf(native(algorithm, seed), tokens(48))).toEqual(keys.map(hex));
  });

  it("writes integers of every width", () => {
    const ids = [23, 24, 255, 256, 65535, 65536, 128255, 151643];
    const [, block] = digestsOf(native("sha256_cbor", "0"), [...ids, ...ids]);
    expect(block).toBe("c74a27bd4b978d2e70b0c489bc08999956413d467dd11f60dc85744a744a0d19");
  });

  it("agrees with vLLM 29bf597539 on blocks of 128", () => {
    const ids = Array.from({ length: 300 }, (_, i) => (i * 7919 + 13) % 152064);
    expect(digestsOf(native("sha256_cbor", "vllm-none-hash"), ids, 128).slice(1)).toEqual([
      "3c922374e6fe67f3c64e75b88a3b8bd6185b538f7019674b72aefbf8dd8754f8",
      "2e69fa8c8aebe362593b51b8b212f1aeb45f9bb56c4258c0bf2a94f1e384e2a5",
    ]);
    expect(keysOf(native("sha256", "0"), ids, { blockSizeTokens: 128 })).toEqual([
      hex("13334223338055793791"),
      hex("12466442055941303673"),
    ]);
  });
});

describe("native block hashes with extras", () => {
  const lora = { name: "my-lora", path: "/adapters/my-lora" };
  const cacheSalt = "s1";
  const media = [{ identifier: "abc", offset: 3, length: 20 }];

  it.each<[ExtrasForm, HashAlgorithm, KeyExtras, string[]]>([
    ["offset", "sha256_cbor", { lora }, ["14363917845617146483", "14169151309622765391", "8968918875924509582"]],
    ["plain", "sha256_cbor", { cacheSalt }, ["7879504123414949845", "4352285911699503745", "3766646198121763565"]],
    ["offset", "sha256_cbor", { lora, cacheSalt }, ["860201823844368465", "262916214346760001", "6231763304996501645"]],
    ["plain", "sha256_cbor", { media }, ["12669228301588409377", "17767270518969519138", "2038939368070770676"]],
    ["offset", "sha256_cbor", { media }, ["7100684121419157655", "6116188117748886661", "9603546532139941787"]],
    ["offset", "sha256_cbor", { lora, media, cacheSalt }, ["1875420040353533201", "9921237252454483367", "1557040552890261238"]],
    ["tagged", "sha256_cbor", { lora }, ["4768322250183483814", "12103300782264718811", "14521745567898234552"]],
    ["tagged", "sha256_cbor", { lora, media, cacheSalt }, ["12531819196061859771", "18153888744573307242", "17728742923875500480"]],
    ["tagged", "sha256", { lora }, ["3710575452173037691", "603595200620056070", "15779321599644533084"]],
    ["tagged", "sha256", { lora, cacheSalt }, ["10663632243387122445", "10344997560970420805", "406933350916726161"]],
    ["tagged", "sha256", { lora, media, cacheSalt }, ["8518075437892008526", "2229812657950036130", "12838707406354186201"]],
  ])("%s form, %s, %j", (extrasForm, algorithm, extras, keys) => {
    expect(keysOf(native(algorithm, "0"), tokens(48), { extrasForm }, extras)).toEqual(keys.map(hex));
  });

  it("repeats the tag of the second image as a reference", () => {
    const two = [
      { identifier: "abc", offset: 3, length: 5 },
      { identifier: "def", offset: 8, length: 2 },
    ];
    expect(keysOf(native("sha256", "0"), tokens(16), {}, { media: two })).toEqual([hex("15262967044938545136")]);
    expect(keysOf(native("sha256_cbor", "0"), tokens(16), {}, { media: two })).toEqual([hex("15738919780174209158")]);
  });

  it("hashes lookahead tokens, and only blocks that have them", () => {
    expect(keysOf(native("sha256_cbor", "0"), tokens(50), { lookaheadTokens: 1 })).toEqual(
      ["11654555759536999577", "1222722736848924148", "16456316731214110699"].map(hex),
    );
    expect(keysOf(native("sha256", "0"), tokens(50), { lookaheadTokens: 1 }, { lora, cacheSalt })).toEqual(
      ["16743926789325037442", "6439677835368862832", "11820071627345950883"].map(hex),
    );
    expect(keysOf(native("sha256_cbor", "0"), tokens(48), { lookaheadTokens: 1 })).toHaveLength(2);
  });

  it("has no keys for the tagged form without the adapter's path", () => {
    const hasher = createBlockHasher({ scheme: native("sha256", "0"), blockSizeTokens: 16, model: "m", extrasForm: "tagged" });
    const pathless = hasher.chain(tokens(48), { lora: { name: "my-lora" } });
    expect(pathless).toEqual({ keys: [], end: { blocks: 0, parent: expect.any(String) } });
    expect(keysOf(native("sha256", "0"), tokens(48), { extrasForm: "offset" }, { lora: { name: "my-lora" } })).toHaveLength(3);
    expect(keysOf({ kind: "content", seed: "" }, tokens(48), {}, { lora: { name: "my-lora" } })).toHaveLength(3);
  });
});

describe("content keys", () => {
  const prompt = Uint32Array.from({ length: 64 }, (_, i) => i + 1);
  const options = { model: "Qwen/Qwen2-VL-7B-Instruct" };

  it.each<[string, KeyExtras | undefined, string[]]>([
    ["", undefined, ["2081463255974218405", "12303805089152390236", "423243691313349187", "6060859852545850365"]],
    ["42", undefined, ["6888340935383383392", "7664715436495089513", "6707005733359058950", "4445559130411260276"]],
    ["", { cacheSalt: "tenant-a" }, ["18237355385604355768", "9315591694139217297", "12939808175017946430", "8079838170920097665"]],
  ])("follow llm-d-kv-cache's xxh64 recipe: seed %j, %j", (seed, extras, keys) => {
    expect(keysOf({ kind: "content", seed }, prompt, options, extras)).toEqual(keys.map(hex));
  });

  it("differ by adapter, by image but not by its offset form, and by lookahead", () => {
    const scheme: KeyScheme = { kind: "content", seed: "" };
    const plain = keysOf(scheme, prompt, options);
    expect(keysOf(scheme, prompt, options, { lora: { name: "x" } })).toEqual(keysOf(scheme, prompt, { model: "x" }));
    const media = [{ identifier: "abc", offset: 20, length: 4 }];
    const withImage = keysOf(scheme, prompt, { ...options, extrasForm: "plain" }, { media });
    expect(withImage).toEqual(keysOf(scheme, prompt, { ...options, extrasForm: "tagged" }, { media }));
    expect(withImage[0]).toBe(plain[0]);
    expect(withImage[1]).not.toBe(plain[1]);
    expect(keysOf(scheme, prompt, { ...options, lookaheadTokens: 1 })[0]).not.toBe(plain[0]);
  });
});

describe("chains", () => {
  const scheme = native("sha256_cbor", "0");
  const hasher = createBlockHasher({ scheme, blockSizeTokens: 16, model: "m" });

  it("go on from any earlier state", () => {
    const extras: KeyExtras = { cacheSalt: "s", media: [{ identifier: "abc", offset: 30, length: 10 }] };
    const whole = hasher.chain(tokens(100), extras);
    const start = hasher.chain(tokens(40), extras);
    const rest = hasher.chain(tokens(100), extras, start.end);
    expect([...start.keys, ...rest.keys]).toEqual(whole.keys);
    expect(rest.end).toEqual(whole.end);
    expect(hasher.chain(tokens(100), extras, whole.end)).toEqual({ keys: [], end: whole.end });
  });

  it("of prompts shorter than a block are empty", () => {
    expect(hasher.chain([]).keys).toEqual([]);
    expect(hasher.chain(tokens(15)).keys).toEqual([]);
  });

  it.each([[-1], [1.5], [2 ** 32], [Number.NaN]])("refuse %d as a token id under every algorithm", (id) => {
    for (const kind of ["sha256", "sha256_cbor"] as const) {
      expect(() => keysOf(native(kind, "0"), [...tokens(15), id])).toThrowError(
        expect.objectContaining({ code: "KVATLAS_REQUEST_INVALID" }),
      );
    }
    expect(() => keysOf({ kind: "content", seed: "" }, [...tokens(15), id])).toThrowError(/token id/);
  });

  it.each([[0], [-16], [1.5], [Number.NaN]])("refuse a block size of %d", (blockSizeTokens) => {
    expect(() => createBlockHasher({ scheme, blockSizeTokens, model: "m" })).toThrowError(
      expect.objectContaining({ code: "KVATLAS_CONFIG_INVALID" }),
    );
  });
});
