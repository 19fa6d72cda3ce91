import type { EngineProfile } from "../engine-profile.ts";
import { isObject, type JsonObject } from "../http/http-io.ts";

/** What a request asks of the connector: keep its blocks for another engine, or get them from one. */
export type TransferWish = { readonly kind: "keep" } | { readonly kind: "pull"; readonly from: RemoteBlocks };

/** Where the KV of a prompt is, as the engine that has computed it says. */
export interface RemoteBlocks {
  readonly engineId: string;
  readonly requestId: string;
  readonly host: string;
  readonly port: number;
  /** Null before 0.21: the whole prompt. */
  readonly tokens: number | null;
}

/**
 * Reads `kv_transfer_params` as vLLM 0.33's NIXL connector does (`nixl/scheduler.py`): blocks are pulled only where all that is needed to find them is
 * there, else the prompt is computed without a word.
 *
 * @param ownRequestId - up to 0.12 both requests had the same id, and none was handed over
 */
export function transferWishOf(body: JsonObject, profile: EngineProfile, ownRequestId: string): TransferWish | null {
  const params = body.kv_transfer_params;
  if (!isObject(params)) return null;
  if (params.do_remote_decode === true) return { kind: "keep" };
  if (params.do_remote_prefill !== true) return null;
  const requestId = profile.handsOverRequestId ? params.remote_request_id : ownRequestId;
  const { remote_engine_id: engineId, remote_host: host, remote_port: port, remote_num_tokens: tokens } = params;
  if (typeof engineId !== "string" || typeof requestId !== "string" || typeof host !== "string" || typeof port !== "number") return null;
  return { kind: "pull", from: { engineId, requestId, host, port, tokens: typeof tokens === "number" ? tokens : null } };
}

/** What the answer of a prefill says, for the decode request. */
export function handoverParams(
  profile: EngineProfile,
  kept: { readonly engineId: string; readonly requestId: string; readonly blockIds: readonly number[]; readonly tokens: number },
  address: { readonly host: string; readonly port: number },
): JsonObject {
  return {
    do_remote_prefill: true,
    do_remote_decode: false,
    remote_block_ids: kept.blockIds,
    remote_engine_id: kept.engineId,
    ...(profile.handsOverRequestId ? { remote_request_id: kept.requestId } : {}),
    remote_host: address.host,
    remote_port: address.port,
    tp_size: 1,
    ...(profile.handsOverTokenCount ? { remote_num_tokens: kept.tokens } : {}),
  };
}
