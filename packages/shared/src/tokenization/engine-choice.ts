export const tokenizerEngineChoices = ["auto", "javascript", "native"] as const;

/** `auto`: native where its binary loads, else JavaScript. */
export type TokenizerEngineChoice = (typeof tokenizerEngineChoices)[number];
