"""The one door to the cloud's API for runbooks: droplets' power, the record that traffic follows, Spaces keys, uptime.

Every call has a deadline and bounded retries: a control plane that is down must cost an incident seconds, not minutes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from lifeline import closing, standing
from lifeline.errors import BadConfig, Refused, Unavailable
from lifeline.model import Host, Key, Record
from lifeline.reading import one_word
from lifeline.standing import Address, Standing

if TYPE_CHECKING:
    import httpx

PowerState = Literal["new", "active", "off", "archive", "absent"]
# What a host needs to fail over by itself, as custom scopes of a personal access token: see, power off, point the
# record, take away a vault key, close a firewall, read the uptime check; and the reads that the cloud asks for with
# these.
PILOT_SCOPES = (
    *("droplet:read", "droplet:update", "domain:read", "domain:update", "spaces_key:read", "spaces_key:delete"),
    *("uptime:read", "regions:read", "sizes:read", "actions:read", "image:read"),
    *("firewall:read", "firewall:create", "firewall:update", "firewall:delete", "tag:read", "tag:create", "tag:delete"),
)
# To whom a domain must be delegated for its records here to be anybody's.
NAME_SERVERS = ("ns1.digitalocean.com", "ns2.digitalocean.com", "ns3.digitalocean.com")
DEADLINE_S = 8.0
ATTEMPT_S = 3.0


class TokenRefused(Unavailable):
    """The API answers, and doesn't take our token: no waiting will mend that."""


class NotThere(Unavailable):
    """The API answers, and has no such thing for our token."""


@dataclass(frozen=True)
class RecordValue:
    """What the record says now: an address, and for how long resolvers may keep it (seconds)."""

    address: str
    ttl: int


class Cloud(Protocol):
    """What runbooks ask of a cloud.  Everything raises Unavailable when the API can't be had."""

    def power_state(self, droplet_id: str) -> PowerState: ...
    def power_off(self, droplet_id: str) -> None: ...
    def power_on(self, droplet_id: str) -> None: ...
    def droplet_id(self, name: str) -> str | None: ...
    def record(self, record: Record) -> RecordValue: ...
    def set_record(self, record: Record, address: str) -> None: ...
    def has_spaces_key(self, access_key: str) -> bool: ...
    def delete_spaces_key(self, access_key: str) -> None: ...
    def uptime(self, check_id: str) -> Mapping[str, str]: ...
    def not_closed(self, droplet_id: str, host: str) -> str: ...
    def close(self, droplet_id: str, host: str) -> None: ...
    def reopen(self, droplet_id: str, host: str) -> bool: ...
    def has_closing(self, host: str) -> bool: ...


def sees(cloud: Cloud, host: Host) -> bool:
    """Is our token one of the account that holds this host, which is certainly there? To the token of another account
    (a team's, another customer's) all of ours is "absent", and that proves nothing."""
    return cloud.power_state(host.droplet_id) != "absent"


