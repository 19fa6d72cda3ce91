import type { BlockStored } from "@kvatlas/shared/events/events";
import type { BlockIndex, WriterTarget } from "@kvatlas/shared/index/block-index";
import type { BlockKey } from "@kvatlas/shared/types";

/** Whether the endpoint has each of these blocks more than once where a store has put them: they were held before it. */
export async function isHeldTwice(
  index: Pick<BlockIndex, "holders">,
  { scope, endpoint, incarnation }: WriterTarget,
  store: Pick<BlockStored, "group" | "medium">,
  keys: readonly BlockKey[],
): Promise<boolean> {
  const holders = await Promise.all(keys.map((key) => index.holders(scope, key)));
  return holders.every((list) =>
    list.some(
      (held) =>
        held.endpoint === endpoint &&
        held.group === store.group &&
        held.incarnation === incarnation &&
        (held.copies[store.medium] ?? 0) > 1,
    ),
  );
}
