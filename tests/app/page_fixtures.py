"""What the tests of the page share: tiny models under short names, and a server of the page."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from tempfile import mkdtemp

import uvicorn
from dash import Dash
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
