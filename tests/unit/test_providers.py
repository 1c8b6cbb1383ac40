"""The stand-in providers: values on the wire, the engine's questions, and the choice between real and stand-in."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import empty_pb2
from hypothesis import given
from hypothesis import strategies as st
from pulumi.runtime.proto import plugin_pb2, provider_pb2, provider_pb2_grpc, status_pb2

from lab.providers import choice, lifecycle
from lab.providers.kind import Created, Kind, Live, Prop, ProviderError, Values
from lab.providers.server import ports_of, serve
from lab.providers.servicer import StandIn
from lab.providers.values import UNKNOWN, decode, encode, same, unknown_within
from lifeline.errors import BadConfig, Unavailable

URN = "urn:pulumi:lab::lifeline::lifeline:infra:Vault$lab:index:Box::my-box"


class Boxes(Kind):
    """A resource type over a dict."""

    token = "lab:index:Box"
    props = (
        Prop("name", "name"),
        Prop("size", "size", required=True),
        Prop("region", "region", replaces=True),
        Prop("secret", reads=False),
    )
    computed = ("address", "key")
    autonamed = True

    def __init__(self) -> None:
        self.made: dict[str, Values] = {}
        self.settles = True

    def create(self, inputs: Values) -> Created:
        identity = f"box-{len(self.made) + 1}"
        self.made[identity] = dict(inputs)
        return Created(identity, {"key": "told once"})

    def settle(self, identity: str, inputs: Values) -> None:
        if not self.settles:
            raise ProviderError("the box never opened")

    def read(self, identity: str, state: Values) -> Live | None:
        found = self.made.get(identity)
        if found is None:
            return None
        return Live(
            {name: found[name] for name in found if name != "secret"}, {"address": f"at {identity}", "key": None}
        )

    def update(self, identity: str, old: Values, new: Values, changed: Collection[str]) -> None:
        self.made[identity] = dict(new)

    def delete(self, identity: str, state: Values) -> None:
        self.made.pop(identity, None)


@pytest.fixture
def boxes() -> Boxes:
    return Boxes()


@pytest.fixture
def provider(boxes: Boxes) -> Iterator[Any]:
    """A client of the stand-in, over real gRPC, configured."""
    server = grpc.server(ThreadPoolExecutor(2))
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(StandIn("1.2.3", lambda _: {boxes.token: boxes}), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        client: Any = provider_pb2_grpc.ResourceProviderStub(channel)
        client.Attach(plugin_pb2.PluginAttach(address="127.0.0.1:1"))
        client.Configure(provider_pb2.ConfigureRequest())
        yield client
    server.stop(0).wait()


def create(provider: Any, inputs: Values, *, preview: bool = False) -> Any:
    return provider.Create(provider_pb2.CreateRequest(urn=URN, properties=encode(inputs), preview=preview))


# Values ---------------------------------------------------------------------------------------------------------------

PLAIN = st.recursive(
    st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=5), PLAIN, max_size=4))
def test_values_survive_the_wire(values: Values) -> None:
    assert decode(encode(values)) == values


def test_unknown_survives_the_wire_and_none_is_left_out() -> None:
    values = decode(encode({"a": UNKNOWN, "b": [1, UNKNOWN], "c": None, "d": {"e": None, "f": 1.5}}))
    assert values == {"a": UNKNOWN, "b": [1, UNKNOWN], "d": {"f": 1.5}}
    assert unknown_within(values) and not unknown_within(values["d"])


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (None, [], True),
        (None, {}, True),
        ("", None, True),
        (1, 1.0, True),
        (0, None, False),
        (False, None, False),
        (["a", "b"], ["b", "a"], True),
        ([{"id": 1, "p": "x"}, {"id": 2}], [{"id": 2, "p": None}, {"p": "x", "id": 1}], True),
        ({"a": {"b": []}}, {}, True),
        (["a"], ["a", "a"], False),
    ],
)
def test_what_means_the_same_is_the_same(one: Any, other: Any, equal: bool) -> None:
    assert same(one, other) is equal


# The engine's questions -----------------------------------------------------------------------------------------------


def test_check_names_what_is_missing_and_what_is_not_supported(provider: Any) -> None:
    answer = provider.Check(provider_pb2.CheckRequest(urn=URN, news=encode({"colour": "red"}), randomSeed=b"seed"))
    assert {failure.property for failure in answer.failures} == {"size", "colour"}


def test_check_makes_up_a_name_once(provider: Any) -> None:
    first = decode(provider.Check(provider_pb2.CheckRequest(urn=URN, news=encode({"size": 1}), randomSeed=b"a")).inputs)
    assert first["name"].startswith("my-box-")
    again = provider_pb2.CheckRequest(urn=URN, olds=encode(first), news=encode({"size": 2}), randomSeed=b"b")
    assert decode(provider.Check(again).inputs)["name"] == first["name"]


def diff(provider: Any, old: Values, new: Values, ignored: Collection[str] = ()) -> Any:
    return provider.Diff(
        provider_pb2.DiffRequest(
            id="box-1", urn=URN, olds=encode(old), old_inputs=encode(old), news=encode(new), ignoreChanges=ignored
        )
    )


def test_diff_tells_updates_from_replacements(provider: Any) -> None:
    changes, kinds = provider_pb2.DiffResponse, provider_pb2.PropertyDiff
    old = {"name": "a", "size": 1, "region": "here"}
    assert diff(provider, old, {**old, "size": 1.0}).changes == changes.DIFF_NONE
    update = diff(provider, old, {**old, "size": 2})
    assert (update.changes, list(update.replaces)) == (changes.DIFF_SOME, [])
    assert update.detailedDiff["size"].kind == kinds.UPDATE
    replacement = diff(provider, old, {**old, "region": "there"})
    assert list(replacement.replaces) == ["region"]
    assert replacement.detailedDiff["region"].kind == kinds.UPDATE_REPLACE
    assert diff(provider, old, {**old, "region": "there"}, ["region"]).changes == changes.DIFF_NONE


def test_diff_takes_an_unknown_for_a_change(provider: Any) -> None:
    answer = diff(provider, {"size": 1}, {"size": UNKNOWN})
    assert answer.changes == provider_pb2.DiffResponse.DIFF_SOME


def test_a_preview_makes_nothing_and_promises_nothing(provider: Any, boxes: Boxes) -> None:
    planned = decode(create(provider, {"name": "a", "size": UNKNOWN}, preview=True).properties)
    assert planned == {"name": "a", "size": UNKNOWN, "address": UNKNOWN, "key": UNKNOWN}
    assert boxes.made == {}


def test_a_preview_of_an_update_keeps_what_will_stay(provider: Any, boxes: Boxes) -> None:
    made = create(provider, {"name": "a", "size": 1})
    request = provider_pb2.UpdateRequest(
        id=made.id, urn=URN, olds=made.properties, news=encode({"name": "a", "size": 2}), preview=True
    )
    planned = decode(provider.Update(request).properties)
    assert planned == {"name": "a", "size": 2, "address": "at box-1", "key": "told once"}
    assert boxes.made[made.id]["size"] == 1


def test_what_is_told_once_is_kept_through_refresh_and_update(provider: Any) -> None:
    made = create(provider, {"name": "a", "size": 1, "secret": "s"})
    assert decode(made.properties)["key"] == "told once"
    inputs = encode({"name": "a", "size": 1, "secret": "s"})
    read = provider.Read(provider_pb2.ReadRequest(id=made.id, urn=URN, properties=made.properties, inputs=inputs))
    assert (decode(read.properties), decode(read.inputs)) == (decode(made.properties), decode(inputs))
    request = provider_pb2.UpdateRequest(
        id=made.id, urn=URN, olds=read.properties, old_inputs=inputs, news=encode({"name": "a", "size": 2})
    )
    assert decode(provider.Update(request).properties)["key"] == "told once"


def test_a_refresh_shows_drift_in_inputs_and_outputs(provider: Any, boxes: Boxes) -> None:
    made = create(provider, {"name": "a", "size": 1})
    boxes.made[made.id]["size"] = 7
    read = provider.Read(
        provider_pb2.ReadRequest(
            id=made.id, urn=URN, properties=made.properties, inputs=encode({"name": "a", "size": 1})
        )
    )
    assert decode(read.inputs)["size"] == decode(read.properties)["size"] == 7


def test_what_is_gone_reads_as_gone(provider: Any, boxes: Boxes) -> None:
    made = create(provider, {"name": "a", "size": 1})
    boxes.made.clear()
    assert provider.Read(provider_pb2.ReadRequest(id=made.id, urn=URN, properties=made.properties)).id == ""
    provider.Delete(provider_pb2.DeleteRequest(id=made.id, urn=URN, properties=made.properties))


def test_an_import_takes_what_exists(provider: Any, boxes: Boxes) -> None:
    boxes.made["box-9"] = {"name": "old", "size": 3, "region": ""}
    read = provider.Read(provider_pb2.ReadRequest(id="box-9", urn=URN))
    assert decode(read.inputs) == {"name": "old", "size": 3}


def test_what_was_made_but_never_got_ready_stays_in_the_state(provider: Any, boxes: Boxes) -> None:
    boxes.settles = False
    with pytest.raises(grpc.RpcError) as caught:
        create(provider, {"name": "a", "size": 1})
    metadata: Any = dict(caught.value.trailing_metadata())
    status = status_pb2.Status.FromString(metadata["grpc-status-details-bin"])
    failed = provider_pb2.ErrorResourceInitFailed()
    assert status.details[0].Unpack(failed)
    assert (failed.id, list(failed.reasons)) == ("box-1", ["the box never opened"])
    assert decode(failed.properties)["key"] == "told once"


def test_an_unknown_type_is_refused_with_the_known_ones(provider: Any) -> None:
    with pytest.raises(grpc.RpcError, match="lab:index:Box"):
        provider.Check(provider_pb2.CheckRequest(urn=URN.replace("Box::", "Crate::")))


def test_a_provider_that_cannot_be_configured_says_why() -> None:
    from lab.providers import aws, digitalocean

    with pytest.raises(ProviderError, match="DIGITALOCEAN_TOKEN"):
        digitalocean.configure({}, {})
    with pytest.raises(ProviderError, match="AWS_ENDPOINT_URL_S3"):
        aws.configure({"region": "us-east-2"}, {})


def test_plugin_info_has_a_version(provider: Any) -> None:
    assert provider.GetPluginInfo(empty_pb2.Empty()).version == "1.2.3"


def test_inputs_keep_their_spelling_when_nothing_drifted() -> None:
    kind, recorded = Boxes(), {"size": 1, "name": "a"}
    live = Live({"size": 1.0, "name": "a", "region": "somewhere"}, {})
    assert lifecycle.inputs_now(kind, recorded, live) == recorded


# Real or stand-in -----------------------------------------------------------------------------------------------------


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """No connection succeeds; returns the attempts."""
    attempts: list[Any] = []

    def refuse(address: Any, timeout: float | None = None) -> Any:
        attempts.append(address)
        raise OSError("offline")

    monkeypatch.setattr(socket, "create_connection", refuse)
    return attempts


def environment(tmp_path: Path, *plugins: str) -> dict[str, str]:
    programs = tmp_path / "bin"
    programs.mkdir(exist_ok=True)
    for name in plugins:
        (programs / f"pulumi-resource-{name}").touch(mode=0o755)
    return {"PATH": str(programs), "HOME": str(tmp_path)}


def test_a_plugin_on_path_is_used(tmp_path: Path, offline: list[Any]) -> None:
    choices = choice.available(environment(tmp_path, "digitalocean"), download=False)
    assert choices == {"digitalocean": "real", "aws": "lab"}
    assert choice.label(choices) == "lab"
    assert offline == []


def test_installed_plugins_are_used(tmp_path: Path, offline: list[Any]) -> None:
    for name, distribution in choice.PACKAGES.items():
        folder = tmp_path / ".pulumi" / "plugins" / f"resource-{name}-v{version(distribution)}"
        folder.mkdir(parents=True)
        (folder / f"pulumi-resource-{name}").touch()
    assert choice.label(choice.available(environment(tmp_path))) == "real"
    assert offline == []


def test_stand_ins_can_be_asked_for_where_the_real_ones_are_installed(tmp_path: Path, offline: list[Any]) -> None:
    env = environment(tmp_path, *choice.PACKAGES)
    assert choice.label(choice.available(env)) == "real"
    assert choice.available(env, wanted="lab") == {"digitalocean": "lab", "aws": "lab"}
    assert offline == []


def test_real_ones_that_can_not_be_had_are_an_error_with_the_next_step(tmp_path: Path) -> None:
    env = environment(tmp_path, "digitalocean")
    installer = tmp_path / "bin" / "pulumi"
    installer.write_text("#!/bin/sh\necho no such plugin >&2\nexit 1\n")
    installer.chmod(0o755)
    marker = tmp_path / ".cache" / "lifeline" / "no-plugin-host.json"
    marker.parent.mkdir(parents=True)
    marker.write_text(json.dumps({"failed_at": time.time()}))  # asked for by name, it is tried all the same
    said: list[str] = []
    with pytest.raises(Unavailable, match="plugins aws can't be had") as refused:
        choice.available(env, wanted="real", say=said.append)
    assert f"pulumi plugin install resource aws v{version('pulumi-aws')}" in refused.value.hint
    assert "LIFELINE_PROVIDERS=lab" in refused.value.hint
    assert "downloading" in said[0] and said[1] == "lab: no plugin aws: no such plugin"
    assert choice.available(env, wanted="auto") == {"digitalocean": "real", "aws": "lab"}


def test_a_download_is_announced_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env, said = environment(tmp_path, "digitalocean"), list[str]()
    home = tmp_path / ".pulumi" / "plugins" / f"resource-aws-v{version('pulumi-aws')}"
    installer = tmp_path / "bin" / "pulumi"
    installer.write_text(f"#!/bin/sh\n/bin/mkdir -p {home} && : >{home}/pulumi-resource-aws\n")
    installer.chmod(0o755)
    monkeypatch.setattr(choice, "_reachable", lambda: True)
    assert choice.label(choice.available(env, say=said.append)) == "real"
    assert len(said) == 1 and "downloading Pulumi's plugin aws" in said[0] and "5 minutes" in said[0]


@pytest.mark.parametrize(("value", "mode"), [(None, "auto"), ("", "auto"), ("lab", "lab"), ("real", "real")])
def test_the_mode_is_read_from_the_environment(value: str | None, mode: str) -> None:
    assert choice.mode({} if value is None else {"LIFELINE_PROVIDERS": value}) == mode
    with pytest.raises(BadConfig, match="none of auto, real, lab"):
        choice.mode({"LIFELINE_PROVIDERS": "Real"})


def test_offline_is_noticed_once_and_remembered(tmp_path: Path, offline: list[Any]) -> None:
    env = environment(tmp_path)
    assert choice.available(env) == {"digitalocean": "lab", "aws": "lab"}
    assert choice.available(env) == {"digitalocean": "lab", "aws": "lab"}
    assert offline == [("get.pulumi.com", 443)]
    marker = tmp_path / ".cache" / "lifeline" / "no-plugin-host.json"
    marker.write_text(json.dumps({"failed_at": 0}))
    choice.available(env)
    assert len(offline) == 2


def test_a_successor_listens_where_shells_were_told_its_predecessor_does() -> None:
    first = serve(["digitalocean"])
    told = first.attach
    first.stop()
    second = serve(["digitalocean"], ports_of(told))
    try:
        assert second.attach == told
    finally:
        second.stop()


def test_a_port_that_was_taken_meanwhile_is_no_reason_to_fail() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        running = serve(["digitalocean"], {"digitalocean": taken})
        try:
            assert running.ports["digitalocean"] not in (0, taken)
        finally:
            running.stop()


def test_ports_that_cannot_be_read_are_left_out() -> None:
    assert ports_of("aws:12,digitalocean:34\n") == {"aws": 12, "digitalocean": 34}
    assert ports_of("") == ports_of("aws:,x") == {}
