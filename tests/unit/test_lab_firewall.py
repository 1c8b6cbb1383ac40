"""From rules of the API to nft."""

from __future__ import annotations

import pytest

from lab.firewall import render
from lab.ports import FirewallRule

ANYWHERE = ("0.0.0.0/0",)


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        (FirewallRule("in", "tcp", "22", ("198.18.100.1",)), "ip saddr 198.18.100.1/32 tcp dport 22 accept"),
        (FirewallRule("in", "tcp", "8000-9000", ANYWHERE), "ip saddr 0.0.0.0/0 tcp dport 8000-9000 accept"),
        (FirewallRule("in", "udp", "0", ANYWHERE), "ip saddr 0.0.0.0/0 meta l4proto udp accept"),
        (FirewallRule("out", "icmp", "0", ANYWHERE), "ip daddr 0.0.0.0/0 meta l4proto icmp accept"),
        (FirewallRule("out", "udp", "53", ("::/0",)), "ip6 daddr ::/0 udp dport 53 accept"),
    ],
)
def test_a_rule_becomes_one_line(rule: FirewallRule, line: str) -> None:
    assert line in render([rule])


def test_a_rule_opens_its_own_direction_only() -> None:
    inbound, outbound = render([FirewallRule("in", "tcp", "22", ANYWHERE)]).split("chain outbound")
    assert "dport 22" in inbound
    assert "dport 22" not in outbound


def test_no_rules_close_everything_and_both_directions_drop_by_default() -> None:
    text = render([])
    assert text.count("policy drop;") == 2
    assert "dport 53" not in text  # DNS must be allowed like all else


@pytest.mark.parametrize("ports", ["22; flush ruleset", "a-b"])
def test_what_is_not_a_port_never_reaches_nft(ports: str) -> None:
    with pytest.raises(ValueError):
        render([FirewallRule("in", "tcp", ports, ANYWHERE)])