class DigitalOcean:
    """The real one, at ``base`` (DIGITALOCEAN_API_URL, the inventory's, or the public API)."""

    def __init__(
        self,
        base: str,
        token: str,
        *,
        deadline: float = DEADLINE_S,
        transport: httpx.BaseTransport | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        import httpx

        self._deadline = deadline
        self._monotonic = monotonic
        self._sleep = sleep
        self._client = httpx.Client(
            base_url=base,
            headers={"Authorization": f"Bearer {token}"},
            timeout=httpx.Timeout(ATTEMPT_S, connect=2.0),
            transport=transport,
        )

    @classmethod
    def from_environment(cls, api: str) -> DigitalOcean:
        """``api``: the inventory's address, unless DIGITALOCEAN_API_URL says otherwise."""
        token = os.environ.get("DIGITALOCEAN_TOKEN") or os.environ.get("DIGITALOCEAN_ACCESS_TOKEN")
        if not token:
            raise BadConfig(
                "DIGITALOCEAN_TOKEN isn't set", hint='eval "$(fab lab.env)", or export DIGITALOCEAN_TOKEN=…'
            )
        if not one_word(token):
            says = "DIGITALOCEAN_TOKEN isn't one word of ASCII: it was not copied whole"
            raise BadConfig(says, hint="export DIGITALOCEAN_TOKEN=dop_v1_… (of 64 more digits)")
        try:
            return cls(os.environ.get("DIGITALOCEAN_API_URL") or api, token)
        except OSError as error:  # the only file read here: whom to trust (a lab's goes with the lab)
            raise BadConfig(
                f"SSL_CERT_FILE={os.environ.get('SSL_CERT_FILE', '')} can't be read: {error.strerror or error}",
                hint='eval "$(fab lab.env)" when a lab is up, else unset SSL_CERT_FILE',
            ) from error

    def power_state(self, droplet_id: str) -> PowerState:
        """What the cloud says the droplet is; "absent" when there is none."""
        answer = self._call("GET", f"/v2/droplets/{droplet_id}", absent=True)
        state: PowerState = answer["droplet"]["status"] if answer else "absent"
        return state

    def power_off(self, droplet_id: str) -> None:
        """Ask for a power cut; returns when the request is accepted (poll ``power_state``)."""
        self._call("POST", f"/v2/droplets/{droplet_id}/actions", {"type": "power_off"})

    def power_on(self, droplet_id: str) -> None:
        """Ask for power; returns when the request is accepted."""
        self._call("POST", f"/v2/droplets/{droplet_id}/actions", {"type": "power_on"})

    def droplet_id(self, name: str) -> str | None:
        """The id of the droplet of that name, None when there is none; a rebuilt droplet has another id."""
        found = self._call("GET", "/v2/droplets", params={"name": name})["droplets"]
        return next((str(droplet["id"]) for droplet in found if droplet["name"] == name), None)

    def record(self, record: Record) -> RecordValue:
        """What the record says now."""
        found = self._record(record)
        return RecordValue(found["data"], int(found["ttl"]))

    def set_record(self, record: Record, address: str) -> None:
        """Point the record at an address."""
        found = self._record(record)
        body = {"type": "A", "name": record.name, "data": address, "ttl": record.ttl}
        self._call("PUT", f"/v2/domains/{record.domain}/records/{found['id']}", body)

    def has_spaces_key(self, access_key: str) -> bool:
        return self._call("GET", f"/v2/spaces/keys/{access_key}", absent=True) is not None

    def delete_spaces_key(self, access_key: str) -> None:
        """Delete the key; one that is gone already is as good."""
        self._call("DELETE", f"/v2/spaces/keys/{access_key}", absent=True)

    def add_spaces_key(self, name: str, bucket: str, permission: Literal["read", "readwrite"]) -> Key:
        """A new key to one bucket. Called again it makes another of the same name."""
        grants = [{"bucket": bucket, "permission": permission}]
        made = self._call("POST", "/v2/spaces/keys", {"name": name, "grants": grants})["key"]
        return Key(str(made["access_key"]), str(made["secret_key"]))

    def spaces_keys(self, name: str) -> list[str]:
        """The access keys of that name."""
        found = standing.listed(self._call, "/v2/spaces/keys", "keys", name=name)
        return [str(one["access_key"]) for one in found if one["name"] == name]

    def prices(self) -> dict[str, float]:
        """What a droplet of each size costs, USD an hour."""
        found = standing.listed(self._call, "/v2/sizes", "sizes")
        return {str(one["slug"]): float(one["price_hourly"]) for one in found}

    def private_ranges(self) -> list[str]:
        """The private networks that the account has; no two may overlap."""
        return [str(one["ip_range"]) for one in standing.listed(self._call, "/v2/vpcs", "vpcs")]

    def destroy(self, droplet_id: str) -> None:
        """Destroy a droplet with its disk; one that is gone already is as good."""
        self._call("DELETE", f"/v2/droplets/{droplet_id}", absent=True)

    def sweep(self, ours: Callable[[str], bool]) -> list[str]:
        """Remove what ``standing`` lists and is ours by its label; what that was."""
        return standing.sweep(self._call, ours)

    def uptime(self, check_id: str) -> Mapping[str, str]:
        """What the cloud's probes see, by region: UP, DOWN or CHECKING."""
        regions = self._call("GET", f"/v2/uptime/checks/{check_id}/state")["state"]["regions"]
        return {name: str(region["status"]) for name, region in regions.items()}

    def not_closed(self, droplet_id: str, host: str) -> str:
        """Why a droplet may be spoken with; "" when its firewall lets nothing in or out, or there is no droplet."""
        return closing.look(self._call, droplet_id, host)

    def close(self, droplet_id: str, host: str) -> None:
        """Put a droplet behind a firewall that lets nothing in or out (poll ``not_closed``)."""
        closing.close(self._call, droplet_id, host)

    def reopen(self, droplet_id: str, host: str) -> bool:
        """Give a droplet its own firewall again; False when it wasn't closed."""
        return closing.reopen(self._call, droplet_id, host)

    def has_closing(self, host: str) -> bool:
        """Did a fence close its firewall, or begin to?"""
        return closing.present(self._call, host)

    def standing(self) -> Standing:
        """What there is that a Pulumi state may know of, as it is imported."""
        return standing.in_account(self._call)

    def addresses(self, domain: str) -> list[Address]:
        """The domain's A records; none where there is no such domain."""
        return standing.addresses(self._call, domain)

    def _record(self, record: Record) -> dict[str, Any]:
        """By id; by name when the id is gone (someone made the record anew)."""
        answer = self._call("GET", f"/v2/domains/{record.domain}/records/{record.id}", absent=True)
        if answer:
            found: dict[str, Any] = answer["domain_record"]
            return found
        listed = self._call("GET", f"/v2/domains/{record.domain}/records", params={"name": record.fqdn, "type": "A"})
        for candidate in listed["domain_records"]:
            if candidate["type"] == "A" and candidate["name"] == record.name:
                return dict(candidate)
        raise Unavailable(f"the cloud has no record {record.fqdn}", hint="pulumi up --refresh")

    def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        params: Mapping[str, str] | None = None,
        absent: bool = False,
    ) -> Any:
        """The answer's JSON ({} when empty); None for a 404 with ``absent``.

        Every call of this door may be repeated (power off twice is off), so all are retried: on 429 after Retry-After,
        on 5xx and broken connections with growing pauses, until the deadline.
        """
        import httpx

        end = self._monotonic() + self._deadline
        pause = 0.2
        while True:
            wait = pause
            try:
                response = self._client.request(method, path, json=body, params=params)
            except httpx.HTTPError as error:
                problem = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            else:
                if response.status_code == 404 and absent:
                    return None
                if response.status_code != 429 and response.status_code < 500:
                    return _read(method, path, response)
                problem = _complaint(response)
                wait = max(pause, _seconds(response.headers.get("retry-after")))
            if self._monotonic() + wait >= end:
                raise Unavailable(f"the cloud's API does not answer {method} {path}: {problem}", hint="fab status")
            self._sleep(wait)
            pause = min(2 * pause, 2.0)


