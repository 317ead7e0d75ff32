"""The Data tab as a curator clicks it: rows by hand, a messy file, what health says, approving, undo, export, two browsers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import App

pytestmark = pytest.mark.browser


@pytest.fixture
def file(app: App) -> Iterator[Path]:
    """The rows' file; what the test did to it is put back."""
    path = app.root / "data" / "examples.json"
    before = path.read_bytes()
    yield path
    path.write_bytes(before)


def lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines()


def panel(page: Page, name: str) -> None:
    page.locator("#data-panels").get_by_role("tab", name=name).click()


def open_row(page: Page, text: str, number: int) -> None:
    page.locator("#grid").get_by_text(text).first.click()
    expect(page.locator("#row-title")).to_contain_text(f"Row {number}")


def said(page: Page, text: str) -> None:
    expect(page.locator("#data-message")).to_contain_text(text)


def write_row(page: Page, request: str, answer: str | None) -> None:
    """A new row by hand; no answer means a call."""
    drawn = page.locator("#row-title [data-serial]").get_attribute("data-serial")
    page.locator("#row-new").click()
    page.wait_for_function("seen => document.querySelector('#row-title [data-serial]')?.dataset.serial !== seen", arg=drawn)
    expect(page.locator("#row-title")).to_contain_text("New row")
    page.locator("#row-request textarea").fill(request)
    if answer is None:
        page.locator("#row-kind").get_by_text("calls a tool").click()
        expect(page.locator("#row-editor")).to_contain_text("takes no arguments")
    else:
        page.locator("#row-answer textarea").fill(answer)
    page.locator("#row-save").click()


def test_a_row_is_edited_saved_deleted_and_brought_back(page: Page, file: Path) -> None:
    before = file.read_text(encoding="utf-8")
    open_row(page, "Здравствуйте!", 2)
    page.locator("#row-answer textarea").fill("Здравствуйте! Слушаю <b>вас</b>.")
    expect(page.locator("#lesson")).to_contain_text("Слушаю <b>вас</b>.")
    page.locator("#row-save").click()
    said(page, "Row 2 was changed")
    after = lines(file)
    assert json.loads(after[1])["messages"][1]["content"] == "Здравствуйте! Слушаю <b>вас</b>."
    assert [line for i, line in enumerate(after) if i != 1] == [line for i, line in enumerate(before.splitlines()) if i != 1]
    page.locator("#row-delete").click()
    expect(page.locator("#data-counts")).to_contain_text("69 rows")
    page.locator("#undo").click()
    expect(page.locator("#data-counts")).to_contain_text("70 rows")
    page.locator("#undo").click()
    expect(page.locator("#data-counts")).to_contain_text("70 rows")
    said(page, "Undone: “row 2 was changed”.")
    page.wait_for_function("() => !document.querySelector('#grid').innerText.includes('Слушаю <b>')")
    assert file.read_text(encoding="utf-8") == before


def test_ten_rows_by_hand_are_in_the_file_as_they_were_typed(page: Page, file: Path) -> None:
    made = [(f"Проверка номер {i}: что у меня на счёте?", None if i % 2 else f"Это ответ номер {i}.") for i in range(10)]
    for i, (request, answer) in enumerate(made):
        write_row(page, request, answer)
        expect(page.locator("#data-counts")).to_contain_text(f"{71 + i} rows")
    for line, (request, answer) in zip(lines(file)[70:], made, strict=True):
        messages = json.loads(line)["messages"]
        assert messages[0]["content"] == request
        assert messages[1]["content"] == (answer or '<tool_call name="get_sensitive_data" arguments="{}"/>')


def test_an_empty_answer_is_refused_beside_the_row_and_nothing_is_lost(page: Page, file: Path) -> None:
    before = file.read_bytes()
    page.locator("#row-request textarea").fill("Новый вопрос")
    page.locator("#row-save").click()
    said(page, "the answer, is empty")
    assert page.locator("#row-request textarea").input_value() == "Новый вопрос"
    page.locator("#grid").get_by_text("Здравствуйте!").first.click()
    said(page, "not saved")  # another row does not wipe what was typed
    assert page.locator("#row-request textarea").input_value() == "Новый вопрос"
    assert file.read_bytes() == before


