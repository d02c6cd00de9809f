"""`serve`: the page."""

import gc
import os
from argparse import Namespace
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

from app.cli.terminal import Terminal
from app.server import bind, guarded, is_loopback, links, serve
from models.hub import models_to_offer

if TYPE_CHECKING:
    from models.language_model import LanguageModel
    from models.registry import Registry


def run(options: Namespace, terminal: Terminal) -> int:
    listening = bind(options.host, options.port)
    with listening:
        registry: Future[Registry] = Future()

        def load() -> None:
            with terminal.sentences(pause=0) as say:  # a log should tell what takes so long
                try:
                    registry.set_result(_new_registry(options))
                except BaseException as error:
                    registry.set_exception(error)
                    raise
                registry.result().get(options.model, progress=say)

        # The page opens meanwhile, torch not yet there: a browser needs some seconds as well.
        with _nothing_thrown_away():
            from app import create_app

            page = create_app(_Awaited(registry), options.model)
        loading = ThreadPoolExecutor(1).submit(load)
        port = listening.getsockname()[1]
        if not is_loopback(options.host):
            terminal.warn(
                f"Warning: everyone who can reach {options.host}:{port} can use this page and "
                "load models with your rights; there is no password."
            )
        link = f"Open {' or '.join(links(options.host, port))} (Ctrl-C ends)"
        serve(
            guarded(page.server, options.host, page.csp_hashes()),
            options.host,
            port,
            options.open,
            listening=listening,
            announce=lambda: terminal.print(link),
            needed=loading,
        )
    try:
        terminal.print("Stopped.")
    finally:
        # Studies of pages that were open run in threads, and Python would wait for them.
        os._exit(0)


def _new_registry(options: Namespace) -> "Registry":
    with _nothing_thrown_away():
        from models.registry import Registry

    return Registry(
        device=options.device,
        dtype=options.dtype,
        pass_memory_gb=options.memory_gb,
        device_map=options.device_map,
        own=options.model,
    )


class _Awaited:
    """The registry, for a page that stands before it."""

    def __init__(self, registry: "Future[Registry]") -> None:
        self._registry = registry

    def get(self, name: str, progress: Callable[[str], None] | None = None) -> "LanguageModel":
        return self._registry.result().get(name, progress=progress)

    def available(self) -> list[str]:
        return models_to_offer()


@contextmanager
def _nothing_thrown_away() -> Iterator[None]:
    """Import without looking for garbage: there is none, and looking takes a tenth of the time.

    What is there at the end is never looked at again, which makes later looks short.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
