"""The book of tools: what it holds, what it refuses, and what is said of a call that does not fit."""

import json
import os
import socket
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.calls import schemas, tools, validating
from workbench.calls.dialects import TAG, CallSegment
from workbench.calls.tools import (
    ArgumentField,
    ToolStore,
    argument_fields,
    call_problems,
    check_spec,
    infer_spec,
    no_parameters,
    parse_specs,
    read_arguments,
)  # fmt: skip
from workbench.errors import ConflictError, DataError, RowError, WorkbenchError
from workbench.schema import ToolCall, ToolSpec

REPOSITORY = Path(__file__).resolve().parents[2]
PAY = ToolSpec(
    "pay", "Transfers money",
    {
        "type": "object",
        "properties": {
            "amount": {"type": "number", "minimum": 1, "description": "In roubles"},
            "limit": {"type": "integer"},
            "to": {"type": "string", "default": "me"},
            "currency": {"type": "string", "enum": ["RUB", "USD"]},
            "level": {"enum": [1, 2, "many"]},
            "urgent": {"type": "boolean"},
            "tags": {"type": "array", "items": {"type": "string"}},
            "where": {"$ref": "#/$defs/place"},
            "note": {"anyOf": [{"type": "string"}, {"type": "null"}], "description": "A word"},
        },
        "required": ["amount", "currency"],
        "$defs": {"place": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False}},
    },
    {"ok": True},
)  # fmt: skip
BOOK = {"pay": PAY, "status": ToolSpec("status")}


def with_schema(**properties) -> ToolSpec:
    return ToolSpec("t", "", {"type": "object", "properties": properties})


@pytest.fixture
def store(tmp_path):
    return ToolStore(tmp_path / "tools.json")


# -- the shipped tool -----------------------------------------------------------------------------


def test_the_shipped_tool_takes_the_calls_of_the_shipped_rows():
    book = ToolStore(REPOSITORY / "data" / "tools.json").read()
    assert (list(book.tools), book.problems) == (["get_sensitive_data"], ())
    spec = book.tools["get_sensitive_data"]
    assert spec.parameters == no_parameters()
    assert (spec.mock["balance"], spec.mock["status"]) == ("12 340,50 ₽", "active")
    calls = [s.call for line in (REPOSITORY / "data" / "examples.json").read_text(encoding="utf-8").splitlines()
             for m in json.loads(line)["messages"] for s in TAG.parse(m["content"]) if isinstance(s, CallSegment)]  # fmt: skip
    assert len(calls) == 33
    assert [call_problems(call, book.tools) for call in calls] == [[]] * 33


# -- the file -------------------------------------------------------------------------------------


def test_a_missing_book_is_empty_and_the_first_tool_makes_it(store):
    assert (dict(store.read().tools), store.read().version) == ({}, "")
    made = store.save(PAY, "")
    assert dict(made.tools) == {"pay": PAY}
    assert json.loads(store.path.read_text(encoding="utf-8")) == [
        {"type": "function", "function": {"name": "pay", "description": "Transfers money", "parameters": PAY.parameters}, "mock": {"ok": True}},
    ]  # fmt: skip
    assert ToolStore(store.path).read() == made == store.read()


def test_editing_keeps_the_order_and_the_keys_that_are_not_ours(store):
    store.path.write_text(json.dumps([
        {"type": "function", "function": {"name": "a", "strict": True}, "owner": "Аня", "mock": 1},
        {"name": "b", "parameters": {"type": "object"}, "x": [1]},
        {"type": "web_search"},
    ]), encoding="utf-8")  # fmt: skip
    seen = store.read()
    assert list(seen.tools) == ["a", "b"]
    assert seen.problems == (
        "Tool 3 (without a name) can't be used: tools[2].name: a name has 1 to 128 letters, digits, '_', '.' or '-', "
        "beginning with a Latin letter or '_'.",
    )
    seen = store.save(ToolSpec("a2", "new"), seen.version, was="a")
    seen = store.save(ToolSpec("b", "bare", mock=[2]), seen.version)
    assert list(seen.tools) == ["a2", "b"]
    empty = {"type": "object", "properties": {}}
    assert json.loads(store.path.read_text(encoding="utf-8")) == [
        {"type": "function", "function": {"name": "a2", "strict": True, "description": "new", "parameters": empty}, "owner": "Аня"},
        {"name": "b", "parameters": empty, "x": [1], "description": "bare", "mock": [2]},
        {"type": "web_search"},
    ]


