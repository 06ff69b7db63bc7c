"""A grid of runs: what is planned, what is done, and the local processes that do it."""
