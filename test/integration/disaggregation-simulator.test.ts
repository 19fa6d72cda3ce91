import { createSimulator, type Simulator, type SimulatorOptions } from "@kvatlas/simulator/app";
import { afterEach, describe, expect, it } from "vitest";
import { promptOf } from "../support/router-rig.ts";

const model = "org/model";
const prompt = promptOf(100, 1);
const keep = { do_remote_decode: true, do_remote_prefill: false, remote_engine_id: null, remote_block_ids: null };
const running: Simulator[] = [];

afterEach(async () => {
  await Promise.all(running.splice(0).map((simulator) => simulator.close()));
});

async function start(options: SimulatorOptions = {}): Promise<Simulator> {
  const simulator = createSimulator({}, { model, speed: 50, kvTransfer: true, kvEventsEndpoint: null, ...options });
  await simulator.start();
  running.push(simulator);
  return simulator;
}

interface Answer {
  readonly status: number;
  readonly text: string | undefined;
  readonly cached: number;
  readonly params: Readonly<Record<string, unknown>> | null;
}

async function ask(simulator: Simulator, body: Readonly<Record<string, unknown>>, requestId = "r1"): Promise<Answer> {
  const response = await fetch(`${simulator.url}/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", "x-request-id": requestId },
    body: JSON.stringify({ model, prompt, max_tokens: 8, ignore_eos: true, ...body }),
  });
  const answer = (await response.json()) as {
    choices?: { text: string }[];
    usage?: { prompt_tokens_details?: { cached_tokens: number } | null };
    kv_transfer_params?: Record<string, unknown> | null;
  };
  return {
    status: response.status,
    text: answer.choices?.[0]?.text,
    cached: answer.usage?.prompt_tokens_details?.cached_tokens ?? 0,
    params: answer.kv_transfer_params ?? null,
  };
}

const free = (simulator: Simulator): number => simulator.replica.ranks[0]?.engine.scheduler.pool.freeBlocks ?? -1;

describe("the simulated NIXL connector", () => {
  it("hands a prompt's blocks over: kept while they wait, free once they have been fetched, and not computed again", async () => {
    const [prefill, decode] = [await start(), await start()];
    const whole = await ask(await start(), {});
    const all = free(prefill);
    const { params } = await ask(prefill, { max_tokens: 1, kv_transfer_params: keep });
    expect(params).toMatchObject({
      do_remote_prefill: true,
      do_remote_decode: false,
      remote_engine_id: expect.any(String),
      remote_request_id: expect.any(String),
      remote_host: "127.0.0.1",
      remote_port: Number(prefill.address.split(":")[1]),
      tp_size: 1,
      remote_num_tokens: 100,
    });
    expect(params?.remote_block_ids).toHaveLength(7);
    expect(free(prefill)).toBe(all - 7);
    const answer = await ask(decode, { kv_transfer_params: params });
    expect(answer).toMatchObject({ status: 200, cached: 99, text: whole.text });
    expect(free(prefill)).toBe(all);
    expect(Object.keys(decode.blocks()[0]?.hashes ?? {})).toEqual(expect.arrayContaining(Object.keys(prefill.blocks()[0]?.hashes ?? {})));
  });

  it("hands blocks over once, and not those of a process that is gone", async () => {
    const [prefill, decode] = [await start(), await start()];
    const first = await ask(prefill, { max_tokens: 1, kv_transfer_params: keep });
    const second = await ask(prefill, { max_tokens: 1, kv_transfer_params: keep }, "r2");
    expect((await ask(decode, { kv_transfer_params: first.params })).cached).toBe(99);
    await decode.applyFaults({ resetCache: true });
    expect((await ask(decode, { kv_transfer_params: first.params })).cached).toBe(0);
    await decode.applyFaults({ resetCache: true });
    await prefill.applyFaults({ restart: true });
    expect((await ask(decode, { kv_transfer_params: second.params })).cached).toBe(0);
  });

  it("computes what it cannot fetch, or fails, as it is told to", async () => {
    const [prefill, decode, strict] = [await start(), await start(), await start({ kvLoadFailure: "fail" })];
    const { params } = await ask(prefill, { max_tokens: 1, kv_transfer_params: keep });
    await prefill.close();
    expect(await ask(decode, { kv_transfer_params: params })).toMatchObject({ status: 200, cached: 0 });
    expect(await ask(strict, { kv_transfer_params: params })).toMatchObject({ status: 500 });
  });

  it("lets go of blocks that nobody comes for", async () => {
    const prefill = await start({ kvTransferTtlMs: 20 });
    const all = free(prefill);
    await ask(prefill, { max_tokens: 1, kv_transfer_params: keep });
    await expect.poll(() => free(prefill), { timeout: 10_000 }).toBe(all);
  });

  it("goes by the request's id where the release hands none over", async () => {
    const [prefill, decode] = [await start({ engineVersion: "0.11.2" }), await start({ engineVersion: "0.11.2" })];
    const { params } = await ask(prefill, { max_tokens: 1, kv_transfer_params: keep });
    expect(params).not.toHaveProperty("remote_request_id");
    expect((await ask(decode, { kv_transfer_params: params })).cached).toBe(99);
  });

  it("hands nothing over without the connector", async () => {
    const plain = await start({ kvTransfer: false });
    expect((await ask(plain, { max_tokens: 1, kv_transfer_params: keep })).params).toBeNull();
  });
});
