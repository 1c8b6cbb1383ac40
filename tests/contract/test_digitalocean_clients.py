"""Clients that people use against the simulated API: pydo, and doctl and terraform where they are installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from azure.core.exceptions import HttpResponseError
from pydo import Client

from lab.tls import VARIABLES, TlsFiles
from tests.contract.digitalocean_lab import TOKEN, served
from tests.contract.digitalocean_tour import KEY

DROPLET = {"name": "web", "region": "nyc3", "size": "s-1vcpu-1gb", "image": "debian-13-x64", "tags": ["web"]}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Over TLS, without which pydo sends no token, in a shell that trusts as `fab lab.env` makes it."""
    tls = TlsFiles(tmp_path_factory.mktemp("tls"))
    with served(tmp_path_factory.mktemp("api"), tls=tls) as where, pytest.MonkeyPatch.context() as shell:
        for name in VARIABLES:
            shell.setenv(name, str(tls.bundle))
        yield where


def test_pydo_orders_a_droplet_and_waits_for_it(url: str) -> None:
    client: Any = Client(token=TOKEN, endpoint=url)
    key = client.ssh_keys.create(body={"name": "k", "public_key": KEY})["ssh_key"]
    made = client.droplets.create(body={**DROPLET, "ssh_keys": [key["id"]]})
    action = made["links"]["actions"][0]["id"]
    end = time.monotonic() + 10
    while client.actions.get(action_id=action)["action"]["status"] == "in-progress":
        assert time.monotonic() < end
    droplet = client.droplets.get(droplet_id=made["droplet"]["id"])["droplet"]
    assert droplet["status"] == "active"
    assert client.tags.get(tag_id="web")["tag"]["resources"]["droplets"]["count"] == 1
    client.domains.create(body={"name": "pydo.test"})
    record = {"type": "A", "name": "w", "data": "198.18.1.10", "ttl": 30}
    made = client.domains.create_record(domain_name="pydo.test", body=record)["domain_record"]
    changed = client.domains.update_record(
        domain_name="pydo.test", domain_record_id=made["id"], body={"type": "A", "data": "198.18.1.11"}
    )
    assert changed["domain_record"]["data"] == "198.18.1.11"
    client.droplets.destroy(droplet_id=droplet["id"])
    assert client.droplets.get(droplet_id=droplet["id"])["id"] == "not_found"


def test_pydo_is_told_what_is_wrong(url: str) -> None:
    stranger: Any = Client(token="nobody", endpoint=url)
    with pytest.raises(HttpResponseError) as refusal:
        stranger.account.get()
    assert refusal.value.status_code == 401


def _run(argv: list[str], env: Mapping[str, str], where: Path) -> str:
    done = subprocess.run(argv, env={**os.environ, **env}, cwd=where, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{argv}: {done.stdout} {done.stderr}"
    return done.stdout


def test_doctl_orders_a_droplet_and_cuts_its_power(url: str, tmp_path: Path) -> None:
    doctl = shutil.which("doctl")
    if doctl is None:
        pytest.skip("doctl is not on PATH")
    (tmp_path / "config.yaml").touch()

    def call(*words: str) -> Any:
        common = ["--api-url", url, "--config", str(tmp_path / "config.yaml"), "-o", "json"]
        out = _run([doctl, *words, *common], {"DIGITALOCEAN_ACCESS_TOKEN": TOKEN}, tmp_path)
        return json.loads(out) if out.strip() else None

    order = ["--region", "nyc3", "--size", "s-1vcpu-1gb", "--image", "debian-13-x64", "--wait"]
    (droplet,) = call("compute", "droplet", "create", "by-doctl", *order)
    assert droplet["status"] == "active"
    (action,) = call("compute", "droplet-action", "power-off", str(droplet["id"]), "--wait")
    assert action["status"] == "completed"
    call("compute", "droplet", "delete", str(droplet["id"]), "--force")
    left = call("compute", "droplet", "list") or []
    assert droplet["id"] not in [one["id"] for one in left]


TERRAFORM = """
terraform {
  required_providers {
    digitalocean = { source = "digitalocean/digitalocean" }
  }
}
resource "digitalocean_vpc" "v" {
  name     = "tf"
  region   = "nyc3"
  ip_range = "10.30.0.0/24"
}
resource "digitalocean_droplet" "d" {
  name       = "by-terraform"
  region     = "nyc3"
  size       = "s-1vcpu-1gb"
  image      = "debian-13-x64"
  vpc_uuid   = digitalocean_vpc.v.id
  monitoring = true
}
resource "digitalocean_firewall" "f" {
  name        = "tf"
  droplet_ids = [digitalocean_droplet.d.id]
  inbound_rule {
    protocol         = "tcp"
    port_range       = "22"
    source_addresses = ["198.18.100.0/24"]
  }
}
resource "digitalocean_domain" "d" {
  name = "tf.test"
}
resource "digitalocean_record" "r" {
  domain = digitalocean_domain.d.id
  type   = "A"
  name   = "w"
  value  = digitalocean_droplet.d.ipv4_address
  ttl    = 30
}
"""


@pytest.mark.slow
def test_terraform_applies_and_then_sees_no_change(url: str, tmp_path: Path) -> None:
    terraform, plugin = shutil.which("terraform"), shutil.which("terraform-provider-digitalocean")
    if terraform is None or plugin is None:
        pytest.skip("terraform and terraform-provider-digitalocean are not both on PATH")
    overrides = f'dev_overrides {{ "digitalocean/digitalocean" = "{Path(plugin).parent}" }}'
    (tmp_path / "rc").write_text(f"provider_installation {{\n  {overrides}\n}}\n")
    (tmp_path / "main.tf").write_text(TERRAFORM)
    env = {
        "DIGITALOCEAN_TOKEN": TOKEN,
        "DIGITALOCEAN_API_URL": url,
        "TF_CLI_CONFIG_FILE": str(tmp_path / "rc"),
        "CHECKPOINT_DISABLE": "1",
    }
    _run([terraform, "apply", "-auto-approve", "-no-color"], env, tmp_path)
    _run([terraform, "plan", "-detailed-exitcode", "-no-color"], env, tmp_path)  # 2 if anything would change
    _run([terraform, "destroy", "-auto-approve", "-no-color"], env, tmp_path)
