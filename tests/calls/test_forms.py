"""The exact text of every dialect: calls, tools, results; what each one reads beside, and what it calls malformed."""

from re import _parser  # type: ignore[attr-defined]

import pytest

from workbench.calls.dialects import DIALECTS, CallSegment, DialectError, MalformedSegment, TextSegment, calls_in, dialect_named, message_calls, message_text
from workbench.errors import SettingsError
from workbench.schema import Message, ToolCall, ToolSpec

CALL = ToolCall("get_weather", {"city": "Ростов", "days": 3, "more": {"wind": True, "tags": ["a", None]}})
TOOL = ToolSpec(
    "get_weather", "Погода",
    {"type": "object", "properties": {"city": {"type": "string", "description": "Город"}, "Days": {"type": "integer"}}, "required": ["city"]},
)  # fmt: skip
SPEC = (
    '"name": "get_weather", "description": "Погода", "parameters": {"type": "object", "properties": '
    '{"city": {"type": "string", "description": "Город"}, "Days": {"type": "integer"}}, "required": ["city"]}}'
)
ARGUMENTS = '{"city": "Ростов", "days": 3, "more": {"wind": true, "tags": ["a", null]}}'
DECLARED = (
    "declaration:get_weather{description:QПогодаQ,parameters:{properties:{city:{description:QГородQ,type:QSTRINGQ},Days:{type:QINTEGERQ}},"
    "required:[QcityQ],type:QOBJECTQ}}"
)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tag", '<tool_call name="get_weather" arguments="' + ARGUMENTS.replace('"', "&quot;") + '"/>'),
        ("json", '{"function": "get_weather", "arguments": ' + ARGUMENTS + "}"),
        ("hermes", '<tool_call>\n{"name": "get_weather", "arguments": ' + ARGUMENTS + "}\n</tool_call>"),
        ("llama3-json", '{"name": "get_weather", "parameters": ' + ARGUMENTS + "}"),
        ("mistral", '[TOOL_CALLS][{"name": "get_weather", "arguments": ' + ARGUMENTS + "}]"),
        ("mistral-args", "[TOOL_CALLS]get_weather[ARGS]" + ARGUMENTS),
        ("gemma-python", '[get_weather(city="Ростов", days=3, more={"wind": True, "tags": ["a", None]})]'),
        ("functiongemma", "<start_function_call>call:get_weather{city:<escape>Ростов<escape>,days:3,more:{wind:true,tags:[<escape>a<escape>,null]}}<end_function_call>"),
        ("gemma4", '<|tool_call>call:get_weather{city:<|"|>Ростов<|"|>,days:3,more:{wind:true,tags:[<|"|>a<|"|>,null]}}<tool_call|>'),
    ],
)
def test_a_call_is_written_exactly(name, text):
    assert DIALECTS[name].render(CALL) == text
    assert message_text(Message("assistant", " Да ", (CALL,)), DIALECTS[name]) == f"Да\n{text}"
    assert message_calls(Message("assistant", text), DIALECTS[name]) == (CALL,)


def test_every_dialect_says_what_it_is():
    assert list(DIALECTS) == ["tag", "json", "gemma-python", "hermes", "functiongemma", "gemma4", "llama3-json", "mistral", "mistral-args"]
    assert [name for name, dialect in DIALECTS.items() if not dialect.native] == ["tag", "json", "gemma-python"]
    assert all(dialect.title and dialect_named(name) is dialect for name, dialect in DIALECTS.items())
    with pytest.raises(SettingsError, match="There is no dialect 'xml': choose one of tag, json"):
        dialect_named("xml")


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
def test_what_is_looked_for_at_a_text_s_end_is_bounded(dialect):
    for pattern in (dialect.grammar.opening, dialect.grammar.heads):
        assert _parser.parse(pattern.pattern).getwidth()[1] <= dialect.grammar.reach


