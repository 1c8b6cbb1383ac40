"""Pagination as DigitalOcean does it: 20 a page, 200 at most, links to the neighbours, the total in `meta`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request

from lab.api.errors import unprocessable
from lab.api.store import Doc

DEFAULT_PER_PAGE = 20
MOST_PER_PAGE = 200
Item = TypeVar("Item")


@dataclass(frozen=True)
class Page:
    """Which slice of a listing was asked for, and how to link to the others."""

    number: int
    size: int
    request: Request

    def answer(self, key: str, items: Sequence[Item], view: Callable[[Item], Any] = lambda item: item) -> Doc:
        """`{key: [...], links, meta}`; only the slice's items are rendered."""
        start = (self.number - 1) * self.size
        chosen = [view(item) for item in items[start : start + self.size]]
        return {key: chosen, "links": self._links(len(items)), "meta": {"total": len(items)}}

    def _links(self, total: int) -> Doc:
        last = max(1, -(-total // self.size))
        pages: Doc = {}
        if self.number > 1:
            pages["first"] = self._url(1)
            pages["prev"] = self._url(min(self.number - 1, last))
        if self.number < last:
            pages["next"] = self._url(self.number + 1)
            pages["last"] = self._url(last)
        return {"pages": pages}  # empty on an only page, never absent: clients look inside without asking

    def _url(self, number: int) -> str:
        return str(self.request.url.include_query_params(page=number))


def _page(request: Request) -> Page:
    size = _positive(request, "per_page", DEFAULT_PER_PAGE)
    return Page(_positive(request, "page", 1), min(size, MOST_PER_PAGE), request)


def _positive(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name)
    if text is None or text == "":
        return default
    try:
        value = int(text)
    except ValueError:
        raise unprocessable(f"{name} must be an integer") from None
    return value if value > 0 else default


PageDep = Annotated[Page, Depends(_page)]
