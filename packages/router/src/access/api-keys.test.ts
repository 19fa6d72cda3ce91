import { hash } from "node:crypto";
import { describe, expect, it } from "vitest";
import { parseApiKeys, tenantOfKey } from "./api-keys.ts";

describe("parseApiKeys", () => {
  it("reads tenants and digests, and skips comments", () => {
    const { keys, problems } = parseApiKeys(["# keys", "", `red ${hash("sha256", "one")}`, `  ${hash("sha256", "two").toUpperCase()} `]);
    expect(problems).toEqual([]);
    expect(tenantOfKey(keys, "one")).toBe("red");
    expect(tenantOfKey(keys, "two")).toBe("default");
    expect(tenantOfKey(keys, "three")).toBeNull();
  });

  it("names the line that is none, and not what stands there", () => {
    const { keys, problems } = parseApiKeys(["", "red sk-plain-secret"]);
    expect(keys).toEqual([]);
    expect(problems).toHaveLength(1);
    expect(problems[0]).toContain("line 2");
    expect(problems[0]).not.toContain("secret");
  });
});
