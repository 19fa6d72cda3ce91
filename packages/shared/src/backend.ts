import type { BlockIndex } from "./index/block-index.ts";
import type { EndpointRegistry } from "./registry/endpoint-registry.ts";

/** Index and registry of one process: both in Redis, or both in memory. */
export interface Backend {
  readonly index: BlockIndex;
  readonly registry: EndpointRegistry;
  close(): Promise<void>;
}
