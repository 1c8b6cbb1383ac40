"""What a token with custom scopes may call: DigitalOcean's scopes (docs.digitalocean.com/reference/api/scopes)."""

from __future__ import annotations

_RESOURCES = {
    "droplets": "droplet",
    "domains": "domain",
    "spaces": "spaces_key",
    "uptime": "uptime",
    "monitoring": "monitoring",
    "firewalls": "firewall",
    "vpcs": "vpc",
    "tags": "tag",
    "images": "image",
    "snapshots": "snapshot",
    "regions": "regions",
    "sizes": "sizes",
    "actions": "actions",
    "projects": "project",
    "account": "account",
}
_VERBS = {"GET": "read", "HEAD": "read", "POST": "create", "PUT": "update", "PATCH": "update", "DELETE": "delete"}


def required(method: str, path: str) -> str:
    """The scope of one call, such as "droplet:update"; for what isn't in the table, one that nobody has."""
    parts = path.strip("/").split("/")
    if len(parts) < 2 or parts[0] != "v2":
        return "none"
    resource = "ssh_key" if parts[1:3] == ["account", "keys"] else _RESOURCES.get(parts[1], "none")
    # Powering a droplet on or off changes it; it makes nothing.
    acts = parts[1] == "droplets" and parts[-1] == "actions" and method == "POST"
    return f"{resource}:{'update' if acts else _VERBS.get(method, 'none')}"
