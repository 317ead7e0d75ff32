"""The findings of a set's health: one function each, which gives what it found with its rows, and nothing where all is well."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from rapidfuzz import process

from workbench.calls.dialects import message_calls
from workbench.calls.tools import call_problems
from workbench.calls.validating import Work
from workbench.dataset import fixes
from workbench.dataset.checked import Checked, Finding, Severity, content
from workbench.dataset.fixes import rows_word
from workbench.dataset.rowtools import row_tools
from workbench.dataset.similar import NEAR
from workbench.dataset.topics import missing_no_call
from workbench.schema import Example, ToolCall

FEW_ROWS = 20
MANY_NEAR = 0.2  # share of near-duplicate rows from which a set says less than it seems to
LEAST_SHARE = 0.3  # of calls, and of texts
NAMED = 3  # things named in a title
CHECK_WORK = 1_000_000  # steps (of `validating`) that checking all arguments may take, some seconds; every row adds as many as an ordinary call takes
CHECK_WORK_A_ROW = 50


def find_all(checked: Checked) -> list[Finding]:
    """Every finding, in the order that they should be mended in."""
    if not checked.entries:
        return []
    makers: tuple[Callable[[Checked], Iterable[Finding]], ...] = (
        broken_lines, unlearnable, contradictions, leaks, unread, across_the_split, unknown_tools, broken_arguments, repeats, stray_spaces,
        imbalance, missing_topics, near_misses, similar_wording, near_duplicates, uncompared, awaiting, unused_tools, too_few,
    )
    return [finding for make in makers for finding in make(checked)]


def broken_lines(checked: Checked) -> Iterator[Finding]:
    places = tuple(p for p, e in enumerate(checked.entries) if e.row is None)
    if places:
        lines, one = _lines(len(places)), len(places) == 1
        yield Finding(
            "broken", "bad", f"{len(places):,} broken", f"{lines} can't be used as {'a row' if one else 'rows'}.",
            f"Mend {'it' if one else 'them'} in the editor, which says what is wrong, or delete {'it' if one else 'them'}: no run starts before.",
            places, fixes.delete_lines(checked.entries, places),
        )


def unlearnable(checked: Checked) -> Iterator[Finding]:
    """Rows that are well formed and yet no lesson for the model: its chat template refuses the turns, or they are too long."""
    count = len(checked.refused)
    if count:
        reasons = Counter(checked.refused.values())
        shown = "; ".join(_cut(why, 160) for why, _ in reasons.most_common(2))
        them, they = ("it", "it is") if count == 1 else ("them", "they are")
        yield Finding(
            "unlearnable", "bad", f"{count:,} can't be learned", f"{rows_word(count)} can't be learned: {shown}{'; …' if len(reasons) > 2 else ''}.",
            f"No run learns {them} as {they}: mend {them}, or reject {them}. Row {next(iter(checked.refused)) + 1} is the first.", tuple(checked.refused),
        )


def repeats(checked: Checked) -> Iterator[Finding]:
    groups: dict[Any, list[int]] = {}
    for place, row in checked.rows.items():
        groups.setdefault(content(row), []).append(place)
    same = [g for g in groups.values() if len(g) > 1]
    if same:
        more = sum(len(g) - 1 for g in same)
        yield Finding(
            "exact", "warn", _count(more, "repeat"), f"{rows_word(more)} {_verb(more, 'repeats', 'repeat')} another row word for word.",
            "A repeat only makes its row count more: keep one of each.", tuple(p for g in same for p in g), fixes.delete_repeats(checked.rows, same),
        )


def contradictions(checked: Checked) -> Iterator[Finding]:
    """The same request, answered with a call here and in words there, or with other calls."""
    found: list[int] = []
    same: dict[str, list[int]] = {}
    for place, asked in checked.asked.items():
        same.setdefault(asked, []).append(place)
    for members in same.values():
        for rows in checked.by_context(members):
            if len({checked.meaning(p, arguments=True) for p in rows}) > 1:
                found += rows
    if found:
        yield Finding(
            "contradiction", "bad", _count(len(found), "contradiction"), f"{rows_word(len(found))} ask the same and are answered differently.",
            "The model can learn only one of the answers: decide which is right, and mend or delete the others.", tuple(found),
        )


def near_misses(checked: Checked) -> Iterator[Finding]:
    """Nearly the same request, answered with a call here and in words there, or with another tool."""
    likeness, members = checked.likeness, checked.members
    told: dict[int, set[tuple[Any, str]]] = {i: {(checked.contexts[p], checked.meaning(p)) for p in rows} for i, rows in members.items()}
    found: set[int] = set()
    for rows in members.values():  # “C” and “C++” are the same but for their symbols
        for group in checked.by_context(rows) if len(rows) > 1 else ():
            if len({checked.asked[p] for p in group}) > 1 and len({checked.meaning(p) for p in group}) > 1:
                found.update(group)
    for left, right in zip(likeness.left.tolist(), likeness.right.tolist(), strict=True):
        if told[left] == told[right] and len(told[left]) == 1:
            continue
        for before in {c for c, _ in told[left]} & {c for c, _ in told[right]}:
            if {m for c, m in told[left] if c == before} != {m for c, m in told[right] if c == before}:
                found.update(p for p in (*members[left], *members[right]) if checked.contexts[p] == before)
    if found:
        yield Finding(
            "near-miss", "warn", f"{len(found):,} near misses", f"{rows_word(len(found))} ask nearly the same, and some are answered with another tool or in words.",
            "If the few words between them are meant to decide, keep them: such rows teach the most. If not, one of the answers is wrong.",
            checked.grouped(found),
        )


def near_duplicates(checked: Checked) -> Iterator[Finding]:
    groups = []
    for members in checked.likeness.groups():
        # Word-for-word repeats are another finding.
        groups += [g for g in checked.by_context(checked.places[i] for i in members) if len({content(checked.rows[p]) for p in g}) > 1]
    count = sum(map(len, groups))
    if count:
        many = count >= MANY_NEAR * len(checked.rows)
        yield Finding(
            "near", "warn" if many else "info", f"{count:,} near-duplicates",
            f"{rows_word(count)} ask nearly the same as another, in {_count(len(groups), 'group')}" + (f": {count / len(checked.rows):.0%} of all rows." if many else "."),
            "A group stands on one side of the split. Keep the rows whose wording adds something; reword or delete the others.", tuple(p for g in groups for p in g),
        )


def uncompared(checked: Checked) -> Iterator[Finding]:
    if not checked.likeness.measured:
        yield Finding(
            "uncompared", "warn", "not all compared", "Not all requests were compared with one another: there are too many long ones that are alike.",
            "Near-duplicates may be missing here, and may stand on both sides of the split: split the set, or shorten the requests.",
        )


def across_the_split(checked: Checked) -> Iterator[Finding]:
    """Training rows that are nearly a row of validation, which only pins can bring about."""
    likeness, members = checked.likeness, checked.members
    sides = {i: {checked.split[p] for p in rows} & {"train", "validation"} for i, rows in members.items()}
    found = {p for i, rows in members.items() if len(sides[i]) > 1 for p in rows}
    for left, right in zip(likeness.left.tolist(), likeness.right.tolist(), strict=True):
        if len(sides[left] | sides[right]) > 1 and sides[left] and sides[right]:
            found.update((*members[left], *members[right]))
    places = checked.grouped(p for p in found if checked.split[p] in ("train", "validation"))
    if any(checked.rows[p].pin for p in places):
        yield Finding(
            "across", "bad", f"{len(places):,} across the split", f"{rows_word(len(places))} stand in training and in validation with nearly the same request.",
            "Pins put them there, and the validation loss will look better than it is: take the pins off, or pin all of them to one side.",
            places, fixes.take_pins_off(checked.rows, places),
        )


def leaks(checked: Checked) -> Iterator[Finding]:
    near = {p: (name, other) for p, (name, other, score) in checked.nearest.items() if score >= NEAR}
    if near:
        names = _named(sorted({name for name, _ in near.values()}))
        yield Finding(
            "leak", "bad", _count(len(near), "leak"), f"{rows_word(len(near))} {_verb(len(near), 'stands', 'stand')} in {names} nearly word for word.",
            "What is learned is no test: reword or reject the rows, or the counts and the demonstration prove nothing.",
            tuple(near), fixes.reject(checked.rows, {p: f"nearly “{other}” of {name}" for p, (name, other) in near.items()}),
        )


def unread(checked: Checked) -> Iterator[Finding]:
    if checked.unread:
        names = _named(sorted(checked.unread))
        why = " ".join(f"{reason.rstrip('.')}." for _, reason in sorted(checked.unread.items()))
        yield Finding(
            "unread", "warn", "leaks not checked", f"The rows were not compared with {names}.",
            f"{why} Mend {'it' if len(checked.unread) == 1 else 'them'}: until then rows may stand there that the measurement asks for.",
        )


def similar_wording(checked: Checked) -> Iterator[Finding]:
    near = {p: (name, other) for p, (name, other, score) in checked.nearest.items() if score < NEAR}
    if near:
        name, other = next(iter(near.values()))
        files = _named(sorted({n for n, _ in near.values()}))
        yield Finding(
            "wording", "info", f"{len(near):,} worded like a test", f"{rows_word(len(near))} {_verb(len(near), 'is', 'are')} worded much like a prompt of {files}.",
            f"Row {next(iter(near)) + 1} is like “{_cut(other)}” of {name}: see that the rows don't give the tests away.", tuple(near),
        )


def unknown_tools(checked: Checked) -> Iterator[Finding]:
    counts: Counter[str] = Counter()
    places = []
    for place, calls in checked.calls.items():
        row = checked.rows[place]
        own = {t if isinstance(t, str) else t.name for t in row_tools(row)} if "tools" in row.extras else set()
        unknown = {call.name for call in calls} - checked.tools.keys() - own
        counts.update(unknown)
        places += [place] if unknown else []
    if places:
        names = [name for name, _ in counts.most_common()]
        guess = process.extractOne(names[0], list(checked.tools), score_cutoff=75) if checked.tools else None
        meant = f" {names[0]} may be meant as {guess[0]}." if guess else ""
        yield Finding(
            "unknown-tool", "bad" if checked.tools else "warn", f"{len(places):,} unknown tools" if len(places) > 1 else "1 unknown tool",
            f"{rows_word(len(places))} {_verb(len(places), 'calls', 'call')} {_named(names)}, which {'is no known tool' if len(names) == 1 else 'are no known tools'}.",
            f"Add the tool on the panel “Tools”, or mend the name in the rows.{meant}", tuple(places),
        )


def broken_arguments(checked: Checked) -> Iterator[Finding]:
    work = Work(CHECK_WORK + CHECK_WORK_A_ROW * len(checked.rows))
    problems = _argument_problems(checked, work)
    if work.skipped:
        yield Finding(
            "unchecked", "warn", "not all checked",
            f"{_count(work.skipped, 'call')} {_verb(work.skipped, 'was', 'were')} not checked: holding all calls against their schemas takes too long.",
            "Make the schemas simpler, or the arguments shorter.",
        )
    if not problems:
        return
    count, (place, first) = len(problems), next(iter(problems.items()))
    known: dict[str, list[str]] = {}
    again = Work(CHECK_WORK + CHECK_WORK_A_ROW * len(checked.rows))
    # A row that could not be checked any more stays as it is.
    fix = fixes.retype(checked.rows, problems, checked.known_tools, lambda row: bool(_row_problems(checked, row, known, again)) or again.left <= 0)
    yield Finding(
        "schema", "bad", f"{count:,} broken call{'s' if count > 1 else ''}", f"{rows_word(count)} {_verb(count, 'calls', 'call')} a tool with arguments that break its schema.",
        f"Row {place + 1}: {first[0].rstrip('.')}. Mend the arguments in the rows, or the schema on the panel “Tools”.", tuple(problems), fix,
    )


def imbalance(checked: Checked) -> Iterator[Finding]:
    calls, rows = sum(bool(c) for c in checked.calls.values()), len(checked.rows)
    texts = rows - calls
    if not rows or LEAST_SHARE <= calls / rows <= 1 - LEAST_SHARE:
        return
    kind, other, fault = ("call", "text answers", "over-calls") if calls > texts else ("text answer", "calls", "missed calls")
    if not calls or not texts:
        title = f"All {rows_word(rows)} are {kind}s." if rows > 1 else f"The only row is a {kind}."
        yield Finding("one-kind", "bad", f"only {kind}s", title, f"Add {other}: without any, expect {fault} whatever is asked.")
    else:
        advice = f"Add {other} until they are about half: as it is, expect {fault}."
        yield Finding("imbalance", "warn", f"{calls / rows:.0%} calls", f"{calls:,} of {rows_word(rows)} are calls.", advice)


def missing_topics(checked: Checked) -> Iterator[Finding]:
    places = checked.places
    if not any(not calls for calls in checked.calls.values()):
        return  # that there are none at all is told already
    for topic in missing_no_call(list(checked.rows.values())):
        texts = "no text answer is" if not topic.texts else f"only {_count(topic.texts, 'text answer')} {'is' if topic.texts == 1 else 'are'}"
        severity: Severity = "warn" if topic.calls >= 5 else "info"
        yield Finding(
            "topic", severity, f"“{topic.word}”: calls only", f"{topic.calls:,} calls are about “{topic.word}”, {texts}: expect over-calls.",
            f"Add rows that speak of “{topic.word}” and need no call: what it is, how it works, a near miss.", tuple(places[i] for i in topic.places), topic=topic.word,
        )


def awaiting(checked: Checked) -> Iterator[Finding]:
    places = tuple(p for p, row in checked.rows.items() if row.awaits_review)
    if places:
        them = "it" if len(places) == 1 else "them"
        yield Finding(
            "review", "warn", f"{len(places):,} to review", f"{len(places):,} generated {_verb(len(places), 'draft waits', 'drafts wait')} for review.",
            f"Read {them}, then approve or reject {them}: until then no run learns {them}, unless Unreviewed rows is set to “all”.", places,
        )


def stray_spaces(checked: Checked) -> Iterator[Finding]:
    places = tuple(p for p, row in checked.rows.items() if fixes.stray_space(row))
    if places:
        have = _verb(len(places), "has", "have")
        yield Finding(
            "space", "warn", _count(len(places), "stray space"), f"{rows_word(len(places))} {have} white space before or after a text.",
            "A model that learns such a text learns its spaces too: trim it.", places, fixes.trim(checked.rows, places),
        )


def unused_tools(checked: Checked) -> Iterator[Finding]:
    called = {call.name for calls in checked.calls.values() for call in calls}
    unused = sorted(checked.tools.keys() - called)
    if unused and called:
        yield Finding(
            "unused-tool", "info", _count(len(unused), "unused tool"), f"No row calls {_named(unused, 'or')}.",
            "A tool is learned from the rows that call it: add some, or delete the tool on the panel “Tools”.",
        )


def too_few(checked: Checked) -> Iterator[Finding]:
    count = len(checked.rows)
    if count < FEW_ROWS:
        yield Finding(
            "few", "warn" if count < 2 else "info", "few rows", f"The set has {rows_word(count) if count else 'no row'} to learn from.",
            "Seventy good rows, half of them calls, are enough to teach one tool; a handful is learned by heart.",
        )


# -- what the findings share -----------------------------------------------------------------------


def _argument_problems(checked: Checked, work: Work) -> dict[int, list[str]]:
    known: dict[str, list[str]] = {}
    found = {p: _row_problems(checked, checked.rows[p], known, work, calls) for p, calls in checked.calls.items() if calls}
    return {p: problems for p, problems in found.items() if problems}


def _row_problems(checked: Checked, row: Example, known: dict[str, list[str]], work: Work, calls: Sequence[ToolCall] | None = None) -> list[str]:
    """What is wrong with the arguments of the row's calls of known tools; `known` keeps what was asked before."""
    tools = checked.known_tools(row)
    found: list[str] = []
    for call in message_calls(row.answer) if calls is None else calls:
        if call.name not in tools:
            continue
        if tools is not checked.tools:
            found += call_problems(call, tools, work)
            continue
        key = json.dumps([call.name, dict(call.arguments)], sort_keys=True)
        if key not in known:
            known[key] = call_problems(call, tools, work)
        found += known[key]
    return found


def _named(names: Sequence[str], word: str = "and") -> str:
    """A few names in words, as in "a, b and 3 more"."""
    cut = [_cut(name) for name in names[:NAMED]]
    if len(names) > NAMED:
        return f"{', '.join(cut)} and {len(names) - NAMED} more"
    return cut[0] if len(cut) == 1 else f"{', '.join(cut[:-1])} {word} {cut[-1]}"


def _cut(text: str, longest: int = 60) -> str:
    text = " ".join(text.split())
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _count(number: int, word: str) -> str:
    return f"1 {word}" if number == 1 else f"{number:,} {word}s"


def _lines(number: int) -> str:
    return _count(number, "line")


def _verb(number: int, one: str, many: str) -> str:
    return one if number == 1 else many
