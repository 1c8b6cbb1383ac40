"""What every `lifeline.store.Store` must do: one suite, for the in-memory one and for real S3 alike.

A test class inherits `StoreSuite` and gives it a fixture `store`: an empty bucket.
"""

from __future__ import annotations

import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lifeline.store import Conflict, Missing, Store, find, keys, upload_file

RACERS = 16


class StoreSuite:
    def test_what_was_put_is_read_back_with_its_etag(self, store: Store):
        etag = store.put("a/b c+%é", b"body")
        found = store.get("a/b c+%é")
        assert (found.body, found.info.etag, found.info.size) == (b"body", etag, 4)
        assert store.head("a/b c+%é") == found.info

    def test_a_missing_object_is_missing_everywhere(self, store: Store):
        assert store.head("none") is None
        assert find(store, "none") is None
        with pytest.raises(Missing):
            store.get("none")

    def test_an_etag_changes_with_the_body(self, store: Store):
        assert store.put("k", b"1") != store.put("k", b"2")

    def test_listing_is_in_order_and_goes_on_behind_a_key(self, store: Store):
        for key in ("p/b", "p/a", "q/x", "p/c/d"):
            store.put(key, b"")
        assert list(keys(store, "p/")) == ["p/a", "p/b", "p/c/d"]
        assert list(keys(store, "p/", after="p/a")) == ["p/b", "p/c/d"]
        assert list(keys(store, "none/")) == []

    def test_a_long_listing_is_whole_over_all_its_pages_and_folders(self, store: Store):
        wanted = [f"p/{folder:04x}/{number:016x}.ltx" for folder in (0, 1, 9) for number in range(25)] + [
            "p/owner.json"
        ]
        for key in ["o/before", *wanted, "q/behind"]:
            store.put(key, b"")
        assert list(keys(store, "p/")) == wanted
        for after in (24, 25, 49, 50, 74):
            assert list(keys(store, "p/", after=wanted[after])) == wanted[after + 1 :]

    def test_delete_removes_and_repeats(self, store: Store):
        store.put("k", b"")
        store.delete("k")
        store.delete("k")
        assert store.head("k") is None

    def test_many_are_deleted_at_once_and_again(self, store: Store):
        for number in range(3):
            store.put(f"many/{number}", b"")
        store.put("kept", b"")
        wanted = [*keys(store, "many/"), *(f"many/never-{number}" for number in range(1000))]
        assert store.delete_all(wanted) == 1003
        assert store.delete_all(wanted) == 1003
        assert list(keys(store, "")) == ["kept"]
        assert store.delete_all([]) == 0

    def test_versions_of_what_is_there_are_told(self, store: Store):
        etags = {key: store.put(key, key.encode()) for key in ("v/a", "v/b", "w/c")}
        found = {version.key: version.etag for version in store.versions("v/") if not version.marker}
        assert found == {key: etag for key, etag in etags.items() if key.startswith("v/")}

    def test_what_it_asks_is_counted(self, store: Store):
        before = store.asked.copy()
        store.put("k", b"1")
        store.get("k")
        store.get_range("k", 0, 1)
        list(store.list(""))
        store.delete_all(["k"])
        asked = store.asked - before
        assert asked == {"PutObject": 1, "GetObject": 2, "ListObjectsV2": 1, "DeleteObjects": 1}

    def test_put_if_absent_writes_once(self, store: Store):
        store.put_if_absent("k", b"first")
        with pytest.raises(Conflict):
            store.put_if_absent("k", b"second")
        assert store.get("k").body == b"first"

    def test_put_if_match_needs_the_present_etag(self, store: Store):
        old = store.put("k", b"1")
        new = store.put_if_match("k", b"2", old)
        with pytest.raises(Conflict):
            store.put_if_match("k", b"3", old)
        assert (store.get("k").body, store.get("k").info.etag) == (b"2", new)

    def test_put_if_match_on_nothing_is_a_conflict(self, store: Store):
        etag = store.put("k", b"1")
        store.delete("k")
        with pytest.raises(Conflict):
            store.put_if_match("k", b"2", etag)
        assert store.head("k") is None

    @pytest.mark.parametrize("existing", [False, True])
    def test_of_racing_conditional_writers_exactly_one_wins(self, store: Store, existing: bool):
        etag = store.put("k", b"old") if existing else ""

        def write(number: int) -> int | None:
            body = f"racer {number}".encode()
            try:
                if existing:
                    store.put_if_match("k", body, etag)
                else:
                    store.put_if_absent("k", body)
            except Conflict:
                return None
            return number

        with ThreadPoolExecutor(RACERS) as pool:
            winners = [number for number in pool.map(write, range(RACERS)) if number is not None]
        assert len(winners) == 1
        assert store.get("k").body == f"racer {winners[0]}".encode()

    def test_a_file_comes_back_whole_and_tells_its_progress(self, store: Store, tmp_path: Path):
        body = os.urandom(17 << 20)  # two parts
        (tmp_path / "in").write_bytes(body)
        up: list[tuple[int, int]] = []
        upload_file(store, tmp_path / "in", "big", progress=lambda done, size: up.append((done, size)))
        assert store.get("big").body == body
        assert max(up)[0] == len(body)
        assert {size for _, size in up} == {len(body)}

    def test_a_stream_of_unknown_length_is_written_whole(self, store: Store):
        store.upload(io.BytesIO(b"x" * 100), "k")
        assert store.get("k").body == b"x" * 100
