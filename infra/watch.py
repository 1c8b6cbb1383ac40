"""Who looks from outside: uptime checks with their alerts, and monitor alerts on the hosts' own measurements."""

from __future__ import annotations

import pulumi
import pulumi_digitalocean as digitalocean

from infra.config import StackConfig

# Always set: the API fills in a choice of its own otherwise, and every preview would show a change.
REGIONS = ["us_east", "us_west", "eu_west", "se_asia"]
DOWN_FOR = "2m"  # the shortest period there is: too slow to start a failover, good as a further witness
LOAD_WINDOW = "5m"


class Watched(pulumi.ComponentResource):
    """One uptime check and the alert when it is down."""

    def __init__(
        self,
        name: str,
        kind: str,
        target: pulumi.Input[str],
        config: StackConfig,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("lifeline:infra:Watched", f"{name}-watch", None, opts)
        self.check = digitalocean.UptimeCheck(
            f"{name}-check",
            name=f"{config.prefix}-{name}",
            type=kind,
            target=target,
            regions=REGIONS,
            enabled=True,
            opts=pulumi.ResourceOptions(parent=self),
        )
        self.alert = digitalocean.UptimeAlert(
            f"{name}-alert",
            check_id=self.check.id,
            name=f"{config.prefix}-{name}-down",
            type="down",
            threshold=1,
            comparison="less_than",
            period=DOWN_FOR,
            notifications=[digitalocean.UptimeAlertNotificationArgs(emails=[config.alert_email])],
            # An alert lives under its check: when the check is another one, so is the alert, which the provider
            # doesn't know.
            opts=pulumi.ResourceOptions(parent=self, replace_on_changes=["check_id"], delete_before_replace=True),
        )
        self.register_outputs({})


class HostLoad(pulumi.ComponentResource):
    """Monitor alerts for disk, memory and CPU of every droplet that carries the tag."""

    def __init__(self, config: StackConfig, tag: pulumi.Input[str], opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("lifeline:infra:HostLoad", "load", None, opts)
        limits = config.thresholds
        for what, metric, percent in (
            ("disk", "disk_utilization_percent", limits.disk_percent),
            ("memory", "memory_utilization_percent", limits.memory_percent),
            ("cpu", "cpu", limits.cpu_percent),
        ):
            digitalocean.MonitorAlert(
                f"{what}-alert",
                type=f"v1/insights/droplet/{metric}",
                compare="GreaterThan",
                value=percent,
                window=LOAD_WINDOW,
                enabled=True,
                tags=[tag],
                description=f"{config.prefix}: {what} above {percent} %",
                alerts=digitalocean.MonitorAlertAlertsArgs(emails=[config.alert_email]),
                opts=pulumi.ResourceOptions(parent=self),
            )
        self.register_outputs({})
