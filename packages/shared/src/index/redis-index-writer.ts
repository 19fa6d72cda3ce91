import type { Clock } from "../clock.ts";
import { KvatlasError } from "../errors.ts";
import type { RedisCommand, RedisConnection } from "../redis.ts";
import { isUnknownScript, redisError } from "../redis-error.ts";
import { type RedisScript, runScript, scriptCommand } from "../redis-scripts.ts";
import type { BlockKey, EndpointId } from "../types.ts";
import type { ApplyResult, BlockName, IndexWriter, SequencedOps, WriterTarget } from "./block-index.ts";
import { readBlockNames } from "./redis-block-names.ts";
import { completeSeq, formatPosition, formatWatermark, parseEntry, type RedisKeys, type SpaceKeys, type Watermark } from "./redis-keys.ts";
import type { RedisScopeLayouts } from "./redis-scope-layouts.ts";
import { type ScopeLayout, sameLayout } from "./scope-layout.ts";
import { planCalls, type ScriptCall, splitByShard } from "./script-calls.ts";
import { explainMismatch, type Mismatch } from "./script-reply.ts";

export interface RedisWriterDeps {
  readonly connection: RedisConnection;
  readonly keys: RedisKeys;
  readonly apply: RedisScript;
  readonly open: RedisScript;
  readonly clock: Clock;
  readonly layouts: RedisScopeLayouts;
  /** Drops all dead entries of a layout: those of endpoints that `seq` does not name among them. */
  readonly purge: (layout: ScopeLayout) => Promise<void>;
  /** Makes sure that no incarnation up to this number is given to anybody any more. */
  readonly remember: (incarnation: number) => Promise<void>;
}

export interface RedisWriterOptions {
  /** Block operations per script call: how long Redis is kept busy at a time. */
  readonly maxOpsPerCall: number;
}

/** One shard as its writer knows it. */
interface ShardState {
  readonly shard: number;
  mark: Watermark;
  /** The key stored last: while Redis has it, it has forgotten the endpoint and not its blocks. */
  witness: BlockKey | null;
}

/** Calls that are sent in one go; keeps what is under way, and its memory, bounded. */
const MAX_CALLS_PER_SEND = 64;

/** Rounds in which nothing moves before a writer gives up and says so. */
const MAX_IDLE_ROUNDS = 3;

interface Tally {
  applied: number;
  duplicates: number;
  unknownRemovals: number;
}

/** How often a writer that is busy looks whether its scope is still registered as it was. */
const SCOPE_CHECK_MS = 1_000;

/** The commands that make every shard of a layout forget an endpoint. */
export function forgetCommands(space: SpaceKeys, shards: number, endpoint: EndpointId): readonly RedisCommand[] {
  return Array.from({ length: shards }, (_, shard) => ["hdel", space.seq(shard), endpoint]);
}

/** Opens every shard of the scope; see {@link IndexWriter} and `BlockIndex.openWriter`. */
export async function openRedisWriter(deps: RedisWriterDeps, options: RedisWriterOptions, target: WriterTarget): Promise<IndexWriter> {
  const { text, layout, others } = await deps.layouts.read(target.scope);
  const shards = await openShards(deps, layout, target);
  // Whoever still writes or reads there finds nothing of this endpoint any more.
  await forgetIn(deps, others, target.endpoint);
  return new RedisIndexWriter(deps, options, target, { text, layout, shards });
}

async function forgetIn({ connection, keys }: RedisWriterDeps, layouts: readonly ScopeLayout[], endpoint: EndpointId): Promise<void> {
  const commands = layouts.flatMap(({ tag, shards }) => forgetCommands(keys.space(tag), shards, endpoint));
  if (commands.length === 0) return;
  for (const reply of await connection.send(commands)) if (reply instanceof Error) throw redisError(reply);
}

