"""AWS: the off-site vault that nobody can empty in a hurry, and the lease bucket.

Another company, another country, another key.
"""

from __future__ import annotations

import json

import pulumi
import pulumi_aws as aws

from infra import retention
from infra.config import StackConfig
from infra.identity import bucket_name


class Offsite(pulumi.ComponentResource):
    """`bucket`, `lease_bucket`, and `keys` by host name. `endpoint`: None for AWS's own."""

    def __init__(self, config: StackConfig, endpoint: str | None, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("lifeline:infra:Offsite", "offsite", None, opts)
        self._config = config
        self._at_aws = endpoint is None
        # Everything here says which provider: the region comes from the stack, not from whoever's shell this is.
        self.provider = aws_provider(config, self._at_aws, pulumi.ResourceOptions(parent=self))
        self.bucket = self._bucket("offsite", object_lock=True)
        self._keep(self.bucket)
        self.lease_bucket = self._bucket("lease", object_lock=False)
        self.keys = {host.name: self._key(host.name) for host in config.hosts}
        self.register_outputs({})

    def _opts(self, **more: object) -> pulumi.ResourceOptions:
        options = pulumi.ResourceOptions(parent=self, provider=self.provider)
        return pulumi.ResourceOptions.merge(options, pulumi.ResourceOptions(**more))  # type: ignore[arg-type]

    def _bucket(self, purpose: str, *, object_lock: bool) -> aws.s3.Bucket:
        """An encrypted bucket without any public access."""
        config = self._config
        bucket = aws.s3.Bucket(
            f"{purpose}-bucket",
            bucket=bucket_name(config.seed, config.prefix, purpose),
            object_lock_enabled=object_lock,
            force_destroy=not config.protect,
            tags={"lifeline": config.prefix},
            opts=self._opts(protect=config.protect, delete_before_replace=True),
        )
        if self._at_aws:  # other S3 stores, the lab's among them, have no such switch
            self._no_public_access(purpose, bucket)
        rule = aws.s3.BucketServerSideEncryptionConfigurationRuleArgs
        default = aws.s3.BucketServerSideEncryptionConfigurationRuleApplyServerSideEncryptionByDefaultArgs
        aws.s3.BucketServerSideEncryptionConfiguration(
            f"{purpose}-encryption",
            bucket=bucket.bucket,
            rules=[rule(apply_server_side_encryption_by_default=default(sse_algorithm="AES256"))],
            opts=self._opts(delete_before_replace=True),
        )
        return bucket

    def _no_public_access(self, purpose: str, bucket: aws.s3.Bucket) -> None:
        aws.s3.BucketPublicAccessBlock(
            f"{purpose}-public-access",
            bucket=bucket.bucket,
            block_public_acls=True,
            block_public_policy=True,
            ignore_public_acls=True,
            restrict_public_buckets=True,
            opts=self._opts(delete_before_replace=True),
        )

    def _keep(self, bucket: aws.s3.Bucket) -> None:
        """Versioning, Object Lock and lifecycle, in the order in which S3 takes them."""
        offsite = self._config.offsite
        versioning = aws.s3.BucketVersioning(
            "offsite-versioning",
            bucket=bucket.bucket,
            versioning_configuration=aws.s3.BucketVersioningVersioningConfigurationArgs(status="Enabled"),
            opts=self._opts(delete_before_replace=True),
        )
        retain = aws.s3.BucketObjectLockConfigurationRuleDefaultRetentionArgs
        lock = aws.s3.BucketObjectLockConfiguration(
            "offsite-lock",
            bucket=bucket.bucket,
            rule=aws.s3.BucketObjectLockConfigurationRuleArgs(
                default_retention=retain(mode=offsite.lock_mode.upper(), days=offsite.lock_days)
            ),
            opts=self._opts(depends_on=[versioning], delete_before_replace=True),
        )
        rules = retention.rules(offsite.retention_days, offsite.lock_days, abort_upload_days=1)
        aws.s3.BucketLifecycleConfiguration(
            "offsite-lifecycle",
            bucket=bucket.bucket,
            rules=[_rule(rule) for rule in rules],
            opts=self._opts(depends_on=[lock], delete_before_replace=True),
        )

    def _key(self, host: str) -> aws.iam.AccessKey:
        """A user of its own for each host, with a policy that names two buckets and no deletion of versions."""
        config = self._config
        user = aws.iam.User(
            f"{host}-user",
            name=f"{config.prefix}-{host}",
            path="/lifeline/",
            force_destroy=True,  # keys made by hand during an incident go with the user
            tags={"lifeline": config.prefix},
            opts=self._opts(delete_before_replace=True),
        )
        aws.iam.UserPolicy(
            f"{host}-policy",
            name="lifeline",
            user=user.name,
            policy=pulumi.Output.all(self.bucket.bucket, self.lease_bucket.bucket).apply(
                lambda names: policy(names[0], names[1], config.name)
            ),
            opts=self._opts(delete_before_replace=True),
        )
        return aws.iam.AccessKey(
            f"{host}-offsite-key", user=user.name, opts=self._opts(additional_secret_outputs=["secret"])
        )


def aws_provider(config: StackConfig, at_aws: bool, opts: pulumi.ResourceOptions) -> aws.Provider:
    """The provider of the off-site region. Against another endpoint (the lab), what only AWS has is skipped."""
    skip = None if at_aws else True  # None: the provider's own default
    return aws.Provider(
        "offsite-region",
        region=config.offsite.region,
        s3_use_path_style=skip,
        skip_credentials_validation=skip,
        skip_metadata_api_check=skip,  # the account's number is asked for even so: calls about tags carry it
        opts=opts,
    )


def policy(offsite: str, lease: str, service: str) -> str:
    """A host's rights as an IAM policy document: add to the off-site vault, renew the lease; destroy nothing.

    `ListBucket` makes a missing key a 404 and not a 403. Restic removes its own locks; with versioning that only
    hides them.
    """
    offsite_arn, lease_arn = f"arn:aws:s3:::{offsite}", f"arn:aws:s3:::{lease}"
    statements = [
        ("ListBuckets", ["s3:ListBucket", "s3:GetBucketLocation"], [offsite_arn, lease_arn]),
        ("AddToOffsite", ["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"], [f"{offsite_arn}/*"]),
        ("RemoveResticLocks", ["s3:DeleteObject"], [f"{offsite_arn}/snapshots/{service}/locks/*"]),
        ("HoldLease", ["s3:GetObject", "s3:PutObject"], [f"{lease_arn}/lease/{service}.json"]),
    ]
    document = {
        "Version": "2012-10-17",
        "Statement": [
            {"Sid": sid, "Effect": "Allow", "Action": actions, "Resource": resources}
            for sid, actions, resources in statements
        ],
    }
    return json.dumps(document)


def _rule(rule: retention.Rule) -> aws.s3.BucketLifecycleConfigurationRuleArgs:
    expiration = aws.s3.BucketLifecycleConfigurationRuleExpirationArgs
    noncurrent = aws.s3.BucketLifecycleConfigurationRuleNoncurrentVersionExpirationArgs
    abort = aws.s3.BucketLifecycleConfigurationRuleAbortIncompleteMultipartUploadArgs
    return aws.s3.BucketLifecycleConfigurationRuleArgs(
        id=rule.id,
        status="Enabled",
        filter=aws.s3.BucketLifecycleConfigurationRuleFilterArgs(prefix=rule.prefix),
        expiration=expiration(days=rule.expire_days, expired_object_delete_marker=rule.clear_markers or None)
        if rule.expire_days or rule.clear_markers
        else None,
        noncurrent_version_expiration=noncurrent(noncurrent_days=rule.noncurrent_days)
        if rule.noncurrent_days
        else None,
        abort_incomplete_multipart_upload=abort(days_after_initiation=rule.abort_upload_days)
        if rule.abort_upload_days
        else None,
    )
