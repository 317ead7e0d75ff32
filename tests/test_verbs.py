"""What the verbs tell with a model's tokenizer at hand: exact tokens, and a row named by its own line of the file."""

import json
import shutil
import struct
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from workbench import verbs
from workbench.__main__ import main
from workbench.calls.dialects import DIALECTS
from workbench.calls.prompting import PLAIN, CallForm
from workbench.errors import InputError
from workbench.schema import ToolCall
from workbench.verbs import comparing

TEMPLATE = Path(__file__).resolve().parent.parent / "workbench" / "models" / "gemma_template.jinja"
SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>")
CALL = '<tool_call name="get_sensitive_data" arguments="{}"/>'


def write_tokenizer(folder: Path) -> None:
    """Every byte is one token, and so is each of Gemma's control tokens."""
    vocabulary = {name: i for i, name in enumerate([*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 5]}))
    shutil.copy(TEMPLATE, folder / "chat_template.jinja")


@pytest.fixture
def model(tmp_path):
    """A model folder for planning: a tokenizer, and the header of one adaptable matrix without its weights."""
    folder = tmp_path / "model"
    folder.mkdir()
    write_tokenizer(folder)
    (folder / "config.json").write_text("{}")
    header = {"model.layers.0.self_attn.q_proj.weight": {"dtype": "F32", "shape": [4, 8], "data_offsets": [0, 0]}}
    raw = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw)
    return str(folder)


@pytest.fixture
def run(tmp_path, capsys, model):
    """Runs a verb over a file of lines; gives its status, its JSON, and its complaint."""

    def call(verb: str, *lines: str):
        path = tmp_path / "rows.jsonl"
        path.write_text("\n".join(lines), encoding="utf-8")
        file = ["--data", str(path)] if verb == "plan" else [str(path)]
        status = main(["--root", str(tmp_path), verb, *file, "--model", model, "--json"])
        said = capsys.readouterr()
        return status, json.loads(said.out.splitlines()[-1]), said.err.splitlines()

    return call


def row(request: str, answer: str, **keys: str) -> str:
    turns = [{"role": "user", "content": request}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": turns} | keys, ensure_ascii=False)


def test_plan_counts_the_tokens_of_the_rows_to_learn(run):
    # <bos>, then for each turn: opening, role, line break, text, closing, line break
    tokens = 1 + (1 + 4 + 1 + 5 + 1 + 1) + (1 + 5 + 1 + len(CALL) + 1 + 1)
    status, made, err = run("plan", row("hello", CALL), row("hello", CALL))
    assert (status, err) == (0, [])
    assert (made["tokens_per_epoch"], made["labels_per_epoch"]) == (2 * tokens, 2 * (len(CALL) + 1))
    assert (made["trainable_parameters"], made["total_parameters"]) == (16 * 12, 16 * 12 + 32)


def test_plan_leaves_rejected_rows_out(run):
    _, made, _ = run("plan", row("hello", CALL), row("hello", "hi", status="rejected"), row("hello", "hi", status="approved"))
    assert (made["rows"], made["train_rows"]) == (2, 2)


LINES = ("", row("a", "b", status="rejected"), "{", row("c <eos>", "d"), row("e", "f"))


def test_check_names_a_row_that_the_model_can_not_learn_by_its_line(run):
    status, found, _ = run("check", *LINES)
    assert (status, found["rows"]) == (2, 3)
    assert [(p["line"], p["field"]) for p in found["problems"]] == [(3, "line"), (4, "messages[0].content")]
    assert found["problems"][1]["reason"] == "the text holds the control token <eos>; take it out"


def test_plan_names_a_row_that_the_model_can_not_learn_by_its_line(run):
    _, made, _ = run("plan", *LINES)
    assert made["warnings"][0] == (
        "This row can't be learned: line 4, messages[0].content: the text holds the control token <eos>; take it out. "
        "Mend or delete it before the run."
    )


def test_plan_tells_how_many_rows_can_not_be_learned(run):
    """No row is left out in silence, however many there are."""
    _, made, _ = run("plan", *[row("c <eos>", "d")] * 5, row("e", "f"), row("g", "h"))
    assert (made["rows"], made["train_rows"]) == (2, 2)
    told = " ".join(made["warnings"])
    assert told.count("This row can't be learned") == 3
    assert "2 more" in told


def test_check_and_convert_live_with_a_broken_book_of_tools_and_say_so(run, tmp_path, capsys):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "tools.json").write_text("{broken", encoding="utf-8")
    (tmp_path / "data" / "cases.jsonl").write_text(f"{row('Привет', 'Да')}\noops\n", encoding="utf-8")
    status, found, _ = run("check", row("Привет", "Да"), row("Баланс", CALL))
    assert (status, [note.split(": ")[0] for note in found["notes"]]) == (0, ["The calls were not held against the schemas of the tools"])
    told = {f["kind"]: f for f in found["findings"]}
    assert told["unread"]["advice"].startswith("1 line of cases.jsonl can't be read, the first: line 2: not valid JSON")
    assert told["leak"]["rows"] == [1]
    for style in ("rows", "openai"):
        out = tmp_path / f"out-{style}.jsonl"
        assert main(["--root", str(tmp_path), "convert", str(tmp_path / "rows.jsonl"), str(out), "--to", style]) == 0
        assert "without their schemas" not in capsys.readouterr().out and len(out.read_text(encoding="utf-8").splitlines()) == 2
    (tmp_path / "rows.jsonl").write_text(json.dumps(json.loads(row("Баланс", CALL)) | {"tools": ["get_sensitive_data"]}), encoding="utf-8")
    assert main(["--root", str(tmp_path), "convert", str(tmp_path / "rows.jsonl"), str(tmp_path / "x.jsonl"), "--to", "openai"]) == 0
    said = capsys.readouterr().out
    assert "The tools are named without their schemas: tools.json is not valid JSON" in said and "Not in data/tools.json" not in said


