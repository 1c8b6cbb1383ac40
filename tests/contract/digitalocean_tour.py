"""One walk through everything the simulated API serves, as a client without an SDK would take it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

Json = Any
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIZar+mzx6gz1KrQ/EQIhg4tmY4c/yOdTjQbRhbbU0OL tour"
DEADLINE_S = 10.0


class Tour:
    """`send(method, path, body) -> (status, json or None)`; every stop says which status it expects."""

    def __init__(self, send: Callable[[str, str, Json], tuple[int, Json]]) -> None:
        self._send = send

    def call(self, method: str, path: str, body: Json = None, *, expect: int = 200) -> Json:
        status, answer = self._send(method, path, body)
        assert status == expect, f"{method} {path} {body}: {status} {answer}"
        return answer

    def finished(self, action_id: int) -> Json:
        """Poll an action to its end."""
        end = time.monotonic() + DEADLINE_S
        while True:
            action = self.call("GET", f"/v2/actions/{action_id}")["action"]
            if action["status"] != "in-progress":
                return action
            assert time.monotonic() < end, f"{action} takes too long"
            time.sleep(0.01)

    def act(self, droplet_id: int, **body: Json) -> Json:
        """A droplet action, to its end."""
        action = self.call("POST", f"/v2/droplets/{droplet_id}/actions", body, expect=201)["action"]
        done = self.finished(action["id"])
        assert done["status"] == "completed", done
        return done

    def everything(self) -> None:
        self.account()
        vpc = self.vpcs()
        droplet = self.droplets(vpc)
        self.droplet_actions(droplet)
        self.images(droplet)
        self.tags(droplet)
        self.firewalls(droplet)
        self.volumes(droplet)
        self.reserved_ips(droplet)
        self.domains()
        self.projects(droplet)
        self.uptime()
        self.monitoring(droplet)
        self.spaces_keys()
        self.lists()
        self.refusals()
        self.ending(droplet, vpc)

    def account(self) -> None:
        self.call("GET", "/v2/account")
        key = self.call("POST", "/v2/account/keys", {"name": "tour", "public_key": KEY}, expect=201)["ssh_key"]
        self.call("GET", f"/v2/account/keys/{key['fingerprint']}")
        self.call("PUT", f"/v2/account/keys/{key['id']}", {"name": "renamed"})
        self.call("GET", "/v2/account/keys")
        self.call("DELETE", f"/v2/account/keys/{key['id']}", expect=204)
        self.call("POST", "/v2/account/keys", {"name": "tour", "public_key": KEY}, expect=201)

    def vpcs(self) -> Json:
        body = {"name": "tour", "region": "nyc3", "ip_range": "10.20.0.0/24", "description": "of the API"}
        vpc = self.call("POST", "/v2/vpcs", body, expect=201)["vpc"]
        self.call("GET", f"/v2/vpcs/{vpc['id']}")
        self.call("PUT", f"/v2/vpcs/{vpc['id']}", {"name": "tour-2", "description": "changed"})
        self.call("PATCH", f"/v2/vpcs/{vpc['id']}", {"name": "tour-3"})
        return vpc

    def droplets(self, vpc: Json) -> Json:
        self.call("POST", "/v2/tags", {"name": "tour"}, expect=201)
        key = self.call("GET", "/v2/account/keys")["ssh_keys"][0]["id"]
        body = {
            "name": "tour-1", "region": "nyc3", "size": "s-1vcpu-1gb", "image": "debian-13-x64", "ssh_keys": [key],
            "vpc_uuid": vpc["id"], "monitoring": True, "tags": ["tour"], "user_data": "#cloud-config\n", "ipv6": True,
        }  # fmt: skip
        made = self.call("POST", "/v2/droplets", body, expect=202)
        assert made["droplet"]["status"] == "new"
        assert self.finished(made["links"]["actions"][0]["id"])["status"] == "completed"
        droplet = self.call("GET", f"/v2/droplets/{made['droplet']['id']}")["droplet"]
        assert (droplet["status"], droplet["locked"]) == ("active", False)
        several = {"names": ["tour-2", "tour-3"], "region": "sgp1", "size": "s-1vcpu-1gb", "image": "debian-13-x64"}
        twins = self.call("POST", "/v2/droplets", {**several, "tags": ["twins"]}, expect=202)
        for link in twins["links"]["actions"]:
            self.finished(link["id"])
        for action in self.call("POST", "/v2/droplets/actions?tag_name=twins", {"type": "power_off"}, expect=201)[
            "actions"
        ]:
            self.finished(action["id"])
        self.call("DELETE", "/v2/droplets?tag_name=twins", expect=204)
        self.call("GET", "/v2/droplets?tag_name=tour")
        self.call("GET", f"/v2/vpcs/{vpc['id']}/members")
        self.call("GET", f"/v2/droplets/{droplet['id']}/firewalls")
        return droplet

    def droplet_actions(self, droplet: Json) -> None:
        id_ = droplet["id"]
        self.act(id_, type="enable_backups", backup_policy={"plan": "weekly", "weekday": "TUE", "hour": 8})
        self.call("GET", f"/v2/droplets/{id_}/backups/policy")
        self.call("GET", "/v2/droplets/backups/policies")
        self.call("GET", "/v2/droplets/backups/supported_policies")
        self.act(id_, type="change_backup_policy", backup_policy={"plan": "daily", "hour": 4})
        self.call("GET", f"/v2/droplets/{id_}/backups")
        self.act(id_, type="disable_backups")
        self.call("GET", f"/v2/droplets/{id_}/backups/policy")
        for type_ in ("reboot", "power_cycle", "password_reset", "enable_ipv6", "shutdown", "power_on", "power_off"):
            self.act(id_, type=type_)
        self.act(id_, type="resize", size="s-1vcpu-2gb", disk=True)
        self.act(id_, type="power_on")
        self.act(id_, type="rename", name="tour-renamed")
        self.act(id_, type="snapshot", name="tour-snapshot")
        snapshot = self.call("GET", f"/v2/droplets/{id_}/snapshots")["snapshots"][0]
        self.act(id_, type="restore", image=snapshot["id"])
        done = self.act(id_, type="rebuild", image="debian-13-x64")
        self.call("GET", f"/v2/droplets/{id_}/actions/{done['id']}")
        self.call("GET", f"/v2/droplets/{id_}/actions")
        self.call("GET", "/v2/actions")

    def images(self, droplet: Json) -> None:
        for query in ("", "?type=distribution", "?type=application", "?private=true", "?tag_name=none"):
            self.call("GET", f"/v2/images{query}")
        self.call("GET", "/v2/images/debian-13-x64")
        own = self.call("GET", "/v2/images?private=true")["images"][0]
        self.call("GET", f"/v2/images/{own['id']}")
        self.call("PUT", f"/v2/images/{own['id']}", {"name": "renamed", "description": "by the tour"})
        self.call("GET", "/v2/snapshots?resource_type=droplet")
        self.call("GET", f"/v2/snapshots/{own['id']}")
        self.call("DELETE", f"/v2/snapshots/{own['id']}", expect=204)
        self.act(droplet["id"], type="snapshot")
        own = self.call("GET", "/v2/images?private=true")["images"][0]
        self.call("DELETE", f"/v2/images/{own['id']}", expect=204)

    def tags(self, droplet: Json) -> None:
        self.call("POST", "/v2/tags", {"name": "tour:extra"}, expect=201)
        body = {"resources": [{"resource_id": str(droplet["id"]), "resource_type": "droplet"}]}
        self.call("POST", "/v2/tags/tour:extra/resources", body, expect=204)
        assert self.call("GET", "/v2/tags/tour:extra")["tag"]["resources"]["droplets"]["count"] == 1
        self.call("DELETE", "/v2/tags/tour:extra/resources", body, expect=204)
        self.call("GET", "/v2/tags")
        self.call("DELETE", "/v2/tags/tour:extra", expect=204)

    def firewalls(self, droplet: Json) -> None:
        ssh = {"protocol": "tcp", "ports": "22", "sources": {"addresses": ["198.18.100.0/24"], "tags": ["tour"]}}
        ping = {"protocol": "icmp", "ports": "0", "sources": {"droplet_ids": [droplet["id"]]}}
        out = {"protocol": "tcp", "ports": "all", "destinations": {"addresses": ["0.0.0.0/0", "::/0"]}}
        body = {"name": "tour", "inbound_rules": [ssh], "outbound_rules": [out], "droplet_ids": [droplet["id"]]}
        firewall = self.call("POST", "/v2/firewalls", body, expect=202)["firewall"]
        path = f"/v2/firewalls/{firewall['id']}"
        self.call("GET", path)
        self.call("PUT", path, {**body, "tags": ["tour"]})
        for part, change in (
            ("rules", {"inbound_rules": [ping]}),
            ("tags", {"tags": ["tour"]}),
            ("droplets", {"droplet_ids": [droplet["id"]]}),
        ):
            self.call("POST", f"{path}/{part}", change, expect=204)
            self.call("GET", path)
            self.call("DELETE", f"{path}/{part}", change, expect=204)
        self.call("GET", f"/v2/droplets/{droplet['id']}/firewalls")
        self.call("GET", "/v2/firewalls")
        self.call("DELETE", path, expect=204)

    def volumes(self, droplet: Json) -> None:
        body = {"name": "tour", "region": "nyc3", "size_gigabytes": 10, "filesystem_type": "ext4", "tags": ["tour"]}
        volume = self.call("POST", "/v2/volumes", body, expect=201)["volume"]
        path = f"/v2/volumes/{volume['id']}"
        for action in (
            {"type": "attach", "droplet_id": droplet["id"]},
            {"type": "resize", "size_gigabytes": 20},
            {"type": "detach", "droplet_id": droplet["id"]},
        ):
            done = self.call("POST", f"{path}/actions", action, expect=202)["action"]
            self.call("GET", f"{path}/actions/{done['id']}")
        self.call("GET", f"{path}/actions")
        self.call("GET", path)
        self.call("GET", f"{path}/snapshots")
        self.call("GET", "/v2/volumes?name=tour&region=nyc3")
        self.call("DELETE", path, expect=204)
        self.call("POST", "/v2/volumes", body, expect=201)
        self.call("DELETE", "/v2/volumes?name=tour&region=nyc3", expect=204)

    def reserved_ips(self, droplet: Json) -> None:
        reserved = self.call("POST", "/v2/reserved_ips", {"region": "nyc3"}, expect=202)["reserved_ip"]
        path = f"/v2/reserved_ips/{reserved['ip']}"
        for body in ({"type": "assign", "droplet_id": droplet["id"]}, {"type": "unassign"}):
            done = self.call("POST", f"{path}/actions", body, expect=201)["action"]
            self.call("GET", f"{path}/actions/{done['id']}")
            self.call("GET", path)
        self.call("GET", f"{path}/actions")
        self.call("GET", "/v2/reserved_ips")
        self.call("DELETE", path, expect=204)
        made = self.call("POST", "/v2/reserved_ips", {"droplet_id": droplet["id"]}, expect=202)["reserved_ip"]
        self.call("DELETE", f"/v2/reserved_ips/{made['ip']}", expect=204)

    def domains(self) -> None:
        self.call("POST", "/v2/domains", {"name": "tour.test", "ip_address": "198.18.1.10"}, expect=201)
        self.call("GET", "/v2/domains/tour.test")
        self.call("GET", "/v2/domains")
        records = "/v2/domains/tour.test/records"
        for record in (
            {"type": "A", "name": "trade", "data": "198.18.1.10", "ttl": 30},
            {"type": "AAAA", "name": "trade", "data": "2001:db8::1"},
            {"type": "CNAME", "name": "www", "data": "trade.tour.test."},
            {"type": "MX", "name": "@", "data": "mail.tour.test.", "priority": 10},
            {"type": "TXT", "name": "@", "data": "v=spf1 -all"},
            {"type": "SRV", "name": "_x._tcp", "data": "x.tour.test.", "priority": 1, "port": 5, "weight": 7},
            {"type": "CAA", "name": "@", "data": "letsencrypt.org.", "flags": 0, "tag": "issue"},
            {"type": "NS", "name": "sub", "data": "ns1.tour.test."},
        ):
            made = self.call("POST", records, record, expect=201)["domain_record"]
            self.call("GET", f"{records}/{made['id']}")
        self.call("PUT", f"{records}/{made['id']}", {"name": "sub", "data": "ns2.tour.test.", "ttl": 60})
        self.call("PATCH", f"{records}/{made['id']}", {"type": "NS", "ttl": 90})
        self.call("GET", f"{records}?type=A&name=trade.tour.test")
        self.call("GET", f"{records}?page=2&per_page=3")
        self.call("DELETE", f"{records}/{made['id']}", expect=204)
        self.call("DELETE", "/v2/domains/tour.test", expect=204)

    def projects(self, droplet: Json) -> None:
        body = {"name": "tour", "purpose": "Service or API", "environment": "Production", "description": "d"}
        project = self.call("POST", "/v2/projects", body, expect=201)["project"]
        path = f"/v2/projects/{project['id']}"
        urns = {"resources": [f"do:droplet:{droplet['id']}"]}
        self.call("PUT", path, {**body, "is_default": False, "purpose": "of my own"})
        self.call("PATCH", path, {"description": "changed"})
        self.call("POST", f"{path}/resources", urns)
        self.call("GET", f"{path}/resources")
        self.call("GET", path)
        self.call("DELETE", path, expect=412)
        self.call("POST", "/v2/projects/default/resources", urns)
        self.call("GET", "/v2/projects/default/resources")
        default = self.call("GET", "/v2/projects/default")["project"]
        self.call("PATCH", "/v2/projects/default", {"description": "the default one"})
        self.call("PUT", "/v2/projects/default", {**default, "environment": "Development"})
        self.call("GET", "/v2/projects")
        self.call("DELETE", path, expect=204)

    def uptime(self) -> None:
        body = {
            "name": "tour",
            "type": "ping",
            "target": "127.0.0.1",
            "regions": ["us_east", "eu_west"],
            "enabled": True,
        }
        check = self.call("POST", "/v2/uptime/checks", body, expect=201)["check"]
        path = f"/v2/uptime/checks/{check['id']}"
        self.call("PUT", path, {**body, "name": "changed"})
        self.call("GET", path)
        self.call("GET", f"{path}/state")
        self.call("GET", "/v2/uptime/checks")
        notify = {"email": ["ops@tour.test"], "slack": [{"channel": "ops", "url": "https://hooks.slack.com/x"}]}
        alert = {"name": "down", "type": "down", "notifications": notify, "period": "2m"}
        made = self.call("POST", f"{path}/alerts", alert, expect=201)["alert"]
        self.call("GET", f"{path}/alerts/{made['id']}")
        slow = {**alert, "type": "latency", "threshold": 300, "comparison": "greater_than"}
        self.call("PUT", f"{path}/alerts/{made['id']}", slow)
        self.call("GET", f"{path}/alerts")
        self.call("DELETE", f"{path}/alerts/{made['id']}", expect=204)
        self.call("DELETE", path, expect=204)

    def monitoring(self, droplet: Json) -> None:
        body = {
            "type": "v1/insights/droplet/cpu", "description": "CPU", "compare": "GreaterThan", "value": 90,
            "window": "5m", "entities": [str(droplet["id"])], "tags": ["tour"], "enabled": True,
            "alerts": {"email": ["ops@tour.test"], "slack": []},
        }  # fmt: skip
        policy = self.call("POST", "/v2/monitoring/alerts", body)["policy"]
        path = f"/v2/monitoring/alerts/{policy['uuid']}"
        self.call("GET", path)
        self.call("PUT", path, {**body, "value": 95.5})
        self.call("GET", "/v2/monitoring/alerts")
        self.call("DELETE", path, expect=204)

    def spaces_keys(self) -> None:
        grants = [{"bucket": "b", "permission": "readwrite"}, {"bucket": "a", "permission": "read"}]
        key = self.call("POST", "/v2/spaces/keys", {"name": "tour", "grants": grants}, expect=201)["key"]
        path = f"/v2/spaces/keys/{key['access_key']}"
        self.call("GET", path)
        self.call("PUT", path, {"name": "tour", "grants": grants[:1]})
        self.call("PATCH", path, {"name": "tour-2"})
        self.call("GET", "/v2/spaces/keys")
        self.call("DELETE", path, expect=204)

    def lists(self) -> None:
        for path in ("sizes", "regions", "droplets", "vpcs"):
            self.call("GET", f"/v2/{path}?per_page=1")

    def refusals(self) -> None:
        for path in ("droplets/1", "firewalls/x", "vpcs/x", "domains/no.test", "tags/none", "projects/x", "actions/1"):
            self.call("GET", f"/v2/{path}", expect=404)
        self.call("POST", "/v2/droplets", {"name": "x", "size": "none", "image": "debian-13-x64"}, expect=422)
        self.call("POST", "/v2/firewalls", {"name": "-"}, expect=422)

    def ending(self, droplet: Json, vpc: Json) -> None:
        self.call("DELETE", f"/v2/vpcs/{vpc['id']}", expect=403)
        self.call("DELETE", f"/v2/droplets/{droplet['id']}", expect=204)
        self.call("GET", f"/v2/droplets/{droplet['id']}", expect=404)
        self.call("DELETE", f"/v2/vpcs/{vpc['id']}", expect=204)
