import { describe } from "vitest";
import { endpointRegistryContract } from "./endpoint-registry.contract.ts";
import { MemoryEndpointRegistry } from "./memory-endpoint-registry.ts";

describe("MemoryEndpointRegistry", () => {
  endpointRegistryContract(async () => new MemoryEndpointRegistry());
});
