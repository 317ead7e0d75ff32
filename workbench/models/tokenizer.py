"""A model's tokenizer and chat template, without torch: the browser's process counts tokens with it too.

The template is rendered by transformers' own (sandboxed) renderer and the text encoded by the
tokenizers library; a test holds the ids equal to `AutoTokenizer.apply_chat_template`.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import ModelError, RowError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Turn = dict[str, str]


@dataclass(frozen=True)
class ChatTokenizer:
    """Renders turns with the model's template and turns text into ids and back."""

    folder: Path
    template: str
    special_names: dict[str, str]
    stop_ids: tuple[int, ...]

    @classmethod
    def load(cls, folder: Path) -> ChatTokenizer:
        """The tokenizer of a model folder, the one that is there already if its files are as they were: building it takes a second or two.

        Raises `ModelError` naming what is missing.
        """
        if not (folder / "tokenizer.json").is_file():
            raise ModelError(f"{folder} has no tokenizer.json: save the model's fast tokenizer there first.")
        return _kept(folder, tuple(_stamp(folder / name) for name in _FILES))

    @classmethod
    def read(cls, folder: Path) -> ChatTokenizer:
        """The tokenizer of a model folder, read anew; raises `ModelError`."""
        config = read_json(folder / "tokenizer_config.json")
        separate = folder / "chat_template.jinja"
        template = separate.read_text(encoding="utf-8") if separate.is_file() else config.get("chat_template")
        if isinstance(template, list):
            template = next((t.get("template") for t in template if t.get("name") == "default"), None)
        if not isinstance(template, str) or not template.strip():
            raise ModelError(f"{folder} has no chat template: use an instruction-tuned model, or put a chat_template.jinja there.")
        names = {k: v["content"] if isinstance(v, dict) else v for k, v in config.items() if k in _NAMES and v}
        return cls(folder, template, names, _stop_ids(folder))

    @cached_property
    def backend(self) -> Tokenizer:
        from tokenizers import Tokenizer

        try:
            return Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        except Exception as exc:  # the library raises a bare Exception
            raise ModelError(f"{self.folder / 'tokenizer.json'} can't be read: {exc}. Fetch the model again.") from exc

    @cached_property
    def control_ids(self) -> dict[int, str]:
        """The control tokens, number to text: those marked special, those that stop, those the template writes.

        The mark alone is not trusted: a conversion may lose it.
        """
        added = self.backend.get_added_tokens_decoder()
        found = {n: t.content for n, t in added.items() if t.special or (t.content.strip() and t.content in self.template)}
        found |= {n: added[n].content for n in self.stop_ids if n in added}
        for name in self.special_names.values():
            number = self.backend.token_to_id(name)
            if number is not None:
                found[number] = name
        return found

    @cached_property
    def control_tokens(self) -> tuple[str, ...]:
        """The texts that would become control tokens if they stood in a row."""
        return tuple(sorted(set(self.control_ids.values())))

    def render(self, turns: Sequence[Turn], *, answer_next: bool) -> str:
        """The conversation as the template writes it; with `answer_next` the assistant's turn is opened.

        A template that opens a turn in one way and writes an answered one in another (see `thought`) is made to do both in the first:
        what a row teaches then goes on from what is asked, turn by turn.
        Raises `RowError` where the template refuses the turns (Gemma wants strict alternation).
        """
        if not self.thought:
            return self._rendered(turns, answer_next)
        mark = _MARK
        while any(mark in turn["content"] for turn in turns):
            mark += _MARK
        marked = [
            turn | {"content": mark + turn["content"].lstrip()} if turn["role"] == "assistant" and self._opened_with_thought(turns[:place]) else turn
            for place, turn in enumerate(turns)
        ]
        return self._rendered(marked, answer_next).replace(mark, self.thought)

    @cached_property
    def thought(self) -> str:
        """The empty thought that the template writes before an answer that is to come, but not before one that stands; mostly nothing.

        Gemma 4's does so where it is asked for none. Anything else in that place, as a thought that is only begun, stays a template's fault.
        """
        request = {"role": "user", "content": "a"}
        try:
            asked = self._rendered([request], True)
            stands = self._rendered([request, {"role": "assistant", "content": _MARK}], False)
        except RowError:
            return ""
        before = stands.partition(_MARK)[0]
        found = asked[len(before) :] if _MARK in stands and asked.startswith(before) else ""
        return found if _EMPTY_THOUGHT.fullmatch(found) else ""

    def _opened_with_thought(self, turns: Sequence[Turn]) -> bool:
        try:
            return self._rendered(turns, True).endswith(self.thought)
        except RowError:  # the template refuses the beginning by itself; what it makes of the whole will be told
            return False

    def _rendered(self, turns: Sequence[Turn], answer_next: bool) -> str:
        """What the template makes of the turns.

        One that knows thinking is asked for none: rows teach answers, and asked otherwise, Qwen 3 would open a turn in one way and write an
        answered one in another.
        """
        from jinja2.exceptions import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            rendered: Any = render_jinja_template(
                conversations=[list(turns)], chat_template=self.template,
                add_generation_prompt=answer_next, enable_thinking=False, **self.special_names,
            )
        except TemplateError as exc:
            raise RowError(f"the model's chat template refuses these turns: {exc}") from exc
        # transformers up to 5.1x returns (texts, generation indices), later ones the texts alone.
        texts = rendered[0] if isinstance(rendered, tuple) else rendered
        return str(texts[0])

    def writes_as_it_is(self, content: str, markers: Collection[str]) -> bool:
        """Whether the template takes a tool's turn and writes `content` in it whole, without adding any of `markers` of its own."""
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "tool", "content": content}]
        try:
            text, bare = self.render(turns, answer_next=True), self.render(turns[:2], answer_next=False)
        except Exception:  # a template may stumble over a turn that it does not foresee in any way
            return False
        return content in text and all(text.count(m) - bare.count(m) == content.count(m) for m in markers)

    def ids(self, text: str) -> list[int]:
        """Token ids of rendered text. The template has written `<bos>`, so nothing is added here."""
        return list(self.backend.encode(text, add_special_tokens=False).ids)

    def text(self, ids: Sequence[int], *, keep_control: bool | Collection[str] = False) -> str:
        """The text of `ids`, without control tokens unless `keep_control`: all of them, or those named."""
        if keep_control is True:
            kept = list(ids)
        else:
            named = keep_control or ()
            kept = [i for i in ids if i not in self.control_ids or self.control_ids[i] in named]
        return str(self.backend.decode(kept, skip_special_tokens=False))

    def prompt_ids(self, turns: Sequence[Turn], *, allowed: Collection[str] = ()) -> list[int]:
        """Ids of a conversation that waits for the assistant's answer. `allowed` are control tokens that its dialect writes."""
        for i, turn in enumerate(turns):
            self.refuse_control_tokens(turn["content"], f"messages[{i}].content", allowed=allowed)
        return self.ids(self.render(turns, answer_next=True))

    def refuse_control_tokens(self, content: str, field: str, *, allowed: Collection[str] = ()) -> None:
        """Raise `RowError` if `content` holds a text that the tokenizer would read as a control token, other than `allowed` ones."""
        for token in self.control_tokens:
            if token in content and token not in allowed:
                raise RowError(f"the text holds the control token {token}; take it out", field)


_EMPTY_THOUGHT = re.compile(r"\s*(?:<\|channel>thought\s*<channel\|>|<think>\s*</think>)\s*")
_MARK = "\ue000"  # a character for private use, which no template looks at
_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json", "config.json")


def _stamp(path: Path) -> tuple[int, int] | None:
    """What tells a file from its later self, None for one that is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


@functools.lru_cache(maxsize=2)
def _kept(folder: Path, stamps: tuple[tuple[int, int] | None, ...]) -> ChatTokenizer:
    return ChatTokenizer.read(folder)


_NAMES = ("bos_token", "eos_token", "pad_token", "unk_token")


def _stop_ids(folder: Path) -> tuple[int, ...]:
    for name in ("generation_config.json", "config.json"):
        found = read_json(folder / name).get("eos_token_id")
        if isinstance(found, int):
            return (found,)
        if isinstance(found, list) and found:
            return tuple(int(i) for i in found)
    raise ModelError(f"{folder} names no stop token (eos_token_id in generation_config.json): generation would never end.")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a model folder; empty if the file is missing; raises `ModelError` if it is broken."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise ModelError(f"{path} is not readable JSON: fetch the model again.") from exc
    return value if isinstance(value, dict) else {}
