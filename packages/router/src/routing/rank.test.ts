import { describe, expect, it } from "vitest";
import { candidateOf } from "./candidate.fixture.ts";
import { rankOff } from "./off-policy.ts";
import { rank } from "./rank.ts";

const four = ["a:1", "b:1", "c:1", "d:1"].map((id) => candidateOf(id));
const same = () => ({ score: 0, parts: {} });
const idsOf = (ranking: readonly { endpoint: { id: string } }[]) => ranking.map(({ endpoint }) => endpoint.id);

describe("rank", () => {
  it("puts the highest score first and keeps every candidate", () => {
    const ranking = rank(four, ({ endpoint }) => ({ score: endpoint.id.charCodeAt(0), parts: {} }), "key");
    expect(idsOf(ranking)).toEqual(["d:1", "c:1", "b:1", "a:1"]);
  });

  it("breaks ties by key, whatever the order of the candidates", () => {
    const first = idsOf(rank(four, same, "key"));
    expect(idsOf(rank([...four].reverse(), same, "key"))).toEqual(first);
    const winners = new Set(Array.from({ length: 50 }, (_, i) => rank(four, same, `key ${i}`)[0]?.endpoint.id));
    expect(winners.size).toBe(4);
  });

  it("keeps the winner of a tie when a loser goes away", () => {
    const [winner, , , loser] = rank(four, same, "key");
    const remaining = four.filter(({ endpoint }) => endpoint.id !== loser?.endpoint.id);
    expect(rank(remaining, same, "key")[0]?.endpoint.id).toBe(winner?.endpoint.id);
  });
});

describe("rankOff", () => {
  const sources = { next: () => 0, random: () => 0.999 };

  it("least-request prefers the idle one", () => {
    const busy = candidateOf("b:1", 0, { running: 2 });
    expect(rankOff("least-request", [busy, candidateOf("a:1")], "key", sources)[0]?.endpoint.id).toBe("a:1");
  });

  it("round-robin takes turns, random takes any, and both keep the rest for retries", () => {
    let turn = 0;
    const turns = Array.from({ length: 5 }, () => idsOf(rankOff("round-robin", four, "key", { ...sources, next: () => turn++ })));
    expect(turns.map(([first]) => first)).toEqual(["a:1", "b:1", "c:1", "d:1", "a:1"]);
    expect(idsOf(rankOff("random", four, "key", sources))).toEqual(["d:1", "a:1", "b:1", "c:1"]);
    expect(rankOff("random", [], "key", sources)).toEqual([]);
  });
});
