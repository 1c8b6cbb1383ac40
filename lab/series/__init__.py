"""`fab drill --runs N`: the same trouble again and again on one pair of hosts, each run measured and judged alone."""
