"""From a model's name to its folder, and one sentence for every way that goes wrong. The hub is never asked."""

import json
import socket
import threading
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from workbench.errors import ModelError
from workbench.models.catalog import Catalog, describe, display_name

HUB = "google/gemma-3-4b-it"
UNREACHED = f"The model {HUB} is not on this machine, and the hub can't be reached; check the network, or give a local folder."
NO_WEIGHTS = "{} holds no .safetensors file; other weight formats can run code and are not loaded."


@pytest.fixture
def catalog(tmp_path, monkeypatch):
    """A catalog over an empty folder; asking the hub is an error unless the test says otherwise."""

    def refuse(*args, **kwargs):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    return Catalog(tmp_path / "models")


def make_model(folder: Path, config: str = "{}") -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config)
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def refusal(act) -> str:
    with pytest.raises(ModelError) as caught:
        act()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def no_folder(model: str) -> str:
    return (
        f"There is no model folder {model}: give a folder with config.json and .safetensors files, "
        "a hub name such as google/gemma-3-4b-it, or demo."
    )


def test_the_embedded_model_is_found_once_it_is_there(catalog, tmp_path):
    assert refusal(lambda: catalog.find("demo")) == (
        "The embedded model is not here yet: run `python -m workbench fetch-demo-model` (or `make run`) once."
    )
    folder = make_model(tmp_path / "models" / "gemma-3-270m")
    assert catalog.find("demo") == catalog.fetch("demo", print) == folder


def test_a_local_folder_is_taken(catalog, tmp_path):
    folder = make_model(tmp_path / "my model")
    assert catalog.find(str(folder)) == folder


def test_a_relative_folder_wins_over_a_hub_name(catalog, tmp_path, monkeypatch):
    make_model(tmp_path / "google" / "gemma-3-4b-it")
    monkeypatch.chdir(tmp_path)
    assert catalog.find(HUB) == Path(HUB)


def test_the_home_folder_s_short_form_is_understood(catalog, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = make_model(tmp_path / "m")
    assert catalog.find("~/m") == folder


@pytest.mark.parametrize("model", ["/nowhere/model", "./none", "a/b/c", "../..x/y", "none", "a\0b"])
def test_a_wrong_path_is_told(catalog, model):
    assert refusal(lambda: catalog.find(model)) == no_folder(model)
    assert refusal(lambda: catalog.fetch(model, print)) == no_folder(model)


@pytest.mark.parametrize("model", ["~nosuchperson/model", "x" * 300, "/" + "y" * 300])
def test_a_path_that_the_system_refuses_to_look_at_is_told(catalog, model):
    assert refusal(lambda: catalog.find(model)).startswith("There is no model folder ")


@pytest.mark.parametrize("name", ["model.gguf", "sub/model.gguf"])
def test_a_file_in_place_of_a_folder_is_told(catalog, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"GGUF")
    for model in (name, str(tmp_path / name)):
        assert refusal(lambda m=model: catalog.find(m)) == (
            f"{model} is a file: give the folder that holds config.json and the .safetensors files."
        )


def test_a_folder_without_config_or_weights_is_told(catalog, tmp_path):
    (tmp_path / "m").mkdir()
    assert refusal(lambda: catalog.find(str(tmp_path / "m"))) == (
        f"{tmp_path / 'm'} holds no config.json: give a model folder (an adapter folder is chosen in the chat, not here)."
    )
    (tmp_path / "m" / "config.json").write_text("{}")
    (tmp_path / "m" / "pytorch_model.bin").write_bytes(b"x")
    assert refusal(lambda: catalog.find(str(tmp_path / "m"))) == NO_WEIGHTS.format(tmp_path / "m")


def hub(monkeypatch, answer):
    """Put `answer` in the hub's place: a folder to return, or an error to raise. Returns the calls made."""
    calls = []

    def download(model, **options):
        calls.append((model, options["local_files_only"], options["token"]))
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setenv("HF_TOKEN", "secret")
    return calls


def test_a_hub_model_on_this_machine_is_found_without_the_network(catalog, tmp_path, monkeypatch):
    folder = make_model(tmp_path / "snapshot")
    calls = hub(monkeypatch, folder)
    assert catalog.find(HUB) == catalog.fetch(HUB, print) == folder
    assert calls == [(HUB, True, "secret")] * 2


def test_a_hub_model_that_is_not_here_is_found_by_no_download(catalog, monkeypatch):
    calls = hub(monkeypatch, LocalEntryNotFoundError("not cached"))
    sentence = f"The model {HUB} is not on this machine: it will be downloaded when it is loaded."
    assert refusal(lambda: catalog.find(HUB)) == sentence
    assert calls == [(HUB, True, "secret")]


def test_a_hub_model_is_downloaded_when_it_is_fetched(catalog, tmp_path, monkeypatch):
    folder, calls, said = make_model(tmp_path / "snapshot"), [], []

    def download(model, *, local_files_only, **options):
        calls.append(local_files_only)
        assert all(p.endswith((".safetensors", ".json", ".jinja")) for p in options["allow_patterns"])
        if local_files_only:
            raise LocalEntryNotFoundError("not cached")
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert catalog.fetch(HUB, said.append) == folder
    assert (calls, said) == ([True, False], [f"downloading {HUB} from the hub"])


def http_error(kind):
    """An error of the hub's client, made without the response its constructor wants."""
    error = kind.__new__(kind)
    Exception.__init__(error, "refused")
    return error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (LocalEntryNotFoundError("x"),
         f"The model {HUB} is not on this machine: the hub can't be reached; check the network, or give a local folder."),
        (http_error(GatedRepoError), f"{HUB} is gated: accept its licence on the hub and set HF_TOKEN in the environment."),
        (http_error(RepositoryNotFoundError),
         f"The hub knows no model {HUB} (or it is private: set HF_TOKEN in the environment)."),
        (http_error(HfHubHTTPError), UNREACHED), (ConnectionRefusedError(111, "Connection refused"), UNREACHED),
        (ValueError("bad"), UNREACHED),
    ],
)  # fmt: skip
def test_each_way_the_hub_fails_has_its_sentence(catalog, monkeypatch, error, message):
    hub(monkeypatch, error)
    assert refusal(lambda: catalog.fetch(HUB, lambda text: None)) == message


