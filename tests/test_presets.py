"""Presets: the built-in ones, files that are saved, shared and broken, and what differs."""

from __future__ import annotations

from pathlib import Path

import pytest

from workbench.errors import SettingsError, WorkbenchError
from workbench.preset_store import PresetStore
from workbench.presets import BUILT_IN, MAX_BYTES, Difference, Preset, differences, dump_preset, parse_preset, read_preset
from workbench.settings import RunSettings, Training, apply_overrides

DEFAULTS = RunSettings(training=Training(learning_rate=6e-4))


@pytest.fixture
def store(tmp_path: Path) -> PresetStore:
    return PresetStore(tmp_path / "presets")


def settings(*pairs: str) -> RunSettings:
    return apply_overrides(DEFAULTS, pairs)


def test_the_built_in_presets_are_the_seven_with_safe_names():
    assert [p.title for p in BUILT_IN] == [
        "First article, 4-bit", "First article, 8-bit", "Second article", "Embedded model on CPU", "Small card (8 GB)",
        "Smallest card (6 GB)", "Best quality",
    ]
    for preset in BUILT_IN:
        assert preset.note.endswith(".") and not preset.own
        assert preset.settings(DEFAULTS) != RunSettings()


def test_the_articles_settings_are_theirs():
    first, eight, second = (p.settings(DEFAULTS) for p in BUILT_IN[:3])
    assert (first.quantization.mode, first.quantization.type_4bit, first.quantization.double) == ("4-bit", "nf4", True)
    assert (first.lora.rank, first.lora.alpha, first.lora.dropout, len(first.lora.target_modules)) == (16, 32, 0.1, 7)
    t = first.training
    assert (t.epochs, t.rows_per_step, t.learning_rate, t.warmup_steps, t.scheduler, t.max_grad_norm) == (10, 16, 1e-4, 10, "cosine", 0.3)
    assert [d.path for d in differences(eight, first)] == ["quantization.mode"]
    assert (eight.quantization.mode, eight.quantization.threshold) == ("8-bit", 6.0)
    assert second.lora.target_modules == ("q_proj", "k_proj", "v_proj", "o_proj")
    assert (second.training.epochs, second.training.learning_rate, second.lora.dropout) == (3, 2e-4, 0.05)


def test_what_a_preset_leaves_open_is_the_model_s_default():
    found = {p.key: p.settings(DEFAULTS) for p in BUILT_IN}
    assert found["embedded-model-on-cpu"] == settings("quantization.mode=none")
    assert found["small-card-8-gb"] == settings("quantization.mode=4-bit", "training.checkpointing=true", "training.tokens_per_forward=1024")
    assert found["best-quality"].training.learning_rate == 6e-4


def test_differences_name_the_setting_yours_and_the_preset_s():
    mine = settings("lora.rank=8", "lora.target_modules=q_proj,v_proj", "training.checkpointing=true", "training.learning_rate=1e-4")
    assert differences(mine, settings("lora.target_modules=q_proj")) == (
        Difference("lora.rank", "Rank", "8", "16"), Difference("lora.target_modules", "Target modules", "q_proj, v_proj", "q_proj"),
        Difference("training.learning_rate", "Learning rate", "0.0001", "0.0006"),
        Difference("training.checkpointing", "Gradient checkpointing", "on", "off"),
    )
    assert differences(mine, mine) == ()


def test_presets_are_listed_so_that_no_two_are_called_alike(store: PresetStore):
    store.save("mine", DEFAULTS)
    for name, title in (("one", "Ours"), ("two", "ours"), ("third", "Best quality")):
        (store.folder / f"{name}.yaml").write_text(f"title: {title}\nsettings: {{lora: {{rank: 4}}}}\n", encoding="utf-8")
    built_in = [(p.title, p.key) for p in BUILT_IN]
    assert store.choices() == [
        *built_in, ("mine · your own", "mine"), ("Ours · your own, one.yaml", "one"), ("Best quality · your own, third.yaml", "third"),
        ("ours · your own, two.yaml", "two"),
    ]


