"""The table of runs as HTML: sorted by a click on a heading, runs ticked and opened in it. Everything in it is escaped."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from workbench.evaluation.report import rate_text
from workbench.training.run_table import RunRow
from workbench.ui import words as common
from workbench.ui.highlight import empty, escape
from workbench.ui.train.showing import state_chip
from workbench.ui.words import train as words

LISTED = 100  # runs in the table
NOTED = 60  # characters of a note in it

# A click tells what was hit, a heading or a run, and all ticks; a moment after the last tick all are told once more, since the
# answers to quick ones may cross. A table that is drawn anew stays scrolled where it was, and keeps the ticks as a person has
# set them: the page draws rows into the elements of others, whose boxes would stay ticked.
TABLE_JS = """let top = 0;
const ticked = new Map();
const settle = () => element.querySelectorAll('[data-pick]').forEach(tick => {
  if (!ticked.has(tick.dataset.pick)) ticked.set(tick.dataset.pick, tick.hasAttribute('checked'));
  tick.checked = ticked.get(tick.dataset.pick);
});
let later = 0;
const tell = (sort, open) => {
  const ticks = [...element.querySelectorAll('[data-pick]')];
  trigger('click', { sort, open, shown: ticks.map(tick => tick.dataset.pick), picked: ticks.filter(tick => tick.checked).map(tick => tick.dataset.pick) });
};
element.addEventListener('scroll', event => { if (event.target.classList?.contains('wb-runsbox')) top = event.target.scrollTop; }, true);
element.addEventListener('click', event => {
  const hit = event.target.closest('[data-pick],[data-sort],[data-open]');
  if (!hit) return;
  if (hit.dataset.pick !== undefined) ticked.set(hit.dataset.pick, hit.checked);
  tell(hit.dataset.sort ?? null, hit.dataset.open ?? null);
  clearTimeout(later);
  if (hit.dataset.pick !== undefined) later = setTimeout(() => tell(null, null), 800);
});
watch('value', () => { settle(); const box = element.querySelector('.wb-runsbox'); if (box) box.scrollTop = top; });"""


def table_html(rows: Sequence[RunRow], total: int, *, sort: str, descending: bool, picked: Collection[str], opened: str | None) -> str:
    """The rows as a table; `total` is how many runs there are without the filter."""
    if not rows:
        return empty(words.NONE_FOUND if total else words.RUNS_EMPTY)
    head = "".join(_heading(title, key, help_text, sort, descending) for title, key, help_text in words.COLUMNS)
    body = "".join(_line(row, row.name in picked, row.name == opened) for row in rows[:LISTED])
    count = words.MORE.format(shown=LISTED, total=len(rows)) if len(rows) > LISTED else words.COUNTED.format(shown=len(rows), total=total)
    table = f'<div class="wb-runsbox"><table class="wb-runs"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    return f'{table}<div class="wb-dim wb-count">{escape(count)}</div>'


def _heading(title: str, key: str, help_text: str, sort: str, descending: bool) -> str:
    tip = f' title="{escape(help_text)}"' if help_text else ""
    if key == "pick":
        return f"<th{tip}>✓</th>"
    arrow = (" ▾" if descending else " ▴") if key == sort else ""
    order = f' aria-sort="{"descending" if descending else "ascending"}"' if key == sort else ""
    return f'<th{tip}{order}><button type="button" class="wb-sort" data-sort="{key}">{escape(title)}{arrow}</button></th>'


def _line(row: RunRow, picked: bool, opened: bool) -> str:
    name, s = escape(row.name), row.settings
    loss = f'<span title="epoch {row.best_epoch:g}">{row.best_loss:.3f}</span>' if row.best_loss is not None and row.best_epoch is not None else "–"
    steps = f" {row.steps}/{row.total_steps}" if row.live and row.total_steps else ""
    cells = [
        f'<input type="checkbox" data-pick="{name}" aria-label="compare {name}"{" checked" if picked else ""}>',
        f'<button type="button" class="wb-open" data-open="{name}" title="{name}">{name}</button>',
        f"{state_chip(row.state, row.told)}{steps}", _data_cell(row), _weights_cell(row), str(s.lora.rank), f"{s.training.learning_rate:g}", str(s.training.epochs), loss,
        _rate_cell(row, "call_recall"), _rate_cell(row, "over_call_rate"), common.duration(row.seconds) if row.seconds is not None else "–",
        f"{row.peak_gib:.1f}" if row.peak_gib is not None else "–", _note_cell(row.note),
    ]  # fmt: skip
    return f'<tr data-open="{name}"{" class=wb-opened" if opened else ""}>' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _data_cell(row: RunRow) -> str:
    mark = words.DATA_MARKS.get(row.data, "")
    tip = f"{row.data_rows} rows, SHA-256 {row.data_sha256[:16]}… {words.DATA_TITLES.get(row.data, '')}"
    told = f' <span class="wb-mark">{mark}</span>' if mark else ""
    return f'<span title="{escape(tip)}">{escape(_cut(row.data_name, 24))} <code>{escape(row.data_sha256[:6])}</code>{told}</span>'


def _weights_cell(row: RunRow) -> str:
    asked = row.settings.quantization.mode
    tip = f' title="{escape(words.ASKED_AS.format(asked=asked))}"' if asked != row.weights.split(" ")[0] else ""
    return f"<span{tip}>{escape(row.weights)}</span>"


def _rate_cell(row: RunRow, name: str) -> str:
    found = row.rates.get(name)
    share = row.rate(name)
    return "–" if found is None or share is None else f'<span title="{escape(rate_text(found))}">{share:.0%}</span>'


def _note_cell(text: str) -> str:
    return f'<span title="{escape(text)}">{escape(_cut(" ".join(text.split()), NOTED))}</span>'


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