def test_names_are_taken_once_and_a_tool_that_is_gone_is_not_edited(store):
    seen = store.save(ToolSpec("b"), store.save(ToolSpec("a"), "").version)
    with pytest.raises(DataError, match=r"^There is a tool 'b' already: take another name, or edit that one\.$"):
        store.save(ToolSpec("b"), seen.version, was="a")
    with pytest.raises(DataError, match=r"^There is no tool 'c' any more: save it as a new one\.$"):
        store.save(ToolSpec("c"), seen.version, was="c")
    with pytest.raises(DataError, match=r"^There is no tool 'c' in tools\.json any more\.$"):
        store.delete("c", seen.version)
    assert list(store.delete("a", seen.version).tools) == ["b"]


def test_two_browsers_never_overwrite_each_other(store):
    seen = store.save(ToolSpec("a"), "")
    store.path.write_text("[]", encoding="utf-8")
    for act in (lambda: store.save(ToolSpec("b"), seen.version), lambda: store.delete("a", seen.version), lambda: store.undo(seen.version)):
        with pytest.raises(ConflictError, match=r"^tools\.json was changed elsewhere since you opened it: nothing was overwritten"):
            act()
    with pytest.raises(ConflictError, match=r"^tools\.json was changed elsewhere since: nothing was taken back"):
        store.undo(store.read().version)
    assert store.path.read_text(encoding="utf-8") == "[]"


def test_changes_are_taken_back_one_by_one_byte_for_byte(store):
    store.path.write_text('[ {"name":"a"}]', encoding="utf-8")
    states = [store.path.read_bytes()]
    store.save(PAY, store.read().version)
    states.append(store.path.read_bytes())
    store.delete("a", store.read().version)
    for state in reversed(states):
        store.undo(store.read().version)
        assert store.path.read_bytes() == state
    with pytest.raises(DataError, match=r"^There is no change of the tools to take back\.$"):
        store.undo(store.read().version)


def test_a_full_disk_leaves_the_book_as_it_was(store, monkeypatch):
    seen = store.save(PAY, "")
    before = store.path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda a, b: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        for act in (lambda: store.save(ToolSpec("b"), seen.version), lambda: store.undo(seen.version)):
            with pytest.raises(WorkbenchError, match="^The disk is full"):
                act()
    assert (store.path.read_bytes(), store.read()) == (before, seen)
    assert dict(store.undo(seen.version).tools) == {}


@pytest.mark.parametrize(("raw", "says"), [
    (b"[", "not valid JSON \\(line 1"), (b"{}", "must hold a JSON list"), (b"\xff", "not UTF-8"), (b"[NaN]", "not valid JSON"),
    (b"[" * 100_000, "not valid JSON"), (b"[" + b"1" * 5000 + b"]", "not valid JSON"), (b" " * (4 * 2**20 + 1), "larger than 4 MiB"),
])  # fmt: skip
def test_a_broken_book_is_refused_with_a_sentence_and_not_overwritten(store, raw, says):
    store.path.write_bytes(raw)
    with pytest.raises(DataError, match=says):
        store.read()
    with pytest.raises(DataError, match=says):
        store.save(PAY, "")
    assert store.path.read_bytes() == raw


def test_entries_that_json_can_t_write_again_stop_the_write_and_half_characters_survive_it(store):
    store.path.write_text('[{"name": "a", "x": 1e999}]', encoding="utf-8")
    with pytest.raises(DataError, match="can't be written again"):
        store.save(PAY, store.read().version)
    store.path.write_text('[{"name": "a", "x": "\\ud800"}]', encoding="utf-8")
    store.save(PAY, store.read().version)
    assert json.loads(store.path.read_bytes())[0] == {"name": "a", "x": "\ud800"}


def test_a_second_tool_of_one_name_is_told(store):
    store.path.write_text('[{"name": "a", "mock": 1}, {"name": "a", "mock": 2}]', encoding="utf-8")
    assert store.read().tools["a"].mock == 1
    assert store.read().problems == ("Tool 2 (a) has the name of another: the first one counts.",)


