"""app.py refuses what it can't do in one sentence, before a page opens."""

import socket

import pytest

import app


def refused(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    assert app.main(list(arguments)) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def test_an_occupied_port_is_named(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"The port {port} on 127.0.0.1 can't be used" in refused(capsys, "--port", str(port))


def test_a_port_that_is_none_is_named(capsys):
    assert "The port 70000" in refused(capsys, "--port", "70000")


def test_listening_to_others_wants_a_login(capsys):
    assert "give --auth USER:PASSWORD" in refused(capsys, "--host", "0.0.0.0", "--port", "7999")


@pytest.mark.parametrize("login", ["user", "user:", ":password"])
def test_a_login_is_a_user_and_a_password(capsys, login):
    assert "--auth takes USER:PASSWORD" in refused(capsys, "--auth", login)


def test_a_wrong_model_path_is_told_before_a_page_opens(capsys, tmp_path):
    assert "There is no model folder /no/such/model" in refused(capsys, "--root", str(tmp_path), "--port", "7998", "--model", "/no/such/model")


def test_a_missing_embedded_model_says_how_to_get_it(capsys, tmp_path):
    assert "fetch-demo-model" in refused(capsys, "--root", str(tmp_path), "--port", "7998", "--model", "demo")


def test_rows_that_can_not_be_read_are_named(capsys, workspace):
    workspace.rows.path.write_bytes("привет".encode("cp1251"))
    assert "is not UTF-8 (line 1)" in refused(capsys, "--root", str(workspace.root), "--port", "7998", "--model", "demo")
