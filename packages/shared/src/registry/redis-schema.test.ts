import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { createRedisKeys } from "../index/redis-keys.ts";
import type { EndpointId, ScopeId } from "../types.ts";
import { loadFromText, metaFromFields, stateFromFields } from "./endpoint-fields.ts";

/* docs/redis-schema.md says what every key and field means: it is held to those that there are. */

const text = readFileSync(new URL("../../../../docs/redis-schema.md", import.meta.url), "utf8");

/** Text of the section under a heading, up to the next one. */
function section(heading: string): string {
  const [, after = ""] = text.split(`${heading}\n`);
  return after.split(/^#/m)[0] ?? "";
}

/** Names in backticks in the first column of the section's table. */
function firstColumn(heading: string): string[] {
  const rows = section(heading).matchAll(/^\| (`[^|]*`) \|/gm);
  return [...rows].flatMap(([, cell = ""]) => [...cell.matchAll(/`([^`]+)`/g)].map(([, name = ""]) => name));
}

describe("docs/redis-schema.md", () => {
  it("describes every field of an endpoint, and no other", () => {
    const written = [...Object.keys(metaFromFields({})), ...Object.keys(stateFromFields({}))];
    expect(firstColumn("### An endpoint").toSorted()).toEqual(written.toSorted());
  });

  it("names every field of an endpoint's load", () => {
    const load = loadFromText(JSON.stringify({ waiting: 0, running: 0, at: 0, maxLoras: 1 }));
    const [, said = ""] = section("### An endpoint").split("`kva:load`");
    expect(Object.keys(load ?? {}).filter((field) => !said.includes(`\`${field}\``))).toEqual([]);
  });

  it("describes every key, and no other", () => {
    const keys = createRedisKeys("kva");
    const [endpoint, router] = ["<endpoint>" as EndpointId, "<router>"];
    const space = keys.space("<tag>");
    const inShards = [
      space.seq(0),
      `${space.blockPrefix(0)}<block key>`,
      space.names(0, endpoint, 0).replace(/0$/, "<incarnation>"),
      `${keys.routedPrefix("any" as ScopeId, 0)}<key>`,
    ].map((key) => key.replace(/\{(?:<tag>|\w+)\.0\}/, "{<tag>.<shard>}"));
    const fixed = Object.entries(keys).flatMap(([, key]) => (typeof key === "string" ? [key] : []));
    const spelled = [...fixed, ...inShards, keys.lease(endpoint), keys.meta(endpoint), keys.inflight(router), keys.quality(router)];
    const described = firstColumn("## Keys").filter((key) => !key.startsWith("bull:"));
    expect(described.toSorted()).toEqual(spelled.toSorted());
  });
});
