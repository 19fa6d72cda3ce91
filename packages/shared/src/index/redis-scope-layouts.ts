import { LRUCache } from "lru-cache";
import type { Clock } from "../clock.ts";
import { KvatlasError } from "../errors.ts";
import type { RedisCommand, RedisConnection } from "../redis.ts";
import { redisError } from "../redis-error.ts";
import { type RedisScript, readScript, runScript } from "../redis-scripts.ts";
import type { ScopeId } from "../types.ts";
import { type RedisKeys, scopeTag } from "./redis-keys.ts";
import {
  isSuitable,
  layoutsOf,
  newLayout,
  parseScopeField,
  type ScopeField,
  type ScopeLayout,
  sameLayout,
  scopeField,
  tagsIn,
  withFormer,
} from "./scope-layout.ts";

export interface RedisScopeLayoutsDeps {
  readonly connection: RedisConnection;
  readonly keys: RedisKeys;
  readonly clock: Clock;
}

/** A scope as it is registered at this moment. */
export interface RegisteredScope {
  /** Its JSON; null when it is not registered. */
  readonly text: string | null;
  readonly layout: ScopeLayout;
  /** Other layouts in which an endpoint of the scope may still have a position: former ones, and those of other schema versions. */
  readonly others: readonly ScopeLayout[];
}

/** One field of `kva:scopes`, as found. */
export interface ScopeEntry extends ScopeField {
  readonly field: string;
  readonly text: string;
}

/** A reader goes on with a layout it knows for this long before it asks again; it does not wait for the answer. */
const REFRESH_MS = 1_000;
const MAX_SCOPES_REMEMBERED = 1_000;
/** Somebody else registers at the same moment; the second try finds what they have written. */
const MAX_TRIES = 10;

/** `kva:scopes`: which scope's keys are where, and how that changes. Everything that writes is safe to repeat and to do at once. */
export class RedisScopeLayouts {
  readonly #deps: RedisScopeLayoutsDeps;
  readonly #defaultShards: number;
  readonly #script: RedisScript = readScript("scope-1");
  readonly #known = new LRUCache<ScopeId, { layout: ScopeLayout; readAt: number }>({ max: MAX_SCOPES_REMEMBERED });

  /** @param defaultShards of a scope that nobody has registered */
  constructor(deps: RedisScopeLayoutsDeps, defaultShards: number) {
    this.#deps = deps;
    this.#defaultShards = defaultShards;
  }

