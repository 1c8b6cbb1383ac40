"""Route 53: a second name for the service, which needs nobody to move it.

Two A records, one a host, each with a health check of the host's `/primary`. Whoever holds the lease answers 200 there
and nobody else does, so the answers follow the lease by themselves: also while DigitalOcean's API is down.
"""

from __future__ import annotations

from collections.abc import Sequence

import pulumi
import pulumi_aws as aws

from infra.config import Route53Config, StackConfig
from infra.service_host import AGENT_PORT, ServiceHost

# Route 53's names for "answered while its check is healthy, or while both are not" and "answered instead".
ORDER = ("PRIMARY", "SECONDARY")


class SecondName(pulumi.ComponentResource):
    """`fqdn`. The home primary is named first; which of the two is answered is the lease's to say."""

    def __init__(
        self,
        config: StackConfig,
        second: Route53Config,
        hosts: Sequence[ServiceHost],
        provider: aws.Provider,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("lifeline:infra:SecondName", "second-name", None, opts)
        here = pulumi.ResourceOptions(parent=self, provider=provider)
        self.fqdn = second.zone if second.record == "@" else f"{second.record}.{second.zone}"
        self.zone = aws.route53.Zone(
            "second-zone",
            name=second.zone,
            comment=f"{config.prefix}: the service's name that follows the lease",
            # A new zone has other name servers, of which the registrar would have to be told.
            opts=pulumi.ResourceOptions.merge(here, pulumi.ResourceOptions(protect=config.protect)),
        )
        for host, place in zip(hosts, ORDER, strict=True):
            name = host.config.name
            check = aws.route53.HealthCheck(
                f"{name}-lease-check",
                type="HTTP",
                ip_address=host.droplet.ipv4_address,
                port=int(AGENT_PORT),
                resource_path="/primary",
                request_interval=second.request_interval_s,
                failure_threshold=second.failure_threshold,
                tags={"Name": f"{config.prefix}-{name}"},
                opts=here,
            )
            aws.route53.Record(
                f"{name}-second-record",
                zone_id=self.zone.zone_id,
                name=self.fqdn,
                type="A",
                ttl=config.record_ttl,
                records=[host.droplet.ipv4_address],
                set_identifier=name,
                failover_routing_policies=[aws.route53.RecordFailoverRoutingPolicyArgs(type=place)],
                health_check_id=check.id,
                opts=here,
            )
        self.register_outputs({})
