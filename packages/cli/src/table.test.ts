import { describe, expect, it } from "vitest";
import { formatDuration, formatTable } from "./table.ts";

describe("formatTable", () => {
  it("aligns columns, numbers to the right", () => {
    expect(
      formatTable(
        ["name", "blocks", "where"],
        [
          ["a", 5, "here"],
          ["longer", 1_000, ""],
        ],
      ),
    ).toBe("name    blocks  where\na            5  here\nlonger    1000\n");
  });

  it("prints the head of an empty table", () => {
    expect(formatTable(["name", "blocks"], [])).toBe("name  blocks\n");
  });
});

describe("formatDuration", () => {
  it.each([
    [0, "0 ms"],
    [999, "999 ms"],
    [2_500, "2.5 s"],
    [60_000, "1 min"],
    [7_200_000, "2 h"],
  ])("%i ms is %s", (ms, text) => {
    expect(formatDuration(ms)).toBe(text);
  });
});