@pytest.mark.parametrize(
    ("name", "begin", "end"),
    [
        ("tag", "You can call these tools, described as JSON, one a line:\n{" + SPEC + "\n", "Answer in words where no tool is needed."),
        ("json", "You can call these functions, described as JSON, one a line:\n{" + SPEC + "\n", "Answer in words where no function is needed."),
        ("hermes", "# Tools\n\nYou may call", '<tools>\n{"type": "function", "function": {' + SPEC + "}\n</tools>\n\nFor each function call, return a json object "
         'with function name and arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'),
        ("llama3-json", "You have access to the following functions.", '    }\n}\n\n'),
        ("mistral", '[AVAILABLE_TOOLS][{"type": "function", "function": {' + SPEC, "}][/AVAILABLE_TOOLS]"),
        ("mistral-args", '[AVAILABLE_TOOLS][{"type": "function", "function": {' + SPEC, "}][/AVAILABLE_TOOLS]"),
        ("gemma-python", "You have access to functions. If you decide", '      "required": [\n        "city"\n      ]\n    }\n  }\n]'),
        ("functiongemma", "You are a model that can do function calling with the following functions<start_function_declaration>",
         DECLARED.replace("Q", "<escape>") + "<end_function_declaration>"),
        ("gemma4", "<|tool>", DECLARED.replace("Q", '<|"|>') + "<tool|>"),
    ],
)  # fmt: skip
def test_tools_are_told(name, begin, end):
    told = DIALECTS[name].render_tools([TOOL])
    assert told.startswith(begin) and told.endswith(end)
    assert DIALECTS[name].render_tools([]) == ""
    with_two = DIALECTS[name].render_tools([TOOL, ToolSpec("ping")])
    assert with_two.index("get_weather") < with_two.index("ping")


@pytest.mark.parametrize(
    ("name", "of_object", "of_text"),
    [
        ("tag", '<tool_result name="get_weather">{"t": 15}</tool_result>', '<tool_result name="get_weather">тепло</tool_result>'),
        ("json", '{"function": "get_weather", "result": {"t": 15}}', '{"function": "get_weather", "result": "тепло"}'),
        ("hermes", '<tool_response>\n{"t": 15}\n</tool_response>', "<tool_response>\nтепло\n</tool_response>"),
        ("llama3-json", '{"t": 15}', '"тепло"'),
        ("mistral", '[TOOL_RESULTS]{"content": {"t": 15}, "call_id": "abcDEF123"}[/TOOL_RESULTS]', '[TOOL_RESULTS]{"content": "тепло", "call_id": "abcDEF123"}[/TOOL_RESULTS]'),
        ("mistral-args", '[TOOL_RESULTS]{"t": 15}[/TOOL_RESULTS]', "[TOOL_RESULTS]тепло[/TOOL_RESULTS]"),
        ("gemma-python", '```tool_output\n{"t": 15}\n```', "```tool_output\nтепло\n```"),
        ("functiongemma", "<start_function_response>response:get_weather{t:15}<end_function_response>",
         "<start_function_response>response:get_weather{value:<escape>тепло<escape>}<end_function_response>"),
        ("gemma4", "<|tool_response>response:get_weather{t:15}<tool_response|>", '<|tool_response>response:get_weather{value:<|"|>тепло<|"|>}<tool_response|>'),
    ],
)  # fmt: skip
def test_a_tool_s_answer_is_brought_back(name, of_object, of_text):
    call = ToolCall("get_weather", {}, "abcDEF123")
    assert DIALECTS[name].render_result(call, '{"t": 15}') == of_object
    assert DIALECTS[name].render_result(call, "тепло") == of_text


@pytest.mark.parametrize(
    ("name", "result"),
    [("hermes", "a </tool_response> b"), ("mistral-args", "[/TOOL_RESULTS]"), ("gemma-python", "```"), ("functiongemma", "<escape>"), ("gemma4", '{"a": "<|tool_call>"}')],
)
def test_an_answer_that_holds_a_marker_is_refused(name, result):
    with pytest.raises(DialectError, match=f"the dialect “{name}” can't write"):
        DIALECTS[name].render_result(CALL, result)


@pytest.mark.parametrize("name", ["hermes", "llama3-json", "mistral", "mistral-args"])
def test_a_marker_inside_an_argument_is_written_with_an_escape(name):
    call = ToolCall("f", {"a": "".join(DIALECTS[name].control)})
    text = DIALECTS[name].render(call)
    assert sum(text.count(marker) for marker in DIALECTS[name].control) == len([m for m in DIALECTS[name].control if m in DIALECTS[name].render(ToolCall("f"))])
    assert calls_in(DIALECTS[name].parse(text)) == (call,)


@pytest.mark.parametrize(
    ("name", "call"),
    [("functiongemma", ToolCall("f", {"a": "x<escape>"})), ("gemma4", ToolCall("f", {"a b": 1})), ("gemma-python", ToolCall("f", {"from": 1})),
     ("gemma-python", ToolCall("get-x"))],
)  # fmt: skip
def test_what_a_dialect_has_no_way_to_write_is_refused(name, call):
    with pytest.raises(DialectError, match=f"the dialect “{name}” can't write"):
        DIALECTS[name].render(call)


