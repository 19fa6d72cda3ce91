/* As much of PromQL as rules and dashboards are looked through for. */

/** A metric in a query, with the labels that it is asked for by. */
export interface Selected {
  /** What a histogram is made of counts as the histogram. */
  readonly metric: string;
  readonly labels: readonly string[];
}

const selector = /\b((?:kvatlas|process|nodejs)_[a-z0-9_]+)\b(?:\{([^}]*)\})?/g;
const matcher = /(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"/g;

/** Every metric of ours in a query. */
export function metricsIn(expr: string): readonly Selected[] {
  return [...expr.matchAll(selector)].map(([, name = "", matchers = ""]) => ({
    metric: name.replace(/_(?:bucket|sum|count)$/, ""),
    labels: [...matchers.matchAll(matcher)].map(([, label = ""]) => label),
  }));
}

/** Labels that a query groups or joins by. */
export function groupedBy(expr: string): readonly string[] {
  return [...expr.matchAll(/\b(?:by|on|without|ignoring|group_left|group_right)\s*\(([^)]*)\)/g)]
    .flatMap(([, labels = ""]) => labels.split(","))
    .map((label) => label.trim())
    .filter((label) => label !== "");
}

/** Values that labels are compared with, alternatives one by one. */
export function comparedValues(expr: string): readonly string[] {
  return [...expr.matchAll(matcher)].flatMap(([, , value = ""]) => value.split("|")).filter((value) => !/^$|[$.*]/.test(value));
}
