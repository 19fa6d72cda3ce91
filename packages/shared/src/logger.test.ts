import { describe, expect, it } from "vitest";
import { createLogger } from "./logger.ts";

describe("createLogger", () => {
  it("writes JSON lines, and no secrets", () => {
    const lines: string[] = [];
    const logger = createLogger({ service: "router", destination: { write: (line) => lines.push(line) } });
    logger.info({ password: "one", redis: { password: "two", host: "h" }, headers: { authorization: "three" }, list: ["kept"] }, "said");
    logger.debug("not said");
    expect(lines).toHaveLength(1);
    const line = lines[0] ?? "";
    expect(JSON.parse(line)).toMatchObject({
      level: "info",
      service: "router",
      msg: "said",
      password: "[redacted]",
      redis: { password: "[redacted]", host: "h" },
      headers: { authorization: "[redacted]" },
      list: ["kept"],
    });
    expect(line).not.toMatch(/one|two|three/);
  });

  it("leaves what it was given as it was", () => {
    const fields = { password: "kept" };
    createLogger({ service: "x", destination: { write: () => {} } }).info(fields);
    expect(fields).toEqual({ password: "kept" });
  });
});
