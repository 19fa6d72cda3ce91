/** Characters taken from either end of a body. */
const edge = 1_024;

/** What ties of requests without block keys are broken by: differs between requests, is the same on every router. */
export function tieKeyOfText(text: string): string {
  return text.length <= 2 * edge ? text : `${text.length}:${text.slice(0, edge)}${text.slice(-edge)}`;
}
