/*
 * The part of a replica in disaggregated serving: replicas for prefill compute prompts and hand their KV blocks to replicas for decoding, which
 * answer. Names are those of the pod label `llm-d.ai/role`.
 */

export const engineRoles = ["prefill", "decode", "both", "encode"] as const;
export type EngineRole = (typeof engineRoles)[number];

/**
 * A role as labels write it: several parts are joined by dashes (`prefill-decode`, `encode-prefill`). Null for none, and for names that are not known:
 * such a replica serves requests as a whole, as it would without a label.
 */
export function engineRoleOf(label: string | null | undefined): EngineRole | null {
  const parts = (label ?? "").toLowerCase().split("-");
  if (parts.includes("both") || (parts.includes("prefill") && parts.includes("decode"))) return "both";
  return (
    engineRoles.find((role) => role !== "both" && role !== "encode" && parts.includes(role)) ?? (parts.includes("encode") ? "encode" : null)
  );
}

/** Clients' requests may go there: all but helpers, to which other replicas' requests are handed in part. */
export function answersRequests(role: EngineRole | null): boolean {
  return role !== "prefill" && role !== "encode";
}

/** Computes prompts for others. */
export function prefillsForOthers(role: EngineRole | null): boolean {
  return role === "prefill" || role === "both";
}

/** Goes on with prompts that others have computed. A replica without a role may have no connector for it. */
export function takesHandovers(role: EngineRole | null): boolean {
  return role === "decode" || role === "both";
}
