"""`serve`: the page."""

import gc
import os
from argparse import Namespace
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from app.cli.terminal import Terminal
from app.server import bind, guarded, is_loopback, links, serve


def run(options: Namespace, terminal: Terminal) -> int:
    listening = bind(options.host, options.port)
    with listening:
        with terminal.sentences(), _nothing_thrown_away():
            from app import create_app
            from models.registry import Registry

            registry = Registry(
                device=options.device,
                dtype=options.dtype,
                pass_memory_gb=options.memory_gb,
                device_map=options.device_map,
            )

        def load() -> None:
            with terminal.sentences(pause=0) as say:  # a log should tell what takes so long
                registry.get(options.model, progress=say)

        # The page opens meanwhile: a browser needs some seconds as well.
        loading = ThreadPoolExecutor(1).submit(load)
        page = create_app(registry, options.model)
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
