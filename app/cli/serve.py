"""`serve`: the page."""

import os
from argparse import Namespace

from app.cli.terminal import Terminal
from app.server import bind, guarded, is_loopback, links, serve


def run(options: Namespace, terminal: Terminal) -> int:
    listening = bind(options.host, options.port)
    with listening:
        with terminal.sentences(pause=0) as say:  # a log should tell what takes so long
            from app import create_app
            from models.registry import Registry

            registry = Registry(
                device=options.device, dtype=options.dtype, pass_memory_gb=options.memory_gb
            )
            registry.get(options.model, progress=say)
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
        )
    try:
        terminal.print("Stopped.")
    finally:
        # Studies of pages that were open run in threads, and Python would wait for them.
        os._exit(0)
