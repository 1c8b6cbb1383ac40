"""What stands already is taken over and not made again: for a state that was lost while the clouds kept their part.

LIFELINE_ADOPT names it, as JSON {type: {label: id}}; `fab rebuild` looks for it and sets it for one `pulumi up`. A
resource that is taken over stays as it is in that run, for Pulumi imports nothing that differs from the program; the
next run makes it what the program says.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import pulumi

from lifeline.model import ADOPT

Standing = Mapping[str, Mapping[str, str]]
# What tells two resources of a type apart, where that isn't their name.
_LABELS = {
    "aws:s3/bucket:Bucket": "bucket",
    "aws:route53/record:Record": "set_identifier",
    "digitalocean:index/monitorAlert:MonitorAlert": "description",
}
Transformation = Callable[[pulumi.ResourceTransformationArgs], pulumi.ResourceTransformationResult | None]


def standing(env: Mapping[str, str]) -> Standing:
    """What the environment names; nothing in every run but a rebuild's first."""
    found: Standing = json.loads(env.get(ADOPT) or "{}")
    return found


def taking_over(found: Standing) -> Transformation:
    """For Pulumi: a resource that is among these is imported."""

    def transform(args: pulumi.ResourceTransformationArgs) -> pulumi.ResourceTransformationResult | None:
        label = args.props.get(_LABELS.get(args.type_, "name"))
        identity = found.get(args.type_, {}).get(label) if isinstance(label, str) else None
        if identity is None:
            return None
        as_it_is = pulumi.ResourceOptions(import_=identity, ignore_changes=list(args.props))
        return pulumi.ResourceTransformationResult(args.props, pulumi.ResourceOptions.merge(args.opts, as_it_is))

    return transform
