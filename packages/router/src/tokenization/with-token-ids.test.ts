import { describe, expect, it } from "vitest";
import { withTokenIds } from "./with-token-ids.ts";

const ids = Uint32Array.of(1, 22, 333);

function added(text: string): unknown {
  const body = withTokenIds(text, ids);
  return body === null ? null : JSON.parse(body.toString("utf8"));
}

describe("withTokenIds", () => {
  it.each(['{"messages":[],"temperature":1.0}', "{}", ' {\n "a": 1 } ', '{"kv_transfer_params":null,"a":1}', '{"kv_transfer_params":{ }}'])(
    "adds the ids to %s",
    (text) => {
      expect(added(text)).toEqual({ ...JSON.parse(text), kv_transfer_params: { prompt_token_ids: [1, 22, 333] } });
    },
  );

  it("keeps other parameters, and every byte around them", () => {
    const text = '{"n":1.0,"kv_transfer_params":{"do_remote_decode":true},"name":"größer 🐋"}';
    expect(withTokenIds(text, ids)?.toString("utf8")).toBe(
      '{"n":1.0,"kv_transfer_params":{"prompt_token_ids":[1,22,333],"do_remote_decode":true},"name":"größer 🐋"}',
    );
  });

  it.each(['{"kv_transfer_params":{"prompt_token_ids":[1]}}', '{"echo":true}', "[]", '{"kv_transfer_params":7}'])(
    "leaves %s alone",
    (text) => {
      expect(withTokenIds(text, ids)).toBeNull();
    },
  );

  it("adds nothing for an empty prompt, which engines refuse", () => {
    expect(withTokenIds("{}", new Uint32Array(0))).toBeNull();
  });
});
