"""What the calls of a set are about, and which of those topics no answer in words ever touches.

A model that sees “баланс” in calls alone learns that the word means a call, whatever is asked about it.
"""

from __future__ import annotations

import math
import re
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from workbench.dataset.checks import is_call
from workbench.schema import Example

MOST_TOPICS = 5
LEAST_CALLS = 3  # a topic is shared by so many calls at least,
LEAST_SHARE = 0.03  # and by this share of them
FEW_TEXTS = 0.1  # text answers for each call on a topic, up to which they count as almost none
SAME = 0.75  # of a topic's calls that are another's too, from which the two are one
SHORTEST = 3  # letters of a word that may be a topic
_WORD = re.compile(r"[^\W\d_]+")
_CYRILLIC = re.compile("[а-я]")

# Words that carry a question without saying what it is about.
_CARRIERS = """
а без более бы был была были было быть в вам вас ваш весь вот все всего вы где да для до его ее если есть еще же за зачем здесь и из
или им их к как какая какие какого какое какой какую когда кого который кто куда ли либо меня мне много мной мог могу может можно мои
моего моей моем моему моему мою моя мое мой моих моими мы на над надо нам нас наш не него нее нет ни них но ну о об обо он она они оно от
откуда очень под почему по после при про раз разве с сам свой свои своего своей свою себя сколько скока скоко со так такое также там тебя
тебе то того тоже той только том тот ту ты тут у уже хочу хочется хотел хотела чего чем что чтоб чтобы чья эта эти это этого этой этом этот
эту я щас сейчас сегодня вчера завтра теперь недавно последний последние последняя текущий текущая этому прошлый прошлой прошлом
следующий ближайший день дня месяц месяце месяца год году неделя неделе неделю утро утром вечер вечером вечера доброе добрый здравствуйте
привет пожалуйста плиз плз спасибо будь будьте добры ок
покажи покажите показать скажи скажите сказать подскажи подскажите назови назовите напомни напомните напомнить проверь проверьте проверить
узнай узнать узнайте выведи вывести выведите посмотри посмотреть посмотрите дай дайте давай найди найдите найти открой открыть пришли
пришлите сообщи сообщите расскажи расскажите объясни объясните нужно нужен нужна нужны помоги помогите сделай сделать знать интересует
осталось остался осталась есть стоит составляет придет пришел пришла пришло пришли изменился изменилась изменилось
вывод могли можешь можете числа числу число сколь насколько
a about all am an and any are as at be been but by can could did do does for from get give had has have hello help her hey hi him his how i if in is
it its just know let like list many me much my need now of on or our out please see she show so tell thank thanks that the their them then there they
this to today tomorrow up us want was we were what when where which who why will with would yesterday you your current last latest
"""
CARRIERS = frozenset(_CARRIERS.split())


@dataclass(frozen=True)
class Topic:
    """Calls and text answers whose requests share a word stem; `word` is a form of it as the rows have it."""

    stem: str
    word: str
    calls: int
    texts: int
    places: tuple[int, ...]  # of the calls, from 0


def stems(text: str) -> dict[str, str]:
    """The stems of a text's telling words, each with the first word that has it."""
    found: dict[str, str] = {}
    for word in _WORD.findall(text.casefold()):
        plain = word.replace("ё", "е")
        if len(word) >= SHORTEST and plain not in CARRIERS:
            found.setdefault(_stem(plain), word)
    return found


def forget() -> None:
    """Keep no stem of an earlier call."""
    _stem.cache_clear()


@lru_cache(maxsize=50_000)
def _stem(word: str) -> str:
    with _stemming:  # a stemmer keeps the word it works on: two threads would mix theirs
        return str(_stemmer("russian" if _CYRILLIC.search(word) else "english").stemWord(word))


_stemming = threading.Lock()


@lru_cache(maxsize=2)
def _stemmer(language: str) -> Any:
    import snowballstemmer  # type: ignore[import-untyped]

    return snowballstemmer.stemmer(language)


def missing_no_call(rows: Sequence[Example]) -> list[Topic]:
    """Topics of many calls that no text answer, or almost none, is about; at most `MOST_TOPICS`, worst first."""
    calls: dict[str, list[int]] = {}
    texts: Counter[str] = Counter()
    words: dict[str, Counter[str]] = {}
    teach_calls = [is_call(row) for row in rows]
    for place, row in enumerate(rows):
        found = stems(row.request)
        if not teach_calls[place]:
            texts.update(found.keys())
            continue
        for stem, word in found.items():
            calls.setdefault(stem, []).append(place)
            words.setdefault(stem, Counter())[word] += 1
    least = max(LEAST_CALLS, math.ceil(LEAST_SHARE * sum(teach_calls)))
    topics = [
        Topic(stem, words[stem].most_common(1)[0][0], len(places), texts[stem], tuple(places))
        for stem, places in calls.items() if len(places) >= least and texts[stem] <= FEW_TEXTS * len(places)
    ]
    return _distinct(sorted(topics, key=lambda t: (t.texts / t.calls - t.calls / len(rows), t.word)))


def _distinct(topics: Sequence[Topic]) -> list[Topic]:
    """The topics without those that are mostly the calls of one before: two words of one wording are one topic."""
    kept: list[Topic] = []
    for topic in topics:
        if all(len(set(topic.places) & set(k.places)) <= SAME * len(topic.places) for k in kept):
            kept.append(topic)
        if len(kept) == MOST_TOPICS:
            break
    return kept
