"""Whether a request is new: not the same as, and not nearly the same as, any that is known already."""

from __future__ import annotations

from collections.abc import Iterable

from rapidfuzz import fuzz, process

from workbench.dataset.checks import NEAR, exactly


class Known:
    """Requests that are known. It grows one by one, so that what is added is compared with the next."""

    def __init__(self, requests: Iterable[str] = ()) -> None:
        self._requests: list[str] = []
        self._straight: list[str] = []
        self._sorted: list[str] = []
        self._all: dict[str, int] = {}
        for request in requests:
            self.add(request)

    def add(self, request: str) -> None:
        text = exactly(request)
        if text not in self._all:
            self._all[text] = len(self._requests)
            self._requests.append(request)
            self._straight.append(text)
            self._sorted.append(_sorted(text))

    def like(self, request: str) -> str | None:
        """A known request that this one repeats or nearly repeats (rapidfuzz ratio of `NEAR` or more), or None."""
        text = exactly(request)
        if text in self._all:
            return self._requests[self._all[text]]
        for written, kept in ((text, self._straight), (_sorted(text), self._sorted)):
            found = process.extractOne(written, kept, scorer=fuzz.ratio, score_cutoff=NEAR)
            if found is not None:
                return self._requests[found[2]]
        return None


def _sorted(text: str) -> str:
    return " ".join(sorted(text.split()))
