import { decodeEventBatch } from "@kvatlas/shared/events/vllm-decoder";
import { describe, expect, it } from "vitest";
import type { PoolEvent } from "../engine/pool-events.ts";
import { engineProfile } from "../engine-profile.ts";
import { createEventEncoder } from "./event-encoder.ts";

const hashes = ["b0147556276afc9c", "192dd62904fcccac", "25a719adc68e654f"];
const stored: PoolEvent = {
  kind: "stored",
  hashes,
  parent: null,
  tokenIds: Uint32Array.from({ length: 48 }, (_, i) => i),
  blockSizeTokens: 16,
  lora: null,
  extraKeys: [null, null, null],
  sessionId: null,
  lookahead: null,
};
const events: readonly PoolEvent[] = [stored, { kind: "removed", hash: "25a719adc68e654f" }, { kind: "cleared" }];

function encode(version: string, batch: readonly PoolEvent[] = events, bytesHashes = false): string {
  return createEventEncoder({ ...engineProfile(version), bytesHashes })
    .encode(1.5, batch, 0)
    .toString("hex");
}

// Made with msgspec 0.22.0 from the struct definitions of the releases.
const tokens = "dc0030000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f";
const goldenMap = [
  "93cb3ff8000000000000938ba474797065ab426c6f636b53746f726564ac626c6f636b5f68617368657393cfb0147556276afc9ccf192dd62904fcccaccf25a719adc68e654f",
  `b1706172656e745f626c6f636b5f68617368c0a9746f6b656e5f696473${tokens}`,
  "aa626c6f636b5f73697a6510a76c6f72615f6964c0a66d656469756da3475055a96c6f72615f6e616d65c0aa65787472615f6b65797393c0c0c0",
  "a967726f75705f69647800b26b765f63616368655f737065635f6b696e64ae66756c6c5f617474656e74696f6e84a474797065ac426c6f636b52656d6f766564",
  "ac626c6f636b5f68617368657391cf25a719adc68e654fa66d656469756da3475055a967726f75705f6964780081a474797065b0416c6c426c6f636b73436c656172656400",
].join("");
const goldenArray = [
  "93cb3ff80000000000009397ab426c6f636b53746f72656493cfb0147556276afc9ccf192dd62904fcccaccf25a719adc68e654fc0",
  `${tokens}10c0a347505593ac426c6f636b52656d6f76656491cf25a719adc68e654fa347505591b0416c6c426c6f636b73436c656172656400`,
].join("");

describe("event encoder", () => {
  it("writes the bytes of msgspec for the map form of 0.24 to 0.32", () => {
    expect(encode("0.24")).toBe(goldenMap);
    expect(encode("0.32")).toBe(goldenMap);
  });

  it("starts a store with a map16 head in 0.33", () => {
    expect(encode("0.33")).toBe(`${goldenMap.slice(0, 22)}de000b${goldenMap.slice(24)}`);
  });

  it("writes the bytes of msgspec for the array form of 0.10.2 to 0.13", () => {
    expect(encode("0.10.2")).toBe(goldenArray);
    expect(encode("0.13")).toBe(goldenArray);
  });

  it.each([
    ["0.10.1", 6, 2],
    ["0.11.2", 7, 3],
    ["0.14", 8, 3],
    ["0.17", 9, 3],
    ["0.20", 10, 4],
    ["0.22.1", 12, 4],
  ])("array events of %s have %i and %i items", (version, storedLength, removedLength) => {
    const hex = encode(version);
    expect(hex.slice(20, 24)).toBe(`93${(0x90 | storedLength).toString(16)}`);
    expect(hex).toContain(`${(0x90 | removedLength).toString(16)}ac426c6f636b52656d6f766564`);
  });

  it("sends LoRA, extras, session and lookahead where the release has them", () => {
    const full: PoolEvent = {
      ...stored,
      parent: "b0147556276afc9c",
      lora: { id: 1, name: "my-lora" },
      extraKeys: [["my-lora", "s1"], ["my-lora"], ["my-lora"]],
      sessionId: "sess-1",
      lookahead: [[16], [32], [48]],
    };
    const [event] = decodeEventBatch(Buffer.from(encode("0.33", [full]), "hex")).events;
    expect(event).toMatchObject({
      kind: "stored",
      hashes,
      parent: "b0147556276afc9c",
      loraId: 1,
      loraName: "my-lora",
      extraKeys: [["my-lora", "s1"], ["my-lora"], ["my-lora"]],
      specKind: "full_attention",
      lookahead: [[16], [32], [48]],
    });
    expect(Buffer.from(encode("0.33", [full]), "hex").toString("latin1")).toContain("session_id");
    expect(Buffer.from(encode("0.29", [full]), "hex").toString("latin1")).not.toContain("session_id");
  });

  it("sends whole digests as bytes when asked to, which decode to the same hashes", () => {
    const digest = `d830de3d42c00f25a2949b5d12d98642664a44872c1614c5${hashes[0]}`;
    const hex = encode("0.32", [{ ...stored, hashes: [digest], tokenIds: stored.tokenIds.subarray(0, 16), extraKeys: [null] }], true);
    expect(hex).toContain(`91c420${digest}`);
    const [event] = decodeEventBatch(Buffer.from(hex, "hex")).events;
    expect(event).toMatchObject({ kind: "stored", hashes: [hashes[0]] });
  });
});
