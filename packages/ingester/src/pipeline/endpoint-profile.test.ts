import { configSchema } from "@kvatlas/shared/config/schema";
import type { EndpointMeta } from "@kvatlas/shared/registry/endpoint-registry";
import type { EndpointId } from "@kvatlas/shared/types";
import { describe, expect, it } from "vitest";
import type { ReplicaTarget } from "../discovery/replica-target.ts";
import { EndpointProfile } from "./endpoint-profile.ts";

const [pool] = configSchema.parse({ pools: [{ name: "p", model: "m" }] }).pools;
if (pool === undefined) throw new Error("there is one");
const target: ReplicaTarget = { endpoint: "h:1" as EndpointId, address: "h:1", rank: 0, model: "m", pool, events: null, replay: null };

/** The record that this owner leaves. */
function described(profile: EndpointProfile): EndpointMeta {
  const { meta, commit } = profile.changes();
  commit();
  return meta as EndpointMeta;
}

describe("EndpointProfile", () => {
  it("keeps for the next owner what was lost and learned of a run, until that run is over", () => {
    const first = new EndpointProfile(target, null, { hungAfterMs: 1_000 });
    first.find("events-lost", "Events were lost.");
    first.find("no-events", "None come.");
    first.mediaByAdapter = true;
    const left = described(first);
    const second = new EndpointProfile(target, left, { hungAfterMs: 1_000 });
    // What is so at the moment, it finds by itself.
    expect([...second.findingNames]).toEqual(["events-lost"]);
    expect(described(second)).toMatchObject({ findings: { "events-lost": "Events were lost." }, mediaByAdapter: true });
    second.forgetRun();
    expect(described(second)).toMatchObject({ findings: {}, mediaByAdapter: false });
    expect([...new EndpointProfile(target, { ...left, findings: {} }, { hungAfterMs: 1_000 }).findingNames]).toEqual([]);
  });
});