# -- what is refused ------------------------------------------------------------------------------

BAD = {
    "name": (ToolSpec("1a"), "name"),
    "empty name": (ToolSpec(""), "name"),
    "html name": (ToolSpec("<b>"), "name"),
    "description": (ToolSpec("a", "x" * 4001), "description"),
    "no object": (ToolSpec("a", "", []), "parameters"),
    "type": (ToolSpec("a", "", {"type": "array"}), "parameters.type"),
    "unknown type": (with_schema(x={"type": "strng"}), "parameters.properties.x.type"),
    "required": (ToolSpec("a", "", {"type": "object", "required": "x"}), "parameters.required"),
    "remote": (with_schema(x={"$ref": "http://127.0.0.1:1/schema.json"}), "parameters.properties.x.$ref"),
    "file": (with_schema(x={"$ref": "file:///etc/passwd"}), "parameters.properties.x.$ref"),
    "nowhere": (with_schema(x={"$ref": "#/$defs/none"}), "parameters.properties.x.$ref"),
    "itself": (with_schema(x={"$ref": "#"}), "parameters.properties.x.$ref"),
    "dynamic": (with_schema(x={"$dynamicRef": "#a"}), "parameters.properties.x.$dynamicRef"),
    "base": (with_schema(x={"$id": "http://127.0.0.1/"}), "parameters.properties.x.$id"),
    "long pattern": (with_schema(x={"pattern": "a" * 201}), "parameters.properties.x.pattern"),
    "no pattern": (with_schema(x={"pattern": "("}), "parameters.properties.x.pattern"),
    "nested": (with_schema(x={"pattern": "(a+)+$"}), "parameters.properties.x.pattern"),
    "branches": (with_schema(x={"pattern": "^(a|a)*$"}), "parameters.properties.x.pattern"),
    "optional": (with_schema(x={"pattern": "^" + "a?" * 30 + "a" * 30}), "parameters.properties.x.pattern"),
    "many": (with_schema(x={"pattern": ".*.*.*.*x"}), "parameters.properties.x.pattern"),
    "names by pattern": (ToolSpec("a", "", {"type": "object", "patternProperties": {"(a+)+$": {}}}), "parameters.patternProperties"),
    "large": (with_schema(x={"description": "x" * 70_000}), "parameters"),
    "not JSON": (with_schema(x={"default": float("nan")}), "parameters"),
    "mock": (ToolSpec("a", mock={1, 2}), "mock"),
    "large mock": (ToolSpec("a", mock="x" * 70_000), "mock"),
    "half a character": (ToolSpec("a", "\ud800"), "tool"),
}  # fmt: skip


@pytest.mark.parametrize(("spec", "field"), BAD.values(), ids=BAD)
def test_a_tool_that_can_t_be_used_is_refused_by_field(store, spec, field):
    with pytest.raises(RowError, match=r"^The tool .* can't be used: ") as caught:
        store.save(spec, "")
    assert caught.value.field == field
    assert f"{field}: " in str(caught.value)
    assert not store.path.exists()


def test_a_schema_that_is_too_deep_or_multiplies_itself_is_refused():
    deep = {"type": "object"}
    for _ in range(40):
        deep = {"type": "object", "properties": {"x": deep}}
    with pytest.raises(RowError, match="nested deeper than 24"):
        check_spec(ToolSpec("a", "", deep))
    laughs = {"a0": {"type": "string"}} | {f"a{i}": {"allOf": [{"$ref": f"#/$defs/a{i - 1}"}] * 10} for i in range(1, 12)}
    with pytest.raises(RowError, match="more than 5000 parts"):
        check_spec(ToolSpec("a", "", {"type": "object", "properties": {"x": {"$ref": "#/$defs/a11"}}, "$defs": laughs}))


@pytest.mark.parametrize("pattern", [
    r"^[^@\s]+@[^@\s]+\.[^@\s]+$", r"^\+?\d{7,15}$", r"^\d{4}-\d{2}-\d{2}$", "^(RUB|USD)$", r"^([01]\d|2[0-3]):[0-5]\d$", r"^\d+(\.\d{1,2})?$", "[A-Z]+",
])  # fmt: skip
def test_usual_patterns_are_taken_and_held_against_values(pattern):
    check_spec(with_schema(x={"type": "string", "pattern": pattern}))
    spec = with_schema(x={"type": "string", "pattern": pattern})
    assert call_problems(ToolCall("t", {"x": "…"}), {"t": spec}) == [f"argument “x” must have the form “{pattern}”, it is “…”"]
    assert call_problems(ToolCall("t", {"x": "…" * (schemas.TRIED_TEXT + 1)}), {"t": spec}) == []


