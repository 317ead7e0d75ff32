"""transformers' index of its own files, made quicker: the same index."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.models.fresh_process import run
from workbench.models import machine_cache
from workbench.models.library_index import KEPT, from_the_last, quicken

SAME = """
import importlib.util, sys
from importlib.machinery import PathFinder
import workbench.models
from workbench.models.library_index import READER, _Finder
assert any(isinstance(finder, _Finder) for finder in sys.meta_path)
import transformers
assert not any(isinstance(finder, _Finder) for finder in sys.meta_path)
quick = sys.modules[READER]
assert quick.fetch__all__.__module__ == 'workbench.models.library_index'
spec = PathFinder.find_spec(READER, [transformers.__path__[0] + '/utils'])
plain = importlib.util.module_from_spec(spec)
spec.loader.exec_module(plain)
assert plain.fetch__all__ is not quick.fetch__all__
models = transformers.__path__[0] + '/models'
ours, theirs = (module.define_import_structure(models, prefix='models') for module in (quick, plain))
assert ours == theirs and sum(map(len, ours.values())) > 500
assert quick.define_import_structure(models + '/__init__.py') == plain.define_import_structure(models + '/__init__.py')
assert quick.define_import_structure(models + '/gemma3/__init__.py') == plain.define_import_structure(models + '/gemma3/__init__.py')
import inspect
assert 'def fetch__all__' in inspect.getsource(quick)
from transformers import AutoModelForCausalLM, Gemma3ForCausalLM
"""


def index(home: Path) -> None:
    """A process that imports transformers quickly, and holds what it found against what transformers finds."""
    run(SAME, XDG_CACHE_HOME=str(home))


@pytest.mark.slow
def test_the_index_is_the_library_s_own_made_and_kept(tmp_path: Path) -> None:
    index(tmp_path)
    kept = tmp_path / machine_cache.NAME / f"{KEPT}.json"
    text = kept.read_text(encoding="utf-8")
    kept.write_text(text.replace('"gemma3.', '"gemmy3.'), encoding="utf-8")
    with pytest.raises(AssertionError, match="line 17"):  # it is what is read: the two differ
        index(tmp_path)
    for odd in ('{"made_of": 1}', "{", json.dumps(json.loads(text) | {"value": [[1, 2]]}), json.dumps(json.loads(text) | {"made_of": ["another"]})):
        kept.write_text(odd, encoding="utf-8")
        index(tmp_path)


def test_a_file_s_last_list_counts_wherever_it_stands() -> None:
    seen: list[str] = []

    def offers(text: str) -> list[str]:
        seen.append(text)
        return ["found"]

    quick = from_the_last(offers)
    assert quick('__all__ = ["a"]\nx') == ["found"] and quick('x\n__all__ = ["a"]\n__all__ = ["b"]\n') == ["found"]
    assert quick("x = 1\n  __all__ = 2\n") == [] and quick("") == []
    assert seen == ['__all__ = ["a"]\nx', '__all__ = ["b"]\n']


@pytest.mark.parametrize("module", [object(), type("Other", (), {"define_import_structure": staticmethod(len), "fetch__all__": staticmethod(len)})])
def test_another_release_is_left_as_it_is(module: object) -> None:
    before = getattr(module, "fetch__all__", None)
    quicken(module)
    assert getattr(module, "fetch__all__", None) is before
