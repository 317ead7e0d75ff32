"""What the open pages show, so that one that is loaded anew goes on with what was played. It ends with the workbench: a deck is played again in a minute."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

from workbench.ui.demo.show import Show

MOST = 50  # pages whose shows are remembered, the newest


class Pages:
    """Shows by the keys of their pages."""

    def __init__(self) -> None:
        self._shows: OrderedDict[str, Show] = OrderedDict()
        self._lock = threading.Lock()

    def enter(self, page: str, show: Show, before: str, there: Sequence[str]) -> bool:
        """Take the page up. Where the one `before` it played the same deck with an adapter that is still `there`, its show goes on; whether it does.

        A prompt that was being played is left to be played again.
        """
        with self._lock:
            was = self._shows.get(before)
            self._shows[page] = show
            while len(self._shows) > MOST:
                self._shows.popitem(last=False)
        if was is None or was is show or was.run not in there or was.deck.entries != show.deck.entries:
            return False
        show.run, show.sampling, show.tools, show.model = was.run, was.sampling, was.tools, was.model
        show.played = {place: played for place, played in was.played.items() if played.judged}
        show.go(was.place)
        return True
