import type { Contest } from "../contest.ts";
import { heldNowhere } from "../residency.ts";
import type { Mode } from "./mode.ts";

/** Routes by load where prefixes are not known: the last resort, which never gives up. Its reason is what kept them from being known. */
export function createLoadMode(contest: Contest): Mode {
  return {
    rule: async (work) => {
      const load = work.load ?? (await contest.readLoad(work));
      const candidates = contest.candidates(work, load, heldNowhere);
      const ranking = contest.rank(work, candidates, 0, work.tieKey);
      return { mode: "load", reason: work.givenUp?.reason ?? "not-a-prompt", ranking, residency: heldNowhere };
    },
  };
}
