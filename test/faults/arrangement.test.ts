import { describe, expect, it } from "vitest";
import {
  type ArrangementName,
  arrangementOf,
  dimensions,
  kindsIn,
  plainArrangement,
  readFixed,
  seedsPerArrangement,
  settingsOf,
} from "./arrangement.ts";

describe("arrangementOf", () => {
  it("decides the same for the same seed, and for those that share its processes", () => {
    expect(arrangementOf(70)).toEqual(arrangementOf(70));
    expect(arrangementOf(70)).toEqual(arrangementOf(70 + seedsPerArrangement - 1));
  });

  it("draws every value of every dimension", () => {
    const drawn = Array.from({ length: 200 }, (_, i) => arrangementOf(i * seedsPerArrangement));
    for (const name of Object.keys(dimensions) as ArrangementName[]) {
      expect(new Set(drawn.map((arrangement) => arrangement[name]))).toEqual(new Set(dimensions[name]));
    }
  });

  it("lets engines dial only where they tell how they are asked for replays", () => {
    expect(arrangementOf(1, { publishers: "bind", engine: "0.22" }).engine).toBe("0.32");
    expect(kindsIn("single", { publishers: "bind" })).not.toContain("replay-cut");
  });

  it("takes what is fixed instead of what is drawn", () => {
    const fixed = readFixed(["keys=content", "ranks=2"]);
    for (let seed = 0; seed < 100; seed += seedsPerArrangement)
      expect(arrangementOf(seed, fixed)).toMatchObject({ keys: "content", ranks: "2" });
    expect(settingsOf({ ...plainArrangement, ...fixed })).toEqual(["keys=content", "ranks=2"]);
    expect(() => readFixed(["colour=red"])).toThrow(/there is no "colour"; there are publishers, keys/);
    expect(() => readFixed(["keys=md5"])).toThrow(/keys is one of native, content/);
  });
});
