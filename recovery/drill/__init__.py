"""A rehearsal of the whole recovery beside the live state, and the comparison with it."""
