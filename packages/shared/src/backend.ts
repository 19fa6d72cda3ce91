import type { BlockIndex } from "./index/block-index.ts";
import { MemoryBlockIndex } from "./index/memory-block-index.ts";
import type { EndpointRegistry } from "./registry/endpoint-registry.ts";
import { MemoryEndpointRegistry } from "./registry/memory-endpoint-registry.ts";

/** Index and registry of one process: both in Redis, or both in memory. */
export interface Backend {
  readonly index: BlockIndex;
  readonly registry: EndpointRegistry;
  /** True once the store answers, false when it has not within `timeoutMs`. Nobody needs to wait: clients connect by themselves, again and again. */
  connected(timeoutMs: number): Promise<boolean>;
  close(): Promise<void>;
}

/** Index and registry of one process that needs no Redis: what it holds is gone with it. */
export function createMemoryBackend(): Backend {
  const index = new MemoryBlockIndex();
  const registry = new MemoryEndpointRegistry();
  return {
    index,
    registry,
    connected: async () => true,
    close: async () => {
      await index.close();
      await registry.close();
    },
  };
}
