/** One sample of Prometheus' text exposition format 0.0.4. */
export interface Sample {
  readonly name: string;
  readonly labels: ReadonlyMap<string, string>;
  readonly value: number;
}

/**
 * Reads the samples whose name is wanted; comments, other names and lines that are no samples are passed over.
 * An engine's page has thousands of histogram lines: those are dismissed by name before anything else is looked at.
 */
export function parsePrometheusText(text: string, wanted: ReadonlySet<string>): readonly Sample[] {
  const samples: Sample[] = [];
  let start = 0;
  while (start < text.length) {
    const newline = text.indexOf("\n", start);
    const end = newline === -1 ? text.length : newline;
    const sample = parseLine(text, start, end, wanted);
    if (sample !== null) samples.push(sample);
    start = end + 1;
  }
  return samples;
}

function parseLine(text: string, start: number, end: number, wanted: ReadonlySet<string>): Sample | null {
  if (start === end || text[start] === "#") return null;
  let position = start;
  while (position < end && text[position] !== "{" && text[position] !== " " && text[position] !== "\t") position++;
  const name = text.slice(start, position);
  if (!wanted.has(name)) return null;
  const labels = new Map<string, string>();
  if (text[position] === "{") {
    const after = parseLabels(text, position + 1, end, labels);
    if (after === null) return null;
    position = after;
  }
  const [valueText] = text.slice(position, end).trim().split(/\s+/, 1);
  const value = parseValue(valueText);
  return value === null ? null : { name, labels, value };
}

/** From behind `{`; returns the position behind `}`, or null when the labels are not well-formed. */
function parseLabels(text: string, start: number, end: number, labels: Map<string, string>): number | null {
  let position = start;
  for (;;) {
    while (position < end && (text[position] === "," || text[position] === " ")) position++;
    if (text[position] === "}") return position + 1;
    const equals = text.indexOf("=", position);
    if (equals === -1 || equals >= end || text[equals + 1] !== '"') return null;
    const label = text.slice(position, equals).trim();
    let value = "";
    position = equals + 2;
    for (;;) {
      if (position >= end) return null;
      const character = text[position];
      if (character === '"') break;
      if (character === "\\") {
        const escaped = text[position + 1];
        value += escaped === "n" ? "\n" : (escaped ?? "");
        position += 2;
      } else {
        value += character;
        position++;
      }
    }
    labels.set(label, value);
    position++;
  }
}

function parseValue(text: string | undefined): number | null {
  if (text === undefined || text === "") return null;
  if (text === "+Inf" || text === "Inf") return Number.POSITIVE_INFINITY;
  if (text === "-Inf") return Number.NEGATIVE_INFINITY;
  const value = Number(text);
  return Number.isNaN(value) ? null : value;
}
