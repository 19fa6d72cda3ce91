import type { PoolConfig } from "@kvatlas/shared/config/schema";

/** The mode that a pool's configuration names, whatever name it uses. */
export function modeOfPool(pool: Pick<PoolConfig, "prefixCache">): "precise" | "estimated" | "off" {
  switch (pool.prefixCache.mode) {
    case "off":
      return "off";
    case "estimated":
    case "estimate":
    case "PREFIX_CACHE":
      return "estimated";
    default:
      return "precise";
  }
}
