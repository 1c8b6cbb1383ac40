"""What the operator of a lab holds: keys, passphrases, an empty Pulumi backend, and the environment of their shell."""

from __future__ import annotations

import os
import secrets
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from lab import config, tls
from lab.config import LabConfig
from lab.network import run
from lifeline.errors import StepFailed

CHECKOUT = Path(__file__).resolve().parent.parent
STACK = "lab"
# Public on purpose. Pulumi writes a salt that fits the passphrase into the stack file, which is part of the checkout,
# so both are fixed: a drawn passphrase would change the checkout at every lab. It guards nothing but a lab's own state.
PULUMI_PASSPHRASE = "lifeline-lab"
_DIRECT = ("localhost", "127.0.0.1", "::1", config.API_ADDRESS, config.AWS_S3_ADDRESS, config.AWS_IAM_ADDRESS)


def prepare(lab: LabConfig) -> None:
    """Draw what isn't there yet; what is there stays."""
    folder = lab.ssh_key.parent
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    lab.pulumi_backend.mkdir(parents=True, exist_ok=True, mode=0o700)
    tls.ensure(lab.tls, (config.API_ADDRESS,))
    _keep(lab.seed_file, secrets.token_hex(32))
    _keep(lab.passphrase_file, secrets.token_urlsafe(32))
    _keep(lab.pilot_token_file, lab.pilot_token)
    _keep(lab.pulumi_passphrase_file, PULUMI_PASSPHRASE)
    if not lab.ssh_key.exists():
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "operator@lifeline-lab", "-f", str(lab.ssh_key)])
    lab.ssh_config.write_text(_ssh_config(lab))


def init_stack(lab: LabConfig, variables: Mapping[str, str]) -> None:
    """Create the stack in the lab's own backend, unless it is there."""
    if any(lab.pulumi_backend.glob(f".pulumi/stacks/*/{STACK}.json")):
        return
    argv = ["pulumi", "stack", "init", STACK, "--non-interactive", "--color=never"]
    program = Path(variables["PATH"].split(os.pathsep)[1], "pulumi")
    argv[0] = str(program) if program.exists() else argv[0]
    done = subprocess.run(
        argv, cwd=CHECKOUT, env=dict(variables), capture_output=True, text=True, check=False, timeout=60
    )
    if done.returncode:
        raise StepFailed(
            f"pulumi stack init {STACK} failed:\n{done.stderr[-800:]}", hint="fab lab.down, then fab lab.up"
        )


def environment(lab: LabConfig, pulumi: Path, debug_providers: str = "") -> dict[str, str]:
    """The variables of a shell for this lab, PATH and HOME included. ``pulumi`` is the folder of the CLI."""
    venv = Path(sys.prefix)
    wanted = [str(venv / "bin"), str(pulumi)]
    rest = [entry for entry in os.environ.get("PATH", os.defpath).split(os.pathsep) if entry not in wanted]
    variables = {
        "PATH": os.pathsep.join([*wanted, *rest]),
        "VIRTUAL_ENV": str(venv),
        "HOME": os.environ.get("HOME", "/root"),
        "LIFELINE_LAB": str(lab.state),
        "DIGITALOCEAN_TOKEN": lab.token,
        "DIGITALOCEAN_API_URL": f"https://{config.API_ADDRESS}",
        **dict.fromkeys(tls.VARIABLES, str(lab.tls.bundle)),
        "SPACES_ENDPOINT_URL": f"http://{{{{.Region}}}}.{config.SPACES_SUFFIX}",
        "SPACES_ACCESS_KEY_ID": lab.spaces_admin.access_key,
        "SPACES_SECRET_ACCESS_KEY": lab.spaces_admin.secret_key,
        "AWS_ACCESS_KEY_ID": lab.aws_admin.access_key,
        "AWS_SECRET_ACCESS_KEY": lab.aws_admin.secret_key,
        "AWS_REGION": config.AWS_REGION,
        "AWS_ENDPOINT_URL_S3": f"http://{config.AWS_S3_ADDRESS}",
        "AWS_ENDPOINT_URL_S3_CONTROL": f"http://{config.S3_CONTROL_NAME}",
        "AWS_ENDPOINT_URL_IAM": f"http://{config.AWS_IAM_ADDRESS}",
        "AWS_ENDPOINT_URL_STS": f"http://{config.AWS_IAM_ADDRESS}",
        "AWS_ENDPOINT_URL_ROUTE_53": f"http://{config.AWS_IAM_ADDRESS}",
        "http_proxy": f"http://{config.PROXY_ADDRESS}:{config.PROXY_PORT}",
        "no_proxy": ",".join(_DIRECT),
        "PULUMI_BACKEND_URL": f"file://{lab.pulumi_backend}",
        "PULUMI_CONFIG_PASSPHRASE_FILE": str(lab.pulumi_passphrase_file),
        "PULUMI_STACK": STACK,
        "PULUMI_HOME": str(_pulumi_home()),
        "PULUMI_SKIP_UPDATE_CHECK": "1",
        "LIFELINE_STACK": STACK,
        "LIFELINE_SSH_KEY": str(lab.ssh_key),
        "LIFELINE_SEED_FILE": str(lab.seed_file),
        "LIFELINE_PASSPHRASE_FILE": str(lab.passphrase_file),
        "LIFELINE_PILOT_TOKEN_FILE": str(lab.pilot_token_file),
        "LIFELINE_DNS": config.DNS_ADDRESS,
    }
    if debug_providers:
        variables["PULUMI_DEBUG_PROVIDERS"] = debug_providers
    return variables


def script(lab: LabConfig, variables: Mapping[str, str]) -> str:
    """The same as text for ``eval "$(fab lab.env)"``, with ``dig`` and ``ssh`` that know the lab's names and key."""
    lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items() if name != "HOME"]
    lines += [
        "unset HTTP_PROXY NO_PROXY PULUMI_CONFIG_PASSPHRASE",  # they would win over those set above
        *([] if "PULUMI_DEBUG_PROVIDERS" in variables else ["unset PULUMI_DEBUG_PROVIDERS"]),
        f'dig() {{ command dig @{config.DNS_ADDRESS} "$@"; }}',
        f'ssh() {{ command ssh -F {shlex.quote(str(lab.ssh_config))} "$@"; }}',
    ]
    return "\n".join(lines) + "\n"


def _pulumi_home() -> Path:
    """The user's own when they have plugins there; else one in the cache, so that a plugin is downloaded once."""
    own = Path(os.environ.get("PULUMI_HOME") or Path.home() / ".pulumi")
    return own if (own / "plugins").is_dir() else config.cache_dir() / "pulumi-home"


def _ssh_config(lab: LabConfig) -> str:
    """Names are looked up in the lab's DNS. Host keys are remembered for as long as the lab lives."""
    connect = Path(__file__).with_name("connect.py")
    return f"""\
Host *
  User operator
  IdentityFile {lab.ssh_key}
  IdentitiesOnly yes
  UserKnownHostsFile {lab.ssh_config.parent / "known_hosts"}
  StrictHostKeyChecking accept-new
  ProxyCommand {sys.executable} -I -S {connect} {config.DNS_ADDRESS} %h %p
  ConnectTimeout 10
"""


def _keep(file: Path, value: str) -> None:
    if not file.exists():
        partial = file.with_suffix(".new")
        partial.touch(mode=0o600)
        partial.write_text(value)
        partial.replace(file)
