import type { ReplicaDump } from "@kvatlas/shared/index/replica-dump";
import type { EndpointId } from "@kvatlas/shared/types";
import { encode } from "@msgpack/msgpack";
import { describe, expect, it } from "vitest";
import type { BlockNames } from "./block-names.ts";
import { judge, placeOf, provenBy, truthsOf } from "./index-truth.ts";

const endpoint = "10.0.0.1:8000" as EndpointId;
const [a, b, c] = ["000000000000000a", "000000000000000b", "000000000000000c"];

function dump(hashes: Readonly<Record<string, number>>, medium: ReplicaDump["medium"] = "gpu"): ReplicaDump {
  return { endpoint, group: 0, medium, nextSequence: 2, unpublished: 0, hashes: new Map(Object.entries(hashes)) };
}

function content(places: Readonly<Record<string, number>>) {
  return { copies: new Map([[endpoint, new Map(Object.entries(places))]]), strangers: [] };
}

function stored(hash: string, parent: string | null) {
  return {
    type: "BlockStored",
    block_hashes: [BigInt(`0x${hash}`)],
    parent_block_hash: parent === null ? null : BigInt(`0x${parent}`),
    token_ids: [1, 2],
    block_size: 2,
    lora_id: null,
    medium: "GPU",
    lora_name: null,
  };
}

function batchOf(seq: number, ...events: readonly unknown[]) {
  return { seq, payload: encode([seq, events, 0], { useBigInt64: true }) };
}

describe("judge", () => {
  it("counts copies in each medium", () => {
    const truths = truthsOf([dump({ [a]: 2 }), dump({ [a]: 1 }, "cpu")]);
    const right = content({ [placeOf("gpu", a)]: 2, [placeOf("cpu", a)]: 1 });
    expect(judge(truths, right, new Map())).toEqual({ lost: [], phantom: [], unexplained: [], beyondReplay: 0, kept: 0 });
    const one = judge(
      truths,
      content({ [placeOf("gpu", a)]: 1, [placeOf("cpu", a)]: 2 }),
      new Map([[endpoint, new Map([[placeOf("gpu", a), 2]])]]),
    );
    expect([one.lost.length, one.phantom.length]).toEqual([1, 1]);
  });

  it("takes what the replay buffer cannot prove for colder, not for lost", () => {
    const verdict = judge(truthsOf([dump({ [a]: 1, [b]: 1 })]), content({}), new Map([[endpoint, new Map([[placeOf("gpu", b), 1]])]]));
    expect(verdict).toMatchObject({ lost: [{ place: placeOf("gpu", b) }], beyondReplay: 1 });
  });

  it("excuses too much after a gap that was kept, and too little only where nobody had answered", () => {
    const truths = truthsOf([dump({ [a]: 1 })]);
    const wrong = content({ [placeOf("gpu", b)]: 1 });
    const proven = new Map([[endpoint, new Map([[placeOf("gpu", a), 1]])]]);
    expect(judge(truths, wrong, proven, new Map([[endpoint, "rolled"]]))).toMatchObject({ lost: [{}], phantom: [], kept: 1 });
    expect(judge(truths, wrong, proven, new Map([[endpoint, "unanswered"]]))).toMatchObject({ lost: [], phantom: [], kept: 2 });
  });

  it("does not explain blocks that no request can have made", () => {
    const names: BlockNames = { keyOf: () => null, expect: () => {}, needsParents: true };
    expect(judge(truthsOf([dump({ [a]: 1 })], names), content({}), new Map()).unexplained).toHaveLength(1);
  });
});

describe("provenBy", () => {
  const batches = [batchOf(3, stored(a, null)), batchOf(4, stored(b, a)), batchOf(5, stored(c, "00000000000000ff"))];

  it("adds up the unbroken end of the buffer", () => {
    expect([...provenBy(batches, 6).keys()]).toEqual([a, b, c].map((key) => placeOf("gpu", key)));
    expect([...provenBy(batches.slice(0, 2), 6).keys()]).toEqual([]);
    expect([
      ...provenBy(
        [batches[0], batches[2]].flatMap((batch) => batch ?? []),
        6,
      ).keys(),
    ]).toEqual([placeOf("gpu", c)]);
  });

  it("counts a store only behind a known parent where names depend on it", () => {
    const names: BlockNames = { keyOf: (hash) => hash, expect: () => {}, needsParents: true };
    expect([...provenBy(batches, 6, names).keys()]).toEqual([a, b].map((key) => placeOf("gpu", key)));
  });
});
