"""Rows without a model: families of wordings, filled from slots, seeded, and none nearly the same as another.

The wordings stand in families.json (patterns, slots, small talk) and families_topics.json (what people ask about, in the forms
that the patterns need, with right answers to the public questions about it).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from workbench.calls.dialects import TAG
from workbench.dataset.argument_values import fill
from workbench.dataset.novelty import Known
from workbench.dataset.spoil import misspell, transliterate
from workbench.dataset.wordings import Said, fields, offered, plural, read, say
from workbench.errors import InputError
from workbench.schema import Example, Message, ToolCall, ToolSpec

SOURCE = "generated:families"
MAX_ROWS = 2000
MAX_TOPIC = 60  # characters of a topic that a person types


@dataclass(frozen=True)
class Family:
    """One way of wording: `kind` says whether its rows teach a call ("call") or an answer in words ("text")."""

    key: str
    title: str
    kind: str
    language: str = "ru"


FAMILIES: tuple[Family, ...] = (
    Family("question", "Questions", "call"),
    Family("command", "Commands", "call"),
    Family("fragment", "Fragments", "call"),
    Family("polite", "Polite requests", "call"),
    Family("terse", "Terse", "call"),
    Family("typos", "With typos", "call"),
    Family("mixed", "English words inside", "call"),
    Family("translit", "Russian in Latin letters", "call"),
    Family("english", "English", "call", "en"),
    Family("german", "German", "call", "de"),
    Family("spanish", "Spanish", "call", "es"),
    Family("kazakh", "Kazakh", "call", "kk"),
    Family("definition", "Definitions", "text"),
    Family("howto", "How-to", "text"),
    Family("near-miss", "Near misses", "text"),
    Family("word", "The word itself", "text"),
    Family("greeting", "Greetings", "text"),
    Family("thanks", "Thanks", "text"),
    Family("smalltalk", "Small talk", "text"),
    Family("typos-text", "With typos", "text"),
    Family("mixed-text", "English words inside", "text"),
    Family("translit-text", "Russian in Latin letters", "text"),
    Family("english-text", "English", "text", "en"),
    Family("german-text", "German", "text", "de"),
    Family("spanish-text", "Spanish", "text", "es"),
    Family("kazakh-text", "Kazakh", "text", "kk"),
)
BY_KEY = {f.key: f for f in FAMILIES}
SPOILED: dict[str, tuple[tuple[str, ...], Callable[[str, random.Random], str]]] = {
    "typos": (("question", "command", "polite", "terse"), misspell),
    "typos-text": (("definition", "howto", "near-miss", "thanks"), misspell),
    "translit": (("question", "command", "polite", "terse"), lambda text, _: transliterate(text)),
    "translit-text": (("definition", "howto", "greeting", "thanks"), lambda text, _: transliterate(text)),
}
NO_CALL = ("definition", "howto", "near-miss", "word")
T = TypeVar("T")


def topics() -> list[str]:
    """The topics whose wordings are ready, in Russian. Any other word can be a topic too, with plainer wordings."""
    return [str(t["title"]) for t in read("families_topics").values()]


def generate(
    tool: ToolSpec, *, families: Sequence[str], topics: Sequence[str] = (), count: int, seed: int, avoid: Iterable[str] = ()
) -> list[Example]:
    """Up to `count` draft rows, shared out evenly among the families (all if none is named) and their topics.

    No request nearly repeats another or one in `avoid`. Fewer rows come where the wordings run out. Raises `InputError`.
    """
    chosen = [_family(key) for key in families] or list(FAMILIES)
    if not 1 <= count <= MAX_ROWS:
        raise InputError(f"The number of rows must be 1 to {MAX_ROWS}, not {count}.")
    wanted = [_clean_topic(t) for t in topics] or [str(t["title"]) for t in read("families_topics").values()]
    streams = {f.key: _interleaved(_streams(f, wanted, seed)) for f in chosen}
    known, rows = Known(avoid), list[Example]()
    chance = random.Random(f"{seed}/arguments")
    while streams and len(rows) < count:
        for key in list(streams):
            row = _next_row(tool, BY_KEY[key], streams[key], known, chance)
            if row is None:
                del streams[key]
            elif len(rows) < count:
                rows.append(row)
    return rows


def no_call_rows(topic_word: str, count: int, seed: int, avoid: Iterable[str] = ()) -> list[Example]:
    """Up to `count` draft rows that speak of a topic and need no call: definitions, how-to, near misses and word games in turn.

    Of each, those come first that name the topic itself in any of its forms.
    """
    stem, taken = _stem(topic_word), list(avoid)
    row_sets = [generate(ToolSpec(""), families=[key], topics=[topic_word], count=MAX_ROWS, seed=seed, avoid=taken) for key in NO_CALL]
    by_name = [sorted(found, key=lambda row: stem not in {_stem(w) for w in re.findall(r"\w+", row.request)}) for found in row_sets]
    known, rows = Known(), list[Example]()
    for row in _interleaved([iter(found) for found in by_name]):
        if len(rows) < count and known.like(row.request) is None:
            known.add(row.request)
            rows.append(row)
    return rows


def find_topic(word: str) -> dict[str, Any] | None:
    """The ready topic that `word` (in any of its forms, or its stem) belongs to, or None."""
    stem = _stem(word)
    for topic in read("families_topics").values():
        if word.casefold() == topic["title"] or stem in {_stem(w) for w in topic["words"]}:
            found: dict[str, Any] = topic
            return found
    return None


# -- rows ----------------------------------------------------------------------------------------


def _next_row(tool: ToolSpec, family: Family, stream: Iterator[Said], known: Known, chance: random.Random) -> Example | None:
    """The stream's next row that is new, or None at its end."""
    for request, answer in stream:
        if answer is None:
            arguments, words = fill(tool, chance, family.language)
            request, answer = _with_words(request, words), TAG.render(ToolCall(tool.name, arguments))
        if known.like(request) is None:
            known.add(request)
            return Example((Message("user", request), Message("assistant", answer)), source=f"{SOURCE}:{family.key}")
    return None


