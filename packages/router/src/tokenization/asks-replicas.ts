import type { PoolConfig } from "@kvatlas/shared/config/schema";
import { modeOfPool } from "../routing/mode-of-pool.ts";

/** Whether replicas are asked for every prompt of the pool: `remote`, and `auto` where there is nothing to encode with. Estimates do without. */
export function asksReplicas({ tokenizer: { source, path, repository }, prefixCache }: PoolConfig): boolean {
  return source === "remote" || (source === "auto" && path === null && repository === null && modeOfPool({ prefixCache }) === "precise");
}
