"""The lab's HTTP proxy: lets a shell use names like ``bucket.ams3.spaces.test`` without touching the machine's DNS.

A forward proxy for plain HTTP to the lab alone. The request goes on as it came (URI, Host, headers, body unbuffered),
because S3 requests are signed over all of these.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from lab import config
from lab.config import LabConfig
from lab.servers import HttpProbe, Server


@dataclass(frozen=True)
class ProxySpec:
    """Where the proxy listens, the resolver it asks, and its own folder."""

    directory: Path
    address: str = config.PROXY_ADDRESS
    port: int = config.PROXY_PORT
    resolver: str = config.DNS_ADDRESS


def spec(lab: LabConfig) -> ProxySpec:
    """The lab's proxy at its standard address."""
    return ProxySpec(lab.state / "proxy")


def server(spec: ProxySpec) -> Server:
    """How to run the proxy. Ready when it refuses to be asked for itself."""
    settings = spec.directory / "nginx.conf"
    return Server(
        name="proxy",
        argv=(_nginx(), "-p", str(spec.directory), "-e", "stderr", "-c", str(settings)),
        env={"PATH": "/usr/sbin:/usr/bin:/bin"},
        ready=HttpProbe(spec.address, spec.port, "/", (403,)),
        directories=(spec.directory / "tmp",),
        files={settings: configuration(spec)},
    )


def configuration(spec: ProxySpec) -> str:
    """nginx.conf of the proxy."""
    kinds = ("client_body", "proxy", "fastcgi", "scgi", "uwsgi")
    temporary = "\n".join(f"  {kind}_temp_path {spec.directory}/tmp/{kind};" for kind in kinds)
    return f"""\
daemon off;
worker_processes 1;
pid {spec.directory}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
{temporary}
  access_log off;
  default_type text/plain;

  resolver {spec.resolver} ipv6=off valid=5s;
  resolver_timeout 5s;

  # Only the lab. Never the proxy itself: that would go round for ever.
  map $http_host $inside_lab {{
    default 0;
    "~*^{_literal(spec.address)}(:[0-9]+)?$" 0;
    "~*^([a-z0-9_-]+\\.)+test\\.?(:[0-9]+)?$" 1;
    "~*^198\\.1[89](\\.[0-9]+){{2}}(:[0-9]+)?$" 1;
  }}

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
  proxy_set_header Host $http_host;
  proxy_set_header Connection "";

  server {{
    listen {spec.address}:{spec.port};
    location / {{
      if ($inside_lab = 0) {{
        return 403 "The lab's proxy serves names under .test and addresses in 198.18.0.0/15 only, not '$http_host'.\\n";
      }}
      proxy_pass http://$http_host$request_uri;
    }}
  }}
}}
"""


def _literal(address: str) -> str:
    return address.replace(".", "\\.")


def _nginx() -> str:
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/sbin")
    if not found:
        raise RuntimeError("nginx is not installed: apt-get install nginx-light")
    return found
