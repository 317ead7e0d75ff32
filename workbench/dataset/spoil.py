"""How people really type: slips of the finger, and Russian in Latin letters."""

from __future__ import annotations

import random
import re

LATIN = dict(zip("абвгдеёжзийклмнопрстуфхцчшщъыьэюя", [
    "a", "b", "v", "g", "d", "e", "e", "zh", "z", "i", "y", "k", "l", "m", "n", "o", "p", "r", "s", "t", "u", "f", "h",
    "ts", "ch", "sh", "sch", "", "y", "", "e", "yu", "ya",
], strict=True))
NEIGHBOURS = {"а": "вп", "о": "рл", "е": "кн", "и": "мт", "с": "чм", "т": "иь", "н": "ег", "р": "по", "л": "од", "в": "ыа", "к": "уе", "м": "си", "п": "ар", "д": "лж"}


def transliterate(text: str) -> str:
    """Russian letters in Latin ones; all else stays as it is."""
    out = []
    for letter in text:
        latin = LATIN.get(letter.lower(), letter)
        out.append(latin.capitalize() if letter.isupper() and letter.lower() in LATIN else latin)
    return "".join(out).replace("«", '"').replace("»", '"')


def misspell(text: str, chance: random.Random) -> str:
    """`text` typed in a hurry: one slip in a long word, two in a long text; often without capitals, ё and the last mark."""
    words = re.split(r"(\W+)", text.replace("ё", "е"))
    long = [i for i, word in enumerate(words) if len(word) > 4 and word.isalpha()]
    for i in chance.sample(long, min(len(long), 2 if len(text) > 45 else 1)):
        words[i] = _slip(words[i], chance)
    typed = "".join(words)
    return typed.lower().rstrip(".!?") if chance.random() < 0.7 else typed


def _slip(word: str, chance: random.Random) -> str:
    """One slip inside a word; its first letter stays."""
    places = [i for i in range(1, len(word) - 1) if word[i] != word[i + 1]]
    if not places:
        return word + word[-1]
    at = chance.choice(places)
    kind = chance.choice(("swap", "drop", "double", "neighbour"))
    if kind == "swap":
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    if kind == "drop":
        return word[:at] + word[at + 1 :]
    if kind == "neighbour" and word[at].lower() in NEIGHBOURS:
        return word[:at] + chance.choice(NEIGHBOURS[word[at].lower()]) + word[at + 1 :]
    return word[: at + 1] + word[at:]