@pytest.mark.parametrize(
    ("name", "text", "calls"),
    [
        ("json", 'Вот: {\n  "arguments": {},\n  "function": "f"\n} и {"x": 1}', [ToolCall("f")]),
        ("llama3-json", '<|python_tag|>{"type": "function", "name": "f", "parameters": {}}; {"name": "g", "parameters": {}}', [ToolCall("f"), ToolCall("g")]),
        ("llama3-json", 'Клиент: {"name": "Иван", "age": 3}', []),
        ("mistral", '[TOOL_CALLS] [{"name": "f", "arguments": {}, "id": "abcDEF123"} , {"name": "g", "arguments": {}}] x', [ToolCall("f", {}, "abcDEF123"), ToolCall("g")]),
        ("mistral", "[TOOL_CALLS]f[CALL_ID]abc[ARGS]{}[TOOL_CALLS]g[ARGS]{}", [ToolCall("f", {}, "abc"), ToolCall("g")]),
        ("gemma-python", "```tool_code\nf(a='it\\'s', b=-1.5)\ng()\n```", [ToolCall("f", {"a": "it's", "b": -1.5}), ToolCall("g")]),
        ("gemma-python", "[sin(x)], [link](url), [1], `f(a=1)`", []),
        ("gemma-python", "[ f( a = {'k': null} ) , g()]", [ToolCall("f", {"a": {"k": None}}), ToolCall("g")]),
        ("functiongemma", "<start_function_call>call:f{a: None, b:[1, {c:<escape>{x}<escape>}]}<end_function_call>", [ToolCall("f", {"a": None, "b": [1, {"c": "{x}"}]})]),
    ],
)
def test_what_is_read_beside_the_written_form(name, text, calls):
    segments = DIALECTS[name].parse(text)
    assert list(calls_in(segments)) == calls
    assert all(isinstance(s, (TextSegment, CallSegment)) for s in segments)


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("json", '{"function": "f", "arguments": {"a": 1, "a": 2}}', "“a” stands there twice"),
        ("json", '{"function": "f", "arguments": {"a": NaN}}', "NaN is not JSON"),
        ("json", '{"function": "f", "arguments": {"a": 1e999}}', "a number is too large"),
        ("json", '{"function": "f", "arguments": {"a": ' + "9" * 5000 + "}}", "a number is too long"),
        ("json", '{"function": "f", "arguments": {"a": "\\ud800"}}', "a text holds half a character (a lone surrogate)"),
        ("json", '{"function": "f", "arguments": "{}"}', "the arguments are not a JSON object"),
        ("json", '{"function": "f"}', "“arguments” is missing"),
        ("json", '{"function": "f", "arguments": {}, "why": 1}', "“why” is no part of a call"),
        ("json", '{"function": "a b", "arguments": {}}', "the tool's name 'a b' is not a name"),
        ("json", '{"function": "f", "arguments": {city: 1}}', "it is not valid JSON: 'c' stands outside of a text"),
        ("hermes", '<tool_call>{"name": "f", "arguments": {}} x</tool_call>', "</tool_call> does not follow where the call ends"),
        ("hermes", "<tool_call>f()</tool_call>", "no JSON object follows <tool_call>"),
        ("llama3-json", "<|python_tag|>f.call(1)", "no JSON object follows <|python_tag|>"),
        ("mistral", "[TOOL_CALLS] f", "neither a JSON list nor NAME[ARGS] follows [TOOL_CALLS]"),
        ("mistral", '[TOOL_CALLS][{"name": "f", "arguments": {}}, 1]', "the call is not a JSON object"),
        ("functiongemma", "<start_function_call>call:f{a:Rome}<end_function_call>", "the text 'Rome' does not stand between two <escape>"),
        ("functiongemma", "<start_function_call>f{}<end_function_call>", "“call:NAME{” does not follow <start_function_call>"),
        ("gemma4", "<|tool_call>call:f{a:1,a:2}<tool_call|>", "“a” stands there twice"),
        ("gemma-python", "[f(a=1, 2)]", "an argument has no name before '2)]'"),
        ("gemma-python", "[f(a=1, a=2)]", "“a” stands there twice"),
        ("gemma-python", "[f(from=1)]", "“from” can't name an argument in Python"),
    ],
)
def test_why_a_piece_is_malformed(name, text, reason):
    assert DIALECTS[name].parse(text) == (MalformedSegment(text, reason),)
