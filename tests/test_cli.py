"""The command line: exit codes, one JSON object as the last line, one line on standard error for bad input."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from workbench.__main__ import main
from workbench.schema import RowProblem
from workbench.workspace import Workspace

ROOT = Path(__file__).resolve().parent.parent
CALL = '<tool_call name="get_sensitive_data" arguments="{}"/>'
GEMMA = ("--model", "gemma-3-4b-it")
PLAN_KEYS = {
    "trainable_parameters", "total_parameters", "trainable_share", "rows", "train_rows", "validation_rows", "tokens_per_epoch",
    "labels_per_epoch", "optimizer_steps", "warmup_share", "forwards_per_step", "largest_forward_tokens", "fires", "memory", "memory_gib",
    "memory_corrected_by", "memory_corrected_from", "free_gib", "verdict", "do_this", "time", "warnings",
}  # fmt: skip


def line(request: str, answer: str) -> str:
    turns = [{"role": "user", "content": request}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": turns}, ensure_ascii=False)


GOOD = [line("Какой у меня баланс?", CALL), line("Привет", "Привет!"), line("Что такое вклад?", "Деньги в банке.")]


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A workbench folder without any model, and no model named in the environment."""
    monkeypatch.delenv("MODEL", raising=False)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "examples.json").write_text("\n".join(GOOD) + "\n", encoding="utf-8")
    return tmp_path


@pytest.fixture
def run(root, capsys):
    """Runs a verb in this process; gives its status, the lines it printed, and the lines of its complaint."""

    def call(*arguments: str):
        status = main(["--root", str(root), *arguments])
        said = capsys.readouterr()
        return status, said.out.splitlines(), said.err.splitlines()

    return call


def rows_file(root: Path, *lines: str) -> str:
    path = root / "rows.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def test_check_of_good_rows_tells_their_kinds(run, root):
    status, out, err = run("check", rows_file(root, *GOOD), "--json")
    assert (status, err) == (0, [])
    assert out[0] == "rows.jsonl: 3 rows, 1 calls, 2 texts, 0 problems"
    found = json.loads(out[-1])
    assert [f["kind"] for f in found.pop("findings")] == ["unknown-tool", "few"]
    assert found == {"rows": 3, "calls": 1, "texts": 2, "problems": [], "near_duplicates": []}


def test_check_without_json_prints_no_json(run, root):
    status, out, err = run("check", rows_file(root, *GOOD))
    assert (status, out[0], err) == (0, "rows.jsonl: 3 rows, 1 calls, 2 texts, 0 problems", [])
    assert [line[:7] for line in out[1:]] == ["  1 row", "  The s"]


def test_check_of_bad_rows_names_each_and_exits_with_2(run, root):
    status, out, err = run("check", rows_file(root, GOOD[0], "{", GOOD[1], "", '{"messages": []}'), "--json")
    assert status == 2
    assert err == [
        "rows.jsonl: 2 line(s) can't be used, the first: "
        "line 2: not valid JSON: Expecting property name enclosed in double quotes at column 2"
    ]
    found = json.loads(out[-1])
    assert (found["rows"], found["calls"], found["texts"]) == (2, 1, 1)
    assert found["problems"] == [
        {"line": 2, "field": "line", "reason": "not valid JSON: Expecting property name enclosed in double quotes at column 2"},
        {"line": 5, "field": "messages", "reason": "expected a non-empty list, found an empty list"},
    ]
    assert "  line 5, messages: expected a non-empty list, found an empty list" in out


def test_check_names_twins_by_their_lines(run, root):
    status, out, _ = run("check", rows_file(root, GOOD[0], "", GOOD[1], line("какой у меня БАЛАНС", CALL)), "--json")
    assert (status, json.loads(out[-1])["near_duplicates"]) == (0, [[1, 4]])
    assert "  lines 1 and 4 ask nearly the same" in out


def test_check_of_an_empty_file_exits_with_2(run, root):
    status, out, err = run("check", rows_file(root, ""), "--json")
    assert (status, err) == (2, ["rows.jsonl holds no rows."])
    assert json.loads(out[-1])["rows"] == 0


