"""The lab's nginx: a store's front answers as the cloud does; through the proxy real clients reach buckets by name."""

from __future__ import annotations

import io
import itertools
import os
import socket
import subprocess
import urllib.parse
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config as BotoConfig
from dnslib import QTYPE, RR, A
from dnslib.server import BaseResolver, DNSServer

from lab import bucketguard, front, proxy
from lab.proxy import ProxySpec
from lab.series.eyes import read_noted
from lab.servers import prepare
from tests.contract.stores import OPERATOR, free_ports, outcome, running, spaces_spec, wait_until

pytestmark = pytest.mark.slow

BUCKET = "vault"
KEY = "replica/a b/ü/x+%20?.ltx"
_numbers = itertools.count()


class Everything(BaseResolver):  # type: ignore[misc]
    """Answers 127.0.0.1 to every question for an address."""

    def resolve(self, request, handler):
        reply = request.reply()
        if request.q.qtype == QTYPE.A:
            reply.add_answer(RR(request.q.qname, QTYPE.A, rdata=A("127.0.0.1"), ttl=1))
        return reply


@pytest.fixture(scope="module")
def through(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The proxy's URL, and the endpoint of a store that is only reachable by name."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        dns_port = probe.getsockname()[1]
    dns = DNSServer(Everything(), address="127.0.0.1", port=dns_port)
    dns.start_thread()
    folder = tmp_path_factory.mktemp("proxy")
    spec = spaces_spec(tmp_path_factory.mktemp("spaces"))
    guard = free_ports(1)
    face = front.of(spec, f"127.0.0.1:{guard}")
    nginx = ProxySpec(folder, "127.0.0.1", free_ports(1), f"127.0.0.1:{dns_port}", (face,))
    description = proxy.server(nginx)
    prepare(description)
    guarding = bucketguard.start([spec], "127.0.0.1", guard)
    process = subprocess.Popen(description.argv, env=description.env)
    try:
        wait_until(description.ready, 10)
        with running(spec, "us-east-1") as store:
            store.client().create_bucket(Bucket=BUCKET)
            yield f"http://127.0.0.1:{nginx.port}", f"http://{spec.domain}:{spec.port}"
    finally:
        process.terminate()
        process.wait()
        guarding.shutdown()
        dns.stop()


@pytest.fixture(params=["virtual", "path"])
def client(request: pytest.FixtureRequest, through: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """boto3 as in the operator's shell, with either way of naming a bucket."""
    url, endpoint = through
    monkeypatch.setenv("http_proxy", url)
    monkeypatch.delenv("no_proxy", raising=False)
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=OPERATOR.access_key,
        aws_secret_access_key=OPERATOR.secret_key,
        region_name="us-east-1",
        config=BotoConfig(
            s3={"addressing_style": request.param},
            retries={"total_max_attempts": 1},
            request_checksum_calculation="when_required",  # as hosts do
        ),
    )


def test_who_changed_what_is_noted_and_of_what_was_read_only_the_lease(client: Any, tmp_path_factory: Any) -> None:
    key = f"noted-{next(_numbers)}"
    for name in (key, f"lease/{key}"):
        client.put_object(Bucket=BUCKET, Key=name, Body=b"1")
        client.get_object(Bucket=BUCKET, Key=name)
    client.delete_object(Bucket=BUCKET, Key=key)
    notes = next(tmp_path_factory.getbasetemp().glob(f"proxy[0-9]*/{proxy.NOTED}"))
    noted = [one for one in read_noted(notes.read_text().splitlines()) if key in one.path and one.from_ == "127.0.0.1"]
    fronts = [(one.method, "/lease/" in one.path, one.status) for one in noted if one.to == "127.0.0.1"]
    # Once by the front and once by the proxy, through which this client comes.
    assert {(one, fronts.count(one)) for one in fronts} == {
        *((("PUT", lease, 200), 2) for lease in (False, True)),
        (("GET", True, 200), 2),
        (("DELETE", False, 204), 2),
    }


def test_boto3_writes_and_reads_by_name(client: Any):
    client.put_object(Bucket=BUCKET, Key=KEY, Body=b"1", Metadata={"under_score.dot": "kept"})
    assert client.head_object(Bucket=BUCKET, Key=KEY)["Metadata"] == {"under_score.dot": "kept"}
    assert [item["Key"] for item in client.list_objects_v2(Bucket=BUCKET, Prefix="replica/a b/")["Contents"]] == [KEY]
    body = os.urandom(20 << 20)  # beyond the 2 MB from which clients say Expect: 100-continue
    client.put_object(Bucket=BUCKET, Key="big", Body=body)
    back = io.BytesIO()
    client.download_fileobj(BUCKET, "big", back)
    assert back.getvalue() == body


@pytest.mark.parametrize("came", [b"", b"half"])
def test_what_breaks_off_half_way_was_never_written(client: Any, came: bytes, tmp_path_factory: Any) -> None:
    """A host that loses power while it writes. SeaweedFS, alone, takes what has come for all there is."""
    key, kept = f"torn-{next(_numbers)}", list[Any]()
    tag = client.put_object(Bucket=BUCKET, Key=key, Body=b"whole")["ETag"]

    def keep(request: Any, **_: Any) -> Any:
        kept.append(request)
        raise KeyError("enough")

    client.meta.events.register("before-send", keep)
    with pytest.raises(KeyError):
        client.put_object(Bucket=BUCKET, Key=key, Body=b"x" * 300, IfMatch=tag)
    client.meta.events.unregister("before-send", keep)
    (request,) = kept
    url = urllib.parse.urlsplit(request.url)
    heads = {**request.headers, "Host": url.netloc}
    lines = [f"PUT {url.path} HTTP/1.1", *(f"{name}: {_text(value)}" for name, value in heads.items()), "", ""]
    assert url.port
    with socket.create_connection(("127.0.0.1", url.port), timeout=5) as line:
        line.sendall("\r\n".join(lines).encode() + came)
    notes = next(tmp_path_factory.getbasetemp().glob(f"proxy[0-9]*/{proxy.NOTED}"))

    def ended() -> bool:
        return any(key in one.path and one.status != 200 for one in read_noted(notes.read_text().splitlines()))

    wait_until(ended, 10)
    assert client.get_object(Bucket=BUCKET, Key=key)["Body"].read() == b"whole"


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def curl(url: str, *arguments: str) -> tuple[int, str]:
    argv = ["curl", "--silent", "--proxy", url, "--noproxy", "", "--write-out", "\n%{http_code}", *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    body, _, status = done.stdout.rpartition("\n")
    return int(status), body


@pytest.mark.parametrize(
    "url", ["http://example.com/", "http://127.0.0.1/", "http://198.20.0.1/", "http://test/", "http://a.test.evil.com/"]
)
def test_what_is_not_the_labs_is_refused_with_the_reason(through: tuple[str, str], url: str):
    status, body = curl(through[0], url)
    assert (status, "serves names under .test" in body) == (403, True)


def test_it_does_not_go_round_in_circles_nor_tunnel(through: tuple[str, str]):
    assert curl(through[0], through[0])[0] == 403
    tunnel = curl(through[0], "--proxytunnel", f"{through[1]}/")
    assert tunnel[0] in (0, 400, 403, 405)
    assert "alive" not in tunnel[1]


# --- the front of a store ---------------------------------------------------------------------------------------------


@pytest.fixture
def bucket(client: Any) -> str:
    name = f"bucket-{next(_numbers)}"
    client.create_bucket(Bucket=name)
    return name


@pytest.mark.parametrize("key", ["top", "in/folders"])
@pytest.mark.parametrize("versioned", [False, True])
def test_a_bucket_is_deleted_only_when_it_holds_nothing(client: Any, bucket: str, versioned: bool, key: str):
    if versioned:
        client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    client.put_object(Bucket=bucket, Key=key, Body=b"1")
    assert outcome(client.delete_bucket, Bucket=bucket) == "BucketNotEmpty"
    client.delete_object(Bucket=bucket, Key=key)
    if versioned:  # the version and its delete marker are still there
        assert outcome(client.delete_bucket, Bucket=bucket) == "BucketNotEmpty"
        assert client.head_bucket(Bucket=bucket)
        held = client.list_object_versions(Bucket=bucket)
        versions = [{"Key": key, "VersionId": held_["VersionId"]} for held_ in held["Versions"] + held["DeleteMarkers"]]
        client.delete_objects(Bucket=bucket, Delete={"Objects": versions})
    assert outcome(client.delete_bucket, Bucket=bucket) == "ok"
    assert outcome(client.delete_bucket, Bucket=bucket) == "NoSuchBucket"


def test_deleting_objects_and_settings_is_nothing_special(client: Any, bucket: str):
    client.put_object(Bucket=bucket, Key="a", Body=b"1")
    client.put_object(Bucket=bucket, Key="b", Body=b"1")
    assert outcome(client.delete_object, Bucket=bucket, Key="a") == "ok"
    assert outcome(client.delete_bucket_lifecycle, Bucket=bucket) == "ok"
    assert outcome(client.delete_bucket_cors, Bucket=bucket) == "ok"
    assert [item["Key"] for item in client.list_objects_v2(Bucket=bucket)["Contents"]] == ["b"]


def test_a_bucket_says_where_it_is(client: Any, bucket: str):
    assert client.get_bucket_location(Bucket=bucket)["LocationConstraint"] == "nyc3"
    headers = client.head_bucket(Bucket=bucket)["ResponseMetadata"]["HTTPHeaders"]
    assert headers["x-amz-bucket-region"] == "nyc3"


def test_a_key_that_looks_like_a_question_is_just_a_key(client: Any, bucket: str):
    client.put_object(Bucket=bucket, Key="location", Body=b"<LocationConstraint></LocationConstraint>")
    body = client.get_object(Bucket=bucket, Key="location")["Body"].read()
    assert body == b"<LocationConstraint></LocationConstraint>"