def test_compare_counts_a_call_of_a_made_up_tool_as_wrong(tmp_path, monkeypatch, capsys):
    """By the rule of every other count: the row's own tools, not any call."""
    said = {"hello": "Hi.", "balance": CALL, "money": CALL.replace("get_sensitive_data", "get_money")}

    asked = []

    class Host:
        def do(self, job, report):
            asked.append(job)
            text = said[job.turns[0]["content"]]
            bound = ({"constrained": {"changed": 0, "first": []}}, {"constrained": {"changed": len(text), "first": []}}) if job.sampling.constrain else ({}, {})
            return {"replies": [{"text": "Hi."} | bound[0], {"text": text} | bound[1]], "adapter_difference": 1.0}

    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("\n".join((row("hello", "Hi."), row("balance", CALL), row("money", CALL))), encoding="utf-8")
    monkeypatch.setattr(comparing, "host", lambda space: (Host(), None))
    monkeypatch.setattr(comparing, "need_model", lambda space, model: None)
    space = SimpleNamespace(
        runs=SimpleNamespace(adapter=lambda name: (SimpleNamespace(info=SimpleNamespace(model="m")), tmp_path)), form=lambda name: PLAIN,
        jobs=SimpleNamespace(bound_tools=lambda sampling: ({"function": {"name": "f"}},) if sampling.constrain else ()),
    )
    found = verbs.compare(space, Namespace(adapter="r1", beside=None, prompts=prompts, max_new_tokens=8, constrain=False))
    assert found["as_expected"] == {"base": 1, "adapted": 2, "n": 3}
    assert [r["adapted"]["verdict"] for r in found["prompts"]] == ["no tool call", "tool call", "tool call"]
    assert capsys.readouterr().out.splitlines()[-1] == "as expected: base 1 of 3, adapted 2 of 3"
    assert "constrained" not in found and not asked[0].tools
    bound = verbs.compare(space, Namespace(adapter="r1", beside=None, prompts=prompts, max_new_tokens=8, constrain=True))
    changed = sum(map(len, said.values()))
    assert bound.pop("constrained") == {"base": {"tokens_changed": 0, "rows_changed": 0}, "adapted": {"tokens_changed": changed, "rows_changed": 3}}
    assert [row["adapted"].pop("constrained")["changed"] for row in bound["prompts"]] == [len(text) for text in said.values()]
    assert [row["base"].pop("constrained")["changed"] for row in bound["prompts"]] == [0, 0, 0]
    assert bound == found and asked[-1].sampling.constrain and asked[-1].tools == ({"function": {"name": "f"}},)
    assert f"adapted: calls were bound: that changed {changed} tokens in 3 of 3 replies" in capsys.readouterr().err


