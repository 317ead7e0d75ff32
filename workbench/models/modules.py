"""A model's linear layers by name, group and tower, read from the names and shapes of its weights: no weights, no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from workbench.settings import ALL_PROJECTIONS, Lora

Group = Literal["attention", "MLP", "other"]
GROUPS: tuple[Group, ...] = ("attention", "MLP", "other")
OTHER_TOWERS = (
    "vision_tower", "vision_model", "vision_encoder", "multi_modal_projector", "embed_vision", "visual",
    "audio_tower", "audio_encoder", "embed_audio",
)  # fmt: skip
TEXT = "text"
TOWER_REASON = "text rows never send it a gradient, so its adapter would be dead weight"
_TOWER = re.compile("|".join(OTHER_TOWERS))
_ATTENTION = re.compile(r"attn|attention|\.(?:[qkvo]|qkv|out)_proj$")
_MLP = re.compile(r"mlp|ffn|ffw|feed_forward|\.(?:gate|up|down|gate_up)_proj$|\.fc\d$")
_NOT_LINEAR = re.compile(r"embed|(?:^|\.)(?:lm_head|output|embed_out|score|wte|wpe|relative_attention_bias)$")


@dataclass(frozen=True)
class ModuleKind:
    """The linear layers of one name in one tower: how many there are, and how many weights they hold."""

    name: str
    group: Group
    tower: str
    count: int
    parameters: int


def tower_of(path: str) -> str:
    """The part of a model that a layer belongs to: text, vision or audio."""
    found = _TOWER.search(path)
    if found is None:
        return TEXT
    return "audio" if "audio" in found[0] else "vision"


def name_of(path: str) -> str:
    """A layer's own name, as target modules call it; some towers wrap their layers, as in `q_proj.linear`."""
    *parents, leaf = path.split(".")
    return parents[-1] if leaf == "linear" and parents and not parents[-1].isdigit() else leaf


def group_of(path: str) -> Group:
    """Attention, MLP or other, told from the names of the layer and of what holds it."""
    inner = path.removesuffix(".linear")
    if _ATTENTION.search(inner):
        return "attention"
    return "MLP" if _MLP.search(inner) else "other"


def linear_modules(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, int]]:
    """Every linear layer that can get an adapter, by path, with its matrix ([out, in]).

    Left out are the head and the embeddings, and the experts of a mixture: those are held as one block when loaded.
    """
    found: dict[str, tuple[int, int]] = {}
    for name, shape in shapes.items():
        path = name.removesuffix(".weight")
        if name.endswith(".weight") and len(shape) == 2 and adaptable(path):
            found[path] = (shape[0], shape[1])
    return found


def adaptable(path: str) -> bool:
    """Whether a linear layer of that path is one to choose from."""
    return "." in path and not _NOT_LINEAR.search(path.rsplit(".", 1)[-1]) and ".experts." not in path


def module_tree(shapes: Mapping[str, tuple[int, ...]]) -> tuple[ModuleKind, ...]:
    """The linear layers counted by name: the text model's first, attention before MLP before others, in the model's order."""
    counted: dict[tuple[str, Group, str], list[int]] = {}
    for path, (out, into) in linear_modules(shapes).items():
        entry = counted.setdefault((name_of(path), group_of(path), tower_of(path)), [0, 0])
        entry[0] += 1
        entry[1] += out * into
    kinds = [ModuleKind(name, group, tower, count, held) for (name, group, tower), (count, held) in counted.items()]
    usual = {name: i for i, name in enumerate(ALL_PROJECTIONS)}
    return tuple(sorted(kinds, key=lambda k: (k.tower != TEXT, k.tower, GROUPS.index(k.group), usual.get(k.name, len(usual)))))


def module_names(tree: Iterable[ModuleKind], *, text_only: bool) -> tuple[str, ...]:
    """The names to choose from, once each."""
    return tuple(dict.fromkeys(kind.name for kind in tree if not text_only or kind.tower == TEXT))


def default_modules(tree: Iterable[ModuleKind]) -> tuple[str, ...]:
    """The usual seven where the text model has them all; else every name of its attention and MLP layers (Phi fuses some)."""
    names = tuple(dict.fromkeys(kind.name for kind in tree if kind.tower == TEXT and kind.group != "other"))
    if not names or set(ALL_PROJECTIONS) <= set(names):
        return ALL_PROJECTIONS
    return names


def group_names(tree: Iterable[ModuleKind], *, text_only: bool) -> dict[Group, tuple[str, ...]]:
    """The names of each group that the model has, once each, in the groups' order."""
    kinds = [kind for kind in tree if not text_only or kind.tower == TEXT]
    found: dict[Group, tuple[str, ...]] = {}
    for group in GROUPS:
        if names := tuple(dict.fromkeys(kind.name for kind in kinds if kind.group == group)):
            found[group] = names
    return found


def whole_groups(tree: Iterable[ModuleKind], chosen: Iterable[str], *, text_only: bool) -> list[Group]:
    """The groups of which every name is chosen."""
    have = set(chosen)
    return [group for group, names in group_names(tree, text_only=text_only).items() if have >= set(names)]


def missing_modules(tree: Iterable[ModuleKind], lora: Lora) -> tuple[str, ...]:
    """The chosen names that no layer has."""
    have = set(module_names(tree, text_only=lora.text_only))
    return tuple(name for name in lora.target_modules if name not in have)


def rank_of(path: str, lora: Lora) -> int:
    """The rank of a layer's adapter: its group's own, or the common one."""
    own: dict[Group, int] = {"attention": lora.attention_rank, "MLP": lora.mlp_rank, "other": 0}
    return own[group_of(path)] or lora.rank


def alpha_of(path: str, lora: Lora) -> int:
    """The alpha of a layer's adapter: its group's own, or the common one."""
    own: dict[Group, int] = {"attention": lora.attention_alpha, "MLP": lora.mlp_alpha, "other": 0}
    return own[group_of(path)] or lora.alpha


def target_regex(lora: Lora, *, wrapped: bool = False) -> str:
    """The regular expression that peft matches whole module names with: the target modules, towers left out or not.

    `wrapped`: the towers hold their layers as `NAME.linear` (Gemma 4), and the wrapper itself can't be adapted.
    """
    towers, names = "|".join(OTHER_TOWERS), "|".join(lora.target_modules)
    if lora.text_only:
        return rf"(?!.*(?:{towers}|\.experts\.)).*\.(?:{names})"
    if wrapped:
        return rf"(?:(?!.*(?:{towers}|\.experts\.)).*\.(?:{names})|(?=.*(?:{towers})).*\.(?:{names})\.linear)"
    return rf"(?!.*\.experts\.).*\.(?:{names})"


def is_wrapped(paths: Iterable[str]) -> bool:
    """Whether a tower of the model holds its layers as `NAME.linear`."""
    return any(path.endswith(".linear") and tower_of(path) != TEXT and name_of(path) != "linear" for path in paths)


def own_values(paths: Iterable[str], lora: Lora) -> tuple[dict[str, int], dict[str, int]]:
    """(ranks, alphas) that differ from the common ones, as peft's rank_pattern and alpha_pattern: by the end of the path."""
    ranks, alphas = {}, {}
    for path in paths:
        parts = path.split(".")
        key = re.escape(".".join(parts[-3 if parts[-1] == "linear" else -2 :]))
        if (rank := rank_of(path, lora)) != lora.rank:
            ranks[key] = rank
        if (alpha := alpha_of(path, lora)) != lora.alpha:
            alphas[key] = alpha
    return ranks, alphas
