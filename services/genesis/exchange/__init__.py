"""The exchange Genesis trades on: outside both regions, with a truth of its own, and able to misbehave."""
