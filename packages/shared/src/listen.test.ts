import { describe, expect, it } from "vitest";
import { formatHostPort, parseHostPort } from "./listen.ts";

describe("parseHostPort", () => {
  it.each([
    ["0.0.0.0:8080", { host: "0.0.0.0", port: 8080 }],
    ["localhost:0", { host: "localhost", port: 0 }],
    ["[::1]:9090", { host: "::1", port: 9090 }],
  ])("reads %s and writes it again", (text, parsed) => {
    expect(parseHostPort(text)).toEqual(parsed);
    expect(formatHostPort(parsed)).toBe(text);
  });

  it.each(["", "8080", ":8080", "host:", "host:65536", "::1:80", "[x]:80", "a b:80"])("refuses %j", (text) => {
    expect(() => parseHostPort(text)).toThrow("expected host:port");
  });
});