@pytest.mark.parametrize("pattern", ["(a|b?)*c", "((a{1,5}){1,5}){1,5}$", "^(?=(a*)*)b", r"^(\w+\s?)*$", "(?:a*?)+b", r"^(a*)\1*\1*\1*b"])
def test_patterns_that_backtrack_for_ages_are_refused(pattern):
    with pytest.raises(RowError, match="could take very long"):
        check_spec(with_schema(x={"pattern": pattern}))


def test_nothing_is_fetched_even_by_a_schema_that_was_not_checked(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    spec = with_schema(x={"$ref": "http://127.0.0.1:1/x"})
    assert call_problems(ToolCall("t", {"x": 1}), {"t": spec}) == [
        "the schema of the tool “t” can't be used: parameters.properties.x.$ref: only references within the schema (#/…) can be used: "
        "nothing is fetched, and 'http://127.0.0.1:1/x' is none",
    ]  # fmt: skip


# -- what is wrong with a call --------------------------------------------------------------------

CALLS = [
    ("pay", {"amount": 5, "currency": "RUB"}, []),
    ("pay", {"amount": 5.5, "currency": "USD", "limit": 3, "urgent": True, "tags": [], "where": {"city": "X"}, "note": None, "level": "many"}, []),
    ("status", {}, []),
    ("other", {}, ["there is no tool “other”"]),
    ("status", {"x": 1}, ["argument “x” is none of the tool's arguments"]),
    ("pay", {}, ["argument “amount” is missing", "argument “currency” is missing"]),
    ("pay", {"amount": "5", "currency": "RUB"}, ["argument “amount” must be a number, it is text"]),
    ("pay", {"amount": True, "currency": "RUB"}, ["argument “amount” must be a number, it is true/false"]),
    ("pay", {"amount": 0, "currency": "RUB"}, ["argument “amount” must be at least 1, it is 0"]),
    ("pay", {"amount": 1, "currency": "EUR"}, ["argument “currency” must be one of “RUB”, “USD”, it is “EUR”"]),
    ("pay", {"amount": 1, "currency": "RUB", "limit": "x"}, ["argument “limit” must be a whole number, it is text"]),
    ("pay", {"amount": 1, "currency": "RUB", "limit": 1.5}, ["argument “limit” must be a whole number, it is a number"]),
    ("pay", {"amount": 1, "currency": "RUB", "tags": ["a", 1]}, ["argument “tags[1]” must be text, it is a whole number"]),
    ("pay", {"amount": 1, "currency": "RUB", "where": {"town": 1}},
     ["argument “where.city” is missing", "argument “where.town” is none of the tool's arguments"]),
    ("pay", {"amount": 1, "currency": "RUB", "note": []}, ["argument “note” has none of the forms it may have, it is []"]),
    ("pay", {"amount": 1, "currency": "RUB", "to": None}, ["argument “to” must be text, it is null"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments", "problems"), CALLS)
def test_what_is_wrong_with_a_call_is_said_in_plain_words(name, arguments, problems):
    assert sorted(call_problems(ToolCall(name, arguments), BOOK)) == problems


def test_a_schema_that_says_so_lets_other_arguments_in():
    for opening in ({"additionalProperties": True}, {"anyOf": [{"required": ["x"]}, {"required": ["y"]}]}):
        spec = ToolSpec("t", "", {"type": "object", "properties": {}, **opening})
        assert call_problems(ToolCall("t", {"x": 1}), {"t": spec}) == []


def test_what_a_stranger_s_call_holds_never_breaks_the_check():
    # Python 3.12 writes deeper JSON than 3.11 does before it refuses.
    for depth, told in ((5000, ("can't be written as JSON", "can't be checked against the schema")), (200_000, ("can't be written as JSON",))):
        deep = value = {}
        for _ in range(depth):
            value["x"] = value = {}
        (problem,) = call_problems(ToolCall("t", {"x": deep}), {"t": with_schema(x={"type": "number", "multipleOf": 0.1})})
        assert any(sentence in problem for sentence in told)
    odd = with_schema(x={"type": "number", "multipleOf": 0.1})
    assert call_problems(ToolCall("t", {"x": 10**400}), {"t": odd}) == ["the arguments can't be checked against the schema of “t” (OverflowError)"]
    assert call_problems(ToolCall("t", {"x": "y" * 100_001}), {"t": odd}) == ["the arguments are longer than 100000 characters: they were not checked"]
    assert len(call_problems(ToolCall("t", {f"k{i}": 1 for i in range(99)}), {"t": odd})) == 20


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(st.characters(exclude_categories=("Cs",)), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(exclude_categories=("Cs",)), max_size=4), inner, max_size=3), max_leaves=8,
)  # fmt: skip
ARGUMENTS = st.dictionaries(st.sampled_from(["amount", "limit", "where", "tags", "note", "zzz"]) | st.text(st.characters(exclude_categories=("Cs",)), max_size=4), JSON, max_size=4)


MANY = {"type": "array", "items": {"anyOf": [{"const": i} for i in range(1000)]}}
EMAIL = {"type": "array", "items": {"type": "string", "pattern": "^[a-z]+[a-z]+[a-z]+$"}}


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (MANY, [999] * 300), ({"type": "object", "unevaluatedProperties": False, "allOf": [{}]}, {f"k{i}": 1 for i in range(8000)}),
        ({"type": "array", "items": {"enum": [[i] * 100 for i in range(100)]}}, [[0] * 99 + [i] for i in range(100)]), (EMAIL, ["a" * 127 + "1"] * 700),
    ],
)  # fmt: skip
def test_a_check_that_would_take_very_long_is_given_up(schema, value):
    spec = ToolSpec("f", "", {"type": "object", "properties": {"a": schema}})
    assert call_problems(ToolCall("f", {"a": value}), {"f": spec}) == ["the arguments and the schema of “f” are too large to check"]


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (MANY, [999] * 20), ({"type": "array", "items": {"type": "integer"}}, list(range(5000))), (EMAIL, ["annapetrova"] * 200),
        ({"type": "array", "uniqueItems": True}, [{"k": i} for i in range(2000)]),
    ],
)  # fmt: skip
def test_long_but_ordinary_arguments_are_checked(schema, value):
    spec = ToolSpec("f", "", {"type": "object", "properties": {"a": schema}})
    assert call_problems(ToolCall("f", {"a": value}), {"f": spec}) == []
    assert len(call_problems(ToolCall("f", {"a": [*value, None]}), {"f": spec})) == (0 if "uniqueItems" in schema else 1)


