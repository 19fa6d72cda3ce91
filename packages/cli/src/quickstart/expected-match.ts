/**
 * How many tokens of round 2 the replica that answered round 1 must hold: the full blocks of what it has computed that are a prefix of round 2.
 * The last prompt token is never served from cache, so its block does not count.
 *
 * @param computed - tokens of round 1 whose keys and values exist: its prompt and the answer
 */
export function expectedMatch(computed: ArrayLike<number>, roundTwo: ArrayLike<number>, blockSizeTokens: number): number {
  const limit = Math.min(computed.length, roundTwo.length - 1);
  let common = 0;
  while (common < limit && computed[common] === roundTwo[common]) common++;
  return common - (common % blockSizeTokens);
}
