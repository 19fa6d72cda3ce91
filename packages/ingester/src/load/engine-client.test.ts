import { describe, expect, it } from "vitest";
import { readEventSources, readModels } from "./engine-client.ts";

describe("readModels", () => {
  it("tells adapters from base models", () => {
    const body = {
      data: [{ id: "m", root: "org/m", parent: null }, { id: "a", root: "/loras/a", parent: "m" }, { id: 3 }, "x"],
    };
    expect(readModels(body)).toEqual({ names: ["m"], loras: { a: "/loras/a" } });
  });

  it.each([null, [], {}, { data: 3 }, "x"])("reads nothing from %j", (body) => {
    expect(readModels(body)).toEqual({ names: [], loras: {} });
  });
});

describe("readEventSources", () => {
  it("puts the replica's host where an engine bound every interface", () => {
    const body = {
      "0": { endpoint: "tcp://*:5557", replay_endpoint: "tcp://*:5657" },
      "1": { endpoint: "tcp://10.1.1.1:40001", replay_endpoint: null },
      x: { endpoint: "tcp://*:1" },
      "2": 7,
    };
    expect([...readEventSources(body, "[fd00::1]:8000")]).toEqual([
      [0, { endpoint: "tcp://[fd00::1]:5557", replay: "tcp://[fd00::1]:5657" }],
      [1, { endpoint: "tcp://10.1.1.1:40001", replay: null }],
    ]);
    expect(readEventSources("x", "a:1").size).toBe(0);
  });
});
