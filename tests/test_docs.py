"""What the documents say is so: links resolve, named commands exist, the exit codes are those of the code."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

import fabfile
import lifeline.errors
from lab import shell
from lab.config import LabConfig
from lifeline.errors import LifelineError

PROJECT = Path(__file__).resolve().parent.parent
DOCUMENTS = [PROJECT / "README.md", PROJECT / "CHANGELOG.md", *sorted((PROJECT / "docs").rglob("*.md"))]

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)")
CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.MULTILINE | re.DOTALL)
FAB = re.compile(r"\bfab ([a-z][a-z0-9-]*(?:\.[a-z][a-z0-9-]*)*)")
MAKE = re.compile(r"\bmake ([a-z][a-z-]*)")


def ids(file: Path) -> str:
    return str(file.relative_to(PROJECT))


def code_of(text: str) -> str:
    """Only what is typeset as code: prose may say "make sure"."""
    return "\n".join(CODE.findall(text))


def slug(heading: str) -> str:
    """A heading's anchor, as GitHub makes it."""
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return kept.replace(" ", "-")


def broken_links(file: Path, text: str) -> Iterator[str]:
    for target in LINK.findall(re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)):
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            continue  # elsewhere: not this test's business, and no test should depend on the network
        path, _, anchor = unquote(target).partition("#")
        found = (file.parent / path).resolve() if path else file
        if not found.exists():
            yield f"{target}: no such file"
        elif anchor and found.suffix == ".md":
            anchors = {slug(heading) for heading in re.findall(r"^#+ (.*)$", found.read_text(), re.MULTILINE)}
            if anchor not in anchors:
                yield f"{target}: no such heading"


@pytest.mark.parametrize("file", DOCUMENTS, ids=ids)
def test_links_resolve(file: Path) -> None:
    assert not list(broken_links(file, file.read_text()))


def test_a_broken_link_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "a.md"
    file.write_text("# One heading\n[x](b.md) [y](#one-heading) [z](#two) [w](https://example.com/nowhere)")
    assert list(broken_links(file, file.read_text())) == ["b.md: no such file", "#two: no such heading"]


def linked(file: Path) -> set[Path]:
    """The documents that a document links to."""
    prose = re.sub(r"^```.*?^```", "", file.read_text(), flags=re.MULTILINE | re.DOTALL)
    targets = (unquote(target).partition("#")[0] for target in LINK.findall(prose))
    return {(file.parent / target).resolve() for target in targets if target.endswith(".md") and ":" not in target}


def test_every_document_is_two_hops_from_the_readme() -> None:
    first = linked(PROJECT / "README.md")
    second = {document for file in first for document in linked(file)}
    assert {PROJECT / "README.md", *first, *second} >= set(DOCUMENTS)


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", (PROJECT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("file", DOCUMENTS, ids=ids)
def test_make_targets_exist(file: Path) -> None:
    assert set(MAKE.findall(code_of(file.read_text()))) <= make_targets()


def test_hints_name_make_targets_that_exist() -> None:
    """An error's hint is the next command to type, at three in the morning."""
    sources = [file for room in ("toolchain", "lab", "lifeline", "runbooks") for file in (PROJECT / room).rglob("*.py")]
    hints = {word for file in sources for word in re.findall(r"hint=f?\"[^\"]*\bmake ([a-z][a-z-]*)", file.read_text())}
    assert hints
    assert hints <= make_targets()


SOURCES = [
    *(
        file
        for room in ("lifeline", "runbooks", "lab", "infra", "services", "toolchain")
        for file in (PROJECT / room).rglob("*.py")
    ),
    *(PROJECT / name for name in ("fabfile.py", "Makefile", "pyproject.toml")),
    *sorted((PROJECT / "stacks").glob("*.yaml")),
]


def test_documents_named_in_code_exist() -> None:
    named = {(file.name, name) for file in SOURCES for name in re.findall(r"\bdocs/[\w./-]+\.md", file.read_text())}
    assert named
    assert not [pair for pair in named if not (PROJECT / pair[1]).is_file()]


def hints_of(file: Path) -> Iterator[str]:
    """What the errors and steps of a module tell an operator to type."""
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "hint":
            yield from (
                part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)
            )


def test_hints_name_fab_verbs_that_exist(verbs: set[str]) -> None:
    hints = {word for file in SOURCES if file.suffix == ".py" for text in hints_of(file) for word in FAB.findall(text)}
    assert "failover" in hints
    assert hints <= verbs, f"not in fab --list: {sorted(hints - verbs)}"


# A command ends where the sentence goes on, or another one begins.
COMMAND = re.compile(r"\bfab (?:--help )?([a-z][a-z0-9-]*(?:\.[a-z][a-z0-9-]*)*)((?:(?!\bfab )[^;,|)`\n])*)")
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