def test_check_of_a_missing_or_unreadable_file_is_one_line(run, root):
    assert run("check", str(root / "none"), "--json") == (2, [], [f"{root / 'none'} does not exist. Check the path."])
    assert run("check", str(root)) == (2, [], [f"{root} is a folder: give a file of JSON lines."])
    (root / "rows.jsonl").write_bytes("Привет".encode("cp1251"))
    name = root / "rows.jsonl"
    assert run("check", str(name)) == (2, [], [f"{name} is not UTF-8 (line 1): save it as UTF-8 and try again."])


def test_check_of_a_model_that_is_not_here_still_judges_the_form(run, root):
    assert run("check", rows_file(root, *GOOD), "--model", "/nowhere")[0] == 0


def test_problems_are_told_in_the_order_of_their_lines(run, root, monkeypatch):
    """What the tokenizer finds and what the form lacks are one list."""
    monkeypatch.setattr(Workspace, "tokenizer", None)
    monkeypatch.setattr("workbench.verbs.data.row_problems", lambda tokenizer, rows, longest, form: [RowProblem(1, "messages", "too long")])
    status, out, err = run("check", rows_file(root, "", GOOD[0], "x"), "--json")
    assert (status, err) == (2, ["rows.jsonl: 2 line(s) can't be used, the first: line 2, messages: too long"])
    assert out[1:3] == ["  line 2, messages: too long", "  line 3: not valid JSON: Expecting value at column 1"]
    assert [p["line"] for p in json.loads(out[-1])["problems"]] == [2, 3]


def test_plan_of_the_shipped_rows_is_40_steps_over_63_rows(run):
    status, out, err = run("plan", *GEMMA, "--data", str(ROOT / "data" / "examples.json"), "--json")
    assert (status, err) == (0, [])
    made = json.loads(out[-1])
    assert set(made) == PLAN_KEYS
    assert (made["rows"], made["train_rows"], made["validation_rows"], made["optimizer_steps"]) == (70, 63, 7, 40)
    assert (made["trainable_parameters"], made["total_parameters"]) == (29_802_496, 4_300_079_472 + 29_802_496)
    assert made["tokens_per_epoch"] is None
    assert made["warnings"] == ["The tokens can't be counted: the model's tokenizer is not on this machine yet."]
    assert out[0] == "parameters      29,802,496 trainable of 4,329,881,968 (0.6883%)"
    assert "optimizer steps 40" in out


def test_plan_takes_the_workbench_s_own_rows_and_settings(run):
    pairs = ("--set", "training.epochs=2", "--set", "training.rows_per_step=1", "--set", "lora.text_only=false")
    status, out, _ = run("plan", *GEMMA, *pairs, "--json")
    made = json.loads(out[-1])
    assert (status, made["rows"], made["train_rows"], made["optimizer_steps"]) == (0, 3, 3, 6)
    assert (made["trainable_parameters"], made["total_parameters"]) == (32_788_480, 4_332_867_952)


