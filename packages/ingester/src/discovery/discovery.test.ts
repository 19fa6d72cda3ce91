import { poolSchema } from "@kvatlas/shared/config/schema";
import { describe, expect, it } from "vitest";
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
