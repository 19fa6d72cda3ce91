import { describe, expect, it } from "vitest";
import { endpointOf } from "../routing/candidate.fixture.ts";
import type { Decision } from "../routing/decision.ts";
import { Placement } from "../routing/placement.ts";
import type { DecideInput } from "../routing/request-work.ts";
import { createTimedDecide } from "./timed-decide.ts";

const config = { tokenizeTimeoutMs: 1, tokenizeTimeoutMsPerKiB: 0, renderTimeoutMs: 0, extProc: { pickTimeoutMs: 1 } };
const input = { request: { bodyText: "{}", prompt: { form: "text", kind: "chat" }, isDivisible: true } } as DecideInput;
const decisionAt = (id: string, placement?: Placement) =>
  ({ endpoint: endpointOf(id), ...(placement === undefined ? {} : { placement }) }) as Decision;

describe("createTimedDecide", () => {
  it("lets load decide past the deadline, and takes back what comes late", async () => {
    const asked: DecideInput[] = [];
    let decideLate: (decision: Decision) => void = () => {};
    const decide = createTimedDecide(
      {
        decide: (wanted) => {
          asked.push(wanted);
          if (wanted.byLoad !== undefined) return Promise.resolve(decisionAt("b:1"));
          return new Promise((resolve) => {
            decideLate = resolve;
          });
        },
      },
      config,
    );
    expect((await decide(input)).endpoint.id).toBe("b:1");
    expect(asked.map(({ byLoad, request }) => [byLoad, request.isDivisible])).toEqual([
      [undefined, false],
      ["pick-timeout", false],
    ]);
    const forgotten = new Promise<void>((resolve) => {
      const placement = new Placement(() => resolve);
      placement.sentTo(endpointOf("a:1"));
      decideLate(decisionAt("a:1", placement));
    });
    await forgotten;
  });

  it("passes on what is in time, and refusals", async () => {
    expect((await createTimedDecide({ decide: async () => decisionAt("a:1") }, config)(input)).endpoint.id).toBe("a:1");
    await expect(createTimedDecide({ decide: () => Promise.reject(new Error("no")) }, config)(input)).rejects.toThrow("no");
  });
});
