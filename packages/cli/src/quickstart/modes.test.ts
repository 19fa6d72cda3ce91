import { describe, expect, it } from "vitest";
import { parseModes } from "./modes.ts";

describe("--mode", () => {
  it.each([
    ["precise", ["precise", "off"]],
    ["estimated", ["estimated", "off"]],
    ["off", ["off"]],
    ["estimated, precise", ["estimated", "precise"]],
    ["precise,estimated,off", ["precise", "estimated", "off"]],
  ])("%s plays %j", (text, modes) => {
    expect(parseModes(text)).toEqual(modes);
  });

  it.each(["", "exact", "precise,", "off,off"])("%j is refused", (text) => {
    expect(() => parseModes(text)).toThrow(/option --mode: got/);
  });
});
