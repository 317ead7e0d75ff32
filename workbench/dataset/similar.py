"""Prompts that are the same or nearly so, among thousands: exact as a comparison of all pairs, without its cost.

Two prompts are as like as their longest common subsequence is long, as they stand or with their words sorted
(rapidfuzz's `ratio` and `token_sort_ratio`). That subsequence can't be longer than the letters they share, in any
order, so pairs that share too few letters are ruled out by one matrix product, and rapidfuzz measures the rest.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, combinations, islice
from typing import Any

import numpy as np
import numpy.typing as npt
from rapidfuzz import fuzz, process

NEAR = 85.0  # rapidfuzz ratio (0 to 100) of normalised prompts from which two count as near-duplicates
COMPARED_CHARACTERS = 1000  # of a prompt: what comes after them does not count
LONG_WORDS = 40  # from so many different words on, two prompts must also share half of them
MOST_WORK = 1e11  # pairs times their lengths that are measured at most: some seconds; only thousands of very long prompts reach it
KEPT_PAIRS = 200_000  # like pairs that are kept; beyond them only the groups are still exact
BLOCK = 512  # prompts compared with all others at a time
MEASURED = 100_000  # pairs given to rapidfuzz at a time
CHARACTERS, FEATURES, WORD_BUCKETS = 128, 320, 512  # widths of the tables that rule pairs out

Floats = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]
Found = tuple[Places, Places, Floats]  # places on the left, places on the right, how like they are (0 to 100)


@dataclass(frozen=True)
class Pair:
    """Two like prompts: their places (from 0) in the two lists compared, and how like they are (0 to 100)."""

    first: int
    second: int
    similarity: float


@dataclass(frozen=True)
class Likeness:
    """What `compare_within` found. `of` gives every prompt's place among the distinct ones, which the rest counts by.

    `left` < `right` are like pairs of distinct prompts and `scores` how like they are (0 to 100); `labels` is the same
    number for two distinct prompts that a chain of like pairs joins. `complete` tells whether all pairs were kept, and
    `measured` whether all were looked at: thousands of very long prompts are not.
    """

    of: Places
    left: Places
    right: Places
    scores: Floats
    labels: Places
    complete: bool
    measured: bool = True

    def pairs(self) -> list[Pair]:
        """All pairs of prompts that are the same or like one another, by place; at most `KEPT_PAIRS`."""
        places = _places(self.of)
        same = (Pair(i, k, 100.0) for members in places.values() for i, k in combinations(members, 2))
        kept = zip(self.left.tolist(), self.right.tolist(), self.scores.tolist(), strict=True)
        like = (Pair(min(i, k), max(i, k), score) for left, right, score in kept for i in places[left] for k in places[right])
        return sorted(islice(chain(same, like), KEPT_PAIRS), key=lambda p: (p.first, p.second))

    def groups(self) -> list[list[int]]:
        """The prompts' places in groups of two and more that a chain of like pairs joins, in ascending order."""
        return _grouped(self.labels[self.of])

    def repeats(self) -> list[list[int]]:
        """The places of prompts that are the same once normalised, in groups of two and more."""
        return _grouped(self.of)


def normalise(prompt: str) -> str:
    """Lower case, ё as е, words only: what two prompts are compared by."""
    return " ".join(re.findall(r"\w+", prompt.casefold().replace("ё", "е")))


def exactly(text: str) -> str:
    """What two texts must share to ask the same: all of `normalise`, and with it signs, decimal points and symbols (C++, -5, 50%).

    Marks of a sentence and quotes count for nothing; a text of nothing else stands as it is.
    """
    folded = text.casefold().replace("ё", "е").translate(_MINUS)
    return " ".join(_TOKEN.findall(folded)) or " ".join(text.split())


_MINUS = str.maketrans("−–", "--")
# A number with its sign and points; a word; a symbol that is no mark of a sentence.
_TOKEN = re.compile(r"""(?<![\w.])-?\.?\d+(?:[.,:]\d+)*(?!\w)|\w+|[^\w\s.,;:!?…'"`´’‘‚“”„«»‹›()\[\]{}\-—¿¡]""")


def compared(prompt: str) -> str:
    """The part of a prompt that is compared. One without words (an emoji) is compared as it stands."""
    return (normalise(prompt) or " ".join(prompt.split()))[:COMPARED_CHARACTERS].rstrip()


def compare_within(prompts: Sequence[str], cutoff: float = NEAR) -> Likeness:
    """All pairs within `prompts` that are at least `cutoff` alike (0 to 100). The last answers are kept."""
    return _compare_within(tuple(prompts), cutoff)


