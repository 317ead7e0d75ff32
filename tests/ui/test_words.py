"""The words on screen: no name of theirs is given twice, as the later one would be shown in the earlier one's place."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from workbench.ui import words

FILES = sorted(Path(words.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_name_stands_once(path: Path) -> None:
    targets = [target for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.Assign) for target in node.targets]
    named = [name.id for target in targets for name in (target.elts if isinstance(target, ast.Tuple) else [target]) if isinstance(name, ast.Name)]
    assert sorted(named) == sorted(set(named))