@pytest.mark.parametrize(
    ("items", "twice"),
    [
        ([1, True, "1", 0, False, None, "None", [1], [True], {"a": 1}, {"a": True}, []], False), ([1, 1.0], True), ([True, True], True), (["x", "x"], True),
        ([{"a": [1, {"b": 2}], "c": 0}, {"c": 0, "a": [1.0, {"b": 2}]}], True), ([None, None], True), ([[], {}], False),
    ],
)  # fmt: skip
def test_items_are_the_same_as_json_schema_says(items, twice):
    spec = ToolSpec("f", "", {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}})
    assert [p.split(", it is")[0] for p in call_problems(ToolCall("f", {"a": items}), {"f": spec})] == (["argument “a” must not hold an item twice"] if twice else [])


def test_a_part_of_a_schema_can_t_ask_for_an_unbounded_check():
    hidden = {"$schema": "https://json-schema.org/draft/2020-12/schema", **MANY}
    with pytest.raises(RowError, match=r"\$schema can only stand at the top"):
        schemas.check_schema({"type": "object", "properties": {"a": hidden}})
    schemas.check_schema({"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object"})


def test_checks_that_share_their_work_are_left_out_and_counted_when_it_is_used_up():
    spec = {"f": ToolSpec("f", "", {"type": "object", "properties": {"a": MANY}})}
    work = validating.Work(1000)
    assert [call_problems(ToolCall("f", {"a": [999] * n}), spec, work) for n in (0, 20, 0)] == [[], [], []]
    assert work == validating.Work(0, skipped=2)


