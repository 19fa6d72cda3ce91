/* What the conversations of the quick start are about: three documents of a few hundred tokens, made up for it. */

const lighthouse = `Notes of the harbour board, evening session.

The old light on the northern rock was built in 1871 by a crew of fourteen who slept in the hull of a wrecked brig. It stands on a ledge that is under water
for six hours of every day, so the lower courses were cut on the mainland, numbered, and dovetailed into each other before a single stone was ferried out.
The lamp burned colza oil for nine years, paraffin for forty, and acetylene until the cable came. The lens, a first-order Fresnel of 1,176 prisms, was turned
by a weight of ninety kilograms that the keeper wound up every four hours. When the clockwork failed in the winter of 1903, two keepers turned the lens by hand
for eleven nights and were given a barometer each.

The board has three proposals in front of it. The first keeps the lens, replaces the lamp with a light-emitting array of 140 watts, and adds a bank of batteries
charged by panels on the south face; it costs 310,000 and needs one visit a year. The second takes the lens ashore for the museum, puts a sealed beacon with a
range of twelve miles in its place, and costs 95,000. The third gives up the light altogether, marks the rock with two buoys and a radar transponder, and costs
40,000 at first and 22,000 every year after, because the buoys drag in the spring gales and have to be lifted.

The pilots want the range: with less than sixteen miles the outer bar cannot be seen from the pilot station in haze. The fishermen want the fog signal back, which
none of the proposals includes. The museum would rather have the lens where it is, lit, than in a hall where nobody sees it turn. The treasurer points out that the
grant of 180,000 covers restoration of the historic apparatus only, and lapses at the end of June.`;

const orchard = `Report of the grafting circle on its first five seasons.

We began with forty rootstocks of the vigorous kind, planted in two rows along the eastern hedge, and scion wood from nine old trees that stand in gardens of the
village. None of the nine has a certain name. The first year we lost eleven grafts, most of them to a late frost on the ninth of May and three to a deer that came
over the wall. In the second year we wrapped every union with wax and cloth, hung soap in the branches, and lost only two. By the fifth autumn thirty-one trees
bore fruit, and we weighed what they gave: 412 kilograms, of which the tree by the well alone gave sixty-three.

Three varieties deserve to be kept. The one from the school garden ripens at the end of August, cooks to a froth in minutes, and does not keep beyond a fortnight.
The one from the mill is hard and sour until the new year, then turns yellow in the straw and tastes of pear until Easter; a box of it was shown at the county fair,
where two judges disagreed about its name. The one from the priest's wall has red flesh, which nobody had told us, and makes a pink juice that the children like.

We need to decide four things before the winter. Whether to move the press, which stands in a shed that leaks, and for which the smith asks 280 for a new screw.
Whether to sell young trees: we could raise sixty a year, at eighteen each, if someone keeps the list. Whether to ask the laboratory at the college to test leaves of
the nine old trees, at 35 a sample, so that we learn the names at last. And whether to let the meadow between the rows grow until July for the bees, which halves the
mowing but makes the windfalls hard to find and brings the mice closer to the trunks.`;

const ferry = `Minutes of the ferry users, autumn meeting.

The timetable was drawn up when the sawmill still worked three shifts, and nobody has dared to touch it since. The first boat leaves the south pier at ten to five
with a crew of three and, on most mornings, two passengers. The last one leaves at twenty past nine, which is six minutes before the train from the capital comes
in; those who miss it sleep in the waiting room, for which the railway has begun to charge. In August the deck is full of bicycles, and the baker's van stays behind
one day in four. The boat itself dates from 1968. Its port engine was rebuilt two years ago for 74,000, and the starboard one has passed its inspection on the
promise that the same will be done to it before the spring after next.

Four changes were put to the meeting. The schoolteacher wants the first boat moved to half past five and the saved fuel spent on a late one on Fridays. The
shipping office would rather keep every departure and raise the fare from 3.20 to 3.80, with a card of ten for 30. The two hotels offer 12,000 a year for a boat at
noon from May to September, provided that it lands at the bathing pier, where there is a metre and a half of water at low tide; the captain says that she draws one
metre seventy. The island's doctor asked for one thing only: that the boat's night berth be on the island again, as it was until 2011, because the lifeboat took
fifty minutes to come over in January, and the ferry would have taken twenty.

A vote was held on none of it. The chair will ask the county whether the subsidy of 210,000 may be spent on a timetable that leaves a departure out.`;

export interface Conversation {
  /** First message of the user: long, so that there is something to reuse. */
  readonly opening: string;
  /** Second message. */
  readonly followUp: string;
}

const lighthouseTalk: Conversation = {
  opening: `${lighthouse}\n\nWhich proposal fits the grant, and what does it leave open?`,
  followUp: "And what would the pilots say to that?",
};

const orchardTalk: Conversation = {
  opening: `${orchard}\n\nWhich of the four decisions pays for itself, and why?`,
  followUp: "And which one would you put off?",
};

const filler = "A few words to fill one block of the cache and a little more. ".repeat(8);

const ferryTalk: Conversation = {
  opening: `${ferry}\n\nWhich of the four changes costs the county nothing, and why?`,
  followUp: "And which one would the captain refuse?",
};

/** Of about the same length and with nothing in common from the first word on, so that no conversation finds what another one has left. */
export const conversations: readonly [Conversation, Conversation, Conversation] = [lighthouseTalk, orchardTalk, ferryTalk];

/** Longer than one block, so that a replica's first event tells its block size and hashes; different for each replica and try. */
export function warmUpText(replica: number, attempt: number): string {
  return `Warm-up ${attempt} of replica ${replica}. ${filler}`;
}

/** Longer than one block: a shorter prompt has nothing to look up and goes by load. */
export const routerWarmUpText = `Warm-up of the router. ${filler}`;
