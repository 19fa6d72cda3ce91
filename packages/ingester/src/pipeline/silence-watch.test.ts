import { FakeClock } from "@kvatlas/shared/clock";
import { describe, expect, it } from "vitest";
import { SilenceWatch } from "./silence-watch.ts";

function watch(events: string | null, seeksEvents: boolean) {
  const clock = new FakeClock();
  return { clock, silence: new SilenceWatch(clock, { address: "h:1", events, seeksEvents }) };
}

describe("SilenceWatch", () => {
  it("blames an engine that names no publisher only while it can be asked", () => {
    const { clock, silence } = watch(null, true);
    expect(silence.reason(false)).toBeNull();
    clock.advance(6_000);
    expect(silence.reason(false)).toContain("names no publisher");
    silence.reached(false);
    expect(silence.reason(false)).toBeNull();
    clock.advance(60_000);
    expect(silence.reason(false)).toBeNull();
    // It has come up, and is asked anew.
    silence.reached(true);
    expect(silence.reason(false)).toBeNull();
    clock.advance(6_000);
    expect(silence.reason(false)).toContain("names no publisher");
    silence.found("tcp://h:2");
    silence.connected();
    expect(silence.reason(false)).toBeNull();
  });

  it("names a configured publisher that does not answer, whether or not the HTTP server does", () => {
    const { clock, silence } = watch("tcp://h:2", false);
    silence.reached(false);
    clock.advance(6_000);
    expect(silence.reason(true)).toContain("No connection to the publisher at tcp://h:2");
  });

  it("names an engine that works and publishes nothing", () => {
    const { silence } = watch("tcp://h:2", false);
    silence.connected();
    silence.worked(20_000);
    silence.worked(null);
    expect(silence.reason(true)).toBeNull();
    expect(silence.reason(false)).toContain("published nothing");
  });
});
