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

  it("finds a cluster's node and the Sentinels' primary", () => {
    expect(redisCliLine({ url: null, cluster: ["n0:7000", "n1:7000"], username: "kva" }, "PING")).toBe(
      "redis-cli -c -h n0 -p 7000 --user kva PING",
    );
    const sentinel = { name: "mymaster", nodes: ["s0:26379"], username: null, password: "secret" };
    expect(redisCliLine({ url: null, sentinel }, "PING")).toBe(
      "redis-cli -h $(redis-cli -h s0 -p 26379 SENTINEL get-master-addr-by-name mymaster | head -1) " +
        "-p $(redis-cli -h s0 -p 26379 SENTINEL get-master-addr-by-name mymaster | tail -1) PING",
    );
  });
});
