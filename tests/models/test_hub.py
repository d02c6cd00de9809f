"""The hub's client against a hub of our own on this machine: no network, no mocks."""

import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants
from tiny import tiny_directory

from models.errors import ErrorKind, UserError
from models.hub import (
    RemoteFile,
    cached_snapshot,
    choose_files,
    fetch_model,
    hub_models,
    is_complete,
)

COMMIT = "a" * 40


@dataclass
class FakeHub:
    """A hub that holds one model, or answers every request with an error."""

    files: dict[str, bytes] = field(default_factory=dict)
    error: tuple[int, str] | None = None
    """(status, X-Error-Code) of every answer."""
    requests: list[str] = field(default_factory=list)
    address: str = ""

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        if self.error is not None:
            status, code = self.error
            return status, {"X-Error-Code": code}, b"{}"
        if path.startswith("/api/models/"):
            siblings = [{"rfilename": n, "size": len(b)} for n, b in self.files.items()]
            info = {"id": "me/tiny", "modelId": "me/tiny", "sha": COMMIT, "siblings": siblings}
            return 200, {"Content-Type": "application/json"}, json.dumps(info).encode()
        name = path.partition("/resolve/")[2].partition("/")[2]
        if name not in self.files:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, b""
        return 200, {"X-Repo-Commit": COMMIT, "ETag": f'"{name}"'}, self.files[name]


@contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.reply(with_body=False)

        def do_GET(self) -> None:
            self.reply(with_body=True)

        def reply(self, with_body: bool) -> None:
            path = self.path.partition("?")[0]
            hub.requests.append(f"{self.command} {path}")
            status, headers, body = hub.answer(path)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if with_body:
                with suppress(BrokenPipeError):  # the client may have given up
                    self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache of the test's own, with offline mode off."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def tiny_files() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in tiny_directory("llama").iterdir()}


def refusal(hub: FakeHub, name: str = "me/tiny") -> str:
    with serving(hub), pytest.raises(UserError) as caught:
        fetch_model(name, lambda _: None, endpoint=hub.address)
    assert caught.value.kind is ErrorKind.MODEL
    return str(caught.value)


def test_downloads_what_is_needed_and_then_needs_no_hub(tiny_files: dict[str, bytes]) -> None:
    unneeded = {"tf_model.h5": b"x", "modeling_evil.py": b"x", "pytorch_model.bin": b"x"}
    said: list[str] = []
    with serving(FakeHub({**tiny_files, **unneeded})) as hub:
        directory = fetch_model("me/tiny", said.append, endpoint=hub.address)
        first = len(hub.requests)
        again = fetch_model("me/tiny", said.append, endpoint=hub.address)
        assert len(hub.requests) == first
    assert again == directory
    assert {path.name for path in directory.iterdir()} == set(tiny_files)
    assert (directory / "model.safetensors").read_bytes() == tiny_files["model.safetensors"]
    assert "Downloading me/tiny" in said[0]
    assert hub_models() == ["me/tiny"]


def test_half_a_download_is_completed(tiny_files: dict[str, bytes]) -> None:
    with serving(FakeHub(tiny_files)) as hub:
        directory = fetch_model("me/tiny", lambda _: None, endpoint=hub.address)
        (directory / "model.safetensors").unlink()
        assert hub_models() == []
        fetch_model("me/tiny", lambda _: None, endpoint=hub.address)
    assert (directory / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ((401, "RepoNotFound"), "no public model of that id"),
        ((404, "RepoNotFound"), "no public model of that id"),
        ((403, "GatedRepo"), "is gated: accept its terms"),
        ((500, ""), "answered 500"),
    ],
)
def test_a_hub_that_refuses(error: tuple[int, str], expected: str) -> None:
    assert expected in refusal(FakeHub(error=error))


def test_a_repository_without_weights(tiny_files: dict[str, bytes]) -> None:
    config = {"config.json": tiny_files["config.json"]}
    assert "holds no weights" in refusal(FakeHub(config))
    assert "GGUF files only" in refusal(FakeHub({**config, "a.gguf": b"x"}))


def test_no_network_is_said_at_once() -> None:
    with serving(FakeHub()) as hub:
        pass  # its port is free again: nobody listens
    start = time.monotonic()
    with pytest.raises(UserError, match="hub cannot be reached"):
        fetch_model("me/tiny", lambda _: None, endpoint=hub.address)
    assert time.monotonic() - start < 15


def test_a_hub_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.hub.HUB_TIMEOUT", 0.5)
    release = threading.Event()

    class Silent(FakeHub):
        def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
            release.wait(20)
            return 500, {}, b""

    start = time.monotonic()
    with serving(Silent()) as hub:
        with pytest.raises(UserError, match="hub cannot be reached"):
            fetch_model("me/tiny", lambda _: None, endpoint=hub.address)
        assert time.monotonic() - start < 10
        release.set()


def test_offline_mode_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="unset HF_HUB_OFFLINE"):
        fetch_model("me/tiny", lambda _: None)


@pytest.mark.parametrize("name", ["a b", "a/b/c/d", "-x", "x" * 200, "../up"])
def test_not_an_id(name: str) -> None:
    with pytest.raises(UserError, match="nor a model id"):
        fetch_model(name, lambda _: None)


def test_a_cache_that_cannot_be_written(tiny_files: dict[str, bytes], empty_cache: Path) -> None:
    empty_cache.write_text("a file where the directory should be")
    assert "cannot be stored" in refusal(FakeHub(tiny_files))


def test_safetensors_are_preferred_to_pickles() -> None:
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    names += ["model.safetensors.index.json", "pytorch_model.bin", "config.json", "README.md"]
    names += ["onnx/model.safetensors", "vocab.txt", "consolidated.safetensors"]
    chosen = {file.name for file in choose_files([RemoteFile(name, 1) for name in names])}
    assert chosen == {*names[:3], "config.json", "vocab.txt"}
    pickled = choose_files([RemoteFile("pytorch_model.bin", 1), RemoteFile("config.json", 1)])
    assert "pytorch_model.bin" in {file.name for file in pickled}


def test_hub_models_lists_whole_text_models_only(empty_cache: Path) -> None:
    def cached(name: str, **config: object) -> Path:
        home = empty_cache / f"models--me--{name}"
        snapshot = home / "snapshots" / COMMIT
        (home / "refs").mkdir(parents=True)
        (home / "refs" / "main").write_text(COMMIT)
        shutil.copytree(tiny_directory("llama"), snapshot)
        original = json.loads((snapshot / "config.json").read_text())
        (snapshot / "config.json").write_text(json.dumps({**original, **config}))
        return snapshot

    whole = cached("whole")
    cached("picture", model_type="vit")
    cached("both", vision_config={})
    (cached("damaged") / "config.json").write_text("{")
    (cached("empty") / "model.safetensors").unlink()
    (cached("mute") / "tokenizer.json").unlink()
    (empty_cache / "models--me--mute/snapshots" / COMMIT / "tokenizer_config.json").unlink()
    assert hub_models() == ["me/whole"]
    assert cached_snapshot("me/whole") == whole
    assert is_complete(whole)


def test_no_cache_at_all(empty_cache: Path) -> None:
    assert not empty_cache.exists()
    assert hub_models() == []
