"""One host: network, droplet, firewall, name. Both hosts are the same component: neither is "the primary"."""

from __future__ import annotations

from dataclasses import dataclass

import pulumi
import pulumi_digitalocean as digitalocean

from infra.cloud_init import user_data
from infra.config import HostConfig, StackConfig
from infra.identity import host_key

AGENT_PORT = "8008"
ANYWHERE = ["0.0.0.0/0", "::/0"]


@dataclass(frozen=True)
class Shared:
    """What the hosts have in common: declared once, used by each."""

    ssh_key: digitalocean.SshKey
    domain: digitalocean.Domain
    tag: (
        digitalocean.Tag
    )  # on both hosts: firewalls and monitor alerts go by it, so a rebuilt droplet is covered from its first second
    service_port: int


class ServiceHost(pulumi.ComponentResource):
    """A droplet with its VPC, its region's firewall and its A record."""

    def __init__(
        self, config: StackConfig, host: HostConfig, shared: Shared, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("lifeline:infra:ServiceHost", host.name, None, opts)
        self.config = host
        self.host_key = host_key(config.seed, host.name).public
        here = pulumi.ResourceOptions(parent=self)
        # One account holds one VPC, tag and firewall of a name: a replacement can't exist beside the old one.
        alone = pulumi.ResourceOptions(parent=self, delete_before_replace=True)

        own_tag = digitalocean.Tag(f"{host.name}-tag", name=f"{config.prefix}-{host.home_role}", opts=alone)
        vpc = digitalocean.Vpc(
            f"{host.name}-vpc",
            name=f"{config.prefix}-{host.name}",
            region=host.region,
            ip_range=host.vpc_range,
            description=f"Private network of {host.name}",
            opts=pulumi.ResourceOptions.merge(alone, pulumi.ResourceOptions(protect=config.protect)),
        )
        self.firewall = digitalocean.Firewall(
            f"{host.name}-firewall",
            name=f"{config.prefix}-{host.region}",
            tags=[own_tag.name],
            inbound_rules=_inbound(config, shared),
            outbound_rules=_outbound(),
            opts=alone,
        )
        self.droplet = digitalocean.Droplet(
            host.name,
            name=host.name,
            region=host.region,
            size=host.size,
            image=host.image,
            vpc_uuid=vpc.id,
            ssh_keys=[shared.ssh_key.id],
            user_data=pulumi.Output.secret(
                user_data(config.operator_user, config.ssh_public_key, host_key(config.seed, host.name))
            ),
            monitoring=True,
            ipv6=False,
            resize_disk=False,  # a disk never shrinks: growing it would make the resize a one-way street
            tags=[shared.tag.name, own_tag.name],
            # Any change of these replaces the droplet: keys are changed by runbook, and a new image or user data is
            # for the next rebuild. What can't be ignored, region, name and network, is refused: Pulumi knows no lease,
            # and would delete the live primary. The firewall stands before the droplet does, and falls after it.
            opts=pulumi.ResourceOptions(
                parent=self,
                protect=config.protect,
                ignore_changes=["ssh_keys", "user_data", "image"],
                depends_on=[self.firewall],
            ),
        )
        self.record = digitalocean.DnsRecord(
            f"{host.name}-record",
            domain=shared.domain.name,
            name=host.name,
            type="A",
            value=self.droplet.ipv4_address,
            ttl=config.record_ttl,
            opts=here,
        )
        self.fqdn = f"{host.name}.{config.domain}"
        self.register_outputs({})


def _inbound(config: StackConfig, shared: Shared) -> list[digitalocean.FirewallInboundRuleArgs]:
    """SSH for operators, the service for everyone, the agent for the hosts and operators only: it says more than
    strangers should know.
    """
    rule = digitalocean.FirewallInboundRuleArgs
    return [
        rule(protocol="tcp", port_range="22", source_addresses=list(config.operator_cidrs)),
        rule(protocol="tcp", port_range=str(shared.service_port), source_addresses=ANYWHERE),
        rule(
            protocol="tcp",
            port_range=AGENT_PORT,
            source_addresses=[*config.operator_cidrs, *(config.route53.checker_cidrs if config.route53 else ())],
            source_tags=[shared.tag.name],
        ),
        rule(protocol="icmp", source_addresses=ANYWHERE),
    ]


def _outbound() -> list[digitalocean.FirewallOutboundRuleArgs]:
    """Everything: the vault, the lease, the other host and exchanges are all outside, at addresses that change."""
    rule = digitalocean.FirewallOutboundRuleArgs
    return [
        rule(protocol="tcp", port_range="1-65535", destination_addresses=ANYWHERE),
        rule(protocol="udp", port_range="1-65535", destination_addresses=ANYWHERE),
        rule(protocol="icmp", destination_addresses=ANYWHERE),
    ]
