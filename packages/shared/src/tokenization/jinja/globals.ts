import { bind, need, needIndex, needString } from "./arguments.ts";
import { str } from "./printing.ts";
import { strftime } from "./strftime.ts";
import { Callable, Namespace, TemplateRaised, TemplateUnsupported, Undefined, type Value } from "./values.ts";

/** Jinja2's sandbox refuses longer ranges (`MAX_RANGE`). */
const MAX_RANGE = 100_000;

function range(args: readonly Value[]): Value {
  const numbers = args.map((value) => needIndex("range", value));
  const [start, stop, step] = numbers.length === 1 ? [0, numbers[0] ?? 0, 1] : [numbers[0] ?? 0, numbers[1] ?? 0, numbers[2] ?? 1];
  if (args.length === 0 || args.length > 3) throw new TemplateRaised(`range expected 1 to 3 arguments, got ${args.length}`);
  if (step === 0) throw new TemplateRaised("range() arg 3 must not be zero");
  const count = Math.max(0, Math.ceil((stop - start) / step));
  if (count > MAX_RANGE) throw new TemplateRaised(`Range too big. The sandbox blocks ranges larger than MAX_RANGE (${MAX_RANGE}).`);
  return Array.from({ length: count }, (_, i) => start + i * step);
}

/** Global functions of transformers' chat-template environment. `now` is the clock of strftime_now, read in local time. */
export function templateGlobals(now: () => Date): Map<string, Value> {
  const globals = new Map<string, Value>();
  const define = (name: string, call: Callable["call"]): void => {
    globals.set(name, new Callable(name, call));
  };
  define("range", (args) => {
    if (args.named.size > 0) throw new TemplateRaised("range() takes no keyword arguments");
    return range(args.positional);
  });
  define("dict", ({ positional, named }) => {
    const [first] = positional;
    if (first !== undefined && !(first instanceof Map)) throw new TemplateUnsupported("dict() of a sequence");
    return new Map([...(first ?? []), ...named]);
  });
  define("namespace", ({ positional, named }) => {
    const namespace = new Namespace();
    const [first] = positional;
    if (first !== undefined && !(first instanceof Map)) throw new TemplateUnsupported("namespace() of something else than a dict");
    for (const [name, value] of first ?? []) namespace.attributes.set(String(name), value);
    for (const [name, value] of named) namespace.attributes.set(name, value);
    return namespace;
  });
  define("raise_exception", (args) => {
    const message = need("raise_exception", bind("raise_exception", ["message"], args), "message");
    throw new TemplateRaised(message instanceof Undefined ? "" : str(message));
  });
  define("strftime_now", (args) =>
    strftime(now(), needString("strftime_now", need("strftime_now", bind("strftime_now", ["format"], args), "format"))),
  );
  for (const name of ["lipsum", "cycler", "joiner"]) {
    define(name, () => {
      throw new TemplateUnsupported(`${name}()`);
    });
  }
  return globals;
}
