import { describe } from "vitest";
import { blockIndexContract } from "./block-index.contract.ts";
import { MemoryBlockIndex } from "./memory-block-index.ts";

describe("MemoryBlockIndex", () => {
  blockIndexContract(async () => new MemoryBlockIndex());
});
