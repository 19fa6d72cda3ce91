import { describe, expect, it } from "vitest";
import { decodeBody, handoverOf, prefillBody } from "./step-bodies.ts";

const read = (body: Buffer | null): unknown => JSON.parse(body?.toString("utf8") ?? "null");
const asked = {
  do_remote_decode: true,
  do_remote_prefill: false,
  remote_engine_id: null,
  remote_block_ids: null,
  remote_host: null,
  remote_port: null,
};

describe("the body of the prefill step", () => {
  it("asks for one token that nobody streams, whatever length the request wants", () => {
    const body = prefillBody(
      '{"model": "m", "prompt": [1, 2], "max_tokens": 500, "max_completion_tokens": 9, "min_tokens": 100, "stop": ["x"], "stream": true, "stream_options": {"include_usage": true}}',
    );
    expect(read(body)).toEqual({
      model: "m",
      prompt: [1, 2],
      max_tokens: 1,
      ignore_eos: true,
      stream: false,
      kv_transfer_params: asked,
    });
  });

  it("leaves all else as it was written, and names every field once", () => {
    const body = prefillBody('{ "seed" : 12345678901234567890, "a\\u0062": 1.50, "stream":false, "stream":true }')?.toString("utf8") ?? "";
    expect(body).toContain('"seed":12345678901234567890');
    expect(body).toContain('"ab":1.50');
    expect(body.match(/"stream":/g)).toHaveLength(1);
  });

  it("keeps token ids that are sent along", () => {
    expect(read(prefillBody('{"kv_transfer_params": {"prompt_token_ids": [7, 8]}}'))).toMatchObject({
      kv_transfer_params: { prompt_token_ids: [7, 8], ...asked },
    });
  });

  it.each(["[]", "1", '{"kv_transfer_params": 3}'])("is none for %s", (text) => {
    expect(prefillBody(text)).toBeNull();
  });
});

describe("the body of the decode step", () => {
  const handover =
    '{"do_remote_prefill": true, "remote_blocks_expiry_time": 1789095808.837884712, "remote_engine_id": "e", "unknown": {"a": [1]}}';

  it("is the request with what was handed over, digit by digit, unknown fields included", () => {
    const body = decodeBody('{"model": "m", "stream": true, "max_tokens": 5}', handover)?.toString("utf8");
    expect(body).toBe(
      '{"model":"m","stream":true,"max_tokens":5,"kv_transfer_params":{"do_remote_prefill":true,"remote_blocks_expiry_time":1789095808.837884712,"remote_engine_id":"e","unknown":{"a": [1]}}}',
    );
  });

  it("keeps the request's own fields beside it", () => {
    expect(read(decodeBody('{"kv_transfer_params": {"prompt_token_ids": [7], "remote_engine_id": null}}', handover))).toMatchObject({
      kv_transfer_params: { prompt_token_ids: [7], remote_engine_id: "e", do_remote_prefill: true },
    });
  });
});

describe("what an answer hands over", () => {
  it.each<[string, string | null]>([
    [
      '{"choices": [], "kv_transfer_params": {"remote_engine_id": "e", "remote_host": "h", "remote_port": 1}}',
      '{"remote_engine_id": "e", "remote_host": "h", "remote_port": 1}',
    ],
    ['{"kv_transfer_params": null}', null],
    ['{"kv_transfer_params": {"remote_engine_id": "e"}}', null],
    ["{}", null],
    ["no JSON", null],
  ])("%s", (answer, handover) => {
    expect(handoverOf(answer)).toBe(handover);
  });
});
