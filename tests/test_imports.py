"""The floors of the workbench: imports only run down, and the heavy libraries stay where they belong."""

import ast
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLOORS = (
    "errors", "schema", "files", "settings", "presets", "preset_store", "calls", "dataset", "evaluation",
    "models", "training", "engine", "workspace", "verbs", "ui",
)  # fmt: skip
HEAVY = ("torch", "transformers", "peft", "bitsandbytes")
LIGHT = ("schema", "settings", "presets", "preset_store", "calls", "dataset", "evaluation", "workspace", "ui")


@dataclass(frozen=True)
class Import:
    """One imported module and the line that imports it; `top` where the import runs on loading."""

    source: str
    target: str
    line: int
    top: bool

    def __str__(self) -> str:
        return f"{self.source}:{self.line} imports {self.target}"


@cache
def project_files() -> tuple[Path, ...]:
    """The shipped Python files: the package, app.py, and the benchmarks."""
    found = [*ROOT.glob("workbench/**/*.py"), *ROOT.glob("*.py"), *ROOT.glob("benchmarks/*.py")]
    assert len(found) > 30
    return tuple(sorted(found))


def module_name(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def is_type_checking(node: ast.If) -> bool:
    return "TYPE_CHECKING" in ast.unparse(node.test)


def top_level_nodes(tree: ast.Module) -> set[int]:
    """The nodes that run when the module is loaded (those for the type checker alone do not)."""
    found: set[int] = set()
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        found.add(id(node))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        children = node.orelse if isinstance(node, ast.If) and is_type_checking(node) else ast.iter_child_nodes(node)
        waiting.extend(children)
    return found


def package_of(name: str, level: int, is_package: bool) -> str:
    parts = name.split(".")
    return ".".join(parts[: len(parts) - level + is_package])


def imports_of(text: str, name: str, is_package: bool = False) -> list[Import]:
    """Every import in a module's text, relative ones resolved, submodules named whole."""
    tree = ast.parse(text)
    top = top_level_nodes(tree)
    found = []
    for node in ast.walk(tree):
        targets: list[str] = []
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(filter(None, [package_of(name, node.level, is_package) if node.level else "", node.module]))
            targets = [f"{base}.{a.name}" if is_module(f"{base}.{a.name}") else base for a in node.names]
        found += [Import(name, target, node.lineno, id(node) in top) for target in targets]
    return found


@cache
def all_imports() -> tuple[Import, ...]:
    return tuple(
        found for file in project_files()
        for found in imports_of(file.read_text(encoding="utf-8"), module_name(file), file.name == "__init__.py")
    )  # fmt: skip


def shipped_imports() -> list[Import]:
    """Without the benchmarks: they draw their own figures, and make models that the loader only reads."""
    return [arrow for arrow in all_imports() if not arrow.source.startswith("benchmarks.")]


def floor_of(module: str) -> str:
    """The part of the workbench that a module belongs to; empty for what stands outside the floors."""
    parts = module.split(".")
    return parts[1] if parts[0] == "workbench" and len(parts) > 1 and parts[1] != "__main__" else ""


def runs_up(arrow: Import) -> bool:
    source, target = floor_of(arrow.source), floor_of(arrow.target)
    if arrow.source == "workbench.__main__":
        return target == "ui"
    if not source or arrow.target == "workbench":
        return False
    if arrow.target == "workbench.__main__":
        return True
    return bool(target) and source != target and FLOORS.index(target) > FLOORS.index(source)


def library(arrow: Import) -> str:
    return arrow.target.split(".")[0]


def test_every_module_stands_on_a_known_floor():
    names = {floor_of(module_name(file)) for file in project_files()} - {""}
    assert names - set(FLOORS) == set()


@pytest.mark.parametrize(
    ("source", "line", "wrong"),
    [
        ("workbench.calls.dialects", "from workbench.dataset import formats", True),
        ("workbench.calls.dialects", "def f():\n    import workbench.engine.jobs", True),
        ("workbench.files", "from workbench.settings import Lora", True),
        ("workbench.models.demo", "from workbench.models.catalog import DEMO", False),
        ("workbench.models.demo", "from ..training import plan", True),
        ("workbench.training.plan", "from workbench import __version__", False),
        ("workbench.verbs", "from workbench import __main__", True),
        ("workbench.__main__", "from workbench.ui import screen", True),
        ("app", "from workbench.ui import screen", False),
    ],
)
def test_the_check_itself_tells_up_from_down(source, line, wrong):
    assert any(runs_up(arrow) for arrow in imports_of(line, source)) is wrong


def test_no_import_runs_up():
    assert [str(arrow) for arrow in all_imports() if runs_up(arrow)] == []


def test_the_screen_s_libraries_stay_in_the_screen():
    found = [a for a in shipped_imports() if library(a) in ("gradio", "plotly")]
    assert [str(a) for a in found if floor_of(a.source) != "ui" and a.source != "app"] == []


def test_the_light_parts_never_import_a_heavy_library():
    wrong = [a for a in all_imports() if library(a) in HEAVY and floor_of(a.source) in LIGHT]
    assert [str(arrow) for arrow in wrong] == []


def reached_from(start: str) -> set[str]:
    """The workbench's modules that are loaded when `start` is imported, packages included."""
    arrows: dict[str, set[str]] = {}
    for arrow in all_imports():
        if arrow.top:
            arrows.setdefault(arrow.source, set()).add(arrow.target)
    seen, waiting = set(), [start]
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            waiting += [m for m in arrows.get(module, ()) if m.startswith("workbench")]
            waiting += [module.rpartition(".")[0]] if "." in module else []
    return seen


@pytest.mark.parametrize("start", ["workbench.workspace", "workbench.__main__"])
def test_nothing_loaded_with_the_workspace_loads_a_heavy_library(start):
    reached = reached_from(start)
    assert "workbench.training.plan" in reached
    assert [str(a) for a in all_imports() if a.top and a.source in reached and library(a) in HEAVY] == []


@pytest.mark.parametrize("module", ["workbench.workspace", "workbench.__main__"])
def test_importing_it_does_not_load_torch(module):
    code = f"import sys, {module}; print(sorted(set(sys.modules) & {{'torch', 'peft', 'bitsandbytes', 'gradio'}}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"


def test_bitsandbytes_is_imported_by_the_loader_alone():
    assert {a.source for a in shipped_imports() if library(a) == "bitsandbytes"} <= {"workbench.models.loading"}


def test_peft_is_imported_by_models_and_training_alone():
    assert {floor_of(a.source) for a in shipped_imports() if library(a) == "peft"} <= {"models", "training"}


def dangers(text: str) -> list[str]:
    """What could run code out of a model's files."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
            if not (isinstance(node.value, ast.Constant) and node.value.value is False):
                found.append("trust_remote_code")
        elif isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.load":
            found.append("torch.load")
    libraries = {library(a) for a in imports_of(text, "workbench.models.loading")}
    return found + sorted(libraries & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"})


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("load(x, trust_remote_code=True)", ["trust_remote_code"]),
        ("load(x, trust_remote_code=False)", []),
        ("import torch\ntorch.load('x')", ["torch.load"]),
        ("def f():\n    from pickle import loads", ["pickle"]),
    ],
)
def test_the_check_itself_sees_a_danger(text, found):
    assert dangers(text) == found


def test_nothing_runs_code_out_of_a_model_s_files():
    found = {module_name(f): dangers(f.read_text(encoding="utf-8")) for f in project_files()}
    assert {name: what for name, what in found.items() if what} == {}