def test_a_row_that_was_typed_into_is_not_lost_by_a_reload_without_a_question(page: Page, file: Path) -> None:
    asked: list[str] = []
    page.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.accept()))
    open_row(page, "Здравствуйте!", 2)
    page.locator("#row-answer textarea").click()
    page.keyboard.type(" ааа")
    expect(page.locator("#lesson")).to_contain_text("ааа")
    page.reload()
    assert asked == ["beforeunload"]
    open_row(page, "Здравствуйте!", 2)
    page.locator("#row-answer textarea").click()
    page.keyboard.type(" ббб")
    opened = page.locator("#row-title [data-visit]").get_attribute("data-visit")
    page.keyboard.press("Control+s")
    said(page, "Row 2 was changed")
    page.wait_for_function("seen => document.querySelector('#row-title [data-visit]')?.dataset.visit !== seen", arg=opened)
    page.reload()
    expect(page.locator("#grid")).to_be_visible()
    assert asked == ["beforeunload"], "what is saved is not asked for"


def test_rows_are_reviewed_by_keys_alone(page: Page, file: Path) -> None:
    open_row(page, "Здравствуйте!", 2)
    page.keyboard.press("a")
    expect(page.locator("#row-title")).to_contain_text("Row 3")
    page.keyboard.press("r")
    expect(page.locator("#row-title")).to_contain_text("Row 4")
    expect(page.locator("#data-counts")).to_contain_text("2 of 70 reviewed")
    page.keyboard.press("ArrowUp")
    expect(page.locator("#row-title")).to_contain_text("Row 3")
    page.keyboard.press("e")
    page.keyboard.press("End")
    page.keyboard.type(" ааа")  # letters in a text field are letters
    page.keyboard.press("Control+s")
    said(page, "Row 3 was changed")
    found = [json.loads(line) for line in lines(file)]
    assert [row.get("status") for row in found[1:4]] == ["approved", "rejected", None]
    assert found[2]["messages"][0]["content"].endswith(" ааа")


def test_a_cell_that_is_pressed_offers_nothing_that_the_set_refuses(page: Page, file: Path) -> None:
    page.locator("#grid [data-testid=cell-2-2]").click()
    expect(page.locator("#row-title")).to_contain_text("Row 3")
    cut = "all => all.filter((e) => e.innerText.trim() === 'validation').map((e) => e.scrollWidth > e.clientWidth)"
    assert set(page.locator("#grid .body-cell span.text").evaluate_all(cut)) == {False}, "the side of the split is read whole at 1280 pixels"
    assert page.locator("#grid button").evaluate_all("all => all.filter((e) => e.offsetParent && e.closest('.body-cell, .virtual-body')).length") == 0


def test_the_grid_marks_the_row_in_the_form_and_keys_go_on_after_undo(page: Page, file: Path) -> None:
    marked = page.locator("#grid .wb-openrow .body-cell[data-col='1']")
    open_row(page, "Здравствуйте!", 2)
    expect(marked).to_have_text("2")
    page.keyboard.press("a")
    expect(page.locator("#row-title")).to_contain_text("Row 3")
    expect(marked).to_have_text("3")
    page.locator("#undo").click()
    said(page, "Undone: “row 2 is approved”.")
    page.keyboard.press("ArrowDown")  # the focus is on the button that was pressed
    expect(page.locator("#row-title")).to_contain_text("Row 4")
    page.locator("#search textarea, #search input").first.fill("такого нет нигде")
    expect(page.locator("#grid-where")).to_contain_text("No row matches")
    page.wait_for_timeout(500)  # as long as a hand takes: on two busy cores the form of row 4 may still be drawn
    page.locator("#row-next").click()
    said(page, "No row matches")
    expect(page.locator("#row-title")).to_contain_text("Row 4")


def test_search_filters_and_bulk_actions(page: Page, file: Path) -> None:
    page.locator("#search textarea, #search input").first.fill("счёт")
    expect(page.locator("#grid-where")).not_to_contain_text("70 of 70")
    page.locator("#show-all").click()
    expect(page.locator("#grid-where")).to_contain_text("70 of 70")
    boxes = page.locator("#grid tbody input[type=checkbox], #grid .body-cell input[type=checkbox]")
    for i in (0, 1):
        boxes.nth(i).click()
        expect(boxes.nth(i)).to_be_checked()
    page.locator("#bulk-apply").click()
    said(page, "2 rows approved")
    expect(page.locator("#data-counts")).to_contain_text("2 of 70 reviewed")
    assert [json.loads(line).get("status") for line in lines(file)[:3]] == ["approved", "approved", None]