class RedisIndexWriter implements IndexWriter {
  readonly target: WriterTarget;
  readonly #deps: RedisWriterDeps;
  readonly #options: RedisWriterOptions;
  /** The scope's JSON when it was last looked at; null as long as nobody has registered it. */
  #registered: string | null;
  #checkedAt: number;
  #layout: ScopeLayout;
  #space: SpaceKeys;
  #shards: readonly ShardState[];
  #applied: number;
  /** End of the queue of calls: a writer's calls run one after another. */
  #tail: Promise<unknown> = Promise.resolve();

  constructor(
    deps: RedisWriterDeps,
    options: RedisWriterOptions,
    target: WriterTarget,
    opened: { readonly text: string | null; readonly layout: ScopeLayout; readonly shards: readonly ShardState[] },
  ) {
    this.#deps = deps;
    this.#options = options;
    this.target = target;
    this.#registered = opened.text;
    this.#checkedAt = deps.clock.monotonic();
    this.#layout = opened.layout;
    this.#space = deps.keys.space(opened.layout.tag);
    this.#shards = opened.shards;
    this.#applied = lowest(opened.shards);
  }

  get applied(): number {
    return this.#applied;
  }

  apply(batches: readonly SequencedOps[]): Promise<ApplyResult> {
    return this.#enqueue(async () => {
      if (this.#deps.clock.monotonic() - this.#checkedAt >= SCOPE_CHECK_MS) await this.#checkScope();
      const last = batches.at(-1)?.seq ?? this.#applied;
      const tally: Tally = { applied: 0, duplicates: 0, unknownRemovals: 0 };
      const split = splitByShard(batches, this.#shards.length);
      for (const { shard, mark } of this.#shards) {
        for (const batch of split[shard] ?? []) if (batch.seq <= completeSeq(mark)) tally.duplicates += 1;
      }
      await this.#drive((state) => planCalls(split[state.shard] ?? [], state.mark, last, this.#options.maxOpsPerCall), tally);
      this.#applied = Math.max(this.#applied, last);
      return tally;
    });
  }

