"""Which page waits for which job, so that its Stop button finds it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from workbench.engine.client import Ticket


@dataclass
class Room:
    """Who is waiting for which answer, by page, so that its Stop button finds it."""

    tickets: dict[str, Ticket] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def enter(self, page: str, ticket: Ticket) -> None:
        with self.lock:
            self.tickets[page] = ticket

    def leave(self, page: str, ticket: Ticket | None = None) -> Ticket | None:
        """Take the page's ticket out; with `ticket`, only if it is that one."""
        with self.lock:
            if ticket is not None and self.tickets.get(page) is not ticket:
                return None
            return self.tickets.pop(page, None)

    def holds(self, page: str) -> bool:
        with self.lock:
            return page in self.tickets
