"""nginx in the lab: the public face of every object store, and the HTTP proxy of the operator's shell.

A store's front makes SeaweedFS answer like the cloud it stands for (lab/front.py). The proxy lets a shell use names
like ``bucket.ams3.spaces.test`` without touching the machine's DNS: plain HTTP to the lab alone. Through both, a
request goes on as it came (URI, Host, headers, body), because S3 requests are signed over all of these; a front waits
for the whole of a body before it asks the store.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from lab import config, front
from lab.config import LabConfig
from lab.front import Front
from lab.objectstore import specs
from lab.servers import Every, HttpProbe, Server

NOTED = "noted.log"  # time, from, to, method, path, status: what a drill's own eyes read


@dataclass(frozen=True)
class ProxySpec:
    """Where the proxy listens, the resolver it asks, its own folder, and the stores it is the face of."""

    directory: Path
    address: str = config.PROXY_ADDRESS
    port: int = config.PROXY_PORT
    resolver: str = config.DNS_ADDRESS
    fronts: tuple[Front, ...] = field(default_factory=tuple)


def spec(lab: LabConfig) -> ProxySpec:
    """The lab's, at the standard addresses."""
    return ProxySpec(lab.state / "proxy", fronts=tuple(front.of(store) for store in specs(lab)))


def server(spec: ProxySpec) -> Server:
    """How to run it. Ready when the proxy refuses to be asked for itself, and every front answers something."""
    settings = spec.directory / "nginx.conf"
    fronts = tuple(HttpProbe(each.address, each.port, "/", (403, 503)) for each in spec.fronts)
    return Server(
        name="proxy",
        argv=(_nginx(), "-p", str(spec.directory), "-e", "stderr", "-c", str(settings)),
        env={"PATH": "/usr/sbin:/usr/bin:/bin"},
        ready=Every((HttpProbe(spec.address, spec.port, "/", (403,)), *fronts)),
        directories=(spec.directory / "tmp",),
        files={settings: configuration(spec)},
    )


def configuration(spec: ProxySpec) -> str:
    """nginx.conf."""
    kinds = ("client_body", "proxy", "fastcgi", "scgi", "uwsgi")
    temporary = "\n".join(f"  {kind}_temp_path {spec.directory}/tmp/{kind};" for kind in kinds)
    fronts = "\n".join(front.configuration(each) for each in spec.fronts)
    # Its workers write bodies into folders that are root's alone.
    account = "user root;" if os.geteuid() == 0 else ""
    return f"""\
daemon off;
{account}
worker_processes 1;
pid {spec.directory}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
{temporary}
{_notes(spec)}
  default_type text/plain;
  server_tokens off;

  # Signatures cover headers, path and body: pass everything on as it came.
  ignore_invalid_headers off;
  underscores_in_headers on;
  large_client_header_buffers 4 64k;
  client_max_body_size 0;
  proxy_http_version 1.1;
  proxy_request_buffering off;
  proxy_buffering off;
  proxy_connect_timeout 5s;
  proxy_send_timeout 300s;
  proxy_read_timeout 300s;
  proxy_next_upstream off;  # a conditional write must never be sent twice
  proxy_set_header Host $http_host;
  proxy_set_header Connection "";
{_forward(spec)}
{fronts}
}}
"""


def _notes(spec: ProxySpec) -> str:
    """Who asked the stores for what: all that changes something, and whatever concerns a lease. By address: whose key
    it was is what the host says."""
    return f"""
  map "$request_method|$request_uri" $noted {{
    default 1;
    "~^(GET|HEAD)\\|[^?]*/lease/" 1;
    "~^(GET|HEAD)\\|" 0;
  }}
  log_format noted "$msec\t$remote_addr\t$server_addr\t$request_method\t$request_uri\t$status";
  access_log {spec.directory}/{NOTED} noted if=$noted;"""


def _forward(spec: ProxySpec) -> str:
    return f"""
  resolver {spec.resolver} ipv6=off valid=5s;
  resolver_timeout 5s;

  # Only the lab. Never the proxy itself: that would go round for ever.
  map $http_host $inside_lab {{
    default 0;
    "~*^{_literal(spec.address)}(:[0-9]+)?$" 0;
    "~*^([a-z0-9_-]+\\.)+test\\.?(:[0-9]+)?$" 1;
    "~*^198\\.1[89](\\.[0-9]+){{2}}(:[0-9]+)?$" 1;
  }}

  server {{
    listen {spec.address}:{spec.port};
    location / {{
      if ($inside_lab = 0) {{
        return 403 "The lab's proxy serves names under .test and addresses in 198.18.0.0/15 only, not '$http_host'.\\n";
      }}
      proxy_pass http://$http_host$request_uri;
    }}
  }}"""


def _literal(address: str) -> str:
    return address.replace(".", "\\.")


def _nginx() -> str:
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/sbin")
    if not found:
        raise RuntimeError("nginx is not installed: apt-get install nginx-light")
    return found
