import type { BlockStored } from "@kvatlas/shared/events/events";
import { createContentKeyMapper } from "@kvatlas/shared/hashing/content-keys";
import type { EngineHash } from "@kvatlas/shared/types";
import { planAnswer } from "@kvatlas/simulator/engine/answer";
import { engineProfile } from "@kvatlas/simulator/engine-profile";
import { createHashChain } from "@kvatlas/simulator/hash-chain";
import { simulatorDefaults } from "@kvatlas/simulator/options";
import { numericTokenizer } from "@kvatlas/simulator/tokenizer";

/** How blocks are named in the index, seen from the engine's hash of them. */
export interface BlockNames {
  /** Null for a hash that no request can have made. */
  keyOf(engineHash: string): string | null;
  /** Where keys depend on it: blocks of a prompt and its answer may exist from now on. */
  expect(promptTokenIds: readonly number[], maxTokens: number): void;
  /** A store can be named only by whoever knows its parent. */
  readonly needsParents: boolean;
}

/** The engine's hash is the key. */
export const nativeNames: BlockNames = { keyOf: (hash) => hash, expect: () => {}, needsParents: false };

export interface ContentNamesOptions {
  readonly model: string;
  readonly blockSizeTokens: number;
  readonly engineVersion: string;
  /** PYTHONHASHSEED of the engines. */
  readonly engineSeed: string;
  /** Seed of the content scheme. */
  readonly contentSeed: string;
}

/**
 * Keys from token contents: what every prompt and the answer to it become, block by block, beside the hashes that the engines give them.
 * Answers of simulated engines depend on the prompt alone, so this holds for requests that were cut off as well.
 */
export function contentNames(options: ContentNamesOptions): BlockNames {
  const { model, blockSizeTokens } = options;
  const profile = engineProfile(options.engineVersion);
  const chain = createHashChain(
    { model, blockSizeTokens, hashAlgorithm: profile.defaultAlgorithm, lookaheadTokens: 0, bytesHashes: false, profile },
    options.engineSeed,
  );
  const mapper = createContentKeyMapper({ seed: options.contentSeed, model });
  const keys = new Map<string, string>();
  return {
    needsParents: true,
    keyOf: (hash) => keys.get(hash) ?? null,
    expect: (promptTokenIds, maxTokens) => {
      const answer = planAnswer(
        {
          promptTokenIds,
          choice: 0,
          maxTokens,
          minTokens: 0,
          ignoresEndOfSequence: false,
          stop: [],
          stopTokenIds: [],
          typicalTokens: simulatorDefaults.typicalAnswerTokens,
        },
        numericTokenizer.vocabulary,
      );
      const tokens = Uint32Array.from([...promptTokenIds, ...answer.tokenIds]);
      const hashes = chain.hashes(tokens, {});
      const mapped = mapper.keysOf(wholeChain(hashes, tokens, blockSizeTokens), null);
      if ("obstacle" in mapped) throw new Error(`a chain has no content keys: ${mapped.obstacle}`);
      for (const [i, hash] of hashes.entries()) keys.set(hash.slice(-16), mapped.keys[i] ?? "");
    },
  };
}

function wholeChain(hashes: readonly string[], tokens: Uint32Array, blockSizeTokens: number): BlockStored {
  return {
    kind: "stored",
    hashes: hashes as readonly EngineHash[],
    parent: null,
    tokenIds: [...tokens.subarray(0, hashes.length * blockSizeTokens)],
    blockSizeTokens,
    medium: "gpu",
    loraId: null,
    loraName: null,
    extraKeys: null,
    group: 0,
    specKind: null,
    slidingWindowTokens: null,
    lookahead: null,
  };
}