  keysOf(names: readonly BlockName[]): Promise<readonly (BlockKey | null)[]> {
    return readBlockNames(this.#deps.connection, { space: this.#space, shards: this.#shards.length }, this.target, names);
  }

  settle(): Promise<void> {
    return this.#enqueue(async () => {
      const tally: Tally = { applied: 0, duplicates: 0, unknownRemovals: 0 };
      await this.#drive(({ mark }) => {
        if (completeSeq(mark) >= this.#applied) return [];
        return [{ expected: mark, next: { seq: this.#applied, part: null }, runs: [], isNamed: false, stores: null }];
      }, tally);
    });
  }

  verify(): Promise<void> {
    return this.#enqueue(async () => {
      await this.#checkScope();
      const { endpoint } = this.target;
      const replies = await this.#deps.connection.send(this.#shards.map(({ shard }) => ["hget", this.#space.seq(shard), endpoint]));
      for (const [i, state] of this.#shards.entries()) {
        const reply = replies[i];
        if (reply instanceof Error) throw redisError(reply);
        const mismatch = explainMismatch(reply, this.target, state.mark);
        if (mismatch.kind === "ahead") state.mark = mismatch.mark;
        else await this.#giveUp(mismatch, state);
      }
    });
  }

  #enqueue<T>(task: () => Promise<T>): Promise<T> {
    const result = this.#tail.then(task);
    this.#tail = result.catch(() => {});
    return result;
  }

  /**
   * Sends what `plan` says is missing until nothing is. Every round plans anew from the watermarks that the answers have shown, so a call that was
   * not made, made twice or made by an earlier attempt needs no case of its own.
   */
  async #drive(plan: (state: ShardState) => readonly ScriptCall[], tally: Tally): Promise<void> {
    let withSource = false;
    for (let idleRounds = 0; idleRounds < MAX_IDLE_ROUNDS; ) {
      const calls = this.#shards.flatMap((state) => plan(state).map((call) => ({ state, call }))).slice(0, MAX_CALLS_PER_SEND);
      if (calls.length === 0) return;
      const replies = await this.#deps.connection.send(calls.map(({ state, call }) => this.#command(state, call, withSource)));
      withSource = false;
      const stopped = new Set<ShardState>();
      let moved = false;
      for (const [i, { state, call }] of calls.entries()) {
        const reply = replies[i];
        if (Array.isArray(reply)) {
          tally.applied += 1;
          tally.unknownRemovals += Number(reply[0]);
          state.mark = call.next;
          state.witness = call.stores ?? state.witness;
          moved = true;
        } else if (isUnknownScript(reply)) {
          stopped.add(state);
          withSource = true;
        } else if (reply instanceof Error) {
          throw redisError(reply);
        } else {
          const mismatch = explainMismatch(reply, this.target, call.expected);
          if (mismatch.kind === "ahead") {
            state.mark = mismatch.mark;
            tally.duplicates += 1;
            moved = true;
            stopped.add(state);
          } else if (mismatch.kind !== "behind" || !stopped.has(state)) {
            // Behind what an earlier call of this round should have reached says nothing: that call was not applied.
            await this.#giveUp(mismatch, state);
          }
        }
      }
      idleRounds = moved ? 0 : idleRounds + 1;
    }
    throw new KvatlasError(
      "KVATLAS_REDIS_UNAVAILABLE",
      `Applying events of ${this.target.endpoint} makes no progress: Redis answers, but stays where it is.`,
    );
  }

  #command(state: ShardState, call: ScriptCall, withSource: boolean): RedisCommand {
    const { endpoint, incarnation, fence } = this.target;
    return scriptCommand(
      this.#deps.apply,
      [this.#space.seq(state.shard)],
      [
        this.#space.blockPrefix(state.shard),
        endpoint,
        formatPosition({ incarnation, fence, mark: call.expected }),
        formatPosition({ incarnation, fence, mark: call.next }),
        incarnation,
        call.isNamed ? this.#space.names(state.shard, endpoint, incarnation) : "",
        ...call.runs,
      ],
      withSource,
    );
  }

  /**
   * Sees that the scope is registered, and with the layout that this writer writes. One that has been lost is registered again as it was. One that has
   * another layout by now is followed there, where nothing is yet: then rejects with KVATLAS_INDEX_BEHIND.
   */
  async #checkScope(): Promise<void> {
    const { layouts, clock } = this.#deps;
    const { scope, endpoint } = this.target;
    let found = await layouts.read(scope);
    if (found.text === null && this.#registered !== null) {
      await layouts.restore(scope, this.#registered);
      found = await layouts.read(scope);
    }
    if (sameLayout(found.layout, this.#layout)) {
      this.#registered = found.text;
      this.#checkedAt = clock.monotonic();
      return;
    }
    const former = this.#layout;
    const shards = await openShards(this.#deps, found.layout, this.target);
    await forgetIn(this.#deps, [former, ...found.others], endpoint);
    await layouts.addFormer(scope, former);
    this.#layout = found.layout;
    this.#space = this.#deps.keys.space(found.layout.tag);
    this.#shards = shards;
    this.#applied = lowest(shards);
    this.#registered = found.text;
    this.#checkedAt = clock.monotonic();
    throw new KvatlasError(
      "KVATLAS_INDEX_BEHIND",
      `Scope ${scope} has other keys by now (tag ${found.layout.tag}, shards: ${found.layout.shards}); of endpoint ${endpoint} they hold what comes up to ` +
        `sequence ${this.#applied}. Replay what follows.`,
    );
  }

  /** Rejects; after a loss, first learns what the store still has. */
  async #giveUp(mismatch: Exclude<Mismatch, { kind: "ahead" }>, state: ShardState): Promise<never> {
    const { endpoint, incarnation, fence } = this.target;
    if (mismatch.kind === "fenced" || mismatch.kind === "stale") throw refusal(this.target, mismatch);
    if (mismatch.kind === "lost" && mismatch.isMissing) {
      const hasBlocks = await this.#hasBlocks(state);
      // Blocks without a position would count twice when they are stored again. As long as there is none they are dead, and can be dropped.
      await this.#deps.purge(this.#layout);
      if (hasBlocks) {
        throw new KvatlasError(
          "KVATLAS_INDEX_STALE_INCARNATION",
          `The index has been told to forget endpoint ${endpoint} (its position is gone, its blocks were not). Start a new incarnation to write again.`,
        );
      }
    }
    // Nor may the registry have forgotten that this incarnation was given away: blocks of it are written from here on.
    await this.#deps.remember(incarnation);
    // Where one shard has lost something, others may have too.
    this.#shards = await openShards(this.#deps, this.#layout, this.target);
    this.#applied = Math.min(this.#applied, lowest(this.#shards));
    throw new KvatlasError(
      "KVATLAS_INDEX_BEHIND",
      `Redis has lost writes of endpoint ${endpoint} (incarnation ${incarnation}, fence ${fence}): it holds them up to sequence ${this.#applied}. ` +
        "Replay what follows.",
    );
  }

  /** Whether blocks of this incarnation are still there although the shard no longer knows the endpoint. */
  async #hasBlocks({ shard, witness }: ShardState): Promise<boolean> {
    if (witness === null) return false;
    const { endpoint, incarnation } = this.target;
    const [entries] = await this.#deps.connection.send([["hgetall", this.#space.block(shard, witness)]]);
    if (entries instanceof Error) throw redisError(entries);
    return Object.entries(entries as Record<string, string>).some(
      ([field, value]) => (field === endpoint || field.startsWith(`${endpoint}#`)) && parseEntry(value)?.incarnation === incarnation,
    );
  }
}