def test_plan_starts_from_a_preset_by_name_or_file_and_set_goes_over_it(run, root):
    file = root / "shared.yaml"
    file.write_text("settings: {lora: {rank: 4}, training: {epochs: 3}}", encoding="utf-8")
    for preset, trainable, steps in (("small-card-8-gb", 29_802_496 // 16, 2), (str(file), 29_802_496 // 16, 2)):
        status, out, _ = run("plan", *GEMMA, "--preset", preset, "--set", "lora.rank=1", "--set", "training.epochs=2", "--json")
        assert (status, json.loads(out[-1])["trainable_parameters"], json.loads(out[-1])["optimizer_steps"]) == (0, trainable, steps)
    assert json.loads(run("plan", *GEMMA, "--preset", str(file), "--json")[1][-1])["optimizer_steps"] == 3


def test_a_preset_that_is_not_there_or_wrong_is_one_line(run, root):
    status, out, err = run("plan", *GEMMA, "--preset", "nope", "--json")
    assert (status, out, len(err)) == (2, [], 1) and err[0].startswith("There is no preset named nope; there are: first-article-4-bit, ")
    (root / "odd.yaml").write_text("settings: {lora: {rank: 0}}", encoding="utf-8")
    told = "The preset odd.yaml can't be used. Rank (lora.rank) can't be '0': it takes a whole number from 1 to 512."
    assert run("train", "--data", rows_file(root, *GOOD), "--name", "x", "--preset", str(root / "odd.yaml")) == (2, [], [told])


def test_presets_are_listed_with_what_they_set_and_broken_files_are_named(run, root):
    (root / "data" / "presets").mkdir()
    (root / "data" / "presets" / "mine.yaml").write_text("title: Mine\nsettings: {lora: {rank: 4}}", encoding="utf-8")
    (root / "data" / "presets" / "bad.yaml").write_text("[]", encoding="utf-8")
    status, out, err = run("presets", *GEMMA, "--json")
    made = json.loads(out[-1])
    assert (status, [p["name"] for p in made["presets"]][-2:]) == (0, ["best-quality", "mine"])
    assert made["presets"][-1] == {"name": "mine", "title": "Mine", "note": "", "own": True, "sets": {"lora.rank": "4"}}
    assert err == made["problems"] == ["The preset bad.yaml can't be used. It must hold title, note and settings."]


def test_plan_names_lines_that_can_not_be_used(run, root):
    status, out, _ = run("plan", *GEMMA, "--data", rows_file(root, *GOOD, "{}"), "--json")
    sentence = "This line can't be used: line 4, messages: the key is missing; a row needs a list of messages."
    assert (status, json.loads(out[-1])["warnings"][-1]) == (0, sentence)
    assert f"warning: {sentence}" in out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["plan", *GEMMA, "--set", "lora.rank=0"], "Rank (lora.rank) can't be '0': it takes a whole number from 1 to 512."),
        (["plan", *GEMMA, "--set", "rank"], "--set takes group.field=value, as in lora.rank=16; 'rank' is not of that form."),
        (["plan", *GEMMA, "--data", "/nowhere/x"], "/nowhere/x does not exist. Check the path."),
        (["evaluate", "--cases", str(ROOT / "data" / "cases.jsonl"), "--base"],
         "The embedded model is not here yet: run `python -m workbench fetch-demo-model` (or `make run`) once."),
        (["plan", "--model", "/nowhere"],
         "There is no model folder /nowhere: give a folder with config.json and .safetensors files, "
         "a hub name such as google/gemma-3-4b-it, or demo."),
        (["train", "--data", "/nowhere/x", "--name", "a"], "/nowhere/x does not exist. Check the path."),
        (["train", "--data", "x", "--name", "../a"],
         "The run name '../a' can't be used: take 1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or a digit."),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_exit_2(run, root, arguments, complaint):
    assert run(*arguments, "--json") == (2, [], [complaint])
    assert not (root / "adapters").exists()


def test_train_refuses_bad_rows_before_a_run_is_made(run, root):
    status, out, err = run("train", "--data", rows_file(root, *GOOD, "{}"), "--name", "a")
    assert (status, out) == (2, [])
    assert err == [
        "rows.jsonl: 1 row(s) can't be learned: line 4, messages: the key is missing; a row needs a list of messages. "
        "Mend or delete them, then start again."
    ]
    assert not (root / "adapters").exists()


def test_train_refuses_a_missing_model_before_a_run_is_made(run, root):
    status, out, err = run("train", "--data", rows_file(root, *GOOD), "--name", "a", "--model", "/nowhere/m")
    assert (status, out) == (2, [])
    assert len(err) == 1
    assert err[0].startswith("There is no model folder /nowhere/m: ")
    assert not (root / "adapters").exists()


def test_an_unknown_verb_exits_with_2(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["fly"])
    assert caught.value.code == 2
    assert "invalid choice: 'fly'" in capsys.readouterr().err


def program(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "workbench", "--root", str(root), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", timeout=120)


def test_the_program_itself_prints_json_last_and_nothing_on_standard_error(root):
    done = program(root, "plan", *GEMMA, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout.splitlines()[-1])["optimizer_steps"] == 10


def test_the_program_itself_complains_in_one_line(root):
    done = program(root, "check", rows_file(root, GOOD[0], "Привет"), "--json")
    assert done.returncode == 2
    assert done.stderr == (
        "rows.jsonl: 1 line(s) can't be used, the first: line 2: not valid JSON: Expecting value at column 1\n"
    )
    assert json.loads(done.stdout.splitlines()[-1])["rows"] == 1


def test_a_reader_that_closes_the_output_gets_no_traceback(tmp_path):
    code = "import sys; from workbench.__main__ import main; sys.exit(main(['--root', sys.argv[1], 'presets']))"
    reader, writer = os.pipe()
    os.close(reader)
    # Buffered, as everybody's Python is: all of it is written at the end alone.
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], stdout=writer, stderr=subprocess.PIPE, text=True, check=False, cwd=ROOT, env=buffered)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")
