import { configSchema } from "@kvatlas/shared/config/schema";
import type { EndpointRecord } from "@kvatlas/shared/registry/endpoint-registry";
import type { EndpointId, ScopeId } from "@kvatlas/shared/types";
import { describe, expect, it } from "vitest";
import { checkFleet } from "./endpoint-check.ts";

const nowMs = 1_700_000_000_000;
const config = configSchema.parse({
  pools: [{ name: "p", model: "m", endpoints: { static: [{ address: "h:1", events: "tcp://h:2" }] } }],
});

function endpoint(meta: Partial<EndpointRecord["meta"]> = {}, heartbeat = nowMs - 100): EndpointRecord {
  return {
    id: "h:1" as EndpointId,
    heartbeat,
    meta: {
      address: "h:1",
      pool: "p",
      model: "m",
      rank: 0,
      scope: "m.b16" as ScopeId,
      extrasForm: "tagged",
      lookaheadTokens: 0,
      groups: [],
      loras: {},
      ready: true,
      processStartSeconds: 1,
      findings: {},
      ...meta,
    } as EndpointRecord["meta"],
    state: { incarnation: 1, from: 0, owner: "i1", fence: 1 },
  };
}

function problemsOf(endpoints: readonly EndpointRecord[], ingesters = ["i1"]): readonly string[] {
  return checkFleet(config, { endpoints, ingesters, routers: ["r1"], nowMs }).flatMap(({ status, message }) =>
    status === "problem" ? [message] : [],
  );
}

describe("checkFleet", () => {
  it("has nothing to say about a healthy fleet", () => {
    expect(problemsOf([endpoint()])).toEqual([]);
  });

  it.each([
    [[endpoint({}, nowMs - 60_000)], "no ingester has seen it for 1 min"],
    [[endpoint({ ready: false })], "its health check at http://h:1/health fails"],
    [[endpoint({ scope: null })], "no self-describing event has arrived yet"],
    [[endpoint({ findings: { "block-size": "configured 16, events say 64" } })], "block-size: configured 16, events say 64"],
    [[], "configured in pool p, but no ingester knows it"],
  ])("says what is wrong and what to do (%#)", (endpoints, message) => {
    const problems = problemsOf(endpoints);
    expect(problems).toHaveLength(1);
    expect(problems[0]).toContain(message);
  });

  it.each(["estimated", "estimate", "PREFIX_CACHE", "off"])("asks for no events in a pool of mode %s", (mode) => {
    const other = configSchema.parse({
      pools: [{ name: "p", model: "m", prefixCache: { mode }, endpoints: { static: [{ address: "h:1" }] } }],
    });
    const verdicts = checkFleet(other, { endpoints: [endpoint({ scope: null })], ingesters: ["i1"], routers: ["r1"], nowMs });
    expect(verdicts.filter(({ status }) => status === "problem")).toEqual([]);
  });

  it("misses ingesters", () => {
    expect(problemsOf([endpoint()], [])[0]).toContain("no ingester is alive");
  });
});