@lru_cache(maxsize=3)
def _compare_within(prompts: tuple[str, ...], cutoff: float) -> Likeness:
    of, table, _ = _tabled(prompts)
    joined = list(range(len(table.order)))
    kept: list[Found] = []
    count, work, measured = 0, 0.0, True
    for left, right in _candidates(table, table, cutoff, within=True):
        if count >= KEPT_PAIRS:  # what is still of interest are pairs that join two groups
            labels = _labels(joined)
            apart = labels[left] != labels[right]
            left, right = left[apart], right[apart]
        work += float(np.dot(table.lengths[left].astype(np.float64), table.lengths[right]))
        if work > MOST_WORK:
            measured = False
            break
        found = _measured(table, table, left, right, cutoff)
        _join(joined, found[0].tolist(), found[1].tolist())
        if count < KEPT_PAIRS:
            kept.append(found)
        count += len(found[0])
    rows, others, scores = _all(kept)
    first, second = np.minimum(table.order[rows], table.order[others]), np.maximum(table.order[rows], table.order[others])
    labels = np.empty(len(table.order), dtype=np.int64)
    labels[table.order] = _labels(joined)
    by_place = np.lexsort((second, first))
    return Likeness(of, first[by_place], second[by_place], scores[by_place], labels, count < KEPT_PAIRS, measured)


def compare_between(prompts: Sequence[str], others: Sequence[str], cutoff: float = NEAR) -> list[Pair]:
    """All pairs of a prompt in `prompts` and one in `others` that are at least `cutoff` alike, by place; at most about `KEPT_PAIRS`."""
    of, table, features = _tabled(tuple(prompts))
    other_texts, other_of = _distinct(others)
    other = _table(other_texts, features)
    kept: list[Found] = []
    for left, right in _candidates(table, other, cutoff, within=False):
        kept.append(_measured(table, other, left, right, cutoff))
        if sum(len(k[0]) for k in kept) >= KEPT_PAIRS:
            break
    rows, other_rows, scores = _all(kept)
    here, there = _places(of), _places(other_of)
    pairs = zip(table.order[rows].tolist(), other.order[other_rows].tolist(), scores.tolist(), strict=True)
    spread = (Pair(i, k, score) for left, right, score in pairs for i in here[left] for k in there[right])
    return sorted(islice(spread, KEPT_PAIRS), key=lambda p: (p.first, p.second))


def near_groups(prompts: Sequence[str]) -> list[list[int]]:
    """Places of prompts in groups of two and more that are near-duplicates, directly or over others."""
    return compare_within(prompts).groups()


def forget() -> None:
    """Keep no answer of an earlier comparison."""
    _compare_within.cache_clear()
    _tabled.cache_clear()


# -- ruling out ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Table:
    """N distinct texts, shortest first; `order` gives their places among the texts as they came.

    `letters` (N, F) says which of F features "has this character at least k times" a text has, `rest` (N) how many
    of its characters no feature counts. `words` (N, `WORD_BUCKETS`) says the same of hashed words.
    """

    order: Places
    texts: npt.NDArray[Any]
    sorted_texts: npt.NDArray[Any]
    lengths: Floats
    letters: Floats
    rest: Floats
    words: Floats | None
    word_counts: Floats | None


Features = tuple[str, Places]  # C characters, and (F, 2): which of them, and how often at least


@lru_cache(maxsize=2)
def _tabled(prompts: tuple[str, ...]) -> tuple[Places, _Table, Features]:
    """Every prompt's place among the distinct texts, their table, and the features it goes by: any would do, the commonest tell most."""
    texts, of = _distinct(prompts)
    characters = "".join(c for c, _ in Counter("".join(texts)).most_common(CHARACTERS))
    features = characters, _features(_character_counts(texts, characters))
    return of, _table(texts, features), features


def _table(texts: Sequence[str], features: Features) -> _Table:
    characters, wanted = features
    counts = _character_counts(texts, characters)
    lengths = np.array([len(t) for t in texts], dtype=np.float32)
    order = np.argsort(lengths, kind="stable")
    letters = np.asarray(counts[:, wanted[:, 0]] >= wanted[:, 1], dtype=np.float32)[order]
    split = [texts[place].split() for place in order]
    words = _word_buckets(split)
    return _Table(
        order, _objects([texts[place] for place in order]), _objects([" ".join(sorted(w)) for w in split]),
        lengths[order], letters, lengths[order] - letters.sum(axis=1), words, words.sum(axis=1) if words is not None else None,
    )


def _word_buckets(split: Sequence[Sequence[str]]) -> Floats | None:
    """(N, `WORD_BUCKETS`): 1 where a text has a word of that hash; None where no text is long."""
    if all(len(words) < LONG_WORDS for words in split):
        return None
    table = np.zeros((len(split), WORD_BUCKETS), dtype=np.float32)
    for i, words in enumerate(split):
        table[i, [zlib.crc32(w.encode("utf-8", "surrogatepass")) % WORD_BUCKETS for w in words]] = 1
    return table


def _objects(texts: Sequence[str]) -> npt.NDArray[Any]:
    array = np.empty(len(texts), dtype=object)
    array[:] = texts
    return array


