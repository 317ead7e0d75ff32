"""The list of merged models, and the removal of one: only what a merge has made goes, and it goes whole."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from workbench.errors import ModelError
from workbench.models.catalog import Catalog
from workbench.training.call_form import CallRecord
from workbench.training.merged import MergedRecord, bytes_in, list_merged, remove_merged

WEIGHTS = b"x" * 3000


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(tmp_path / "models")


def make(catalog: Catalog, name: str, record: str | None = None) -> Path:
    """A folder like that of a merged model."""
    folder = catalog.models_dir / name
    (folder / ".quantized" / "nf4").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    (folder / ".quantized" / "nf4" / "model.safetensors").write_bytes(WEIGHTS)
    (folder / "merged.json").write_text(MergedRecord(adapter="a", base="m", calls=CallRecord(dialect="tag")).model_dump_json() if record is None else record)
    return folder


def test_the_list_tells_what_each_was_made_of_and_its_bytes(catalog: Catalog) -> None:
    assert list_merged(catalog) == []
    os.utime(make(catalog, "old") / "merged.json", (1, 1))
    make(catalog, "broken", "{").rename(catalog.models_dir / "wrong")
    os.utime(catalog.models_dir / "wrong" / "merged.json", (2, 2))
    (catalog.models_dir / "other").mkdir()  # no merge has made it
    new = make(catalog, "new")
    found = list_merged(catalog)
    assert [one.model for one in found] == ["merged:new", "merged:wrong", "merged:old"]
    assert found[0].record is not None and (found[0].record.adapter, found[0].record.base, found[0].broken) == ("a", "m", "")
    assert found[0].bytes == 2 * len(WEIGHTS) + 2 + (new / "merged.json").stat().st_size
    assert found[1].record is None and "wrong/merged.json" in found[1].broken


def test_a_removed_model_is_gone_with_its_quantized_copies_and_nothing_else_is(catalog: Catalog) -> None:
    folder, beside = make(catalog, "mine"), make(catalog, "yours")
    size = bytes_in(folder)
    assert remove_merged(catalog, "merged:mine", sure=False) == size and folder.is_dir()
    assert remove_merged(catalog, "merged:mine") == size
    assert sorted(catalog.models_dir.iterdir()) == [beside] and catalog.merged() == ["merged:yours"]
    with pytest.raises(ModelError, match="There is no merged model mine any more: it was deleted already, or renamed."):
        remove_merged(catalog, "merged:mine")


@pytest.mark.parametrize(("model", "told"), [
    ("demo", "is no merged model"), ("gemma-3-270m", "is no merged model"), ("merged:", "can't be used"), ("merged:..", "can't be used"), ("merged:.hidden", "can't be used"),
    ("merged:../models/mine", "can't be used"), ("merged:/tmp", "can't be used"), ("merged:nobody", "There is no merged model nobody any more"),
    ("merged:plain", "There is no merged model plain any more"), ("merged:broken", "models/broken is not deleted, since its merged.json can't be read"),
    ("merged:link", "is a link"), ("merged:half", "is a link"),
])  # fmt: skip
def test_only_a_folder_of_a_merge_inside_the_models_folder_is_removed(catalog: Catalog, tmp_path: Path, model: str, told: str) -> None:
    mine = make(catalog, "mine")
    make(catalog, "broken", '{"adapter": "a"}')
    plain = make(catalog, "plain")
    (plain / "merged.json").unlink()
    outside = shutil.copytree(mine, tmp_path / "outside")
    (catalog.models_dir / "link").symlink_to(outside, target_is_directory=True)
    (make(catalog, "half") / "merged.json").unlink()
    (catalog.models_dir / "half" / "merged.json").symlink_to(mine / "merged.json")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ModelError, match=told):
        remove_merged(catalog, model)
    assert sorted(tmp_path.rglob("*")) == before


def test_what_a_link_inside_leads_to_stays_and_does_not_count(catalog: Catalog, tmp_path: Path) -> None:
    folder, kept = make(catalog, "mine"), tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_bytes(b"y" * 9000)
    (folder / "folder").symlink_to(kept, target_is_directory=True)
    (folder / "file").symlink_to(kept / "file")
    assert remove_merged(catalog, "merged:mine") < 7000
    assert (kept / "file").stat().st_size == 9000 and not folder.exists()


def test_a_disk_that_refuses_leaves_all_of_it_and_what_was_cut_off_goes_the_next_time(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, other = make(catalog, "mine"), make(catalog, "other")

    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        with pytest.raises(ModelError, match=r"There is no permission to use .*mine.* The merged model stays as it is\."):
            remove_merged(catalog, "merged:mine")
    assert catalog.merged() == ["merged:other", "merged:mine"]

    def broken(path: Path, **how: bool) -> None:
        raise OSError(5, "Input/output error")

    left = catalog.models_dir / f".deleting-{os.getpid()}"
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", broken)
        with pytest.raises(ModelError, match=rf"mine is gone, but files of it are left in models/{left.name}"):
            remove_merged(catalog, "merged:mine")
    assert left.is_dir() and catalog.merged() == ["merged:other"]
    running = catalog.models_dir / f".deleting-{os.getppid()}"  # another process that is still at it
    running.mkdir()
    assert remove_merged(catalog, "merged:other") > 0
    assert not other.exists() and list(catalog.models_dir.iterdir()) == [running] and not folder.exists()
