"""Lists that come in pages, whole."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

Ask = Callable[[str, Any], Awaitable[Any]]

PAGE_SIZE = 1000


async def every(ask: Ask, method: str, request: Any, field: str) -> list[Any]:
    """Returns the `field` of every page of a list method, asked for through `ask`."""
    found: list[Any] = []
    request.page_size = PAGE_SIZE
    while True:
        page = await ask(method, request)
        found += getattr(page, field)
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token
