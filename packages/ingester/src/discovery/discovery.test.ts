import { poolSchema } from "@kvatlas/shared/config/schema";
import { describe, expect, it } from "vitest";
import { DynamicTargets } from "./dynamic-targets.ts";
import { offsetPort } from "./replica-target.ts";
import { staticTargets } from "./static-source.ts";
import { parseTopic } from "./topic.ts";

describe("parseTopic", () => {
  it.each([
    ["kv@10.0.0.5@m", { host: "10.0.0.5", port: null, model: "m" }],
    ["kv@10.0.0.5:8000@Qwen/Qwen3-32B", { host: "10.0.0.5", port: 8000, model: "Qwen/Qwen3-32B" }],
    ["kv@[fd00::1]:8000@m", { host: "[fd00::1]", port: 8000, model: "m" }],
    ["kv@pod-7.ns@org/model@v2", { host: "pod-7.ns", port: null, model: "org/model@v2" }],
  ])("reads %s", (topic, expected) => {
    expect(parseTopic(topic)).toEqual(expected);
  });

  it.each([
    "",
    "kv@",
    "kv@10.0.0.5",
    "kv@10.0.0.5@",
    "kv@@m",
    "kv@10.0.0.5:0@m",
    "kv@10.0.0.5:99999@m",
    "kv@fd00::1@m",
    "kv@a/b@m",
    `kv@a@${"m".repeat(2000)}`,
  ])("refuses %j", (topic) => {
    expect(parseTopic(topic)).toBeNull();
  });
});

describe("staticTargets", () => {
  it("makes one target per data-parallel rank, with both ports offset", () => {
    const pool = poolSchema.parse({
      name: "p",
      model: "m",
      endpoints: {
        static: [
          { address: "10.0.0.5:8000", events: "tcp://10.0.0.5:5557", replay: "tcp://10.0.0.5:5657", dataParallelSize: 2 },
          { address: "10.0.0.6:8000" },
          { address: "10.0.0.6:8000", events: "tcp://10.0.0.6:5557" },
        ],
      },
    });
    expect(staticTargets([pool]).map((target) => [target.endpoint, target.rank, target.events, target.replay])).toEqual([
      ["10.0.0.5:8000", 0, "tcp://10.0.0.5:5557", "tcp://10.0.0.5:5657"],
      ["10.0.0.5:8000/1", 1, "tcp://10.0.0.5:5558", "tcp://10.0.0.5:5658"],
      ["10.0.0.6:8000", 0, null, null],
    ]);
  });
});

describe("offsetPort", () => {
  it("leaves what is not tcp alone", () => {
    expect(offsetPort("ipc:///tmp/x:1", 1)).toBe("ipc:///tmp/x:1");
    expect(offsetPort("tcp://[::1]:5557", 3)).toBe("tcp://[::1]:5560");
  });
});

describe("DynamicTargets", () => {
  const settings = { bindHttpPort: 8000, bindReplayPort: 5657 };
  const pool = poolSchema.parse({
    name: "p",
    model: "m",
    endpoints: { static: [{ address: "10.0.0.5:8000" }, { address: "10.0.0.6:8000", events: "tcp://10.0.0.6:5557" }] },
  });

  it("finds the pool by address, then by model, and makes one up for a model that none names", () => {
    const targets = new DynamicTargets([pool], settings);
    expect(targets.targetOf({ host: "10.0.0.5", port: null, model: "other" }, 0)).toMatchObject({
      model: "m",
      replay: "tcp://10.0.0.5:5657",
    });
    expect(targets.targetOf({ host: "10.0.0.9", port: 7000, model: "m" }, 2)).toMatchObject({
      endpoint: "10.0.0.9:7000/2",
      pool: { name: "p" },
      replay: "tcp://10.0.0.9:5659",
    });
    expect(targets.targetOf({ host: "10.0.0.7", port: null, model: "org/x y" }, 0)).toMatchObject({
      pool: { name: "org-x-y", model: "org/x y" },
    });
  });

  it("reads nobody twice, and no more than it can keep", () => {
    const targets = new DynamicTargets([pool], settings);
    expect(targets.targetOf({ host: "10.0.0.6", port: 8000, model: "m" }, 0)).toBeNull();
    const found = Array.from({ length: 5_000 }, (_, i) => targets.targetOf({ host: `h${i}`, port: 1, model: "m" }, 0));
    expect(found.filter((target) => target !== null).length).toBe(4_096);
  });
});
