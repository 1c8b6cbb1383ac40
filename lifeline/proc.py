"""Local commands on a host: argv in, result out. The one place where host-side code starts a process.

`hosts.py` is the door to *other* machines and needs Fabric; a droplet has neither Fabric nor a need for it.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lifeline.errors import StepFailed

# A CA bundle in the environment is fatal to Litestream, and a droplet must never wait for the metadata service for
# credentials.
_UNSET = ("AWS_CA_BUNDLE",)
_SET = {"AWS_EC2_METADATA_DISABLED": "true"}


@dataclass(frozen=True)
class Done:
    """A finished command. `stderr` is what an operator should see when `code` isn't 0."""

    argv: tuple[str, ...]
    code: int
    stdout: str
    stderr: str

    @property
    def ok(self) -> bool:
        return self.code == 0

    @property
    def reason(self) -> str:
        """The last words of the command: one line, never empty."""
        lines = [line.strip() for line in (self.stderr or self.stdout).splitlines() if line.strip()]
        return lines[-1] if lines else f"exit code {self.code}"


def child_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of every child: ours, less what breaks Litestream, plus `extra`."""
    env = {key: value for key, value in os.environ.items() if key not in _UNSET}
    return {**env, **_SET, **(extra or {})}


def run(argv: Sequence[str], *, timeout: float, env: Mapping[str, str] | None = None, stdin: str | None = None) -> Done:
    """Run to the end or to the deadline (seconds). A non-zero exit is a result, not an exception; a missing program
    or a deadline is one."""
    try:
        done = subprocess.run(
            list(argv),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=child_environment(env),
            check=False,
        )
    except FileNotFoundError:
        raise StepFailed(f"{argv[0]} is not installed on this host", hint="fab provision") from None
    except subprocess.TimeoutExpired:
        raise StepFailed(f"{argv[0]} ran longer than {timeout:.0f} s and was stopped") from None
    return Done(tuple(argv), done.returncode, done.stdout, done.stderr)


def check(
    argv: Sequence[str], *, timeout: float, env: Mapping[str, str] | None = None, stdin: str | None = None
) -> Done:
    """Like `run`, but a non-zero exit raises StepFailed with the command's last words."""
    done = run(argv, timeout=timeout, env=env, stdin=stdin)
    if not done.ok:
        raise StepFailed(f"{argv[0]}: {done.reason}")
    return done
