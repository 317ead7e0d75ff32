"""What the grid shows: search, filters, sorting, pages."""

import json

import pytest

from workbench.dataset.store import entries_of
from workbench.dataset.view import PAGE, Query, find, pages, reviewed, tools_called


def line(request, answer="да", **keys):
    return json.dumps({"messages": [{"role": "user", "content": request}, {"role": "assistant", "content": answer}]} | keys, ensure_ascii=False)


ENTRIES = entries_of("\n".join([
    line("Покажи счёт", '<tool_call name="get" arguments="{}"/>', status="approved"),
    line("Привет", "Здравствуйте, чем помочь?"),
    "{сломано",
    line("Курс доллара", '<tool_call name="rate" arguments="{}"/>', note="спорная", status="rejected"),
]))  # fmt: skip


@pytest.mark.parametrize(("query", "places"), [
    (Query(), [0, 1, 2, 3]),
    (Query(text="счет"), [0]),  # ё is е
    (Query(text="ЧЕМ здравств"), [1]),  # every word, any case
    (Query(text="спорная"), [3]),  # notes too
    (Query(text="сломано"), [2]),
    (Query(kind="call"), [0, 3]),
    (Query(kind="broken"), [2]),
    (Query(tool="rate"), [3]),
    (Query(status="draft"), [1]),
    (Query(split="validation"), [1]),
    (Query(problem="near"), [0]),
    (Query(problem="any"), [0, 2]),
    (Query(kind="call", sort="request"), [3, 0]),
    (Query(text="нет такого"), []),
])  # fmt: skip
def test_a_query_finds_its_places(query, places):
    assert find(ENTRIES, query, problems={0: ["near"], 2: ["broken"]}, split=("train", "validation", "", "train")) == places


def test_narrowed_to_places_the_filters_still_count():
    assert find(ENTRIES, Query(kind="call"), only=[1, 3]) == [3]


def test_the_longest_row_comes_first():
    assert find(ENTRIES, Query(kind="text", sort="length")) == [1]
    assert find(ENTRIES, Query(sort="length"))[-1] == 2


def test_pages_and_counts():
    assert [pages(n) for n in (0, 1, PAGE, PAGE + 1)] == [1, 1, 1, 2]
    assert tools_called(ENTRIES) == ["get", "rate"]
    assert reviewed(ENTRIES) == (2, 3)
