"""The lab's life: up, status, env, down. Whatever state it finds, `up` ends in a running lab and `down` in no lab."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from lab import config, disks, network, parts, shell
from lab.config import LabConfig
from lab.machines import NspawnMachines, forget, group_of
from lab.processes import Group, groups, remove_all
from lab.providers import choice
from lab.servers import Server, tidy
from lifeline.errors import LifelineError, Refused, StepFailed, Unavailable
from toolchain import apt, image, pulumi

Say = Callable[[str], None]
# Everything a lab puts into its state folder. `down` removes these and nothing else, wherever $LIFELINE_LAB points.
_FOLDERS = (
    "machines",
    "snapshots",
    "stores",
    "api",
    "aws",
    "proxy",
    "registry",
    "resolvers",
    "providers",
    "operator",
    "tls",
    "pulumi-backend",
    "world",
)
_FILES = ("lab.json", "lab.new")


@dataclass(frozen=True)
class PartStatus:
    """One process group of the lab."""

    name: str
    state: str  # "up", "not answering", "down"
    where: str
    memory_mb: float


@dataclass(frozen=True)
class DropletStatus:
    """One host."""

    id: int
    name: str
    region: str
    address: str
    state: str  # "active", "off"
    memory_mb: float


@dataclass(frozen=True)
class Status:
    """All that runs. Memory is proportional set size: what would be freed without the lab."""

    state: Path
    parts: tuple[PartStatus, ...]
    droplets: tuple[DropletStatus, ...]
    cuts: tuple[str, ...]
    providers: str  # "real" or "lab"

    @property
    def memory_mb(self) -> float:
        return sum(part.memory_mb for part in self.parts) + sum(droplet.memory_mb for droplet in self.droplets)

    @property
    def healthy(self) -> bool:
        return bool(self.parts) and all(part.state == "up" for part in self.parts)

    def __str__(self) -> str:
        """A table for people."""
        rows = [(part.name, part.state, part.where, part.memory_mb) for part in self.parts]
        rows += [(d.name, d.state, f"{d.address} ({d.region}, droplet {d.id})", d.memory_mb) for d in self.droplets]
        lines = [f"{name:24} {state:14} {memory:6.0f} MB  {where}" for name, state, where, memory in rows]
        lines += [f"cut off: {cut}" for cut in self.cuts]
        kind = "stand-ins" if self.providers == "lab" else "the real plugins"
        return "\n".join([*lines, f"in {self.state}; {self.memory_mb:.0f} MB in all; Pulumi providers: {kind}"])


def up(say: Say = print) -> LabConfig:
    """Start the lab, or repair what died; a complete one is left alone. Returns when every part answers."""
    require_root()
    choice.mode()  # a mistake in it is told before anything starts
    started = time.monotonic()
    apt.ensure()
    image.ensure()
    tools = pulumi.ensure()
    with _exclusive():
        _refuse_another_lab()
        if not (config.state_dir() / "lab.json").exists():
            _clear(keep_logs=True)  # processes of a lab whose folder was deleted hold credentials that nobody has
        lab = LabConfig.ensure()
        shell.prepare(lab)
        network.up()
        _start_all(lab, tools, say)
    say(f"lab: up in {time.monotonic() - started:.1f} s, in {lab.state}")
    return lab


def env(*, download: bool = False) -> dict[str, str]:
    """Variables of a shell for the running lab."""
    lab = _running()
    return shell.environment(lab, pulumi.ensure(), _debug_providers(lab))


def env_script() -> str:
    """What ``eval "$(fab lab.env)"`` evaluates."""
    lab = _running()
    return shell.script(lab, env())


def status() -> Status:
    """What really runs; asks every part."""
    lab = _running()
    require_root()
    servers = parts.servers(lab)
    listed = [_part_status(server.name, server.ready) for server in servers]
    if Group("providers").path.is_dir():
        listed.append(_part_status("providers", parts.providers(lab, [], {"PATH": ""}).ready))
    machines = NspawnMachines(lab.state, image.path())
    return Status(
        state=lab.state,
        parts=tuple(listed),
        droplets=tuple(_droplet_status(machines, droplet_id) for droplet_id in machines.ids()),
        cuts=tuple(network.partitions()),
        providers="lab" if _debug_providers(lab) else "real",
    )


def down(*, keep_logs: bool = False, say: Say = print) -> None:
    """Leave nothing: processes, mounts, namespaces, interfaces, tables, files. Works on any remains of any lab."""
    require_root()
    with _exclusive():
        _clear(keep_logs=keep_logs)
    say("lab: down")


# --- up --------------------------------------------------------------------------------------------------------------


def _start_all(lab: LabConfig, tools: Path, say: Say) -> None:
    """Start every part at once; all failures are told, not only the first."""
    variables = shell.environment(lab, tools)

    def start(server: Server) -> bool:
        return parts.start(server, parts.log_of(lab, server.name))

    with ThreadPoolExecutor(max_workers=12) as pool:
        jobs: dict[str, Future[bool]] = {}
        for server in (*parts.stores(lab), *parts.names(lab)):
            jobs[server.name] = pool.submit(start, server)
        jobs["providers"] = pool.submit(_start_providers, lab, variables, say)
        jobs["stack"] = pool.submit(_init_stack, lab, variables)
        wait([jobs[server.name] for server in parts.stores(lab)])
        for server in parts.clouds(lab):
            jobs[server.name] = pool.submit(start, server)
    _tell(jobs, lab, say)


def _tell(jobs: dict[str, Future[bool]], lab: LabConfig, say: Say) -> None:
    failures = [error for error in (job.exception() for job in jobs.values()) if error is not None]
    for error in failures:
        if not isinstance(error, LifelineError | RuntimeError | OSError):
            raise error  # a defect
    if len(failures) == 1 and isinstance(failures[0], Unavailable):
        raise failures[0]  # it has its own next step
    if failures:
        details = "\n".join(str(getattr(error, "message", error)) for error in failures)
        raise StepFailed(f"the lab is not up\n{details}", hint=f"less {lab.logs}/*.log; fab lab.down")
    fresh = sorted(name for name, job in jobs.items() if job.result())
    say(f"lab: started {', '.join(fresh)}" if fresh else "lab: everything was running")


def _start_providers(lab: LabConfig, variables: dict[str, str], say: Say) -> bool:
    choices = choice.available(variables, wanted=choice.mode(), say=say)
    packages = [name for name, chosen in choices.items() if chosen == "lab"]
    if not packages:
        Group("providers").remove()
        parts.attach_file(lab).unlink(missing_ok=True)
        return False
    asked = choice.mode() == "lab"
    why = f"{choice.MODE_VARIABLE}=lab" if asked else "the real plugins can't be had here"
    say(f"lab: stand-ins for the Pulumi providers {', '.join(packages)}: {why}")
    server = parts.providers(lab, packages, variables)
    if parts.stood_in(lab) != set(packages):
        parts.stop(server)
    return parts.start(server, parts.log_of(lab, "providers"))


def _init_stack(lab: LabConfig, variables: dict[str, str]) -> bool:
    shell.init_stack(lab, variables)
    return False


def _debug_providers(lab: LabConfig) -> str:
    file = parts.attach_file(lab)
    return file.read_text().strip() if file.exists() else ""


# --- status ----------------------------------------------------------------------------------------------------------


def _part_status(name: str, ready: Callable[[], bool]) -> PartStatus:
    group = Group(name)
    state = "down" if not group.alive() else "up" if ready() else "not answering"
    return PartStatus(name, state, _ADDRESSES.get(name, ""), group.memory_bytes() / 1e6)


_ADDRESSES = {
    "api": f"https://{config.API_ADDRESS}, and http",
    "aws": f"http://{config.AWS_IAM_ADDRESS}",
    "store-aws": f"http://{config.AWS_S3_ADDRESS}",
    "dns": f"{config.DNS_ADDRESS}:{config.DNS_PORT}, .54, .55",
    "registry": f"{config.REGISTRY_ADDRESS}:{config.DNS_PORT}",
    "route53": f"{', '.join(config.ROUTE53_ADDRESSES)}:{config.DNS_PORT}",
    "resolver": f"{config.RESOLVER_ADDRESS}:{config.DNS_PORT}",
    "resolver-bad": f"{config.BAD_RESOLVER_ADDRESS}:{config.DNS_PORT}",
    "proxy": f"http://{config.PROXY_ADDRESS}:{config.PROXY_PORT}",
    **{f"store-{slug}": f"http://{region.spaces_name} ({region.spaces})" for slug, region in config.REGIONS.items()},
}


def _droplet_status(machines: NspawnMachines, droplet_id: int) -> DropletStatus:
    spec = machines.spec(droplet_id)
    public = next((nic.address for nic in spec.interfaces if nic.kind == "public"), "")
    memory = Group(group_of(droplet_id)).memory_bytes() / 1e6
    return DropletStatus(droplet_id, spec.name, spec.region, public, machines.status(droplet_id), memory)


# --- down ------------------------------------------------------------------------------------------------------------


def _clear(*, keep_logs: bool) -> None:
    """Processes first: they hold everything else."""
    state = _state_of_running_lab() or config.state_dir()
    remove_all()
    for where in [*disks.all_mounts(), *disks.mounts_below(state)]:
        disks.unmount(Path(where))
    forget()
    network.down()
    nobody = config.KeyPair("", "")  # what servers leave behind doesn't depend on credentials, which may be lost
    for server in parts.servers(LabConfig(state, "", "", nobody, nobody)):
        tidy(server)
    _remove_state(state, keep_logs=keep_logs)


def _remove_state(state: Path, *, keep_logs: bool) -> None:
    for name in (*_FOLDERS, *([] if keep_logs else ["logs"])):
        disks.remove(state / name)
    for name in _FILES:
        (state / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not there, or it holds what isn't ours
        state.rmdir()


# --- which lab -------------------------------------------------------------------------------------------------------


def _running() -> LabConfig:
    return LabConfig.load(config.state_dir() / "lab.json")


def _refuse_another_lab() -> None:
    other = _state_of_running_lab()
    if other and other != config.state_dir().absolute() and (other / "lab.json").exists():
        raise Refused(
            f"another lab is up, in {other}: the addresses are taken", hint=f"LIFELINE_LAB={other} fab lab.down"
        )


def _state_of_running_lab() -> Path | None:
    """Read from the command line of its name server: true also when folders were deleted."""
    for pid in Group("dns").pids():
        with contextlib.suppress(OSError, ValueError):
            argv = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            return Path(argv[argv.index("--config") + 1]).parent
    return None


def require_root() -> None:
    """Unavailable for anybody else."""
    if os.geteuid() != 0:
        raise Unavailable("the lab needs root: it makes network namespaces and mounts", hint="the same command as root")


@contextlib.contextmanager
def _exclusive() -> Iterator[None]:
    """One `up` or `down` at a time on this machine."""
    with Path(__file__).open() as lock:  # leaves nothing behind
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def remains() -> list[str]:
    """What a lab would have left on this machine; empty after `down`."""
    found = [f"processes {group.name}" for group in groups()]
    found += [f"mount {where}" for where in disks.all_mounts()]
    found += [f"namespace {name}" for name in network.namespaces()]
    found += [f"interface {name}" for name in network.links()]
    if shutil.which("nft") and network.table_exists(network.TABLE):
        found.append(f"nft table {network.TABLE}")
    return found
