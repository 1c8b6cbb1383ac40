"""What can go wrong, one function a fault. Each is what happens in life, not a request to anybody's API.

python -m lab.faults                    # what there is
python -m lab.faults cut_region nyc3 aws
python -m lab.faults heal
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable

from lab import config, harm, network, registry
from lab.config import LabConfig
from lab.find import droplet as find_droplet
from lab.find import running
from lab.processes import Group
from lifeline.errors import BadInput, LifelineError

# Everything a region can be cut off from, beside the other regions. A place is a set of addresses.
PLACES: dict[str, str] = {
    "api": config.API_ADDRESS,
    "aws": ", ".join((config.AWS_S3_ADDRESS, config.AWS_IAM_ADDRESS, *config.ROUTE53_ADDRESSES)),
    "dns": ", ".join(config.NAME_SERVERS.values()),
    "spaces": ", ".join(region.spaces for region in config.REGIONS.values()),
    "operator": f"{config.OPERATOR_ADDRESS}, {config.PROXY_ADDRESS}",
    "world": "198.18.100.2-198.18.100.254",
    **{slug: region.subnet for slug, region in config.REGIONS.items()},
}


# --- networks --------------------------------------------------------------------------------------------------------


def cut_region(region: str, from_: str = "everything") -> None:
    """Drop every packet between a region and another place; connections hang, as when a cable is cut.

    ``from_``: another region, api, aws, dns, spaces (of all regions), world, operator, or everything else.
    """
    here = _region(region).subnet
    name = f"{region} from {from_}"
    if from_ == "everything":
        pairs = [f"ip saddr {here} ip daddr != {here}", f"ip daddr {here} ip saddr != {here}"]
    else:
        there = f"{{ {_place(from_)} }}"
        pairs = [f"ip saddr {here} ip daddr {there}", f"ip daddr {here} ip saddr {there}"]
    if name not in network.partitions():
        network.add_partition(name, pairs)


def heal(region: str = "", from_: str = "") -> None:
    """Undo one cut, all cuts of a region, or all cuts."""
    for name in network.partitions():
        cut, _, place = name.partition(" from ")
        if region in ("", cut) and from_ in ("", place):
            network.remove_partition(name)


# --- droplets --------------------------------------------------------------------------------------------------------


def power_cut(droplet: str) -> None:
    """The plug is pulled: all processes die at once, nothing is flushed. The cloud's API shows "off"."""
    machines, droplet_id = find_droplet(droplet)
    machines.power_off(droplet_id)


def power_back(droplet: str) -> None:
    """The plug is put back: a zombie boots from the disk as it was."""
    machines, droplet_id = find_droplet(droplet)
    machines.power_on(droplet_id)


def freeze(droplet: str) -> None:
    """Every process stops where it is (a hypervisor's pause). The network takes packets; the API says active."""
    running(droplet).freeze(True)


def thaw(droplet: str) -> None:
    """Let a frozen droplet go on, with no idea that time has passed."""
    running(droplet).freeze(False)


# --- services of the clouds ------------------------------------------------------------------------------------------


def service_down(name: str) -> None:
    """Kill a service: api, aws, store-aws, dns, proxy, store-nyc3 … It stays away until `fab lab.up`."""
    _service(name).kill()


def service_hang(name: str) -> None:
    """Stop a service where it is: connections are accepted and never answered."""
    _service(name).freeze(True)


def service_resume(name: str) -> None:
    """End `service_hang`."""
    _service(name).freeze(False)


def api_down() -> None:
    """DigitalOcean's control plane is gone; droplets, Spaces and DNS go on."""
    service_down("api")


def spaces_down(region: str) -> None:
    """A region's Spaces are gone."""
    service_down(f"store-{_region(region).slug}")


def aws_down() -> None:
    """AWS S3 is gone, and with it the lease."""
    service_down("store-aws")


def dns_down() -> None:
    """Nobody answers for the domain any more."""
    service_down("dns")


def delegate(domain: str, *servers: str) -> None:
    """The registrar sends the world to other name servers for a domain; to nobody when none is named."""
    registry.astray(LabConfig.load(config.state_dir() / "lab.json"), domain, servers)


def delegate_back() -> None:
    """End `delegate`."""
    registry.mended(LabConfig.load(config.state_dir() / "lab.json"))


# --- how -------------------------------------------------------------------------------------------------------------


def _region(slug: str) -> config.Region:
    if slug not in config.REGIONS:
        raise BadInput(f"no region {slug!r} in the lab", hint=f"one of {', '.join(config.REGIONS)}")
    return config.REGIONS[slug]


def _place(name: str) -> str:
    if name not in PLACES:
        raise BadInput(f"a region can't be cut off from {name!r}", hint=f"one of {', '.join(PLACES)}, everything")
    return PLACES[name]


def _service(name: str) -> Group:
    group = Group(name)
    if not group.path.is_dir() or (name.startswith("d") and name[1:].isdigit()):
        raise BadInput(f"the lab runs no service {name!r}", hint="fab lab.status lists them")
    return group


def all_faults() -> dict[str, Callable[..., None]]:
    """Every fault by its name."""
    found = {}
    for module in (sys.modules[__name__], harm):
        for name, value in vars(module).items():
            if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_"):
                found[name] = value
    return {name: fault for name, fault in found.items() if name not in ("all_faults", "main")}


def _usage(name: str, fault: Callable[..., None]) -> str:
    parameters = inspect.signature(fault).parameters.values()
    words = [
        p.name.strip("_").upper() if p.default is p.empty else f"[{p.name.strip('_').upper()}]" for p in parameters
    ]
    return " ".join([name, *words])


def main(argv: list[str]) -> int:
    """Inject one fault from the command line."""
    faults = all_faults()
    if not argv or argv[0] not in faults:
        for name, fault in faults.items():
            print(f"{_usage(name, fault)}\n    {(fault.__doc__ or '').splitlines()[0]}")
        return 0 if not argv else BadInput.exit_code
    name, *arguments = argv
    try:
        inspect.signature(faults[name]).bind(*arguments)
    except TypeError:
        print(f"usage: python -m lab.faults {_usage(name, faults[name])}", file=sys.stderr)
        return BadInput.exit_code
    try:
        faults[name](*arguments)
    except LifelineError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    print(json.dumps({"fault": argv[0], "arguments": argv[1:]}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