@settings(max_examples=150, deadline=None)
@given(ARGUMENTS)
def test_any_arguments_are_judged_and_an_inferred_schema_takes_what_it_was_inferred_from(arguments):
    assert all(isinstance(problem, str) for problem in call_problems(ToolCall("pay", arguments), BOOK))
    spec = infer_spec("f", [ToolCall("f", arguments), ToolCall("g", {"other": 1})])
    check_spec(spec)
    assert call_problems(ToolCall("f", arguments), {"f": spec}) == []


def test_checking_many_calls_compiles_a_schema_once(monkeypatch):
    validating.compiled.cache_clear()
    for i in range(200):
        assert call_problems(ToolCall("pay", {"amount": i + 1, "currency": "RUB"}), {"pay": ToolSpec("pay", "", dict(PAY.parameters))}) == []
    assert (validating.compiled.cache_info().misses, validating.compiled.cache_info().hits) == (1, 199)


# -- inline tools ---------------------------------------------------------------------------------


def test_a_row_s_own_tools_are_read_in_all_their_forms():
    entry = {"type": "function", "function": {"name": "a", "description": None, "parameters": None}}
    bare = {"name": "b", "description": "B", "parameters": {"properties": {"x": {"type": "string"}}}}
    expected = (ToolSpec("a", "", no_parameters()), ToolSpec("b", "B", {"type": "object", "properties": {"x": {"type": "string"}}}))
    assert parse_specs([entry, bare]) == expected
    assert parse_specs(json.dumps([entry, bare])) == expected
    assert parse_specs([]) == ()


@pytest.mark.parametrize(("value", "field"), [
    ({}, "tools"), ("[", "tools"), (["a"], "tools[0]"), ([{"function": 1}], "tools[0].function"), ([{"function": {}}], "tools[0].function.name"),
    ([{"name": "a"}, {"name": 3}], "tools[1].name"), ([{"name": "a"}, {"name": "a"}], "tools"), ([{"name": "a", "parameters": [1]}], "tools[0].parameters"),
    ([{"name": "a", "parameters": {"type": "dict"}}], "tools[0].parameters.type"), ([{"name": "a", "description": 1}], "tools[0].description"),
    ([float("nan")], "tools"), ({1, 2}, "tools"), ([{"name": "a", "mock": "x" * 70_000}], "tools[0].mock"),
])  # fmt: skip
def test_a_row_s_tool_that_can_t_be_used_is_named(value, field):
    for _ in range(2):  # the second time from what is remembered
        with pytest.raises(RowError) as caught:
            parse_specs(value)
        assert caught.value.field == field


# -- forms ----------------------------------------------------------------------------------------


def test_the_fields_of_a_form_come_from_the_schema():
    assert argument_fields(PAY) == (
        ArgumentField("amount", "number", True, "In roubles"),
        ArgumentField("limit", "integer"),
        ArgumentField("to", "text", default="me"),
        ArgumentField("currency", "choice", True, choices=("RUB", "USD")),
        ArgumentField("level", "choice", choices=("1", "2", "many")),
        ArgumentField("urgent", "boolean"),
        ArgumentField("tags", "json"),
        ArgumentField("where", "json"),
        ArgumentField("note", "text", help="A word"),
    )
    assert argument_fields(ToolSpec("a", "", {"type": "object"})) == ()
    assert argument_fields(with_schema(x={"enum": ["1", 1]}, y=True, z={"type": ["integer", "null"]})) == (
        ArgumentField("x", "json"), ArgumentField("y", "json"), ArgumentField("z", "integer"),
    )  # fmt: skip


@pytest.mark.parametrize("schema", [
    {"type": {}}, {"type": [[]]}, {"type": [{}, "null"]}, {"enum": [[], []]}, {"enum": {}}, {"$ref": "#"}, {"$ref": "#/properties/x"}, {"$ref": 3},
    {"anyOf": [{"$ref": "#/properties/x"}]}, {"anyOf": [3]}, {"anyOf": []}, {"description": [1]}, 7, None, {"oneOf": "x"},
])  # fmt: skip
def test_a_schema_that_nobody_checked_still_gives_a_form(schema):
    spec = ToolSpec("t", "", {"type": "object", "properties": {"x": schema}, "required": [[], "x"]})
    assert [(f.name, f.kind, f.required) for f in argument_fields(spec)] == [("x", "json", True)]
    with pytest.raises(RowError, match="^the schema of the tool “t” can't be used: "):
        read_arguments(spec, {"x": "1"})
    assert argument_fields(ToolSpec("t", "", [])) == argument_fields(ToolSpec("t", "", {"properties": []})) == ()