def test_a_preset_can_be_a_choice_beside_runs(store: PresetStore):
    store.save("mine", settings("lora.rank=8"))
    assert store.sources()[0] == ("First article, 4-bit", "preset:first-article-4-bit")
    assert store.sources()[-1] == ("mine · your own", "preset:mine")
    assert store.find("preset:mine") == store.find("mine")
    assert store.find("preset:best-quality") == BUILT_IN[-1]


def test_a_saved_preset_comes_back_whole(store: PresetStore):
    mine = settings("lora.rank=8", "training.keep_best=off", "lora.target_modules=qkv_proj", "training.learning_rate=1e-5")
    saved = store.save(" mine-1 ", mine, note="для 8 ГБ: проверить")
    assert (saved.key, saved.note) == ("mine-1", "для 8 ГБ: проверить")
    found = store.find("mine-1")
    assert found.settings(RunSettings()) == mine
    assert (found.title, found.note, found.own) == ("mine-1", "для 8 ГБ: проверить", True)
    assert store.read() == ([*BUILT_IN, found], [])
    assert store.path("mine-1").read_text(encoding="utf-8").startswith("# A preset of the Tool-Call Workbench")


@pytest.mark.parametrize("name", ["../evil", "a/b", "", ".hidden", "con", "x" * 65])
def test_an_unsafe_name_is_refused(store: PresetStore, name: str):
    for act in (lambda: store.save(name, DEFAULTS), lambda: store.find(name), lambda: store.delete(name)):
        with pytest.raises(SettingsError, match="The preset name .* can't be used"):
            act()
    assert not store.folder.exists()


@pytest.mark.parametrize("name", ["mine", "best-quality"])
def test_a_taken_name_is_refused_and_nothing_is_overwritten(store: PresetStore, name: str):
    store.save("mine", settings("lora.rank=8"))
    with pytest.raises(SettingsError, match=f"There is already a preset named {name}: choose another name"):
        store.save(name, DEFAULTS)
    assert store.find("mine").settings(DEFAULTS).lora.rank == 8


def test_a_deleted_preset_comes_back_from_the_bin_as_it_was(store: PresetStore):
    saved = store.save("mine", settings("lora.rank=8"), note="why")
    gone = store.delete("mine")
    assert (store.read(), store.deleted()) == (([*BUILT_IN], []), [gone])
    assert store.restore(gone.key) == "mine"
    assert (store.find("mine"), store.deleted()) == (saved, [])
    with pytest.raises(SettingsError, match="no longer in the bin"):
        store.restore(gone.key)


def test_a_preset_comes_back_under_a_number_where_its_name_was_taken_meanwhile(store: PresetStore):
    first = store.save("mine", settings("lora.rank=8"))
    older = store.delete("mine")
    store.save("mine", settings("lora.rank=9"))
    newer = store.delete("mine")
    store.save("mine", DEFAULTS)
    assert store.deleted() == [newer, older]
    assert store.restore(older.key) == "mine-2"
    assert store.find("mine-2").values == first.values
    assert store.choices()[-2:] == [("mine · your own, mine-2.yaml", "mine-2"), ("mine · your own, mine.yaml", "mine")]


def test_what_else_lies_in_the_bin_is_left_alone(store: PresetStore):
    for odd in ("../mine", "12", "x"):
        with pytest.raises(SettingsError, match="no longer in the bin"):
            store.restore(odd)
    (store.folder / ".trash" / "notes").mkdir(parents=True)
    (store.folder / ".trash" / "notes" / "mine.yaml").write_text("x")
    assert store.deleted() == []


def test_a_preset_of_one_s_own_can_be_deleted_and_a_built_in_one_not(store: PresetStore):
    store.save("mine", DEFAULTS)
    store.delete("mine")
    with pytest.raises(SettingsError, match="There is no preset named mine"):
        store.delete("mine")
    with pytest.raises(SettingsError, match="belongs to the workbench"):
        store.delete("best-quality")


