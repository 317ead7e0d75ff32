"""From a model's name to its folder: the embedded one, a merged one, a local folder, or a hub name already on this machine."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.errors import ModelError
from workbench.files import safe_name
from workbench.models.tokenizer import read_json
from workbench.models.watched import StoppedLoadingError

DEMO = "demo"
DEMO_FOLDER = "gemma-3-270m"
MERGED = "merged:"  # merged:NAME is the model that an adapter was merged into, in the models folder; no adapter can have such a name
MERGED_RECORD = "merged.json"  # in its folder: what it was merged from
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.\-]*/[A-Za-z0-9][\w.\-]*")
_PATTERNS = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja"]


@dataclass(frozen=True)
class Catalog:
    """Finds models. `models_dir` holds the embedded one and those that adapters were merged into."""

    models_dir: Path

    def demo_folder(self) -> Path:
        return self.models_dir / DEMO_FOLDER

    def merged(self) -> list[str]:
        """The merged models, as merged:NAME, the newest first."""
        found: list[tuple[float, str]] = []
        with contextlib.suppress(OSError):
            for path in self.models_dir.glob(f"[!.]*/{MERGED_RECORD}"):
                with contextlib.suppress(OSError):  # taken away between the look and the question
                    found.append((path.stat().st_mtime, path.parent.name))
        return [MERGED + name for _, name in sorted(found, reverse=True)]

    def merged_folder(self, model: str) -> Path:
        """The folder of merged:NAME, whether it is there or not; raises `ModelError` for a name that can be none."""
        return self.models_dir / safe_name(model.removeprefix(MERGED), what="name of the merged model", error=ModelError)

    def find(self, model: str) -> Path:
        """The folder of a model that is on this machine; raises `ModelError` that says how to get it."""
        if is_merged(model):
            folder = self.merged_folder(model)
            if not (folder / MERGED_RECORD).is_file():
                raise ModelError(f"There is no merged model {folder.name} any more: choose another model, or merge an adapter under that name.")
            return _checked(folder)
        if model == DEMO:
            folder = self.demo_folder()
            if not (folder / "config.json").is_file():
                raise ModelError("The embedded model is not here yet: run `python -m workbench fetch-demo-model` (or `make run`) once.")
            return folder
        try:
            local = Path(model).expanduser()
            is_folder, is_file = local.is_dir(), local.is_file()
        except (RuntimeError, OSError, ValueError):  # ~nobody, a name too long, a NUL
            is_folder = is_file = False
        if is_folder:
            return _checked(local)
        if is_hub_name(model) and not is_file:
            return _checked(_snapshot(model, offline=True))
        if is_file:
            raise ModelError(f"{model} is a file: give the folder that holds config.json and the .safetensors files.")
        raise ModelError(f"There is no model folder {model}: give a folder with config.json and .safetensors files, a hub name such as google/gemma-3-4b-it, or demo.")

    def fetch(self, model: str, say: Callable[[str], None], bar: type[Any] | None = None) -> Path:
        """Like `find`, but downloads a hub name that is not here yet; `bar` is a tqdm class that is told how far it is.

        Passes a `StoppedLoadingError` of the bar through.
        """
        try:
            return self.find(model)
        except ModelError:
            if model == DEMO or is_merged(model) or not is_hub_name(model) or Path(model).exists():
                raise
        say(f"downloading {model} from the hub")
        return _checked(_snapshot(model, offline=False, bar=bar))


def is_merged(model: str | None) -> bool:
    """Whether `model` has the form merged:NAME."""
    return model is not None and model.startswith(MERGED)


def is_hub_name(model: str) -> bool:
    """Whether `model` has the form of a hub name, as in google/gemma-3-4b-it."""
    return bool(_HUB_NAME.fullmatch(model))


def display_name(model: str, folder: Path | None = None) -> str:
    """A short name for the screen and the files: never a machine's path."""
    if model == DEMO:
        return DEMO_FOLDER
    if is_merged(model):
        return model.removeprefix(MERGED)
    return model if _HUB_NAME.fullmatch(model) and folder is None else Path(model).name or model


def _snapshot(model: str, *, offline: bool, bar: type[Any] | None = None) -> Path:
    # Imported here: the hub's client takes half a second, and most models are local.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    missing = f"The model {model} is not on this machine"
    watched = {} if bar is None else {"tqdm_class": bar}
    try:
        return Path(snapshot_download(model, allow_patterns=_PATTERNS, local_files_only=offline, token=os.environ.get("HF_TOKEN"), **watched))
    except StoppedLoadingError:
        raise
    except GatedRepoError as exc:
        raise ModelError(f"{model} is gated: accept its licence on the hub and set HF_TOKEN in the environment.") from exc
    except RepositoryNotFoundError as exc:
        raise ModelError(f"The hub knows no model {model} (or it is private: set HF_TOKEN in the environment).") from exc
    except LocalEntryNotFoundError as exc:
        hint = "it will be downloaded when it is loaded" if offline else "the hub can't be reached; check the network, or give a local folder"
        raise ModelError(f"{missing}: {hint}.") from exc
    except Exception as exc:  # the client raises its transport's own errors too: proxies, time-outs, broken streams
        raise ModelError(f"{missing}, and the hub can't be reached; check the network, or give a local folder.") from exc


def _checked(folder: Path) -> Path:
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} holds no config.json: give a model folder (an adapter folder is chosen in the chat, not here).")
    if not any(folder.glob("*.safetensors")):
        raise ModelError(f"{folder} holds no .safetensors file; other weight formats can run code and are not loaded.")
    return folder


def describe(folder: Path) -> str:
    """The architecture's name in a model folder, for the screen."""
    architectures = read_json(folder / "config.json").get("architectures") or ["unknown"]
    return str(architectures[0])
