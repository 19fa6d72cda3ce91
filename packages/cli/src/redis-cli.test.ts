import { describe, expect, it } from "vitest";
import { redisCliLine } from "./redis-cli.ts";

describe("redisCliLine", () => {
  it("quotes what a shell would take apart", () => {
    expect(redisCliLine({ url: "redis://localhost:6379" }, "HGETALL", "kva:{a.0}:b:00ff")).toBe(
      "redis-cli -u redis://localhost:6379 HGETALL 'kva:{a.0}:b:00ff'",
    );
    expect(redisCliLine({ url: null }, "GET", "it's")).toBe(`redis-cli GET 'it'\\''s'`);
  });

  it("leaves out the password and keeps user, database and TLS", () => {
    expect(redisCliLine({ url: "rediss://me:secret@host:6380/2" }, "PING")).toBe("redis-cli --user me -u rediss://host:6380/2 PING");
  });
});
