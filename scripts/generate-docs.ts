import { writeFileSync } from "node:fs";
import { configReference } from "../packages/shared/src/config/reference.ts";

/* `npm run docs`: writes the generated pages. A test compares them with what is committed. */

const pages: readonly (readonly [path: string, text: string])[] = [["docs/configuration.md", configReference()]];

for (const [path, text] of pages) {
  writeFileSync(new URL(`../${path}`, import.meta.url), text);
  process.stderr.write(`wrote ${path}\n`);
}