  /**
   * Layouts for reading, in the order of the scopes. One that has changed is noticed a second later; a scope that is not registered any more is read
   * where it was, because its writers will register it again.
   */
  async forReading(scopes: readonly ScopeId[], signal?: AbortSignal): Promise<readonly ScopeLayout[]> {
    const now = this.#deps.clock.monotonic();
    const unknown: ScopeId[] = [];
    const stale: ScopeId[] = [];
    for (const scope of new Set(scopes)) {
      const known = this.#known.get(scope);
      if (known === undefined) unknown.push(scope);
      else if (now - known.readAt >= REFRESH_MS) {
        known.readAt = now;
        stale.push(scope);
      }
    }
    if (unknown.length > 0) await this.#learn(unknown, signal);
    // Until the answer comes, and when there is none, what is known is good enough.
    if (stale.length > 0) this.#learn(stale).catch(() => {});
    return scopes.map((scope) => this.#known.get(scope)?.layout ?? this.#unregistered(scope));
  }

  /** A scope as it is registered now. */
  async read(scope: ScopeId): Promise<RegisteredScope> {
    const entries = await this.entries();
    const own = entries.find(({ field }) => field === scopeField(scope));
    const layouts = layoutsOf(own?.text);
    const layout = layouts?.current ?? this.#unregistered(scope);
    const others = entries
      .filter((entry) => entry.scope === scope)
      .flatMap(({ text }) => {
        const found = layoutsOf(text);
        return found === null ? [] : [found.current, ...found.former];
      });
    if (layouts !== null) this.#known.set(scope, { layout, readAt: this.#deps.clock.monotonic() });
    return { text: own?.text ?? null, layout, others: others.filter((other) => !sameLayout(other, layout)) };
  }

  /** Every registered scope, of every schema version. */
  async entries(): Promise<readonly ScopeEntry[]> {
    const [fields] = await this.#send([["hgetall", this.#deps.keys.scopes]]);
    return Object.entries((fields ?? {}) as Readonly<Record<string, string>>).map(([field, text]) => ({
      field,
      text,
      ...parseScopeField(field),
    }));
  }

  /**
   * Sees that a scope is registered with a layout that suits: registers it, or gives it another layout, which is empty until its writers have replayed
   * what their engines hold.
   *
   * @param describe JSON of the scope with the layout given
   * @returns the JSON registered, and whether this call has written it
   * @throws KVATLAS_REDIS_UNSUITABLE what is registered cannot be read
   */
  async ensure(
    scope: ScopeId,
    shards: number,
    isReadable: (text: string) => boolean,
    describe: (layout: ScopeLayout) => string,
  ): Promise<{ readonly text: string; readonly isNew: boolean }> {
    const field = scopeField(scope);
    for (let attempt = 0; attempt < MAX_TRIES; attempt += 1) {
      const entries = await this.entries();
      const text = entries.find((entry) => entry.field === field)?.text ?? "";
      const layouts = layoutsOf(text);
      if (layouts !== null && isReadable(text) && isSuitable(layouts.current.shards, shards)) return { text, isNew: false };
      if (text !== "" && layouts === null) {
        throw new KvatlasError(
          "KVATLAS_REDIS_UNSUITABLE",
          `${this.#deps.keys.scopes} holds something unreadable for ${scope}: ${text.slice(0, 200)}. Remove the field, or use another redis.keyPrefix.`,
        );
      }
      const layout = newLayout(scope, shards, tagsIn(entries.map((entry) => entry.text)));
      const next = withFormer(describe(layout), layouts === null ? [] : [layouts.current, ...layouts.former]);
      if ((await this.#replace(field, text, next, layout.tag)) === "done") return { text: next, isNew: true };
    }
    throw new KvatlasError(
      "KVATLAS_REDIS_UNAVAILABLE",
      `Scope ${scope} is registered by somebody else again and again: do all ingesters reach the same Redis in the same way?`,
    );
  }

  /** Registers a scope again as it was, if it has been lost. */
  async restore(scope: ScopeId, text: string): Promise<void> {
    if ((await this.#replace(scopeField(scope), "", text, "")) === "done") await this.#send([["publish", this.#deps.keys.changes, scope]]);
  }

  /** Lists a layout among the former ones of a scope, so that what is left there is reclaimed. */
  async addFormer(scope: ScopeId, layout: ScopeLayout): Promise<void> {
    await this.#change(scopeField(scope), (text) => {
      const layouts = layoutsOf(text);
      if (layouts === null || [layouts.current, ...layouts.former].some((known) => known.tag === layout.tag)) return text;
      return withFormer(text, [...layouts.former, layout]);
    });
  }

  async removeFormer(field: string, layout: ScopeLayout): Promise<void> {
    await this.#change(field, (text) =>
      withFormer(
        text,
        (layoutsOf(text)?.former ?? []).filter((other) => !sameLayout(other, layout)),
      ),
    );
  }

  /** Removes a scope, if it is still as it was read. */
  async remove({ field, scope, text }: ScopeEntry): Promise<boolean> {
    const isRemoved = (await this.#replace(field, text, "", "")) === "done";
    if (isRemoved) {
      this.#known.delete(scope);
      await this.#send([["publish", this.#deps.keys.changes, scope]]);
    }
    return isRemoved;
  }

  #unregistered(scope: ScopeId): ScopeLayout {
    return { tag: scopeTag(scope), shards: this.#defaultShards };
  }

  async #learn(scopes: readonly ScopeId[], signal?: AbortSignal): Promise<void> {
    const [values] = await this.#send([["hmget", this.#deps.keys.scopes, ...scopes.map(scopeField)]], signal);
    for (const [i, scope] of scopes.entries()) {
      const layouts = layoutsOf(Array.isArray(values) ? (values[i] as string | null) : null);
      if (layouts !== null) this.#known.set(scope, { layout: layouts.current, readAt: this.#deps.clock.monotonic() });
    }
  }

  async #change(field: string, change: (text: string) => string): Promise<void> {
    for (let attempt = 0; attempt < MAX_TRIES; attempt += 1) {
      const [value] = await this.#send([["hget", this.#deps.keys.scopes, field]]);
      if (typeof value !== "string") return;
      const next = change(value);
      if (next === value || (await this.#replace(field, value, next, "")) === "done") return;
    }
  }

  async #replace(field: string, expected: string, next: string, tag: string): Promise<unknown> {
    const { connection, keys } = this.#deps;
    const [outcome] = await runScript(connection, this.#script, [{ keys: [keys.scopes], args: [field, expected, next, tag] }]);
    return outcome;
  }

  async #send(commands: readonly RedisCommand[], signal?: AbortSignal): Promise<readonly unknown[]> {
    const replies = await this.#deps.connection.send(commands, signal);
    for (const reply of replies) if (reply instanceof Error) throw redisError(reply);
    return replies;
  }
}
