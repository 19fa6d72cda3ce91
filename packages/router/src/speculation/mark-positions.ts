/** Positions per doubling of the distance from the front: what is found of a shared prefix is more than nine tenths of it. */
const perOctave = 8;

/**
 * Positions at which a chain is marked, and looked at for marks: the same for chains that have the same beginning, up to where they part. The last position
 * is among them, so that the very same prompt is found whole.
 */
export function markPositions(blocks: number): readonly number[] {
  const positions: number[] = [];
  let before = 0;
  for (let i = 0; ; i++) {
    const count = Math.max(before + 1, Math.floor(2 ** (i / perOctave)));
    if (count >= blocks) break;
    positions.push(count - 1);
    before = count;
  }
  if (blocks > 0) positions.push(blocks - 1);
  return positions;
}