def test_a_form_s_values_become_typed_arguments_and_empty_ones_are_not_given():
    values = {"amount": "12.5", "limit": 3.0, "to": " a ", "currency": "RUB", "level": "2", "urgent": "false", "tags": '["x"]', "where": None, "note": ""}
    found = read_arguments(PAY, values)
    assert found == {"amount": 12.5, "limit": 3, "to": " a ", "currency": "RUB", "level": 2, "urgent": False, "tags": ["x"]}
    assert [type(v) for v in found.values()] == [float, int, str, str, int, bool, list]
    assert read_arguments(PAY, {"amount": 7, "currency": "USD", "where": {"city": "Тула"}}) == {"amount": 7, "currency": "USD", "where": {"city": "Тула"}}


@pytest.mark.parametrize(("values", "field", "says"), [
    ({"amount": ""}, "amount", "argument “amount” is missing"),
    ({"amount": "много"}, "amount", "argument “amount” must be a number (with a point, as in 12.5), it is “много”"),
    ({"amount": "12,5"}, "amount", "argument “amount” must be a number (with a point, as in 12.5), it is “12,5”"),
    ({"amount": "1e999"}, "amount", "argument “amount” must be a number (with a point, as in 12.5), it is “1e999”"),
    ({"amount": "NaN"}, "amount", "argument “amount” must be a number (with a point, as in 12.5), it is “NaN”"),
    ({"limit": "1.5"}, "limit", "argument “limit” must be a whole number, it is “1.5”"),
    ({"limit": "9" * 5000}, "limit", "argument “limit” must be a whole number, it is “99999"),
    ({"urgent": "maybe"}, "urgent", "argument “urgent” must be true or false, it is “maybe”"),
    ({"currency": "EUR"}, "currency", "argument “currency” must be one of “RUB”, “USD”, it is “EUR”"),
    ({"tags": "[x"}, "tags", "argument “tags” must be JSON (a text stands in double quotes), it is “[x”"),
    ({"where": "{}"}, "where.city", "argument “where.city” is missing"),
    ({"zzz": "1"}, "zzz", "argument “zzz” is none of the tool's arguments"),
])  # fmt: skip
def test_a_value_that_does_not_fit_is_named(values, field, says):
    with pytest.raises(RowError) as caught:
        read_arguments(PAY, {"amount": 1, "currency": "RUB"} | values)
    assert caught.value.field == f"arguments.{field}"
    assert str(caught.value).startswith(says)


def test_a_first_schema_comes_from_the_calls_seen():
    calls = [ToolCall("f", {"a": 1, "b": "x", "c": [1, 2.5], "d": {"e": True}}), ToolCall("f", {"a": 2.5, "b": None, "d": {"e": False, "g": []}})]
    assert infer_spec("f", calls) == ToolSpec("f", "", {
        "type": "object",
        "properties": {
            "a": {"type": "number"}, "b": {"type": ["string", "null"]}, "c": {"type": "array", "items": {"type": "number"}},
            "d": {"type": "object", "properties": {"e": {"type": "boolean"}, "g": {"type": "array"}}, "required": ["e"]},
        },
        "required": ["a", "b", "d"], "additionalProperties": False,
    })  # fmt: skip
    assert infer_spec("f", []).parameters == no_parameters()


def test_names_are_those_that_a_reply_s_call_can_have():
    for name in ("a", "_x", "get.data-2", "a" * 128):
        assert isinstance(TAG.parse(TAG.render(ToolCall(name)))[0], CallSegment)
        check_spec(ToolSpec(name))
    for name in ("a b", "1a", "a" * 129, "-a"):
        assert not isinstance(TAG.parse(f'<tool_call name="{name}" arguments="{{}}"/>')[0], CallSegment)
        assert not tools._NAME.fullmatch(name)