def test_compare_sets_another_voice_beside_the_adapter(tmp_path, monkeypatch, capsys):
    """Each asked and read in its own form, in one job."""
    asked = []
    hermes = CallForm(DIALECTS["hermes"])
    said = {"hello": ("Hi.", "Hi."), "balance": (DIALECTS["hermes"].render(ToolCall("get_sensitive_data")), CALL)}

    class Host:
        def do(self, job, report):
            asked.append(job)
            texts = said[job.parts[1].turns[-1]["content"]]
            moved = [2.5 if part.run == "r2" else None if part.run is None else 1.5 for part in job.parts]
            return {"parts": [{"replies": [{"text": text}], "adapter_difference": far} for text, far in zip(texts, moved, strict=True)]}

    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("\n".join((row("hello", "Hi."), row("balance", CALL))), encoding="utf-8")
    monkeypatch.setattr(comparing, "host", lambda space: (Host(), None))
    monkeypatch.setattr(comparing, "need_model", lambda space, model: None)
    space = SimpleNamespace(
        runs=SimpleNamespace(adapter=lambda name: (SimpleNamespace(info=SimpleNamespace(model="m")), tmp_path)),
        form=lambda name: PLAIN if name == "r1" else hermes, jobs=SimpleNamespace(bound_tools=lambda sampling: ()), voices=lambda: ["r1", "r2", "merged:mine"],
    )
    for voice, lanes in (("r2", [(True,), (True,)]), ("merged:mine", [(False,), (True,)])):
        found = verbs.compare(space, Namespace(adapter="r1", beside=voice, prompts=prompts, max_new_tokens=8, constrain=False))
        assert found["as_expected"] == {"beside": 2, "adapted": 2, "n": 2} and (found["beside"], found["adapter_difference"]) == (voice, 1.5)
        assert [r["beside"]["verdict"] for r in found["prompts"]] == ["no tool call", "tool call"]
        assert [part.lanes for part in asked[-1].parts] == lanes and asked[-1].parts[1].run == "r1"
    assert capsys.readouterr().out.splitlines()[-1] == "as expected: beside 2 of 2, adapted 2 of 2"
    with pytest.raises(InputError, match="There is no voice named r9 to stand beside r1; there are: r1, r2, merged:mine"):
        verbs.compare(space, Namespace(adapter="r1", beside="r9", prompts=prompts, max_new_tokens=8, constrain=False))


def test_evaluate_binds_calls_scores_as_usual_and_keeps_no_figures_of_them(tmp_path, monkeypatch, capsys):
    asked, kept = [], []

    class Host:
        def do(self, job, report):
            asked.append(job)
            bound = {"constrained": [{"changed": 0, "first": []}, {"changed": 3, "first": []}]} if job.sampling.constrain else {}
            return {"replies": ["Hi.", CALL], "adapter_difference": 1.0} | bound

    cases = tmp_path / "cases.jsonl"
    cases.write_text("\n".join((row("hello", "Hi."), row("balance", CALL))), encoding="utf-8")
    monkeypatch.setattr(verbs, "host", lambda space: (Host(), SimpleNamespace()))
    monkeypatch.setattr(verbs, "need_model", lambda space, model: None)
    monkeypatch.setattr(verbs, "keep_measurement", lambda *given: kept.append(given[1]))
    space = SimpleNamespace(
        runs=SimpleNamespace(adapter=lambda name: (SimpleNamespace(info=SimpleNamespace(model="m")), tmp_path)), form=lambda name: PLAIN, model="m",
        jobs=SimpleNamespace(bound_tools=lambda sampling: ({"function": {"name": "f"}},) if sampling.constrain else ()),
    )
    options = {"cases": cases, "adapter": "r1", "base": False, "max_new_tokens": 8}
    free = verbs.evaluate(space, Namespace(**options, constrain=False))
    assert "constrained" not in free and free["call_recall"]["k"] == 1 and kept == ["r1"]
    capsys.readouterr()
    bound = verbs.evaluate(space, Namespace(**options, constrain=True))
    assert bound == free | {"constrained": {"tokens_changed": 3, "rows_changed": 1}} and kept == ["r1"]
    assert "calls were bound: that changed 3 tokens in 1 of 2 replies" in capsys.readouterr().err
    assert [job.tools for job in asked] == [(), ({"function": {"name": "f"}},)]