def strings_of(file: Path) -> Iterator[str]:
    """What a module may show: its strings, with … for what is only known when it runs."""
    tree = ast.parse(file.read_text())
    within = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
            yield "".join(str(part) for part in parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in within:
            yield node.value


def untypable(text: str, parser: dict[str, set[str]]) -> Iterator[str]:
    """The commands in a text that `fab` doesn't know, or doesn't know with these flags."""
    for verb, rest in COMMAND.findall(text):
        unknown = sorted(set(FLAG.findall(rest)) - parser[verb] - {"--help"}) if verb in parser else []
        if verb not in parser or unknown:
            yield f"fab {verb} {' '.join(unknown)}".strip()


@pytest.fixture(scope="module")
def parser() -> dict[str, set[str]]:
    """What the parser takes: each verb's flags."""
    return {str(context.name): set(context.flags) for context in fabfile.namespace.to_contexts()}


def test_commands_in_strings_can_be_typed(parser: dict[str, set[str]]) -> None:
    shown = [(ids(file), text) for file in SOURCES if file.suffix == ".py" for text in strings_of(file)]
    assert any("fab failover --target" in text for _, text in shown)
    assert not [(file, bad) for file, text in shown for bad in untypable(text, parser)]


@pytest.mark.parametrize("file", DOCUMENTS, ids=ids)
def test_commands_in_documents_can_be_typed(file: Path, parser: dict[str, set[str]]) -> None:
    assert not [bad for text in CODE.findall(file.read_text()) for bad in untypable(text, parser)]


def test_a_command_that_cannot_be_typed_is_seen(parser: dict[str, set[str]], tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text(
        "hint = f'fab restore --epoch {n - 1}'\n"
        "raise BadConfig('no folder', hint='fab provision --service FOLDER; fab status --json')\n"
        "says = f'{name}: fab nowhere, or fab failover --target {name} --yes; --waive X'\n"
    )
    found = [bad for text in strings_of(file) for bad in untypable(text, parser)]
    assert sorted(found) == ["fab nowhere", "fab provision --service", "fab restore --epoch"]


def test_readme_shows_the_two_commands() -> None:
    text = (PROJECT / "README.md").read_text()
    assert {"make test", "make drill"} <= set(re.findall(r"^(make [a-z]+)", code_of(text), re.MULTILINE))
    assert "make test" in (PROJECT / ".ci" / "run").read_text()


@pytest.fixture(scope="module")
def verbs() -> set[str]:
    """The verbs of the fabfile, with the dots of their namespaces."""
    fab = Path(sys.executable).with_name("fab")
    command = [str(fab), "--search-root", str(PROJECT), "--list", "--list-format=flat"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True, timeout=60)
    # A verb starts its line, after two spaces; what is further in continues a description. (The JSON form gives tasks
    # their functions' names, which aren't what is typed.)
    return set(re.findall(r"^  ([a-z][a-z0-9.-]*)", done.stdout, re.MULTILINE))


@pytest.mark.skipif(not (PROJECT / "fabfile.py").exists(), reason="there is no fabfile")
@pytest.mark.parametrize("file", DOCUMENTS, ids=ids)
def test_fab_verbs_exist(file: Path, verbs: set[str]) -> None:
    named = set(FAB.findall(code_of(file.read_text())))
    assert named <= verbs, f"not in fab --list: {sorted(named - verbs)}"


def test_the_variables_of_the_labs_shell_are_those_of_the_code(tmp_path: Path) -> None:
    text = (
        (PROJECT / "docs" / "design.md")
        .read_text()
        .partition("`fab lab.env` prints: ")[2]
        .partition("; and shell functions")[0]
    )
    asides = r"\([^)]*\)|=[\w.-]+"
    documented = set(re.findall(r"\b(?:[A-Z][A-Z0-9_]{3,}|https?_proxy|no_proxy)\b", re.sub(asides, "", text)))
    code = shell.environment(LabConfig.ensure(tmp_path), tmp_path / "pulumi", "digitalocean:1")
    assert documented == set(code) - {"HOME"}


def errors() -> dict[int, list[str]]:
    """Every error class of the library, by its exit code."""
    found: dict[int, list[str]] = {}
    pending: list[type[LifelineError]] = [LifelineError]
    while pending:
        error = pending.pop()
        pending += error.__subclasses__()
        if error.__module__.startswith("lifeline."):
            found.setdefault(error.exit_code, []).append(error.__name__)
    return found


def test_exit_codes_are_those_of_the_code() -> None:
    section = (PROJECT / "docs" / "design.md").read_text().partition("## Exit codes")[2].partition("\n## ")[0]
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)}
    # 0 and 130 are no errors of Lifeline's: done, and interrupted.
    assert documented == set(errors()) | {0, 130}


def test_every_error_says_what_it_means() -> None:
    silent = [name for name, error in inspect.getmembers(lifeline.errors, inspect.isclass) if not inspect.getdoc(error)]
    assert not silent
