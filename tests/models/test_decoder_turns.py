"""The decoder that is kept on a card goes with its base when two bases take turns. No card is needed: the decoder itself is a stand-in."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from workbench.models import decode_static
from workbench.models.decode_static import release


class Model:
    """Something that can be weakly held."""


class Decoder:
    def __init__(self, base: Any, say: Any) -> None:
        self.adapters, self.say, self.bytes = base.adapters, say, 1

    def cache_bytes(self) -> int:
        return self.bytes


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(decode_static, "Decoder", Decoder)
    monkeypatch.setattr(decode_static, "_kept", weakref.WeakKeyDictionary())
    yield
    release()


def base(*adapters: str) -> Any:
    return SimpleNamespace(raw=Model(), adapters=adapters, device=SimpleNamespace(type="cuda"))


def decoder(of: Any) -> Any:
    return decode_static._decoder(of, print)


def kept() -> int:
    return len(decode_static._kept)


def test_each_base_finds_its_own_decoder_when_its_turn_comes() -> None:
    one, two = base(), base()
    first, second = decoder(one), decoder(two)
    assert first is not second
    for _ in range(2):
        assert (decoder(one), decoder(two)) == (first, second)


def test_a_model_that_is_gone_takes_its_own_decoder_along_and_no_other() -> None:
    one, two = base(), base()
    decoder(one)
    second = decoder(two)
    one.raw = None
    gc.collect()
    assert kept() == 1 and decoder(two) is second
    two.raw = None
    gc.collect()
    assert kept() == 0


def test_another_adapter_on_the_same_base_makes_a_new_one_also_under_the_same_name() -> None:
    one = base("a")
    first = decoder(one)
    one.adapters = (*one.adapters, "b")
    second = decoder(one)
    one.adapters = tuple(name for name in one.adapters)
    assert len({id(found) for found in (first, second, decoder(one))}) == 3 and kept() == 1


def test_what_is_released_may_be_only_what_is_large() -> None:
    one, two = base(), base()
    decoder(one).bytes = 100
    second = decoder(two)
    release(above=50)
    assert kept() == 1 and decoder(two) is second
    release()
    assert kept() == 0
