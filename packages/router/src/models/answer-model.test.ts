import { describe, expect, it } from "vitest";
import { AnswerModel } from "./answer-model.ts";

function through(pieces: readonly Buffer[]): string {
  const answer = new AnswerModel("org/base", "alias");
  const out = pieces.map((piece) => answer.next(piece));
  const left = answer.end();
  return Buffer.concat(left === null ? out : [...out, left]).toString();
}

const text =
  'data: {"model":"org/base","c":"say \\"model\\":\\"org/base\\""}\n\ndata: {"message":{"model": "org/base"},"model":"org/base-2"}\n\n"mod';
const expected =
  'data: {"model":"alias","c":"say \\"model\\":\\"org/base\\""}\n\ndata: {"message":{"model":"alias"},"model":"org/base-2"}\n\n"mod';

describe("AnswerModel", () => {
  it("gives the same wherever the answer is cut into pieces", () => {
    const bytes = Buffer.from(text);
    for (let cut = 0; cut <= bytes.length; cut++) {
      expect(through([bytes.subarray(0, cut), bytes.subarray(cut)])).toBe(expected);
    }
    expect(through(Array.from(bytes, (byte) => Buffer.of(byte)))).toBe(expected);
  });

  it("keeps no event waiting that is over", () => {
    expect(new AnswerModel("a", "b").next(Buffer.from("data: {}\n\n")).toString()).toBe("data: {}\n\n");
  });
});
