import { describe, expect, it } from "vitest";
import { engineProfile, unsetSeed } from "./engine-profile.ts";
import { resolveOptions } from "./options.ts";

describe("simulator options", () => {
  it("make a coherent release out of its number, parts of which can be overridden", () => {
    expect(resolveOptions({ engineVersion: "0.22.1" })).toMatchObject({
      hashAlgorithm: "sha256",
      profile: { version: "0.22.1", wireForm: "array", hasReplayTopic: false, unhashedFreedFirst: false, extrasForm: "offset" },
    });
    expect(resolveOptions({ engineVersion: "0.33", wireForm: "map", replayTopic: false }).profile).toMatchObject({
      wireForm: "map",
      hasReplayTopic: false,
    });
    expect(engineProfile("v0.11.0").publishesBeforeStep).toBe(true);
    expect(engineProfile("0.11").publishesBeforeStep).toBe(false);
    expect(engineProfile("0.10.1.1")).toMatchObject({ version: "0.10.1.1", storedArrayLength: 6, defaultAlgorithm: "sha256_cbor_64bit" });
    for (const version of ["0.9", "0.34", "1.0", "latest", ""]) expect(() => engineProfile(version)).toThrow("cannot be simulated");
  });

  it("know what an unset seed means in each release", () => {
    const seed = (version: string, algorithm: "sha256" | "xxhash") => unsetSeed(engineProfile(version), algorithm, () => "random");
    expect([seed("0.28", "sha256"), seed("0.29", "sha256"), seed("0.32", "xxhash")]).toEqual(["random", "vllm-none-hash", "random"]);
  });

  it("refuse what cannot be, naming the option", () => {
    expect(() => resolveOptions({ numBlocks: 1 })).toThrow("numBlocks: got 1");
    expect(() => resolveOptions({ numBlocks: 10, blockSizeTokens: 16, maxModelLen: 145 })).toThrow("maxModelLen: got 145");
    expect(resolveOptions({ numBlocks: 10, blockSizeTokens: 16 }).maxModelLen).toBe(144);
    expect(() => resolveOptions({ speed: Number.NaN })).toThrow("speed");
    expect(() => resolveOptions({ model: "" })).toThrow("model");
  });
});