def _with_words(request: str, words: Sequence[str]) -> str:
    """The request with its arguments named before its last mark."""
    if not words:
        return request
    body = request.rstrip(".!?")
    return ", ".join([body, *words]) + request[len(body) :]


def _streams(family: Family, wanted: Sequence[str], seed: int) -> list[Iterator[Said]]:
    """The family's wordings: one stream a topic, and one for what needs no topic."""
    fixed = [(request, answer) for request, answer in read("families", "text").get(family.key, [])]
    random.Random(f"{seed}/{family.key}").shuffle(fixed)
    found: list[Iterator[Said]] = [iter(fixed)] if fixed else []
    order = list(dict.fromkeys(wanted))
    random.Random(f"{seed}/topics").shuffle(order)
    # Each family begins with another topic, so that a few rows of many families speak of many topics.
    start = 3 * FAMILIES.index(family) % len(order)
    order = order[start:] + order[:start]
    return found + [_wordings(family, topic, random.Random(f"{seed}/{family.key}/{topic}")) for topic in order]


def _wordings(family: Family, topic: str, chance: random.Random) -> Iterator[Said]:
    """All wordings of one family on one topic, in random order."""
    if family.key in SPOILED:
        parts, spoil = SPOILED[family.key]
        streams = _interleaved([_wordings(BY_KEY[key], topic, chance) for key in parts])
        fixed = [pair for key in parts for pair in read("families", "text").get(key, [])]
        chance.shuffle(fixed)
        yield from ((spoil(request, chance), answer) for request, answer in _interleaved([streams, iter(fixed)]))
        return
    ready = find_topic(topic)
    if ready is None and family.kind == "call":
        items: list[dict[str, str]] = [{"topic": topic}]
        patterns = read("families", "bare")[family.key]
    else:
        items = _items(family, topic, ready)
        patterns = read("families", "families").get(family.key, [])
    pairs = [(pattern, item) for pattern in patterns for item in items if fields(pattern) <= offered(item)]
    chance.shuffle(pairs)
    yield from (say(pattern, item, chance) for pattern, item in pairs)


def _items(family: Family, topic: str, ready: dict[str, Any] | None) -> list[dict[str, str]]:
    """What the family's patterns are filled with; "answer" is the answer of a public question."""
    if family.key == "word":
        return _word_items([w for w in (ready["words"] if ready else [topic]) if re.fullmatch(r"[^\W\d_]+", w)])
    if ready is None:
        return []
    if family.language != "ru":
        return _foreign_items(family, ready.get(family.language, {}))
    if family.kind == "call":
        things = [{"acc": a, "nom": n, "bare": b, "kind": k} for a, n, b, k in ready["things"]]
        return [*({"ask": a} for a in ready["asks"]), *things, *({"mixed": m} for m in ready["mixed"])]
    pools = {"term": ready["definitions"], "how": ready["howto"], "near": ready["near"]}
    return [{name: text, "answer": answer} for name, pairs in pools.items() for text, answer in pairs]


def _foreign_items(family: Family, forms: dict[str, Any]) -> list[dict[str, str]]:
    if family.kind == "text":
        return [{"term": forms["definition"][0], "answer": forms["definition"][1]}] if "definition" in forms else []
    asks = [{"ask": a} for a in forms.get("asks", [forms.get("ask", "")])]
    pairs = [{"nom": t[0], "acc": t[1]} if isinstance(t, list) else {"thing": t} for t in forms.get("things", [])]
    return asks + pairs + ([{"acc": forms["acc"]}] if "acc" in forms else [])


def _word_items(found: Iterable[str]) -> list[dict[str, str]]:
    """Questions about the word itself, whose answers are counted here and so are right for any word."""
    letters = {w: f"{len(w)} {plural(len(w), 'буква', 'буквы', 'букв')}" for w in found}
    return [{"word": w, "letters": count} for w, count in letters.items()]


def _interleaved(streams: Sequence[Iterator[T]]) -> Iterator[T]:
    """One of each stream in turn, until all are at their end."""
    left = list(streams)
    while left:
        for stream in list(left):
            try:
                yield next(stream)
            except StopIteration:
                left.remove(stream)


@cache
def _stem(word: str) -> str:
    import snowballstemmer  # type: ignore[import-untyped]

    return str(snowballstemmer.stemmer("russian").stemWord(word.casefold().replace("ё", "е")))


def _family(key: str) -> Family:
    if key not in BY_KEY:
        raise InputError(f"There is no family of wordings called {key[:40]!r}. The families are: {', '.join(BY_KEY)}.")
    return BY_KEY[key]


def _clean_topic(topic: str) -> str:
    """A topic as it may stand in a sentence; raises `InputError`."""
    text = " ".join(str(topic).split())
    if not text or len(text) > MAX_TOPIC or not text.isprintable() or "<" in text:
        raise InputError(f"The topic {text[:40]!r} can't be used: give one to {MAX_TOPIC} plain characters.")
    return text
