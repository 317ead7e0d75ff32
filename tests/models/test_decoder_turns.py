"""The decoder that is kept on a card goes with its base when two bases take turns. No card is needed: the decoder itself is a stand-in."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from workbench.models import decode_static
from workbench.models.decode_static import release, set_aside, take_up


class Model:
    """Something that can be weakly held."""


class Decoder:
    def __init__(self, base: Any, say: Any) -> None:
        self.base, self.say = base, say

    def cache_bytes(self) -> int:
        return 1


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(decode_static, "Decoder", Decoder)
    monkeypatch.setattr(decode_static, "_kept", None)
    yield
    release()


def base() -> Any:
    return SimpleNamespace(model=Model(), device=SimpleNamespace(type="cuda"))


def decoder(of: Any) -> Any:
    made = decode_static._decoder(of, print)
    made.base = None  # as a real one, it does not hold its model
    return made


def test_each_base_finds_its_own_decoder_when_its_turn_comes() -> None:
    one, two = base(), base()
    first = decoder(one)
    put = set_aside()
    second = decoder(two)
    for _ in range(2):
        put_two = set_aside()
        take_up(put)
        assert decoder(one) is first
        put = set_aside()
        take_up(put_two)
        assert decoder(two) is second


def test_a_model_that_is_gone_takes_its_own_decoder_along_and_no_other() -> None:
    one, two = base(), base()
    decoder(one)
    put = set_aside()
    second = decoder(two)
    one.model = None
    gc.collect()
    assert decode_static._kept is not None and decode_static._kept[1] is second
    two.model = None
    gc.collect()
    assert decode_static._kept is None and put is not None


def test_another_adapter_on_the_same_base_makes_a_new_one() -> None:
    one = base()
    first = decoder(one)
    one.model = Model()
    assert decoder(one) is not first
    take_up(None)
    assert decode_static._kept is None