@pytest.fixture
def refusing_proxy(monkeypatch):
    """A proxy on this machine that lets nothing through, set for the hub's client."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

    threading.Thread(target=serve, daemon=True).start()
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{server.getsockname()[1]}")
    huggingface_hub.close_session()
    yield
    huggingface_hub.close_session()
    server.close()


def test_a_proxy_that_refuses_is_told_like_any_network_fault(tmp_path, refusing_proxy):
    name = "nobody/no-such-model"
    sentence = refusal(lambda: Catalog(tmp_path).fetch(name, lambda text: None))
    assert sentence.startswith(f"The model {name} is not on this machine")
    assert "the hub can't be reached; check the network, or give a local folder." in sentence


def test_a_snapshot_without_weights_is_told(catalog, tmp_path, monkeypatch):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "config.json").write_text("{}")
    hub(monkeypatch, tmp_path / "s")
    assert refusal(lambda: catalog.fetch(HUB, lambda text: None)) == NO_WEIGHTS.format(tmp_path / "s")


@pytest.mark.parametrize(
    ("model", "name"),
    [("demo", "gemma-3-270m"), (HUB, HUB), ("/home/anna/models/my-gemma", "my-gemma"),
     ("/home/anna/models/my-gemma/", "my-gemma"),
     ("./my-gemma", "my-gemma"), ("../a/b/my-gemma", "my-gemma"), ("~/my-gemma", "my-gemma"), ("my-gemma", "my-gemma")],
)  # fmt: skip
def test_the_name_shown_is_never_a_path(model, name):
    assert display_name(model) == name


def test_a_local_folder_named_like_a_hub_model_is_shown_by_its_own_name():
    assert display_name("models/my-gemma", Path("models/my-gemma")) == "my-gemma"


@pytest.mark.parametrize(
    ("config", "name"),
    [({"architectures": ["Gemma3ForCausalLM"]}, "Gemma3ForCausalLM"), ({}, "unknown"), ({"architectures": []}, "unknown"),
     ({"architectures": None}, "unknown")],
)  # fmt: skip
def test_the_architecture_is_named(tmp_path, config, name):
    assert describe(make_model(tmp_path / "m", json.dumps(config))) == name


def test_a_broken_config_is_named(tmp_path):
    folder = make_model(tmp_path / "m", "{")
    assert refusal(lambda: describe(folder)) == f"{folder / 'config.json'} is not readable JSON: fetch the model again."


def test_a_merged_model_is_found_by_its_name_while_it_is_there(catalog, tmp_path):
    assert catalog.merged() == [] and refusal(lambda: catalog.find("merged:mine")).startswith("There is no merged model mine any more")
    folder = make_model(tmp_path / "models" / "mine")
    assert refusal(lambda: catalog.fetch("merged:mine", print)).startswith("There is no merged model mine any more"), "a folder of another kind"
    (folder / "merged.json").write_text("{}")
    (make_model(tmp_path / "models" / ".merging-7") / "merged.json").write_text("{}")
    assert catalog.merged() == ["merged:mine"] and catalog.find("merged:mine") == folder and display_name("merged:mine") == "mine"
    for name in ("merged:../mine", "merged:", "merged:a/b"):
        assert "can't be used" in refusal(lambda name=name: catalog.find(name))
