"""Which dialect a model's own template speaks: told from what only that dialect's templates write."""

from __future__ import annotations

import pytest

from workbench.calls.native import native_dialect
from workbench.errors import SettingsError

TOOLS = "{%- if tools %}{%- for tool in tools %}{{ tool | tojson }}{%- endfor %}{%- endif %}"


@pytest.mark.parametrize(
    ("template", "dialect"),
    [
        (TOOLS + r"""{{- '\n<tool_call>\n{\"name\": \"' }}{{- tool_call.name }}{{- '\", \"arguments\": ' }}""", "hermes"),
        (TOOLS + """{{- '<tool_call>\n{"name": "' + tool_call.name + '", "arguments": ' }}""", "hermes"),
        (TOOLS + """{{ '<start_function_call>call:' + name }}""", "functiongemma"),
        (TOOLS + """{{ '<|tool_call>call:' + name }}""", "gemma4"),
        (TOOLS + """{{ '[TOOL_CALLS]' + name + '[ARGS]' }}""", "mistral-args"),
        (TOOLS + """{{ '[TOOL_CALLS] [' }}""", "mistral"),
        (TOOLS + """{{- '<|python_tag|>' }}""", "llama3-json"),
        (TOOLS + """{{- '{"name": "' + tool_call.name + '", ' }}{{- '"parameters": ' }}...<|start_header_id|>ipython""", "llama3-json"),
    ],
)
def test_a_template_s_dialect_is_told_by_what_it_writes(template: str, dialect: str) -> None:
    assert native_dialect(template, "m").name == dialect


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ messages[0].content }}", "The chat template of my-model takes no tools, so the model has no dialect of its own. Choose one of tag, json, "),
        (TOOLS + "<tool_call><function=f>", "The chat template of my-model writes tool calls in a form that the workbench does not know. Choose one of tag"),
        (TOOLS + "<tool_call>f\n<arg_key>", "in a form that the workbench does not know"),
    ],
)
def test_a_model_without_a_known_dialect_is_refused_with_the_way_out(template: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        native_dialect(template, "my-model")
    assert said in str(caught.value) and str(caught.value).endswith("as training.dialect.")
