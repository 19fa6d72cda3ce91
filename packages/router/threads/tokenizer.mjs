// Entry of a tokenizer thread, in plain JavaScript: Node 20 starts no thread from a TypeScript file.
// From source it registers tsx first; from dist it loads the compiled file as it is.
import { workerData } from "piscina";

if (workerData.entry.endsWith(".ts")) (await import("tsx/esm/api")).register();

export default (await import(workerData.entry)).run;
