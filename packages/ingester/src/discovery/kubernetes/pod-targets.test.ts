import { describe, expect, it } from "vitest";
import { activePorts, readPod, targetsOfPods } from "./pod-targets.ts";

type Metadata = Readonly<Record<string, unknown>>;

function podOf(metadata: Metadata = {}, status: Metadata = {}): object {
  return {
    metadata: { name: "a", namespace: "ns", uid: "u", ...metadata },
    status: { podIP: "10.0.0.1", phase: "Running", conditions: [{ type: "Ready", status: "True" }], ...status },
  };
}

function targets(pods: readonly object[], targetPorts: readonly number[], ports: { events?: number; replay?: number } = {}) {
  const facts = pods.map(readPod).filter((pod) => pod !== null);
  return targetsOfPods(facts, { targetPorts, eventsPort: ports.events ?? null, replayPort: ports.replay ?? null });
}

describe("active ports", () => {
  it.each([
    ["without the annotation", null, [8000, 8001]],
    ["empty", "", []],
    ["one", "8000", [8000]],
    ["with spaces", " 8000 , 8001 ", [8000, 8001]],
    ["no number", "abc", []],
    ["some numbers", "abc,8001", [8001]],
    ["negative", "-1,8000", [8000]],
    ["twice", "8000,8000", [8000]],
    ["not a target port", "9000,8001", [8001]],
    ["zero and fractions", "0,8000.0,8001", [8001]],
  ])("%s", (_name, annotation, expected) => {
    expect([...activePorts(annotation, [8000, 8001])]).toEqual(expected);
  });
});

describe("replicas of pods", () => {
  it("are one for each target port, whose position offsets events and replays", () => {
    expect(targets([podOf()], [8000, 8001], { events: 5557, replay: 5657 })).toMatchObject([
      {
        address: "10.0.0.1:8000",
        pod: "ns/a",
        uid: "u",
        rank: 0,
        events: "tcp://10.0.0.1:5557",
        replay: "tcp://10.0.0.1:5657",
        ready: true,
      },
      { address: "10.0.0.1:8001", rank: 1, events: "tcp://10.0.0.1:5558", replay: "tcp://10.0.0.1:5658" },
    ]);
  });

  it("have the labels of their pods, as far as they are texts, and not too many", () => {
    expect(targets([podOf({ labels: { b: "2", app: "vllm", odd: 1 } })], [8000])).toMatchObject([{ labels: { app: "vllm", b: "2" } }]);
    expect(targets([podOf({ labels: "odd" })], [8000])).toMatchObject([{ labels: {} }]);
    const many = Object.fromEntries(Array.from({ length: 100 }, (_, i) => [`l${i}`, "x"]));
    expect(Object.keys(targets([podOf({ labels: many })], [8000])[0]?.labels ?? {})).toHaveLength(32);
  });

  it("keep the position of a port when others are inactive", () => {
    const pod = podOf({ annotations: { "llm-d.ai/active-ports": "8001" } });
    expect(targets([pod], [8000, 8001], { events: 5557 })).toMatchObject([
      { address: "10.0.0.1:8001", rank: 1, events: "tcp://10.0.0.1:5558" },
    ]);
  });

  it("read the older prefix, and prefer the newer one", () => {
    const old = { "inference.networking.k8s.io/active-ports": "8001" };
    expect(targets([podOf({ annotations: old })], [8000, 8001])).toMatchObject([{ rank: 1 }]);
    expect(targets([podOf({ annotations: { ...old, "llm-d.ai/active-ports": "8000" } })], [8000, 8001])).toMatchObject([{ rank: 0 }]);
  });

  it("have role and engine from labels", () => {
    const labels = { "llm-d.ai/role": "prefill", "inference.networking.k8s.io/engine-type": "vllm" };
    expect(targets([podOf({ labels })], [8000])).toMatchObject([{ role: "prefill", engine: "vllm" }]);
    expect(targets([podOf()], [8000])).toMatchObject([{ role: null, engine: null }]);
  });

  it.each([
    ["not ready", {}, { conditions: [{ type: "Ready", status: "False" }] }, [false]],
    ["ready unknown", {}, { conditions: [] }, [false]],
    ["without conditions", {}, { conditions: undefined }, [false]],
    ["being deleted", { deletionTimestamp: "2026-01-01T00:00:00Z" }, {}, []],
    ["over", {}, { phase: "Succeeded" }, []],
    ["failed", {}, { phase: "Failed" }, []],
    ["without an address", {}, { podIP: undefined }, []],
  ])("a pod that is %s", (_name, metadata, status, ready) => {
    expect(targets([podOf(metadata, status)], [8000]).map((target) => target.ready)).toEqual(ready);
  });

  it("have brackets around IPv6", () => {
    expect(targets([podOf({}, { podIP: "fd00::1" })], [8000], { events: 5557 })).toMatchObject([
      { address: "[fd00::1]:8000", events: "tcp://[fd00::1]:5557" },
    ]);
  });

  it("of two pods that claim one address the ready one has it", () => {
    const pods = [podOf({ uid: "old" }, { conditions: [] }), podOf({ name: "b", uid: "new" })];
    expect(targets(pods, [8000])).toMatchObject([{ uid: "new" }]);
  });

  it("are the same, in whatever order pods come, and whatever is no pod is passed over", () => {
    const pods = ["10.0.0.3", "10.0.0.1", "10.0.0.2"].map((podIP, i) => podOf({ name: `p${i}`, uid: `u${i}` }, { podIP }));
    expect(targets(pods, [8000])).toEqual(targets([...pods].reverse(), [8000]));
    for (const odd of [null, 1, "x", {}, { metadata: null }, { metadata: { name: 1, uid: {} } }]) expect(readPod(odd)).toBeNull();
  });
});
