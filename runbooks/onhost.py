"""The doors of a host that fails over by itself: its own verbs without SSH, its own keys, the pilot's token.

A host can't log in to the other one, on purpose: whoever takes over one must not have both. So nothing here asks the
old primary anything; what is known of it comes from the lease and from the cloud.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from time import CLOCK_BOOTTIME, clock_gettime
from typing import Any, NoReturn, TypeVar

from lifeline.cloud import Cloud, DigitalOcean, PowerState, RecordValue
from lifeline.errors import BadConfig, LifelineError, Refused, StepFailed, Unavailable
from lifeline.hosts import HOST_TOOL, Progress, Remote, Result, local, read_answer
from lifeline.inventory import Loaded
from lifeline.journal import SystemClock
from lifeline.layout import Config
from lifeline.model import Host, Inventory, Key, Lease, Record
from lifeline.names import Names
from lifeline.outside import Outside
from runbooks.doors import LeaseDoor, VaultDoor
from runbooks.site import Site

T = TypeVar("T")
_NO_TOKEN = "this host holds no token for the cloud's API"


def site_on(config: Config, watched: Lease | None = None, quiet_since: float | None = None) -> Site:
    """The site as this host sees it. ``watched``: the lease as the agent saw it unchanged since ``quiet_since``
    (seconds of CLOCK_BOOTTIME): only that one is taken over."""
    inventory, me = config.inventory, config.name
    own = inventory.host(me)
    return Site(
        root=config.layout.state / "pilot",
        loaded=Loaded(inventory, f"{me}'s own copy"),
        hosts=OwnHosts(inventory, me),
        cloud=_cloud(config),
        leases=WatchedLease(inventory, _key(own.offsite_key, me), f"pilot:{me}", watched),
        vault=VaultDoor(inventory, _key(own.vault_key, me)),
        outside=Outside(inventory.record.fqdn, partial(Names, resolvers=inventory.dns.resolvers)),
        clock=BootClock(),
        quiet_since=quiet_since,
        attended=False,
    )


class BootClock(SystemClock):
    """Its seconds go on while the machine is suspended, as the lease's do."""

    def monotonic(self) -> float:
        return clock_gettime(CLOCK_BOOTTIME)


class OwnHosts:
    """This host by its verbs; the other one can't be asked."""

    def __init__(self, inventory: Inventory, me: str) -> None:
        self._remotes: dict[str, Remote] = {
            host.name: OwnRemote(host) if host.name == me else OtherRemote(host, me) for host in inventory.hosts
        }

    def __getitem__(self, name: str) -> Remote:
        return self._remotes[name]

    def each(self, names: Iterable[str], job: Callable[[Remote], T]) -> dict[str, T | LifelineError]:
        """One after the other: here there is one that answers."""
        answers: dict[str, T | LifelineError] = {}
        for name in names:
            try:
                answers[name] = job(self[name])
            except LifelineError as error:
                answers[name] = error
        return answers

    def close(self) -> None:
        """Nothing is open."""


class OwnRemote:
    """This very host: what runbooks do over SSH is a process here."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def run(
        self, argv: Sequence[str], *, input: bytes | None = None, timeout: float = 60.0, check: bool = True
    ) -> Result:
        plain = list(argv)[2:] if list(argv[:2]) == ["sudo", "-n"] else list(argv)  # we are root
        result = local(plain, input=input, timeout=timeout)
        if check and result.code != 0:
            raise StepFailed(f"{self.host.name}: {plain[0]} failed: {result.last_words}")
        return result

    def verb(self, verb: str, *args: str, timeout: float = 60.0) -> dict[str, Any]:
        return read_answer(self.host.name, verb, self.run([HOST_TOOL, verb, *args], timeout=timeout, check=False))

    def put(self, local: Path, remote: str, progress: Progress | None = None) -> None:
        raise BadConfig("a host ships no files to itself")

    def get(self, remote: str, local: Path, progress: Progress | None = None) -> None:
        raise BadConfig("a host fetches no files from itself")


class OtherRemote:
    """The other host: not reachable from here."""

    def __init__(self, host: Host, me: str) -> None:
        self.host = host
        self._me = me

    def run(self, *_: Any, **__: Any) -> NoReturn:
        raise Unavailable(f"{self._me} has no key to {self.host.name}, on purpose", hint="fab reprotect")

    verb = put = get = run


class WatchedLease(LeaseDoor):
    """Takes over the lease as it was watched, and no later renewal of it: a holder that renews lives."""

    def __init__(self, inventory: Inventory, key: Callable[[], Key], taken_by: str, watched: Lease | None) -> None:
        super().__init__(inventory, key, taken_by)
        self._watched = watched

    def depose(self, holder: str, over: Lease, run_id: str) -> Lease:
        """Epoch N+1 for ``holder``; Refused unless the lease is still what was watched, or was released."""
        watched = self._watched
        if over.ttl_s and watched is None:
            raise Refused("this host didn't watch the lease run out: it takes none over", hint="fab failover")
        renewal = over.renewal if watched is None else watched.renewal
        epoch = over.epoch if watched is None else watched.epoch
        taken = self.leases.take(self.claim(holder, run_id), over=epoch, renewal=renewal).lease
        assert taken is not None
        return taken


class NoCloud:
    """A cloud whose API isn't ours to use: everything is Unavailable, so nothing that needs it counts as proved."""

    def _refuse(self, *_: Any) -> NoReturn:
        raise Unavailable(_NO_TOKEN, hint="export LIFELINE_PILOT_TOKEN_FILE=…, then fab provision")

    def power_state(self, droplet_id: str) -> PowerState:
        self._refuse()

    def power_off(self, droplet_id: str) -> None:
        self._refuse()

    def power_on(self, droplet_id: str) -> None:
        self._refuse()

    def droplet_id(self, name: str) -> str | None:
        self._refuse()

    def record(self, record: Record) -> RecordValue:
        self._refuse()

    def set_record(self, record: Record, address: str) -> None:
        self._refuse()

    def has_spaces_key(self, access_key: str) -> bool:
        self._refuse()

    def delete_spaces_key(self, access_key: str) -> None:
        self._refuse()

    def uptime(self, check_id: str) -> dict[str, str]:
        self._refuse()

    def not_closed(self, droplet_id: str, host: str) -> str:
        self._refuse()

    def close(self, droplet_id: str, host: str) -> None:
        self._refuse()

    def reopen(self, droplet_id: str, host: str) -> bool:
        self._refuse()

    def has_closing(self, host: str) -> bool:
        self._refuse()


def _cloud(config: Config) -> Cloud:
    try:
        token = config.layout.pilot_token.read_text().strip()
    except OSError:
        token = ""
    if not token:
        return NoCloud()
    os.environ.setdefault("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")  # whom this machine trusts
    return DigitalOcean(config.inventory.cloud_api, token)


def _key(key: Key | None, me: str) -> Callable[[], Key]:
    def found() -> Key:
        if key is None:
            raise BadConfig(f"the inventory on {me} holds no key for it", hint="fab provision")
        return key

    return found