def test_an_unknown_preset_is_told_the_known_ones(store: PresetStore):
    store.save("mine", DEFAULTS)
    with pytest.raises(SettingsError, match=r"There is no preset named nope; there are: first-article-4-bit, .*, mine\."):
        store.find("nope")


def shared(tmp_path: Path, title: str, rank: int = 4, name: str = "shared") -> Path:
    file = tmp_path / f"{name}.yaml"
    file.write_text(f"title: {title}\nsettings:\n  lora: {{rank: {rank}}}\n  training: {{learning_rate: 1e-4}}\n", encoding="utf-8")
    return file


def test_a_shared_file_is_taken_in_under_its_own_name(store: PresetStore, tmp_path: Path):
    file = shared(tmp_path, "Ours")
    assert store.find(str(file)).settings(DEFAULTS) == settings("lora.rank=4", "training.learning_rate=1e-4")
    assert store.take_in(file) == store.find("shared")
    found = store.find("shared")
    assert (found.title, found.values) == ("Ours", {"lora": {"rank": 4}, "training": {"learning_rate": 1e-4}})
    with pytest.raises(SettingsError, match=r"The preset in shared\.yaml is here already, as shared\.yaml: nothing was brought in\."):
        store.take_in(file)


def test_a_shared_file_whose_name_or_title_is_taken_gets_a_number(store: PresetStore, tmp_path: Path):
    made = [store.take_in(shared(tmp_path, title, rank)) for title, rank in (("Ours", 4), ("ours", 5), ("OURS", 6), ("Best quality", 7))]
    assert [(p.key, p.title) for p in made] == [("shared", "Ours"), ("shared-2", "ours (2)"), ("shared-3", "OURS (3)"), ("shared-4", "Best quality (2)")]
    assert [store.find(p.key).settings(DEFAULTS).lora.rank for p in made] == [4, 5, 6, 7]
    built_in = store.take_in(shared(tmp_path, "x" * 100, name="best-quality"))
    again = store.take_in(shared(tmp_path, "x" * 100, 9, name="n" * 64))
    assert (built_in.key, again.key, again.title) == ("best-quality-2", "n" * 64, "x" * 92 + " (2)")
    assert store.take_in(shared(tmp_path, "y", 9, name="n" * 64)).key == "n" * 62 + "-2"


def test_a_preset_is_not_saved_under_another_one_s_title(store: PresetStore, tmp_path: Path):
    store.take_in(shared(tmp_path, "Ours"))
    with pytest.raises(SettingsError, match=r"There is already a preset called Ours \(in shared\.yaml\): choose another name"):
        store.save("ours", DEFAULTS)
    assert not store.path("ours").exists()


