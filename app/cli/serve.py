"""`serve`: the page."""

import os
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor

from app.cli.terminal import Terminal
from app.server import bind, guarded, is_loopback, links, serve

WAITING = "OMP_WAIT_POLICY"
"""Environment variable of OpenMP, which torch computes with."""


def run(options: Namespace, terminal: Terminal) -> int:
    # Threads that wait for each other would keep their cores busy meanwhile, and the browser, which
    # draws on the same cores, would slow each of many small steps down: the start takes ten times
    # as long beside a busy program. Read when torch is imported.
    os.environ.setdefault(WAITING, "passive")
    listening = bind(options.host, options.port)
    with listening:
        with terminal.sentences():
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
