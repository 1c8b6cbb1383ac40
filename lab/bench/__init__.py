"""`make bench`: what is promised in numbers, measured on this machine. What it finds is written to docs/benchmarks.md,
a section a group; nobody else writes there.

    python -m lab.bench --mb 1000 [--only restore]

A store of its own (SeaweedFS on loopback), Litestream, the reference service; no hosts: what is compared is the work,
not the network.
"""
