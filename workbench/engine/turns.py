"""Whose job comes next: round by round, and in a round every page has one turn, first come, first served.

So a page that hands in several jobs, or one after the other, does not keep the others waiting behind all of them. A job's
round is settled when it is handed in: the one that is being served, or, for a page that had its turn in that one (or waits
for it), the next. A job that no page asked for (a load, a training, a sweep's cell) always belongs to the round being served.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_page: ContextVar[str] = ContextVar("page", default="")


@contextmanager
def asked_by(page: str) -> Iterator[None]:
    """Whatever is handed in within this block was asked for by `page`; "" stands for nobody."""
    before = _page.set(page)
    try:
        yield
    finally:
        _page.reset(before)


class Turns:
    """The rounds of one queue, by number from 0. Its caller holds the lock."""

    def __init__(self) -> None:
        self._now = 0
        self._last: dict[str, int] = {}  # a page's newest round, while that still counts

    def settle(self) -> int:
        """The round of a job that is handed in now, by whoever `asked_by` names."""
        page = _page.get()
        if not page:
            return self._now
        settled = max(self._now, self._last.get(page, -1) + 1)
        self._last[page] = settled
        return settled

    def begin(self, settled: int) -> None:
        """A job of that round has its turn."""
        self._now = max(self._now, settled)
        self._last = {page: last for page, last in self._last.items() if last >= self._now}
