"""Time for the lab's object stores: objects are made older, and the store's own lifecycle engine runs once.

    python -m lab.ageing ams3 BUCKET 40             # everything in a bucket is 40 days older than it was
    python -m lab.ageing aws BUCKET 40 journal/     # what is below a prefix

A store dates an object by a few numbers in its filer; they are moved back. What a rule then does with it is SeaweedFS's
own doing, as its versions, its locks and its deletions are.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from lab import config
from lab.config import LabConfig
from lab.objectstore import StoreSpec, specs, weed
from lifeline.errors import BadInput

DAY_S = 86400
RUN_S = 60.0
_BUCKETS, _UPLOADS, _VERSIONS = "/buckets", ".uploads", ".versions"
_CURSORS = ("/etc/s3/lifecycle", "daily-cursors")  # how far the engine came today
# The times among an entry's S3 attributes, in decimal, and how many of their units make a second.
_TIMES = {
    "Seaweed-X-Amz-Latest-Version-Mtime": 1,
    "Seaweed-X-Amz-Noncurrent-Since-Ns": 10**9,
    "Seaweed-X-Amz-Retention-Until-Date": 1,
}


def age(store: StoreSpec, bucket: str, days: float, prefix: str = "") -> int:
    """Make every version, delete marker and unfinished upload whose key begins with `prefix` this much older, its lock
    included. Returns how many entries were changed; RuntimeError when the store doesn't let us."""
    seconds, count = int(days * DAY_S), 0
    with _Filer(store) as filer:
        for directory, entry in list(filer.walk(f"{_BUCKETS}/{bucket}")):
            if not _key(directory, entry, bucket).startswith(prefix):
                continue
            entry.attributes.mtime -= seconds
            entry.attributes.crtime -= seconds
            for attribute in entry.extended:
                if unit := _TIMES.get(attribute.key):
                    attribute.value = str(int(attribute.value) - seconds * unit).encode()
            filer.update(directory, entry)
            count += 1
    return count


def run_lifecycle(store: StoreSpec) -> None:
    """Apply every bucket's rules now, as the clouds do once a day. RuntimeError with the engine's own words."""
    ports = store.inside_ports()
    command = f"s3.lifecycle.run-shard -shards 0-15 -s3 {store.inside}:{ports['s3.grpc']} -events 0 -runtime 30s\n"
    master = f"{store.inside}:{ports['master']}.{ports['master.grpc']}"
    with _Filer(store) as filer:
        # The first run deletes; what follows from that, a marker that stands for nothing any more, is for the second.
        for _ in range(2):
            filer.remove(*_CURSORS)
            done = subprocess.run(
                [weed(), "shell", f"-master={master}"],
                input=command, capture_output=True, text=True, timeout=RUN_S, check=False,
            )  # fmt: skip
            if done.returncode or "error" in done.stdout.lower():
                raise RuntimeError(f"{store.name} didn't apply its lifecycle rules: {done.stdout}{done.stderr}")


def _key(directory: str, entry: Any, bucket: str) -> str:
    """The key of what an entry belongs to; a folder's, of a version its object's, of an unfinished upload the one asked
    for."""
    path = f"{directory}/{entry.name}".removeprefix(f"{_BUCKETS}/{bucket}/")
    if path.startswith(f"{_UPLOADS}/"):
        return next((item.value.decode() for item in entry.extended if item.key == "key"), "")
    parent, _, name = path.rpartition("/")
    if parent.endswith(_VERSIONS):
        return parent.removesuffix(_VERSIONS)
    return path.removesuffix(_VERSIONS) if entry.is_directory and name.endswith(_VERSIONS) else path


