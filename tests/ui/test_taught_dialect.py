"""What a row teaches and the health of the set follow the dialect that is chosen under Tune."""

from __future__ import annotations

import re

from workbench.dataset.changes import Change
from workbench.schema import Example, Message
from workbench.settings import apply_overrides
from workbench.ui.data.editor import open_row
from workbench.ui.data.lesson import lesson_html
from workbench.ui.data_tab import taught_anew
from workbench.ui.forms import form_values
from workbench.ui.tune_tab import teach_as
from workbench.workspace import Workspace


def choose(space: Workspace, *pairs: str) -> None:
    teach_as(space, form_values(apply_overrides(space.default_settings(), pairs)))


def shown_text(html: str) -> str:
    return re.sub(r"<[^>]*>", "", html)


def test_the_lesson_follows_the_dialect_and_whether_tools_are_told(workspace: Workspace) -> None:
    form = open_row(workspace.rows.read(), 0)
    plain = lesson_html(workspace, form.draft, form.was)
    assert "gemma-3-270m · dialect tag<" in plain and "target: <code>&lt;tool_call name=" in plain
    choose(workspace, "training.dialect=gemma4")
    told = lesson_html(workspace, form.draft, form.was)
    assert "· dialect gemma4, tools told<" in told
    assert "target: <code>&lt;|tool_call&gt;call:get_sensitive_data{}&lt;tool_call|&gt;&lt;end_of_turn&gt;</code>" in told
    assert "declaration:get_sensitive_data" in shown_text(told) and "declaration:" not in shown_text(plain)
    choose(workspace, "training.dialect=gemma4", "training.tools_in_prompt=no")
    assert "· dialect gemma4<" in lesson_html(workspace, form.draft, form.was)
    choose(workspace, "training.dialect=native")
    assert "so the model has no dialect of its own" in lesson_html(workspace, form.draft, form.was)
    choose(workspace)
    assert lesson_html(workspace, form.draft, form.was) == plain


def test_the_health_names_rows_that_the_chosen_dialect_or_length_can_t_teach(workspace: Workspace) -> None:
    added = Example((Message("user", "a </tool_call> b"), Message("assistant", "Нет.")))
    rows = workspace.rows.change(Change(add=(added,)), workspace.rows.read().version)
    last = len(rows.entries) - 1

    def unteachable(*pairs: str) -> list[int]:
        choose(workspace, *pairs)
        assert workspace.row_health.known(rows) is None
        found = workspace.row_health.of(rows)
        assert workspace.row_health.known(rows) is found
        return sorted({place for finding in found.findings if finding.kind == "unlearnable" for place in finding.places})

    workspace.row_health.of(rows)
    assert unteachable("training.dialect=hermes") == [last]
    assert unteachable("training.dialect=hermes", "training.max_row_tokens=64") == list(range(last + 1))
    assert unteachable("training.dialect=native") == []  # the model has none: the rows are looked at as they stand
    teach_as(workspace, ["no form"] * len(form_values(workspace.default_settings())))
    assert workspace.row_health.teaching.dialect == "native", "what can't be read changes nothing"


def test_the_rows_are_drawn_anew_once_when_another_dialect_was_chosen(workspace: Workspace) -> None:
    form = open_row(workspace.rows.read(), 0)
    now, count, lesson = taught_anew(workspace, None, 3, form)
    assert (now, count) == (workspace.row_health.taught, 4) and "dialect tag" in lesson
    assert [type(part) for part in taught_anew(workspace, now, 4, form)] == [dict] * 3
    choose(workspace, "training.dialect=hermes")
    assert taught_anew(workspace, now, 4, form)[0] == ("hermes", "auto", 2048)
    assert "dialect hermes" in taught_anew(workspace, now, 4, form)[2]
