import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { modelSpans, splice } from "./model-span.ts";

const values = (text: string) => {
  const body = Buffer.from(text);
  return modelSpans(body).map(({ from, to }) => body.toString("utf8", from, to));
};

describe("modelSpans", () => {
  it.each([
    ['{"model":"a"}', ['"a"']],
    ['{ "x" : {"model":"no"}, "model" :\n "a\\"b" , "y":["model","no"]}', ['"a\\"b"']],
    ['{"model":"a","model":"b"}', ['"a"', '"b"']],
    ['{"\\u006dodel":"a"}', ['"a"']],
    ['{"model":7,"y":"model"}', []],
    ['{"messages":[{"model":"no","content":"\\"model\\": \\"no\\""}]}', []],
    ["{}", []],
  ])("%s", (text, expected) => {
    expect(values(text)).toEqual(expected);
  });

  it("changes the model and nothing else, in any JSON object", () => {
    fc.assert(
      fc.property(fc.dictionary(fc.string(), fc.jsonValue()), fc.string(), fc.string(), (rest, before, after) => {
        const { model: _, ...others } = rest;
        const body = Buffer.from(JSON.stringify({ ...others, model: before, last: [others] }));
        const changed = splice(body, modelSpans(body), Buffer.from(JSON.stringify(after)));
        expect(JSON.parse(changed.toString())).toEqual(JSON.parse(JSON.stringify({ ...others, model: after, last: [others] })));
      }),
      { numRuns: 300 },
    );
  });
});
