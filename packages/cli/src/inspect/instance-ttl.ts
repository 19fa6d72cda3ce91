/** Routers that have been silent for longer are shown no more; what they said expires about then. */
export const instanceTtlMs = 60_000;
