"""Which kills, and when: drawn from a seed.  Pure.

The seed gives kinds, order and moments. What the machine does between them is its own, so two runs with one seed kill
alike, not identically: that is why there are many.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Literal

Kind = Literal["service", "litestream", "host", "store"]
Durability = Literal["vault", "async"]
KINDS: tuple[Kind, ...] = ("service", "litestream", "host", "store")
DURABILITIES: tuple[Durability, ...] = ("vault", "async")

A_SITE = 20  # kills that one service lives through; then the next begins with an empty vault
LONGEST_S = 1.5
OUTAGE_S = 1.0
AT_ONCE = 0.25  # of the kills: while what the last one broke is still coming back
WITH_STORE = 0.25  # of the hosts: the store dies with them
AMID_RESTORE = 0.5  # of the stores: while a restore reads from them


@dataclass(frozen=True)
class Kill:
    """One kill. `after_s`: the moment, counted from when the load flows again; from the last restore, `at_once`.

    `outage_s`: for how long the store stays away, None: it isn't killed; `amid`: a restore is running, and is this
    part of its usual time old.
    """

    number: int
    site: int
    durability: Durability
    kind: Kind
    at_once: bool
    after_s: float
    outage_s: float | None = None
    amid: float | None = None

    @property
    def label(self) -> str:
        """What is killed, in words."""
        if self.kind == "host" and self.outage_s is not None:
            return "host and store"
        if self.amid is not None:
            return "store, amid a restore"
        return self.kind


def draw(count: int, seed: int) -> list[Kill]:
    """`count` kills: half of them under each durability, each kind equally often, in random order."""
    random_ = random.Random(seed)
    kills: list[Kill] = []
    site = 0
    for durability, share in zip(DURABILITIES, (count - count // 2, count // 2), strict=True):
        kinds = list(islice(cycle(KINDS), share))
        random_.shuffle(kinds)
        for index, kind in enumerate(kinds):
            first = index % A_SITE == 0
            site += first
            kills.append(_draw(random_, len(kills) + 1, site, durability, kind, first))
    return kills


def _draw(random_: random.Random, number: int, site: int, durability: Durability, kind: Kind, first: bool) -> Kill:
    at_once = random_.random() < AT_ONCE and not first
    after_s = round(random_.uniform(0, LONGEST_S), 3)
    away = kind == "store" or (kind == "host" and random_.random() < WITH_STORE)
    amid = random_.random() if kind == "store" and random_.random() < AMID_RESTORE else None
    outage_s = round(random_.uniform(0, OUTAGE_S), 3) if away else None
    return Kill(number, site, durability, kind, at_once, after_s, outage_s, amid)
