import { describe, expect, it } from "vitest";
import { bindsEndpoint, localEndpoint, offsetEndpoint } from "./endpoint.ts";

describe("event endpoints", () => {
  it.each([
    ["tcp://*:5557", true],
    ["tcp://[::]:5557", true],
    ["ipc:///tmp/events", true],
    ["inproc://events", true],
    ["tcp://0.0.0.0:5557", false],
    ["tcp://127.0.0.1:5557", false],
  ])("%s binds: %s", (endpoint, binds) => {
    expect(bindsEndpoint(endpoint)).toBe(binds);
  });

  it("are offset by rank as vLLM does", () => {
    expect(offsetEndpoint("tcp://*:5557", 2)).toBe("tcp://*:5559");
    expect(offsetEndpoint("tcp://*:0", 2)).toBe("tcp://*:0");
    expect(offsetEndpoint("inproc://e", 1)).toBe("inproc://e_dp1");
    expect(offsetEndpoint("ipc:///tmp/e", 0)).toBe("ipc:///tmp/e");
    for (const [endpoint, rank] of [
      ["ipc:///tmp/e", 1],
      ["tcp://*:65535", 1],
      ["http://x", 0],
    ] as const) {
      expect(() => offsetEndpoint(endpoint, rank)).toThrow(endpoint);
    }
  });

  it("are dialled on this machine with the port that was picked", () => {
    expect(localEndpoint("tcp://*:0", "tcp://0.0.0.0:4711")).toBe("tcp://127.0.0.1:4711");
    expect(localEndpoint("tcp://10.0.0.1:0", "tcp://10.0.0.1:4711")).toBe("tcp://10.0.0.1:4711");
    expect(localEndpoint("ipc:///tmp/e", "ipc:///tmp/e")).toBe("ipc:///tmp/e");
  });
});
