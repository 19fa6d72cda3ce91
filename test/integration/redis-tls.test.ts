import { createRedisBackend } from "@kvatlas/shared/backend";
import { configSchema } from "@kvatlas/shared/config/schema";
import { type Logger, silentLogger } from "@kvatlas/shared/logger";
import { createRedisConnection } from "@kvatlas/shared/redis";
import type { EndpointId } from "@kvatlas/shared/types";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { eventuallyTrue } from "../support/eventually.ts";
import { freePort, type RedisServer, startRedisServer } from "../support/redis-server.ts";
import { makeTestCertificates, type TestCertificates } from "../support/test-certificates.ts";

describe("Redis that speaks TLS alone and asks for a client's certificate", () => {
  let certificates: TestCertificates;
  let server: RedisServer;
  let tlsPort: number;
  beforeAll(async () => {
    certificates = await makeTestCertificates();
    tlsPort = await freePort();
    const { caFile, server: own } = certificates;
    const files = ["--tls-ca-cert-file", caFile, "--tls-cert-file", own.certFile, "--tls-key-file", own.keyFile];
    server = await startRedisServer({ args: ["--tls-port", String(tlsPort), ...files, "--requirepass", "s3cret"] });
  });
  afterAll(async () => {
    await server?.stop();
    await certificates?.remove();
  });

  const settings = (tls: Record<string, string>, password = "s3cret") =>
    configSchema.parse({ redis: { url: `rediss://127.0.0.1:${tlsPort}`, username: "default", password, tls, commandTimeoutMs: 1_000 } })
      .redis;

  it("is used with authority, certificate, key and the name to expect, for commands and for changes", async () => {
    const tls = { caFile: certificates.caFile, ...certificates.client, servername: "redis.test" };
    const backend = createRedisBackend(settings(tls), "background", silentLogger);
    try {
      expect(await backend.connected(20_000)).toBe(true);
      let heard = 0;
      backend.registry.onChange(() => {
        heard += 1;
      });
      await eventuallyTrue(async () => {
        await backend.registry.acquire("10.0.0.1:8000" as EndpointId, "me", 1_000);
        return heard > 0;
      });
    } finally {
      await backend.close();
    }
  });

  it.each([
    ["an authority that has not signed it", (all: TestCertificates) => ({ ...all.client, servername: "redis.test" }), /certificate/i],
    ["another name", (all: TestCertificates) => ({ caFile: all.caFile, ...all.client, servername: "other.test" }), /altnames|other\.test/i],
    [
      "no certificate of ours",
      (all: TestCertificates) => ({ caFile: all.caFile, servername: "redis.test" }),
      /certificate|closed|ECONNRESET/i,
    ],
  ])("is refused with %s, and the reason is logged without the password", async (_, tlsOf, reason) => {
    const lines: string[] = [];
    const say = (...parts: unknown[]) => void lines.push(JSON.stringify(parts));
    const logger = { ...silentLogger, child: () => ({ ...silentLogger, warn: say, info: say, error: say }) } as unknown as Logger;
    const connection = createRedisConnection(settings(tlsOf(certificates)), "background", logger);
    try {
      await eventuallyTrue(() => lines.length > 0);
      expect(lines.join("\n")).toMatch(reason);
      expect(lines.join("\n")).not.toContain("s3cret");
      expect(await connection.connected(1)).toBe(false);
    } finally {
      await connection.close();
    }
  });

  it("says which file it cannot read", () => {
    expect(() => createRedisConnection(settings({ caFile: "/nowhere/ca.pem" }), "request", silentLogger)).toThrow(
      /redis\.tls\.caFile: cannot read \/nowhere\/ca\.pem/,
    );
  });
});