/**
 * Opens every shard. A shard that nobody has a position in is new, or has lost its positions and not its blocks (somebody deleted or evicted `seq`).
 * Those blocks are dead now and would come to life, and count twice, with the positions: so they are dropped before the first one is written.
 */
async function openShards(deps: RedisWriterDeps, layout: ScopeLayout, target: WriterTarget): Promise<ShardState[]> {
  const begin = { seq: target.from - 1, part: null };
  const space = deps.keys.space(layout.tag);
  const open = (shards: readonly number[], isSwept: boolean) =>
    runScript(
      deps.connection,
      deps.open,
      shards.map((shard) => ({
        keys: [space.seq(shard)],
        args: [target.endpoint, target.incarnation, target.fence, formatWatermark(begin), isSwept ? 1 : 0, space.namesPrefix(shard)],
      })),
    );
  const all = Array.from({ length: layout.shards }, (_, shard) => shard);
  const replies = [...(await open(all, false))];
  const unknown = all.filter((shard) => replies[shard] === "new");
  if (unknown.length > 0) {
    await deps.purge(layout);
    const again = await open(unknown, true);
    for (const [i, shard] of unknown.entries()) replies[shard] = again[i];
  }
  const states: ShardState[] = [];
  for (const [shard, reply] of replies.entries()) {
    // The script has left this very fence and incarnation behind, or it has left the higher ones it found.
    const found = explainMismatch(reply, target, begin);
    if (found.kind === "stale") await deps.remember(found.position.incarnation);
    if (found.kind === "fenced" || found.kind === "stale") throw refusal(target, found);
    if (found.kind === "lost")
      throw new KvatlasError("KVATLAS_REDIS_UNAVAILABLE", `Opening shard ${shard} was answered with ${String(reply)}.`);
    states.push({ shard, mark: found.mark, witness: null });
  }
  return states;
}

function refusal(target: WriterTarget, { kind, position }: Extract<Mismatch, { kind: "fenced" | "stale" }>): KvatlasError {
  return kind === "fenced"
    ? new KvatlasError(
        "KVATLAS_INDEX_FENCED",
        `Endpoint ${target.endpoint} was taken over with fence ${position.fence}; fence ${target.fence} may no longer write. Stop this writer.`,
      )
    : new KvatlasError(
        "KVATLAS_INDEX_STALE_INCARNATION",
        `Endpoint ${target.endpoint} is at incarnation ${position.incarnation}; ${target.incarnation} is past. Open a writer for the current one.`,
      );
}

function lowest(shards: readonly ShardState[]): number {
  return Math.min(...shards.map(({ mark }) => completeSeq(mark)));
}