def test_two_browsers_never_overwrite_each_other_and_merge(app: App, page: Page, file: Path) -> None:
    other = page.context.new_page()
    other.goto(app.url)
    other.locator("#grid").get_by_text("Здравствуйте!").first.wait_for()
    open_row(page, "Здравствуйте!", 2)
    open_row(other, "Добрый вечер", 4)
    page.locator("#row-answer textarea").fill("Первый браузер.")
    page.locator("#row-save").click()
    said(page, "Row 2 was changed")
    other.locator("#row-answer textarea").fill("Второй браузер.")
    other.locator("#row-save").click()
    said(other, "changed elsewhere")
    other.locator("#merge").click()
    expect(other.locator("#merge")).to_be_hidden()
    found = [json.loads(line)["messages"][1]["content"] for line in lines(file)]
    assert (found[1], found[3]) == ("Первый браузер.", "Второй браузер.")
    other.close()


def test_a_messy_file_is_looked_at_brought_in_mended_and_handed_out(app: App, page: Page, file: Path) -> None:
    good = json.dumps({"messages": [{"role": "user", "content": "Какой у меня остаток на вкладе?"}, {"role": "assistant", "content": "<b>Не знаю</b>"}]}, ensure_ascii=False)
    known = lines(file)[1]
    messy = app.root / "messy.jsonl"
    messy.write_text("\n".join([good, "{oops", known, good.replace("вкладе?", "вкладе сейчас?")]) + "\n", encoding="utf-8")
    panel(page, "Import and export")
    page.locator("#import-file input[type=file]").set_input_files(str(messy))
    expect(page.locator("#import-counts")).to_contain_text("1 problem")
    expect(page.locator("#import-take")).to_contain_text("Bring in 2 rows")
    page.locator("#import-broken").get_by_role("checkbox").check()
    page.locator("#import-take").click()
    expect(page.locator("#data-counts")).to_contain_text("72 rows + 1 that can't be used")
    expect(page.locator("#health-strip")).to_contain_text("1 broken")
    assert page.locator("#grid b").count() == 0  # markup in a row stays text
    panel(page, "Health")
    page.locator("#health-list").get_by_text("can't be used").click()
    page.locator("#health-preview").click()
    expect(page.locator("#health-table")).to_contain_text("{oops")
    assert page.locator("#health-table").get_by_role("cell", name="deleted").evaluate("e => e.getClientRects()[0].height") < 30, "one line, not broken in the word"
    chips = page.locator("#health-strip .wb-chip").evaluate_all("all => all.map((e) => [e.getBoundingClientRect().height, e.tagName])")
    assert {height for height, _ in chips} == {22} and {tag for _, tag in chips} == {"SPAN", "BUTTON"}
    page.locator("#health-apply").click()
    expect(page.locator("#health-strip")).not_to_contain_text("broken")
    assert [json.loads(line)["messages"][0]["content"] for line in lines(file)[70:]] == ["Какой у меня остаток на вкладе?", "Какой у меня остаток на вкладе сейчас?"]
    page.locator("#undo").click()
    expect(page.locator("#health-strip")).to_contain_text("1 broken")
    page.locator("#redo").click()
    expect(page.locator("#health-strip")).not_to_contain_text("broken")
    panel(page, "Import and export")
    with page.expect_download() as download:
        page.get_by_role("button", name="Make the file").click()
    with open(download.value.path(), "rb") as out:
        assert out.read() == file.read_bytes()


def test_drafts_from_families_come_in_marked_and_wait_for_review(page: Page, file: Path) -> None:
    panel(page, "Generate")
    page.locator("#generate-start").click()
    expect(page.locator("#generate-take")).to_contain_text("Bring in 20 drafts")
    page.locator("#generate-take").click()
    expect(page.locator("#data-counts")).to_contain_text("90 rows")
    assert {json.loads(line)["source"].split(":")[0] for line in lines(file)[70:]} == {"generated"}
    page.get_by_role("tab", name="2 Tune").click()
    expect(page.locator("#plan")).to_contain_text("20 generated drafts wait for review")
    expect(page.locator("#plan")).to_contain_text("63 / 7")


def test_an_event_that_ended_leaves_no_component_to_be_updated_at_every_later_one(page: Page) -> None:
    """The page's mend of gradio's progress notes (ui/quiet.py) found its place: an update of gradio that moves it is told here."""
    assert page.evaluate("window.wbQuiet") is True
