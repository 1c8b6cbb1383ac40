"""service.toml: what is read, and what is refused with the key and what is allowed."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

import pytest

from lifeline.errors import BadConfig
from lifeline.service import Service
from tests.unit.world import SERVICE_TOML

ROOT = Path(__file__).resolve().parents[2]


def test_a_small_service() -> None:
    service = Service.parse(SERVICE_TOML)
    assert service.database("trades").path == PurePosixPath("/var/lib/genesis/trades.db")
    assert (service.start_within_s, service.stop_within_s, service.hooks.reconcile) == (30, 10, ())
    assert service.probe is not None and service.probe.write_method == "POST"
    assert (service.metrics, service.triggers) == (None, ())
    with pytest.raises(KeyError):
        service.database("other")


def test_the_document_s_example_is_valid() -> None:
    text = (ROOT / "docs/service.md").read_text(encoding="utf-8")
    example = re.search(r"```toml\n(.*?)```", text, re.DOTALL)
    assert example is not None
    service = Service.parse(example[1], "docs/service.md")
    assert service.invariants[0].expect == "no-rows" and service.invariants[0].database == "trades"
    assert service.hooks.quiesce and service.logs
    assert service.metrics == "/metrics"
    assert [(one.metric.name, one.increase, one.above, one.within_s) for one in service.triggers] == [
        ("genesis_trades_failed_total", 3, None, 600),
        ("genesis_memory_bytes", None, 2e9, 60),
    ]


@pytest.mark.parametrize("path", sorted(ROOT.glob("services/*/service.toml")), ids=str)
def test_every_service_here_is_valid(path: Path) -> None:
    assert Service.load(path).name == path.parent.name


REFUSED = {
    'name = "Genesis"': r'name: "Genesis" is not allowed; lower-case letters',
    'name = "litestream"': r'name: "litestream" is taken',
    "port = 80": r"port: 80 is not allowed; at least 1024",
    'port = "8080"': r"port: must be a whole number",
    'health = "health"': r'health: "health" is not allowed',
    'durability = "hope"': r'durability: "hope" is not allowed; one of: async, vault',
    "command = []": r"command: must name a program",
    'command = "bin/genesis"': r"command: must be a list",
    'comand = ["x"]': r"comand: is not known; allowed here: command",
    "start_within_s = 0": r"start_within_s: 0 is not allowed",
}


@pytest.mark.parametrize("line", REFUSED)
def test_refused(line: str) -> None:
    key = line.split(" =")[0]
    text = re.sub(rf"^{key} = .*\n", "", SERVICE_TOML, flags=re.MULTILINE)
    with pytest.raises(BadConfig, match=REFUSED[line].replace("allowed here: command", "allowed here: .*command")):
        Service.parse(f"{line}\n{text}")


METRICS = '[metrics]\npath = "/metrics"\n[[triggers]]\nname = "t"'
EXTRA = {
    '[[databases]]\nname = "trades"\npath = "/x.db"': r'databases: "trades" appears twice',
    '[[databases]]\nname = "b"\npath = "b.db"': r"databases\[1\]\.path: 'b.db' is not allowed; an absolute path",
    '[[databases]]\nname = "b"\npath = "/a/../b"': r"databases\[1\]\.path",
    '[[invariants]]\nname = "i"\ndatabase = "no"\nsql = "SELECT 1"': r'invariants\[0\]\.database: "no" .* of: trades',
    '[[invariants]]\nname = "i"\nsql = ""': r"invariants\[0\]\.sql: must be a non-empty string",
    '[paths]\nlog = ["/var/log/x"]': r"paths\.log: is not known; allowed here: .*, logs, state",
    '[hooks]\nquiesce = "stop"': r"hooks\.quiesce: must be a list",
    '[metrics]\npath = "metrics"': r'metrics\.path: "metrics" is not allowed; the path of a URL',
    "[metrics]\nport = 9100": r"metrics\.port: is not known",
    '[[triggers]]\nname = "t"\nmetric = "m"\nabove = 1\nwithin_s = 5': r"triggers: need \[metrics\] with its path",
    f'{METRICS}\nmetric = "m"\nwithin_s = 5': r"triggers\[0\]: needs exactly one threshold: increase .* or above",
    f'{METRICS}\nmetric = "m"\nwithin_s = 5\nabove = 1\nincrease = 1': r"triggers\[0\]: needs exactly one",
    f'{METRICS}\nmetric = "m"\nabove = 1': r"triggers\[0\]\.within_s: is missing",
    f'{METRICS}\nmetric = "m"\nabove = 1\nwithin_s = 86401': r"within_s: 86401 is not allowed; at most a day",
    f'{METRICS}\nmetric = "m"\nincrease = 0\nwithin_s = 5': r"increase: 0 is not allowed; above 0",
    f'{METRICS}\nmetric = "m{{"\nincrease = 1\nwithin_s = 5': r"triggers\[0\]\.metric: labels of m",
    f'{METRICS}\nmetric = "a b"\nincrease = 1\nwithin_s = 5': r'triggers\[0\]\.metric: "b" after the metric',
}


@pytest.mark.parametrize("text", EXTRA)
def test_refused_tables(text: str) -> None:
    with pytest.raises(BadConfig, match=EXTRA[text]):
        Service.parse(SERVICE_TOML.replace("[probe]", f"{text}\n[probe]"))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('{"token": "{token}"}', "{}", "probe: {token} must be in write_path or write_body"),
        ("/probe/{token}", "/probe", "probe.read_path: must hold"),
    ],
)
def test_a_probe_that_proves_nothing(old: str, new: str, says: str) -> None:
    with pytest.raises(BadConfig, match=re.escape(says)):
        Service.parse(SERVICE_TOML.replace(old, new))


def test_no_databases_nothing_to_protect() -> None:
    text = SERVICE_TOML.replace("[[databases]]", "[ignored]")
    with pytest.raises(BadConfig, match="ignored: is not known"):
        Service.parse(text)


def test_unreadable() -> None:
    with pytest.raises(BadConfig, match="No such file"):
        Service.load(Path("/nonexistent/service.toml"))
    with pytest.raises(BadConfig, match=r"service\.toml: Invalid value"):
        Service.parse("name =")


def test_a_file_that_is_no_text_or_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "service.toml").write_bytes(b"name = '\xff'")
    with pytest.raises(BadConfig, match="is no text"):
        Service.load(tmp_path / "service.toml")
    with pytest.raises(BadConfig, match="No such file"):
        Service.load(tmp_path / "other.toml")