def test_words_that_yaml_would_turn_into_truths_stay_words():
    made = parse_preset("settings:\n  training: {keep_best: off, tracker: off, checkpointing: yes}\n", "x")
    assert made.values == {"training": {"keep_best": "off", "tracker": "off", "checkpointing": True}}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("settings: {lora: {rank: 0}}", "Rank (lora.rank) can't be '0': it takes a whole number from 1 to 512."),
        ("settings: {lora: {rank: true}}", "Rank (lora.rank) can't be 'true'"),
        ("settings: {lora: {rank: 2.5}}", "Rank (lora.rank) can't be '2.5'"),
        ("settings: {lora: {rank: }}", "Rank (lora.rank) is empty"),
        ("settings: {lora: {rank: [1]}}", "Rank (lora.rank) can't be ['1']"),
        ("settings: {lora: {ranks: 1}}", "There is no setting lora.ranks."),
        ("settings: {sampling: {top_k: 1}}", "There is no setting sampling."),
        ("settings: {lora: 5}", "Its settings must be groups (quantization, lora, training) of names and values."),
        ("settings: 5", "Its settings must be groups"),
        ("settings: {lora: {target_modules: ['a b']}}", "'a b' is no module's name"),
        ("settings: {lora: {dora: true}, quantization: {mode: 8-bit}}", "DoRA does not work on 8-bit base weights"),
        ("model: x", "It holds 'model', and a preset holds title, note and settings alone."),
        ("title: [1]", "Its title must be a text of 100 characters at most."),
        (f"title: {'x' * 101}", "Its title must be a text of 100 characters at most."),
        (f"note: {'x' * 1001}", "Its note must be a text of 1000 characters at most."),
        ("title: a\ntitle: b", "'title' stands in it twice."),
        ("settings: {lora: {rank: 1, rank: 2}}", "'rank' stands in it twice."),
        ("[1, 2]", "It must hold title, note and settings."),
        ("title: a\n---\ntitle: b", "It is not YAML (line 2): mend it or save the preset anew."),
        ("title: 'a", "It is not YAML (line 1)"),
        ("a: &x 1\nb: *x", "It holds an anchor, an alias or a tag"),
        ("title: !!python/object/apply:os.system ['true']", "It holds an anchor, an alias or a tag"),
        ("? [a]\n: b", "Its names must be plain texts."),
        ("settings: " + "[" * 60000, "nested too deeply"),
        ("title: \x00", "It is not YAML"),
    ],
)
def test_what_is_wrong_in_a_file_is_told_by_name(tmp_path: Path, text: str, says: str):
    file = tmp_path / "odd.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        read_preset(file)
    assert str(caught.value).startswith("The preset odd.yaml can't be used. ")
    assert says in str(caught.value)


@pytest.mark.parametrize("text", ["", "\n", "# nothing here\n"])
def test_an_empty_file_is_refused(text: str):
    with pytest.raises(SettingsError, match="It is empty: a preset holds title, note and settings"):
        parse_preset(text, "nothing")


@pytest.mark.parametrize(("raw", "says"), [(b"\xff\xfe\x00", "is not UTF-8 text"), (b"#" * (MAX_BYTES + 1), r"larger than a preset can be \(64 KiB\)")])
def test_a_file_that_is_no_preset_at_all_is_refused(tmp_path: Path, raw: bytes, says: str):
    (tmp_path / "odd.yaml").write_bytes(raw)
    with pytest.raises(SettingsError, match=says):
        read_preset(tmp_path / "odd.yaml")


def test_a_missing_file_is_told(store: PresetStore, tmp_path: Path):
    with pytest.raises(SettingsError, match=r"nope\.yaml does not exist"):
        store.find(str(tmp_path / "nope.yaml"))
    with pytest.raises(SettingsError, match="could not be used"):
        (tmp_path / "folder.yaml").mkdir()
        store.find(str(tmp_path / "folder.yaml"))


def test_broken_files_are_listed_beside_the_good_ones(store: PresetStore):
    store.save("good", DEFAULTS)
    (store.folder / "bad.yaml").write_text("settings: {lora: {rank: 0}}", encoding="utf-8")
    found, problems = store.read()
    assert [p.key for p in found if p.own] == ["good"]
    assert len(problems) == 1 and problems[0].startswith("The preset bad.yaml can't be used. Rank")


def test_a_preset_s_text_is_stable():
    text = dump_preset(Preset("x", "Мой", "", {"lora": {"target_modules": ("q_proj",), "rank": 4}}, own=True))
    assert text.split("\n", 1)[1] == "title: Мой\nnote: ''\nsettings:\n  lora:\n    target_modules:\n    - q_proj\n    rank: 4\n"
    assert parse_preset(text, "x") == Preset("x", "Мой", "", {"lora": {"target_modules": ("q_proj",), "rank": 4}}, own=True)


def test_a_folder_that_can_t_be_written_is_told(store: PresetStore):
    store.folder.write_text("a file in the folder's place")
    with pytest.raises(WorkbenchError):
        store.save("mine", DEFAULTS)
