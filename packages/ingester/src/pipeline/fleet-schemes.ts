import type { Clock } from "@kvatlas/shared/clock";
import type { ExtrasForm, NativeScheme, ScopeSpec } from "@kvatlas/shared/hashing/key-scheme";
import type { EndpointMeta, EndpointRegistry } from "@kvatlas/shared/registry/endpoint-registry";
import type { EndpointId } from "@kvatlas/shared/types";
import { LRUCache } from "lru-cache";

/** How an engine was seen to hash. */
export interface KnownScheme {
  readonly endpoint: EndpointId;
  readonly pool: string;
  readonly model: string;
  readonly scheme: NativeScheme;
  readonly blockSizeTokens: number;
  readonly extrasForm: ExtrasForm | null;
  /** Of the process that hashed so, seconds since the epoch; null when it did not tell. */
  readonly processStartSeconds: number | null;
}

const maxRemembered = 4_096;
/** Many endpoints may ask at the same time. */
const keepMs = 250;

/**
 * How the engines of this fleet hash, as far as anybody has recomputed it: what this process has learned, which outlives a store that was emptied,
 * and what the registry says, which outlives this process.
 */
export class FleetSchemes {
  readonly #deps: { readonly registry: Pick<EndpointRegistry, "endpoints" | "scopes">; readonly clock: Clock };
  readonly #learned = new LRUCache<EndpointId, KnownScheme>({ max: maxRemembered });
  #registered: { readonly at: number; readonly schemes: Promise<readonly KnownScheme[]> } | null = null;

  constructor(deps: { readonly registry: Pick<EndpointRegistry, "endpoints" | "scopes">; readonly clock: Clock }) {
    this.#deps = deps;
  }

  /** An endpoint's stores have been recomputed. */
  learned(known: KnownScheme): void {
    this.#learned.set(known.endpoint, known);
  }

  /**
   * What is known of the pool's engines that serve the same model. What this process has recomputed itself comes first.
   *
   * @throws KVATLAS_REDIS_UNAVAILABLE the registry does not answer
   */
  async of(pool: string, model: string): Promise<readonly KnownScheme[]> {
    const isAsked = (known: KnownScheme): boolean => known.pool === pool && known.model === model;
    return [...this.#learned.values(), ...(await this.#fromRegistry())].filter(isAsked);
  }

  #fromRegistry(): Promise<readonly KnownScheme[]> {
    const now = this.#deps.clock.monotonic();
    if (this.#registered === null || now - this.#registered.at >= keepMs) {
      const asked = { at: now, schemes: this.#ask() };
      this.#registered = asked;
      asked.schemes.catch(() => {
        if (this.#registered === asked) this.#registered = null;
      });
    }
    return this.#registered.schemes;
  }

  async #ask(): Promise<readonly KnownScheme[]> {
    const { registry } = this.#deps;
    const [records, scopes] = await Promise.all([registry.endpoints(), registry.scopes()]);
    return records.flatMap(({ id, meta }) => knownOf(id, meta, meta.scope === null ? undefined : scopes.get(meta.scope)) ?? []);
  }
}

function knownOf(endpoint: EndpointId, meta: EndpointMeta, spec: ScopeSpec | undefined): KnownScheme | null {
  if (spec === undefined || spec.scheme.kind !== "native" || spec.model !== meta.model) return null;
  const { pool, model, extrasForm, processStartSeconds } = meta;
  return { endpoint, pool, model, scheme: spec.scheme, blockSizeTokens: spec.blockSizeTokens, extrasForm, processStartSeconds };
}
