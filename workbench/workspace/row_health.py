"""What a workbench's rows hold, what would fool their owner, and what of them a model can be taught; kept until something changes. No torch, no gradio."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from workbench.calls.prompting import PLAIN, CallForm
from workbench.calls.tools import ToolSet
from workbench.dataset.checks import KEPT_APART
from workbench.dataset.health import Health, check_health, load_kept_apart
from workbench.dataset.store import RowSet
from workbench.errors import DataError, ModelError, WorkbenchError
from workbench.schema import Example
from workbench.settings import RunSettings, Training
from workbench.training.teachable import Teachable

if TYPE_CHECKING:
    from workbench.workspace.space import Workspace


@dataclass(eq=False)
class RowHealth:
    """The health of rows, as they would be taught by a run with `teaching`."""

    space: Workspace
    teaching: Training = field(default_factory=Training)
    """What the rows are shown and checked for: the dialect, whether tools are told, and a row's length, as chosen last under Tune."""
    _health: Any = field(default=None, repr=False)
    _checking: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _apart: Any = field(default=None, repr=False)
    _asked: Teachable | None = field(default=None, repr=False)

    def of(self, rows: RowSet) -> Health:
        """What the rows hold and what would fool their owner; the answer for one version is kept."""
        with self._checking:  # two pages on one large set need its answer once
            tools, (others, reasons), key = self._looked_at(rows)
            if self._health is None or self._health[0] != key:
                training, count = Training(), self._token_counts()
                found = check_health(
                    rows, tools.tools, others, share=training.validation_share, seed=training.seed, count_tokens=count, uncompared=reasons,
                    refused=self._teachable().refused if count else None,
                )
                self._health = (key, found)
            health: Health = self._health[1]
            return health

    def known(self, rows: RowSet) -> Health | None:
        """The health of these rows, if it was the last one asked for and nothing that it looked at has changed since."""
        kept = self._health
        return kept[1] if kept is not None and kept[0] == self._looked_at(rows)[2] else None

    def _looked_at(self, rows: RowSet) -> tuple[ToolSet, tuple[dict[str, tuple[Example, ...]], dict[str, str]], Any]:
        """The tools, the files that the rows must not repeat, and what tells their versions apart."""
        try:
            tools = self.space.tools.read()
        except DataError:  # told on its own panel; the rows are then looked at without schemas
            tools = ToolSet()
        stamps = []
        for name in KEPT_APART:
            with contextlib.suppress(OSError):
                stat = (self.space.data_dir / name).stat()
                stamps.append((name, stat.st_mtime_ns, stat.st_size))
        stamp = tuple(stamps)
        if self._apart is None or self._apart[0] != stamp:
            self._apart = (stamp, load_kept_apart(self.space.data_dir))
        return tools, self._apart[1], (rows.version, tools.version, stamp, self.taught)

    def _token_counts(self) -> Callable[[list[str]], list[int]] | None:
        try:
            backend = self.space.tokenizer.backend
        except ModelError:
            return None
        return lambda texts: [len(e.ids) for e in backend.encode_batch(texts, add_special_tokens=False)]

    def _teachable(self) -> Teachable:
        """What is asked whether rows can be learned; with the form of calls that a run would learn, or the plain one while that can't be settled."""
        try:
            form = self.taught_form()
        except WorkbenchError:  # a dialect that the model does not have is told under Tune
            form = PLAIN
        asked, most = self._asked, self.teaching.max_row_tokens
        if asked is None or asked.form != form or asked.max_tokens != most:
            asked = self._asked = Teachable(self.space.tokenizer, most, form)
        return asked

    @property
    def taught(self) -> tuple[str, str, int]:
        """What of `teaching` decides what a row teaches: dialect, tools in the prompt, tokens at most."""
        return self.teaching.dialect, self.teaching.tools_in_prompt, self.teaching.max_row_tokens

    def taught_form(self) -> CallForm:
        """The form of calls that a run with `teaching` would learn; raises `WorkbenchError` where that can't be settled."""
        return self.space.form_of(RunSettings(training=self.teaching), self.space.tokenizer)
