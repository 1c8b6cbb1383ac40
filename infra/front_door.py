"""The one public name. Pulumi owns the record; the runbooks own where it points."""

from __future__ import annotations

import pulumi
import pulumi_digitalocean as digitalocean

from infra.config import StackConfig


class FrontDoor(pulumi.ComponentResource):
    """The service's record, which starts at the primary's home."""

    def __init__(
        self,
        config: StackConfig,
        domain: digitalocean.Domain,
        first_address: pulumi.Input[str],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("lifeline:infra:FrontDoor", "front-door", None, opts)
        self.fqdn = config.domain if config.record == "@" else f"{config.record}.{config.domain}"
        self.record = digitalocean.DnsRecord(
            "service-record",
            domain=domain.name,
            name=config.record,
            type="A",
            value=first_address,
            ttl=config.record_ttl,
            # After a failover the record points elsewhere, and that is right: `pulumi up` must not undo it. For another
            # TTL the provider would write all of it, with the address that it knew: that is set by `fab dns`.
            opts=pulumi.ResourceOptions(parent=self, ignore_changes=["value", "ttl"]),
        )
        self.register_outputs({})
