import { FakeClock } from "@kvatlas/shared/clock";
import type { EndpointId } from "@kvatlas/shared/types";
import { describe, expect, it } from "vitest";
import { OutlierEjection } from "./outlier-ejection.ts";

const endpoint = "a:1" as EndpointId;

describe("OutlierEjection", () => {
  it("ejects for longer with every failure in a row, up to a bound, and forgives a success", () => {
    const clock = new FakeClock();
    const ejection = new OutlierEjection(clock, { baseMs: 100, maxMs: 300 });
    const ejectedFor = () => {
      let ms = 0;
      while (ejection.isEjected(endpoint)) {
        clock.advance(50);
        ms += 50;
      }
      return ms;
    };
    expect(ejectedFor()).toBe(0);
    const durations = [1, 2, 3, 4].map(() => {
      ejection.failed(endpoint);
      return ejectedFor();
    });
    expect(durations).toEqual([100, 200, 300, 300]);
    ejection.succeeded(endpoint);
    ejection.failed(endpoint);
    expect(ejectedFor()).toBe(100);
    ejection.failed(endpoint);
    ejection.retain(new Set());
    expect(ejection.isEjected(endpoint)).toBe(false);
  });
});
