"""systemd on a host: the units of what must run whatever becomes of supervisor (pure), and the door to it.

Supervisor runs what needs a lease. What guards the lease is run by process 1: the agent, and the deadman behind it.
Both start before supervisor, so a shutdown ends them only after everything they guard.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from lifeline import deadman, proc
from lifeline.errors import StepFailed
from lifeline.layout import Config, Layout, read_json, write_file

AGENT, DEADMAN = "lifeline-agent.service", "lifeline-deadman.service"

# A hung process is killed at once: a core dump of it would cost the seconds in which its successor can still renew.
_AGENT = """\
[Unit]
Description=Lifeline: the lease, the fence, the commit barrier
Wants={deadman}
After=network.target {deadman}
Before=supervisor.service
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart={program}
Environment=LIFELINE_RELEASE={release} LIFELINE_INVENTORY={inventory}
WatchdogSec={watchdog}
WatchdogSignal=SIGKILL
Restart=always
RestartSec=200ms
RestartSteps=5
RestartMaxDelaySec=5s
TimeoutStartSec=30
TimeoutStopSec=5
OOMScoreAdjust=-900
CPUWeight=1000
IOWeight=1000
StandardOutput=append:/var/log/supervisor/lifeline-agent.log
StandardError=inherit

[Install]
WantedBy=multi-user.target
"""

_DEADMAN = """\
[Unit]
Description=Lifeline: kills what needs the lease when it has run out and the agent has not acted
Before=supervisor.service
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart=/usr/bin/python3 -I -S {script} {run} {group}
WatchdogSec=2
WatchdogSignal=SIGKILL
Restart=always
RestartSec=100ms
TimeoutStopSec=2
OOMScoreAdjust=-1000
LimitMEMLOCK=infinity
CPUWeight=10000
Nice=-20

[Install]
WantedBy=multi-user.target
"""

# Debian's unit leaves the programs running when supervisor dies, where nobody can stop them, and waits 50 s to start
# anew. And one program that runs out of memory is supervisor's to restart, no reason to stop all.
_SUPERVISOR = """\
[Unit]
StartLimitIntervalSec=0

[Service]
KillMode=mixed
Restart=always
RestartSec=1
OOMPolicy=continue
"""

# Supervisor turns over its own logs; this one it doesn't write.
_LOGROTATE = """\
/var/log/supervisor/lifeline-agent.log {
    size 5M
    rotate 3
    copytruncate
    missingok
    notifempty
}
"""


class Systemd:
    """systemd of this host."""

    def reload(self) -> None:
        """Take over changed unit files."""
        _systemctl("daemon-reload")

    def restart(self, units: Iterable[str]) -> None:
        """Start them at every boot, and now, anew; returns when they say that they are ready."""
        units = list(units)
        _systemctl("enable", "--quiet", *units)
        _systemctl("restart", *units)


def _systemctl(*words: str) -> None:
    try:
        proc.check(["systemctl", *words], timeout=60)
    except StepFailed as error:
        raise StepFailed(
            f"systemctl {' '.join(words)}: {error.message}", hint="on that host: journalctl -b -u 'lifeline-*'"
        ) from None


def files(config: Config) -> Mapping[Path, str]:
    """Every file that makes agent and deadman what they are. Release and inventory are in the agent's unit, so that new
    ones restart it."""
    layout = config.layout
    return {
        layout.deadman: Path(deadman.__file__).read_text(),
        layout.units / DEADMAN: _DEADMAN.format(script=layout.deadman, run=layout.run, group=layout.supervisor_group),
        layout.units / AGENT: _AGENT.format(
            program=layout.bin / "lifeline-agent",
            release=config.release,
            inventory=hashlib.sha256(json.dumps(config.inventory.to_json(), sort_keys=True).encode()).hexdigest()[:16],
            deadman=DEADMAN,
            watchdog=watchdog_s(config.inventory.policy.lease_ttl_s),
        ),
        layout.units / "supervisor.service.d/lifeline.conf": _SUPERVISOR,
        layout.root / "etc/logrotate.d/lifeline-agent": _LOGROTATE,
    }


def watchdog_s(ttl_s: float) -> int:
    """How long the agent may hang: its successor starts in a second or two, and should renew before the lease ends."""
    return max(4, round(ttl_s / 6))


def apply(config: Config, units: Systemd) -> list[str]:
    """Write what differs and restart what runs of it; the service goes on. Returns the paths that changed.

    What was taken over is noted after it was: a run that is cut off between the two is made good by the next.
    """
    wanted = files(config)
    digests = {str(path): hashlib.sha256(text.encode()).hexdigest() for path, text in wanted.items()}
    noted = config.layout.state / "units.json"
    before = read_json(noted) or {}
    changed = [path for path, text in wanted.items() if write_file(path, text, mode=0o644)]
    pending = {path for path in wanted if path in changed or before.get(str(path)) != digests[str(path)]}
    if pending:
        units.reload()
        restart = [unit for unit, made_of in _made_of(config.layout).items() if pending & made_of]
        if restart:
            units.restart(restart)
        write_file(noted, json.dumps(digests))
    return [str(path) for path in wanted if path in pending]


def _made_of(layout: Layout) -> dict[str, set[Path]]:
    """The deadman first: the agent isn't to serve a moment without it."""
    return {DEADMAN: {layout.deadman, layout.units / DEADMAN}, AGENT: {layout.units / AGENT}}
