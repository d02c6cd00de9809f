"""What the tests of the page share: tiny models under short names, and a server of the page."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from tempfile import mkdtemp

import uvicorn
from dash import Dash
from playwright.sync_api import Page
from tiny import byte_level_tokenizer, tiny_directory, tiny_torch_model
from tiny_pi0 import tiny_pi0_directory
from tiny_policy import policy_directory
from tiny_vision import TEXTS, classifier_directory, comparing_directory
from tiny_wrapped import blind_file, flow_file, reach_file

from app import create_app
from app.server import AsgiApp, Message, Receive, Scope, Send, guarded
from models.errors import ErrorKind, UserError
from models.language_model import LanguageModel
from models.registry import load_model

START_SECONDS = 30

TIMEOUT = 60_000  # ms; two busy cores draw a first figure in a few seconds

DEEP_PASS_GB = 0.003
"""Room for a few dozen head sets in a pass, so that a study of the deep model takes many."""


OWN = {"flow": flow_file, "reach": reach_file, "blind": blind_file}
"""Policies that a person wrapped."""


@cache
def _loaded(name: str) -> LanguageModel:
    special = {
        "deep": _deep_directory,
        "long": _long_directory,
        "tabletop": policy_directory,
        "vit": partial(classifier_directory, "ViT"),
        "pi0": tiny_pi0_directory,
        "clip": lambda: f"{comparing_directory('CLIP')}#{'|'.join(TEXTS)}",
    }
    if name in OWN:
        model = load_model(OWN[name](), run_python=True)
        model.name = name
        return model
    directory = special[name]() if name in special else tiny_directory(name)
    room = DEEP_PASS_GB if name == "deep" else None
    model = load_model(directory, device="cpu", pass_memory_gb=room)
    model.name = name
    return model


def _deep_directory() -> Path:
    """Write a model with enough heads for a study to be seen while it runs."""
    heads = {"num_attention_heads": 16, "num_key_value_heads": 16, "hidden_size": 64}
    directory = Path(mkdtemp(prefix="tiny-deep-"))
    tiny_torch_model("llama", num_hidden_layers=16, **heads).save_pretrained(directory)
    byte_level_tokenizer().save_pretrained(directory)
    return directory


def _long_directory() -> Path:
    """Write a model whose context holds more tokens than a map has room for."""
    directory = Path(mkdtemp(prefix="tiny-long-"))
    tiny_torch_model("llama", max_position_embeddings=4096).save_pretrained(directory)
    tokenizer = byte_level_tokenizer()
    tokenizer.model_max_length = 4096
    tokenizer.save_pretrained(directory)
    return directory


class Shelf:
    """A registry of tiny models under short names."""

    names = (
        "llama", "gpt2", "bert", "gptj", "bart", "deep", "long", "tabletop", "vit", "pi0", "clip",
        *OWN,
    )  # fmt: skip

    def get(self, name: str, progress: Callable[[str], None] | None = None) -> LanguageModel:
        if name not in self.names:
            raise UserError(ErrorKind.MODEL, f"There is no model {name!r} on this machine.")
        if progress is not None:
            progress(f"Loading {name}")
        return _loaded(name)

    def available(self) -> list[str]:
        return list(self.names)


def make_page(default_model: str = "llama") -> Dash:
    return create_app(Shelf(), default_model)


def counting(asgi_app: AsgiApp, sizes: list[int]) -> AsgiApp:
    """Note down the size in bytes of everything that is sent over a websocket, uncompressed."""

    async def counted(scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "websocket.send":
                sizes.append(len((message.get("text") or "").encode()))
            await send(message)

        await asgi_app(scope, receive, sending)

    return counted


@contextmanager
def serving(app: Dash, sizes: list[int] | None = None) -> Iterator[str]:
    """Serve a page on a free port, guarded as in earnest; yield its address.

    Args:
        sizes: gets the size in bytes of every message that is sent over a websocket.
    """
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        served = app.server if sizes is None else counting(app.server, sizes)
        guarded_app = guarded(served, "127.0.0.1", app.csp_hashes())
        config = uvicorn.Config(guarded_app, log_level="warning", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        deadline = time.monotonic() + START_SECONDS
        while not server.started:
            if time.monotonic() > deadline or not thread.is_alive():
                raise RuntimeError("the page's server did not start")
            time.sleep(0.02)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join(10)


@dataclass
class Heard:
    """A page, and what was wrong with it: warnings and errors, and requests to other hosts."""

    page: Page
    complaints: list[str]


def hear(page: Page) -> Heard:
    """Listen to a page from now on."""
    heard = Heard(page, [])
    page.on("console", lambda said: _hear_console(heard, said.type, said.text))
    page.on("pageerror", lambda error: heard.complaints.append(f"error: {error}"))
    page.on("request", lambda request: _hear_request(heard, request.url))
    return heard


def _hear_console(heard: Heard, kind: str, text: str) -> None:
    if kind in ("error", "warning"):
        heard.complaints.append(f"{kind}: {text}")


def _hear_request(heard: Heard, url: str) -> None:
    if not url.startswith(("http://127.0.0.1:", "ws://127.0.0.1:", "data:", "blob:")):
        heard.complaints.append(f"request to another host: {url}")


def close(page: Page) -> None:
    """Close a page, and forget what it kept in the profile; nothing if it is closed already."""
    if page.is_closed():
        return
    if page.url.startswith("http"):
        page.evaluate("localStorage.clear()")
    page.close()


REOPEN = """(fragment) => new Promise((opened, failed) => {
    const shell = document.getElementById("shell");
    let began = false;
    let quietSince = 0;
    const settle = () => {
        const now = performance.now();
        if (document.querySelector("[data-dash-is-loading=true]")) quietSince = now;
        if (now - quietSince > 400) opened(); else setTimeout(settle, 20);
    };
    const watch = new MutationObserver(() => {
        const opening = shell.classList.contains("loading");
        if (began && !opening) {
            watch.disconnect();
            quietSince = performance.now();
            settle();
        }
        began = began || opening;
    });
    watch.observe(shell, { attributes: true, attributeFilter: ["class"] });
    setTimeout(() => {
        watch.disconnect();
        failed(new Error("the view was not opened"));
    }, 60000);
    window.dash_clientside.set_props("fragment-in", { data: fragment });
})"""
"""Opens a view as a link to it does, and waits until it is there and nothing loads any more."""


def show(page: Page, address: str, fragment: str = "") -> None:
    """Open a view. A page that shows another one is not loaded again: that takes many seconds."""
    if not page.url.startswith(address):
        page.goto(f"{address}#{fragment}")
        return
    page.keyboard.press("Escape")  # menus and dialogues
    page.mouse.move(0, 0)
    if page.locator("html[data-mantine-color-scheme=dark]").count():
        page.get_by_role("button", name="Switch between light and dark").click()
    page.evaluate(REOPEN, f"#{fragment}")
