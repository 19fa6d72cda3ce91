import { describe, expect, it } from "vitest";
import { didYouMean, nearestName } from "./nearest.ts";

describe("nearestName", () => {
  const names = ["listen", "admin", "lookup", "missFactor"];

  it.each([
    ["lisen", "listen"],
    ["LISTEN", "listen"],
    ["amdin", "admin"],
    ["misFactor", "missFactor"],
    ["zebra", null],
    ["", null],
  ])("%j is nearest to %j", (name, nearest) => {
    expect(nearestName(name, names)).toBe(nearest);
  });

  it("prefers the nearer of two", () => {
    expect(nearestName("endpoint", ["endpoints", "endpoind2"])).toBe("endpoints");
  });

  it("takes names of any length in bounded time", () => {
    expect(nearestName("x".repeat(1_000_000), names)).toBeNull();
  });

  it("reads well in a message", () => {
    expect(didYouMean("lokup", names)).toBe(' Did you mean "lookup"?');
    expect(didYouMean("zebra", names)).toBe("");
  });
});
