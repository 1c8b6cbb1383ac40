"""Checks answers against DigitalOcean's published OpenAPI description, read from its own tree of files.

The description is OpenAPI 3.0: `nullable` and siblings of `$ref` mean something else there than in JSON Schema, so each
file is translated when it is read.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit
from urllib.request import url2pathname

import yaml
from jsonschema import Draft202012Validator, FormatChecker
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

ROOT = "DigitalOcean-public.v2.yaml"
_METHODS = ("get", "post", "put", "patch", "delete")


def translate(node: Any) -> Any:
    """OpenAPI 3.0 schema → JSON Schema 2020-12."""
    if isinstance(node, list):
        return [translate(item) for item in node]
    if not isinstance(node, dict):
        return node
    if isinstance(node.get("$ref"), str):
        return {"$ref": node["$ref"]}
    schema = {key: translate(value) for key, value in node.items() if key not in ("nullable", "discriminator")}
    if node.get("nullable") is True:
        return {"anyOf": [{"type": "null"}, schema]}
    return schema


@cache
def _load(uri: str) -> Any:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return translate(yaml.load(Path(url2pathname(urlsplit(uri).path)).read_text(), Loader=loader))


def _retrieve(uri: str) -> Resource[Any]:
    return Resource.from_contents(_load(uri), default_specification=DRAFT202012)


class Description:
    """The published description. `path` is its root file or the folder that holds it."""

    def __init__(self, path: Path) -> None:
        file = path / ROOT if path.is_dir() else path
        self._root = file.resolve().as_uri()
        self._registry: Registry[Any] = Registry(retrieve=_retrieve)  # type: ignore[call-arg]
        self._paths = self._templates()

    def _templates(self) -> dict[tuple[str, str], tuple[re.Pattern[str], Any]]:
        found = {}
        for template, item in _load(self._root)["paths"].items():
            pattern = re.compile("".join(_piece(part) for part in re.split(r"(\{[^}]+\})", template)) + "$")
            for method in _METHODS:
                if method in item:
                    found[method.upper(), template] = (pattern, item[method])
        return found

    def operation(self, method: str, path: str) -> tuple[str, Any] | None:
        """(template, operation) for a call; a fixed path wins over a variable one."""
        matches = [
            (template, operation)
            for (known, template), (pattern, operation) in self._paths.items()
            if known == method and pattern.match(path)
        ]
        return min(matches, key=lambda match: match[0].count("{")) if matches else None

    def problems(self, method: str, path: str, status: int, body: Any) -> list[str]:
        """What in this answer contradicts the description; empty is good."""
        found = self.operation(method, path)
        if found is None:
            return [f"{method} {path} is not described"]
        template, operation = found
        where = f"{method} {template} → {status}"
        node, base = self._deref(operation, self._root)
        answer = node["responses"].get(str(status)) or node["responses"].get(status)
        if answer is None:
            if status < 400:
                return [f"{where}: only {sorted(map(str, node['responses']))} are described"]
            answer = node["responses"]["default"]
        answer, base = self._deref(answer, base)
        content = answer.get("content")
        if not content:
            return [] if body is None else [f"{where}: no body is described"]
        schema = content["application/json"]["schema"]
        return [f"{where}: {problem}" for problem in self._check(schema, base, body)]

    def _deref(self, node: Any, base: str) -> tuple[Any, str]:
        while isinstance(node, dict) and "$ref" in node:
            uri = urljoin(base, node["$ref"])
            base, _, pointer = uri.partition("#")
            node = _load(base)
            for part in [part for part in pointer.split("/") if part]:
                node = node[part.replace("~1", "/").replace("~0", "~")]
        return node, base

    def _check(self, schema: Any, base: str, body: Any) -> list[str]:
        rooted = {"$id": base + "#check", **schema} if "$ref" not in schema else {"$ref": urljoin(base, schema["$ref"])}
        rooted["$id"] = base  # relative references are the file's
        validator = Draft202012Validator(rooted, registry=self._registry, format_checker=FormatChecker())
        return [
            f"{'.'.join(map(str, error.absolute_path)) or 'body'}: {error.message[:200]}"
            for error in _leaves(validator.iter_errors(body))
        ]


def _leaves(errors: Any) -> Any:
    """The errors behind an anyOf or oneOf say more than the one in front."""
    for error in errors:
        if error.context:
            yield from _leaves(error.context)
        yield error


def _piece(part: str) -> str:
    return "[^/]+" if part.startswith("{") else re.escape(part)