class _Filer:
    """The few calls of a filer's gRPC that this takes."""

    def __init__(self, store: StoreSpec) -> None:
        self._name = store.name
        self._channel = grpc.insecure_channel(f"{store.inside}:{store.inside_ports()['filer.grpc']}")

    def __enter__(self) -> _Filer:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def walk(self, directory: str) -> Iterator[tuple[str, Any]]:
        """(folder, entry) of everything below a folder, the folders themselves among them."""
        call = self._channel.unary_stream(
            "/filer_pb.SeaweedFiler/ListEntries",
            request_serializer=_ListRequest.SerializeToString,
            response_deserializer=_ListResponse.FromString,
        )
        for answer in call(_ListRequest(directory=directory, limit=1 << 20), timeout=RUN_S):
            yield directory, answer.entry
            if answer.entry.is_directory:
                yield from self.walk(f"{directory}/{answer.entry.name}")

    def update(self, directory: str, entry: Any) -> None:
        self._call("UpdateEntry", _UpdateRequest(directory=directory, entry=entry))

    def remove(self, directory: str, name: str) -> None:
        """A folder with all that is in it; nothing there is fine."""
        request = _DeleteRequest(directory=directory, name=name, is_delete_data=True, is_recursive=True)
        self._call("DeleteEntry", request)

    def _call(self, method: str, request: Any) -> None:
        call = self._channel.unary_unary(
            f"/filer_pb.SeaweedFiler/{method}", request_serializer=type(request).SerializeToString
        )
        try:
            call(request, timeout=RUN_S)
        except grpc.RpcError as error:
            raise RuntimeError(f"the filer of {self._name} refuses {method}: {error}") from None


def _messages() -> dict[str, Any]:
    """The messages of the calls above, with the fields that are looked at here. Protobuf keeps the others as they came,
    so that an entry is written back whole."""
    field = descriptor_pb2.FieldDescriptorProto
    kinds = {"string": field.TYPE_STRING, "bytes": field.TYPE_BYTES, "bool": field.TYPE_BOOL}
    kinds |= {"int64": field.TYPE_INT64, "uint32": field.TYPE_UINT32}
    messages: dict[str, list[tuple[int, str, str]]] = {
        "Attribute": [(1, "key", "string"), (2, "value", "bytes")],  # a map, on the wire
        "Attributes": [(2, "mtime", "int64"), (6, "crtime", "int64")],
        "Entry": [
            *[(1, "name", "string"), (2, "is_directory", "bool")],
            *[(4, "attributes", "Attributes"), (5, "extended", "*Attribute")],
        ],
        "ListRequest": [(1, "directory", "string"), (5, "limit", "uint32")],
        "ListResponse": [(1, "entry", "Entry")],
        "UpdateRequest": [(1, "directory", "string"), (2, "entry", "Entry")],
        "DeleteRequest": [
            *[(1, "directory", "string"), (2, "name", "string")],
            *[(4, "is_delete_data", "bool"), (5, "is_recursive", "bool")],
        ],
    }
    file = descriptor_pb2.FileDescriptorProto(name="lab/ageing.proto", package="lab_ageing", syntax="proto3")
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for number, label, kind in fields:
            added = message.field.add(name=label, number=number, label=field.LABEL_OPTIONAL)
            if kind in kinds:
                added.type = kinds[kind]
            else:
                added.type, added.type_name = field.TYPE_MESSAGE, f".lab_ageing.{kind.lstrip('*')}"
            if kind.startswith("*"):
                added.label = field.LABEL_REPEATED
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {n: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"lab_ageing.{n}")) for n in messages}


_found = _messages()
_ListRequest, _ListResponse = _found["ListRequest"], _found["ListResponse"]
_UpdateRequest, _DeleteRequest = _found["UpdateRequest"], _found["DeleteRequest"]


def main(words: list[str]) -> int:
    """Age a bucket of the running lab, and let its store apply the rules."""
    stores = {spec.name: spec for spec in specs(LabConfig.load(config.state_dir() / "lab.json"))}
    if len(words) not in (3, 4) or words[0] not in stores or not words[2].isdigit():
        print(f"usage: python -m lab.ageing {{{'|'.join(stores)}}} BUCKET DAYS [PREFIX]", file=sys.stderr)
        return BadInput.exit_code
    count = age(stores[words[0]], words[1], int(words[2]), words[3] if len(words) == 4 else "")
    run_lifecycle(stores[words[0]])
    print(f"{count} entries are {words[2]} days older, and {words[0]} has applied its lifecycle rules")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
