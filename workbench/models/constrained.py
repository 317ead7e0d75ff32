"""Replies bound to a JSON schema: a grammar compiled for the model's tokenizer says at every step which tokens may follow."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import xgrammar
from transformers import PreTrainedTokenizerFast

from workbench.errors import InputError
from workbench.models.loading import Base
from workbench.models.tokenizer import ChatTokenizer

TOKENIZERS = 2  # whose tables are kept: a large vocabulary takes seconds to read
SURROGATE_LEAD = b"\xed"
HALF = re.compile(rb"\xed[\xa0-\xbf]")
NOT_JSON = re.compile(rb"[\x00-\x1f]|\xed[\xa0-\xbf]")  # control characters, surrogates


class Grammar:
    """A JSON schema compiled for one base. `bound()` makes the follower of one reply.

    Raises `InputError` for a schema that has no grammar.
    """

    def __init__(self, base: Base, schema: Mapping[str, Any]) -> None:
        self.stop_ids = base.tokenizer.stop_ids
        self.tables = tables_of(base)
        try:
            self.compiled = self.tables.compiler.compile_json_schema(json.dumps(schema), any_whitespace=False, strict_mode=True)
        except RuntimeError as exc:
            raise InputError(f"The tool's parameters can't bind a model's reply: {str(exc).splitlines()[0][:200]}. Simplify its schema.") from exc

    def bound(self) -> SchemaBound:
        return SchemaBound(self)


class SchemaBound:
    """Follows one reply: only tokens that keep it a beginning of the schema's JSON, and a stop token only once that is whole."""

    def __init__(self, grammar: Grammar) -> None:
        self.grammar = grammar
        self.matcher = xgrammar.GrammarMatcher(grammar.compiled, override_stop_tokens=list(grammar.stop_ids))

    def allowed(self, last: int | None, width: int) -> torch.Tensor | None:
        """The mask of the tokens that may follow `last` (bool, V = `width`); None once the reply has ended."""
        if last is not None and not self.matcher.is_terminated() and not self.matcher.accept_token(last):
            raise RuntimeError(f"token {last} was chosen against the grammar")
        if self.matcher.is_terminated():
            return None
        mask_V = may_follow(self.matcher, width)
        mask_V &= ~self.grammar.tables.never_V
        if last is not None and self.grammar.tables.written[last].endswith(SURROGATE_LEAD):
            mask_V &= ~self.grammar.tables.second_V
        return mask_V

    def forbade(self, wanted: int) -> None:
        """Nobody asks how much of a reply that is all form was changed."""


def may_follow(matcher: xgrammar.GrammarMatcher, width: int) -> torch.Tensor:
    """The tokens that keep the matcher's grammar (bool, V = `width`)."""
    bits = torch.zeros((1, (width + 31) // 32), dtype=torch.int32)
    matcher.fill_next_token_bitmask(bits)
    # 32 tokens to a word, the first one in its lowest bit.
    return ((bits.view(-1, 1) >> torch.arange(32, dtype=torch.int32)) & 1).bool().view(-1)[:width]


def tables_of(base: Base) -> Tables:
    """The tables of the base's tokenizer, read once."""
    return _tables(_Key(base.tokenizer), int(base.raw.get_output_embeddings().out_features))


class _Key:
    """A tokenizer as a cache's key: its folder and stop tokens tell it from others."""

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self.tokenizer = tokenizer
        self.identity = (tokenizer.folder, tokenizer.stop_ids)

    def __hash__(self) -> int:
        return hash(self.identity)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and other.identity == self.identity


@dataclass(frozen=True)
class Tables:
    compiler: xgrammar.GrammarCompiler
    written: list[bytes]  # each token's bytes
    never_V: torch.Tensor  # bool: tokens that no reply may hold
    half_V: torch.Tensor  # bool: tokens that hold a surrogate, which is half a character
    second_V: torch.Tensor  # bool: tokens that begin with a byte which makes a surrogate of `SURROGATE_LEAD`


@lru_cache(maxsize=TOKENIZERS)
def _tables(key: _Key, vocab_size: int) -> Tables:
    """What is read once for a tokenizer and the width of the model's logits (which may be larger than the tokenizer's).

    Two kinds of tokens are never written. A control token written as text would vanish from the reply. And where a
    string's length is limited, the grammar lets raw control characters in, which JSON forbids. It also lets
    surrogates in, which are no UTF-8: the byte that would complete one is ruled out after `SURROGATE_LEAD`.
    """
    tokenizer = key.tokenizer
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend)
    info = xgrammar.TokenizerInfo.from_huggingface(fast, vocab_size=vocab_size, stop_token_ids=list(tokenizer.stop_ids))
    written: list[bytes] = info.decoded_vocab
    half_V = torch.tensor([HALF.search(token) is not None for token in written])
    never = {i for i, token in enumerate(written) if NOT_JSON.search(token)}
    never_V = torch.zeros(vocab_size, dtype=torch.bool)
    never_V[[i for i in never | set(tokenizer.control_ids) if i < vocab_size and i not in tokenizer.stop_ids]] = True
    second_V = torch.tensor([0xA0 <= token[0] <= 0xBF if token else False for token in written])
    return Tables(xgrammar.GrammarCompiler(info, max_threads=2, cache_enabled=True, cache_limit_bytes=64 * 2**20), written, never_V, half_V, second_V)