class ReadOnly:
    """A cloud that can be looked at: what a dry run gets."""

    def __init__(self, cloud: Cloud) -> None:
        self.power_state = cloud.power_state
        self.droplet_id = cloud.droplet_id
        self.record = cloud.record
        self.has_spaces_key = cloud.has_spaces_key
        self.uptime = cloud.uptime
        self.not_closed = cloud.not_closed
        self.has_closing = cloud.has_closing

    def power_off(self, droplet_id: str) -> None:
        raise _dry("power off a droplet")

    def power_on(self, droplet_id: str) -> None:
        raise _dry("power on a droplet")

    def set_record(self, record: Record, address: str) -> None:
        raise _dry("change a record")

    def delete_spaces_key(self, access_key: str) -> None:
        raise _dry("delete a key")

    def close(self, droplet_id: str, host: str) -> None:
        raise _dry("close a firewall")

    def reopen(self, droplet_id: str, host: str) -> bool:
        raise _dry("open a firewall")


def _dry(what: str) -> Refused:
    return Refused(f"a dry run may not {what}")


def _read(method: str, path: str, response: httpx.Response) -> Any:
    if response.status_code in (401, 403):
        kind = TokenRefused if response.status_code == 401 else Unavailable
        raise kind("the cloud's API refuses our token", hint="check DIGITALOCEAN_TOKEN")
    if response.status_code >= 400:
        other = NotThere if response.status_code == 404 else Unavailable
        raise other(f"the cloud's API refuses {method} {path}: {_complaint(response)}")
    return response.json() if response.content else {}


def _complaint(response: httpx.Response) -> str:
    try:
        body = response.json()
        return f"{response.status_code} {body['message']} (request {body.get('request_id', 'unknown')})"
    except (ValueError, KeyError, TypeError):
        return f"{response.status_code} {response.reason_phrase}"


def _seconds(header: str | None) -> float:
    try:
        return float(header or 0)
    except ValueError:
        return 0.0
