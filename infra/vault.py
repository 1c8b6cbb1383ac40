"""The vault: a Spaces bucket in a region of its own, and a key for each host that opens nothing else."""

from __future__ import annotations

import pulumi
import pulumi_digitalocean as digitalocean

from infra import retention
from infra.config import StackConfig
from infra.identity import bucket_name


class Vault(pulumi.ComponentResource):
    """`bucket`, and `keys` by host name."""

    def __init__(self, config: StackConfig, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("lifeline:infra:Vault", "vault", None, opts)
        self.bucket = digitalocean.SpacesBucket(
            "vault-bucket",
            name=bucket_name(config.seed, config.prefix, "vault"),
            region=config.vault.region,
            acl="private",
            versioning=digitalocean.SpacesBucketVersioningArgs(enabled=True),
            lifecycle_rules=[_rule(rule) for rule in _rules(config)],
            force_destroy=not config.protect,
            # The provider would rename in place, which no bucket can. A deleted name is unusable for about a week:
            # protected.
            opts=pulumi.ResourceOptions(
                parent=self, protect=config.protect, replace_on_changes=["name"], delete_before_replace=True
            ),
        )
        self.keys = {
            host.name: digitalocean.SpacesKey(
                f"{host.name}-vault-key",
                name=f"{config.prefix}-{host.name}",
                grants=[digitalocean.SpacesKeyGrantArgs(bucket=self.bucket.name, permission="readwrite")],
                opts=pulumi.ResourceOptions(parent=self, additional_secret_outputs=["secret_key"]),
            )
            for host in config.hosts
        }
        self.register_outputs({})


def _rules(config: StackConfig) -> tuple[retention.Rule, ...]:
    vault = config.vault
    return retention.rules(vault.retention_days, vault.noncurrent_days, vault.abort_upload_days)


def _rule(rule: retention.Rule) -> digitalocean.SpacesBucketLifecycleRuleArgs:
    expiration = digitalocean.SpacesBucketLifecycleRuleExpirationArgs
    noncurrent = digitalocean.SpacesBucketLifecycleRuleNoncurrentVersionExpirationArgs
    return digitalocean.SpacesBucketLifecycleRuleArgs(
        id=rule.id,
        enabled=True,
        prefix=rule.prefix or None,
        expiration=expiration(days=rule.expire_days, expired_object_delete_marker=rule.clear_markers or None)
        if rule.expire_days or rule.clear_markers
        else None,
        noncurrent_version_expiration=noncurrent(days=rule.noncurrent_days) if rule.noncurrent_days else None,
        abort_incomplete_multipart_upload_days=rule.abort_upload_days,
    )
