import type { BlockKey } from "@kvatlas/shared/types";
import { createSimulator, type Simulator, type SimulatorOptions } from "@kvatlas/simulator/app";
import { expect } from "vitest";
import { eventually } from "./eventually.ts";
import { type FakeEngine, startFakeEngine } from "./fake-engine.ts";
import { heldBy, memoryStore, startTestIngester, type TestIngester, TestPrompt, type TestStore, testConfig } from "./ingest-rig.ts";
import { TestPublisher, type TestPublisherOptions } from "./test-publisher.ts";

/** What one test of ingestion starts on one store; `close` ends all of it, the youngest first. */
export class IngestBed {
  readonly store: TestStore;
  readonly #cleanups: (() => Promise<unknown>)[] = [];

  constructor(store: TestStore = memoryStore()) {
    this.store = store;
  }

  onClose(cleanup: () => Promise<unknown>): void {
    this.#cleanups.push(cleanup);
  }

  async close(): Promise<void> {
    for (const cleanup of this.#cleanups.splice(0).reverse()) await cleanup();
  }

  async publisher(options: TestPublisherOptions = {}): Promise<TestPublisher> {
    const publisher = await TestPublisher.start(options);
    this.onClose(() => publisher.close());
    return publisher;
  }

  async engine(pages: Record<string, string | object>): Promise<FakeEngine> {
    const engine = await startFakeEngine(pages);
    this.onClose(() => engine.close());
    return engine;
  }

  async simulator(options: SimulatorOptions = {}): Promise<Simulator> {
    const simulator = createSimulator({}, { model: "m", seed: "42", speed: 200, ...options });
    this.onClose(() => simulator.close());
    await simulator.start();
    return simulator;
  }

  async ingester(
    pools: Parameters<typeof testConfig>[0],
    settings: Parameters<typeof testConfig>[1] = {},
    instanceId = "a",
    over: { readonly store?: TestStore } & Parameters<typeof startTestIngester>[3] = {},
  ): Promise<TestIngester> {
    const { store = this.store, ...surroundings } = over;
    const rig = await startTestIngester(store, testConfig(pools, settings), instanceId, surroundings);
    this.onClose(() => rig.ingester.close());
    return rig;
  }

  async expectHeld(address: string, prompt: TestPrompt | readonly BlockKey[], counts: readonly number[]): Promise<void> {
    const keys = prompt instanceof TestPrompt ? prompt.keys : prompt;
    await eventually(async () => expect(await heldBy(this.store, address, keys)).toEqual(counts));
  }

  /** The index holds exactly what the replica holds, copies counted, over these keys and all it holds now. */
  async expectEqualToTruth(simulator: Simulator, everSeen: Set<string>): Promise<void> {
    await simulator.drained();
    for (const dump of simulator.blocks()) {
      const endpoint = dump.rank === 0 ? simulator.address : `${simulator.address}/${dump.rank}`;
      for (const hash of Object.keys(dump.hashes)) everSeen.add(hash);
      const keys = [...everSeen] as BlockKey[];
      expect(dump.unpublished).toBe(0);
      await this.expectHeld(
        endpoint,
        keys,
        keys.map((key) => dump.hashes[key] ?? 0),
      );
    }
  }
}

/** What the publisher sends from here on arrives at the one endpoint of this ingester. */
export async function joined(publisher: TestPublisher, rig: TestIngester): Promise<void> {
  await eventually(() => expect(publisher.subscribers).toBeGreaterThan(0));
  await eventually(() => expect([...rig.ingester.owned().values()]).toEqual([{ isCaughtUp: true }]));
}

/** One pool with one simulated replica, dialled where it says. */
export function poolOfSimulator(simulator: Simulator, prefixCache: object = {}): NonNullable<Parameters<typeof testConfig>[0]>[number] {
  const dialled = (endpoint: string | null): string => (endpoint ?? "").replace("*", "127.0.0.1");
  const replica = { address: simulator.address, events: dialled(simulator.eventsEndpoint), replay: dialled(simulator.replayEndpoint) };
  return { name: "p", model: "m", prefixCache, endpoints: { static: [replica] } };
}

/** A completion of these tokens, waited for. */
export async function complete(
  simulator: Simulator,
  tokens: readonly number[],
  more: Readonly<Record<string, unknown>> = {},
  headers: Readonly<Record<string, string>> = {},
): Promise<void> {
  const response = await fetch(`${simulator.url}/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: JSON.stringify({ model: "m", prompt: tokens, max_tokens: 4, ...more }),
  });
  expect(response.status).toBe(200);
  await response.text();
}

export const numbers = (start: number, length: number): number[] => Array.from({ length }, (_, i) => start + i);