def _character_counts(texts: Sequence[str], characters: str) -> npt.NDArray[np.int64]:
    """(N, C): how often each text has each character."""
    counts = np.zeros((len(texts), len(characters)), dtype=np.int64)
    known = np.frombuffer(characters.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    by_code = np.argsort(known)
    for start in range(0, len(texts) if len(known) else 0, BLOCK):
        part = texts[start : start + BLOCK]
        codes = np.frombuffer("".join(part).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        column = by_code[np.minimum(np.searchsorted(known[by_code], codes), len(known) - 1)]
        hit = known[column] == codes
        cells = (np.repeat(np.arange(len(part)), [len(t) for t in part]) * len(known) + column)[hit]
        counts[start : start + BLOCK] = np.bincount(cells, minlength=len(part) * len(known)).reshape(len(part), len(known))
    return counts


def _features(counts: npt.NDArray[np.int64]) -> Places:
    """(F, 2): the columns and the k of the features that most texts have."""
    found: list[tuple[int, int, int]] = []
    for column in range(counts.shape[1]):
        reached = np.cumsum(np.bincount(counts[:, column])[::-1])[::-1]  # [k]: texts that have it at least k times
        found += [(-int(n), column, k) for k, n in enumerate(reached) if k]
    return np.array([(column, k) for _, column, k in sorted(found)[:FEATURES]], dtype=np.int64).reshape(-1, 2)


def _candidates(table: _Table, other: _Table, cutoff: float, *, within: bool) -> Iterator[tuple[Places, Places]]:
    """Pairs of rows of the tables that may be at least `cutoff` alike, block by block; every pair that is so is among them."""
    share = cutoff / 100
    reach = (2 - share) / share  # a text this many times as long shares too little, whatever it says
    for start in range(0, len(table.lengths), BLOCK):
        block = slice(start, min(start + BLOCK, len(table.lengths)))
        low = start if within else int(np.searchsorted(other.lengths, np.floor(table.lengths[start] / reach), "left"))
        near = slice(low, int(np.searchsorted(other.lengths, np.ceil(table.lengths[block.stop - 1] * reach), "right")))
        shared = table.letters[block] @ other.letters[near].T
        shared += np.minimum(table.rest[block, None], other.rest[None, near])
        needed = (table.lengths[block, None] + other.lengths[None, near]) * np.float32(share / 2) - np.float32(1e-2)
        possible = shared >= needed
        if table.words is not None and other.words is not None and table.word_counts is not None and other.word_counts is not None:
            fewer = np.minimum(table.word_counts[block, None], other.word_counts[None, near])
            possible &= (fewer < LONG_WORDS) | (table.words[block] @ other.words[near].T >= fewer / 2)
        i, k = np.nonzero(possible)
        i, k = i + start, k + low
        if within:
            i, k = i[k > i], k[k > i]
        for part in range(0, len(i), MEASURED):
            yield i[part : part + MEASURED], k[part : part + MEASURED]


# -- measuring -------------------------------------------------------------------------------------


def _measured(table: _Table, other: _Table, left: Places, right: Places, cutoff: float) -> Found:
    """Those of the pairs (rows of the tables) that are at least `cutoff` alike."""
    options: dict[str, Any] = {"scorer": fuzz.ratio, "score_cutoff": cutoff, "workers": -1 if len(left) > 20_000 else 1}
    straight = process.cpdist(table.texts[left].tolist(), other.texts[right].tolist(), **options)
    by_words = process.cpdist(table.sorted_texts[left].tolist(), other.sorted_texts[right].tolist(), **options)
    scores = np.maximum(straight, by_words)
    like = scores >= cutoff
    return left[like], right[like], scores[like]


def _distinct(prompts: Sequence[str]) -> tuple[list[str], Places]:
    """The distinct compared texts, and every prompt's place among them."""
    places: dict[str, int] = {}
    of = [places.setdefault(compared(p), len(places)) for p in prompts]
    return list(places), np.array(of, dtype=np.int64)


def _all(kept: Sequence[Found]) -> Found:
    if not kept:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)
    return np.concatenate([k[0] for k in kept]), np.concatenate([k[1] for k in kept]), np.concatenate([k[2] for k in kept])


def _join(joined: list[int], left: Sequence[int], right: Sequence[int]) -> None:
    """Join the pairs' groups; `joined` points every member towards its group's first."""
    for i, k in zip(left, right, strict=True):
        i, k = _root(joined, i), _root(joined, k)
        if i != k:
            joined[max(i, k)] = min(i, k)


def _root(joined: list[int], i: int) -> int:
    while joined[i] != i:
        joined[i] = joined[joined[i]]
        i = joined[i]
    return i


def _labels(joined: list[int]) -> Places:
    return np.array([_root(joined, i) for i in range(len(joined))], dtype=np.int64)


def _places(labels: Places) -> dict[int, list[int]]:
    """The places of every label, in ascending order."""
    places: dict[int, list[int]] = {}
    for place, label in enumerate(labels.tolist()):
        places.setdefault(label, []).append(place)
    return places


def _grouped(labels: Places) -> list[list[int]]:
    return [members for members in _places(labels).values() if len(members) > 1]
