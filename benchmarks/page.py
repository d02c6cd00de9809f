"""How long a person waits for the page, measured in Chromium.

    .venv/bin/python -m benchmarks.page [--rounds 5] [--starts 5]

On the built-in model, from what a person does to what is drawn, the forward pass included:

- from `python main.py`, with the model cached, to the page with its first maps drawn;
- from pressing Enter on a new 64-token prompt to the heat maps of 6 heads drawn;
- from clicking one more head on the map of heads to its heat map drawn.

Beside the whole stands what of it was spent in this program's own code: for the start, until the
server was ready; else while a callback ran, and in it the forward pass and the drawing. The rest is
the browser, Plotly and Dash. "Drawn" means that Plotly has put every map of the new prompt or head
on the screen and that a frame has passed. Printed are medians over the rounds, and the slowest.
"""

import argparse
import random
import shutil
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from dash import Dash
from playwright.sync_api import Browser, Page, sync_playwright
from rich.console import Console
from rich.table import Table

from app import create_app, permalink
from app.examples import BUILTIN_HEADS
from app.panels import drawn_maps
from app.server import guarded
from app.view import View
from models.language_model import LanguageModel
from models.registry import Registry

ROOT = Path(__file__).resolve().parent.parent
SCREEN = {"width": 1280, "height": 800}
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
PATIENCE = 120_000  # ms
N_TOKENS = 64
WORDS = [
    "time",
    "year",
    "people",
    "way",
    "day",
    "man",
    "thing",
    "woman",
    "life",
    "child",
    "world",
    "school",
    "state",
    "family",
    "house",
]

WATCH = """() => {
    // Marks each map with what was last drawn on it; "drawn" then reads the marks once a frame.
    const seen = new WeakSet();
    const mark = (plot) => { plot.drawnKey = window.keyOf(plot); };
    window.keyOf = (plot) => {
        const axis = plot._fullLayout && plot._fullLayout.xaxis;
        const names = (axis && axis.labelalias) || {};
        return Object.keys(names).length + ":" + names[0];
    };
    window.mapsDrawn = (wanted, n) => {
        const plots = [...document.querySelectorAll(".map-card .js-plotly-plot")];
        for (const plot of plots) {
            if (!seen.has(plot) && plot.on) {
                seen.add(plot);
                plot.on("plotly_afterplot", () => mark(plot));
                if (plot.querySelector(".hm image")) mark(plot);
            }
        }
        return plots.length === n && plots.every((plot) =>
            plot.drawnKey && plot.drawnKey === wanted(plot) && plot.querySelector(".hm image"));
    };
    window.untilDrawn = (event, wanted, n) => new Promise((resolve) => {
        let start = null;
        document.addEventListener(event, (e) => { start = e.timeStamp; },
            { capture: true, once: true });
        const look = () => {
            if (start !== null && window.mapsDrawn(wanted, n)) {
                requestAnimationFrame(() => resolve((performance.now() - start) / 1000));
            } else {
                requestAnimationFrame(look);
            }
        };
        look();
    });
}"""


@dataclass(slots=True)
class Spans:
    """When this program's own code was at work, by the name of the part, in seconds."""

    parts: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function such that its calls are noted down under `name`."""

        def measured(*args: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **options)
            finally:
                with self.lock:
                    self.parts.setdefault(name, []).append((start, time.perf_counter()))

        return measured

    def take(self) -> dict[str, float]:
        """Return how long each part was at work, calls at the same time counted once; forget it."""
        with self.lock:
            parts, self.parts = self.parts, {}
        return {name: _covered(spans) for name, spans in parts.items()}


def _covered(spans: Sequence[tuple[float, float]]) -> float:
    total, until = 0.0, -float("inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


CALLBACKS, FORWARD, DRAWING = "in callbacks", "forward pass", "building figures"


def watched_page(spans: Spans) -> Dash:
    """Return the page with its parts timed."""
    LanguageModel.run = spans.timed(FORWARD, LanguageModel.run)  # type: ignore[method-assign]
    drawn_maps.attention_message = spans.timed(DRAWING, drawn_maps.attention_message)  # type: ignore[attr-defined]
    app = create_app(Registry(device="cpu"))
    for entry in app.callback_map.values():
        if "callback" in entry:
            entry["callback"] = spans.timed(CALLBACKS, entry["callback"])
    return app


@contextmanager
def serving(app: Dash) -> Iterator[str]:
    """Serve the page in this process; yield its address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        asgi = guarded(app.server, "127.0.0.1", app.csp_hashes())
        server = uvicorn.Server(uvicorn.Config(asgi, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        server.should_exit = True
        thread.join(10)


def opened(browser: Browser, url: str) -> Page:
    """Return a page whose maps are drawn."""
    page = browser.new_page(viewport=SCREEN)
    page.add_init_script(f"({WATCH})()")
    page.goto(url, timeout=PATIENCE)
    wait_for_first_maps(page)
    return page


def until(page: Page, condition: str) -> None:
    """Wait, looking once a frame, until a JavaScript condition holds."""
    page.evaluate(
        f"""() => new Promise((resolve) => {{
            const look = () => (({condition}) ? resolve() : requestAnimationFrame(look));
            look();
        }})"""
    )


def wait_for_first_maps(page: Page) -> None:
    until(page, "window.mapsDrawn((plot) => plot.drawnKey, 6)")


def seconds_to_start(browser: Browser) -> tuple[float, float]:
    """Start the program; return the seconds until its server is ready, and until maps are drawn."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    page = browser.new_page(viewport=SCREEN)
    page.add_init_script(f"({WATCH})()")
    start = time.perf_counter()
    command = [sys.executable, "main.py", "--port", str(port), "--device", "cpu"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as program:
        try:
            assert program.stdout is not None
            while "Open" not in (line := program.stdout.readline()):
                if not line:
                    raise RuntimeError("the program ended before its page was served")
            ready = time.perf_counter() - start
            page.goto(f"http://127.0.0.1:{port}/", timeout=PATIENCE)
            wait_for_first_maps(page)
            return ready, time.perf_counter() - start
        finally:
            program.terminate()
            page.close()


def new_prompt(model: LanguageModel, chance: random.Random, first: str) -> str:
    """Return a text of exactly 64 tokens that begins with a given word."""
    text = first
    while len(prompt := model.tokenize(text)) < N_TOKENS:
        text += " " + chance.choice(WORDS)
    if len(prompt) != N_TOKENS:
        return new_prompt(model, chance, first)
    return text


def seconds_for_prompt(page: Page, model: LanguageModel, text: str) -> float:
    """Type a prompt, press Enter, and return the time until all maps show it."""
    first = model.tokenize(text).labels[0]
    page.locator("#prompt-text").fill(text)
    page.wait_for_timeout(600)  # what typing starts has settled
    page.evaluate(
        """([key, n]) => { window.took = window.untilDrawn("keydown", () => key, n); }""",
        [f"{N_TOKENS}:{first}", 6],
    )
    page.keyboard.press("Enter")
    return float(page.evaluate("window.took"))


def seconds_for_head(page: Page, layer: int, head: int) -> float:
    """Click a head on the map of heads and return the time until its heat map is drawn."""
    at = page.evaluate(
        """([x, y]) => {
            const plot = document.querySelector("#heads-map .js-plotly-plot");
            const layout = plot._fullLayout, box = plot.getBoundingClientRect();
            return [box.x + layout.xaxis._offset + layout.xaxis.d2p(x),
                    box.y + layout.yaxis._offset + layout.yaxis.d2p(y)];
        }""",
        [head, layer],
    )
    page.mouse.move(at[0], at[1])
    page.wait_for_timeout(300)  # the pointer rests on the cell, as a person's does
    page.evaluate(
        """() => { window.took = window.untilDrawn("mousedown", (plot) => plot.drawnKey, 7); }"""
    )
    page.mouse.down()
    page.mouse.up()
    took = float(page.evaluate("window.took"))
    page.wait_for_timeout(1000)
    page.mouse.move(at[0] + 1, at[1])
    page.wait_for_timeout(300)
    page.mouse.down()
    page.mouse.up()  # out of the choice again
    until(page, "document.querySelectorAll('.map-card').length === 6")
    page.wait_for_timeout(1000)
    return took


@dataclass(slots=True)
class Measured:
    """One quantity: the whole, and the parts of it that were our own, a value for each round."""

    name: str
    goal: float
    whole: list[float] = field(default_factory=list)
    parts: dict[str, list[float]] = field(default_factory=dict)

    def add(self, whole: float, parts: dict[str, float]) -> None:
        self.whole.append(whole)
        for name, value in parts.items():
            self.parts.setdefault(name, []).append(value)


def measure_in_page(browser: Browser, rounds: int) -> list[Measured]:
    spans, chance = Spans(), random.Random(0)
    app = watched_page(spans)
    model = app.server.state.services.model("builtin")
    prompts = Measured(f"Enter on a new {N_TOKENS}-token prompt to 6 maps drawn", 1.0)
    heads = Measured("click on one more head to its map drawn", 0.3)
    fragment = permalink.encode(View(heads=BUILTIN_HEADS))
    with serving(app) as url:
        page = opened(browser, f"{url}#{fragment}")
        for round_number in range(rounds + 1):  # the first one warms up
            text = new_prompt(model, chance, WORDS[round_number % len(WORDS)])
            for measured, act in (
                (prompts, lambda text=text: seconds_for_prompt(page, model, text)),
                (heads, lambda i=round_number: seconds_for_head(page, 3 + i % 20, i % 9)),
            ):
                page.wait_for_timeout(1000)
                spans.take()
                took = act()
                if round_number:
                    measured.add(took, spans.take())
        page.close()
    return [prompts, heads]


def measure_starts(browser: Browser, starts: int) -> Measured:
    start = Measured("`python main.py` to the page with its first maps drawn", 8.0)
    for _ in range(starts):
        ready, whole = seconds_to_start(browser)
        start.add(whole, {"until the server is ready": ready})
    return start


def table_of(results: Sequence[Measured]) -> Table:
    table = Table(title="What a person waits for, in seconds (median; slowest)")
    table.add_column("")
    for column in ("median", "slowest", "goal"):
        table.add_column(column, justify="right")
    for measured in results:
        whole = statistics.median(measured.whole)
        verdict = "met" if whole <= measured.goal else "missed"
        table.add_row(
            measured.name,
            f"{whole:.2f}",
            f"{max(measured.whole):.2f}",
            f"{measured.goal:g} ({verdict})",
        )
        for name, values in measured.parts.items():
            table.add_row(f"  {name}", f"{statistics.median(values):.2f}", f"{max(values):.2f}", "")
        table.add_section()
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="of prompts and heads")
    parser.add_argument("--starts", type=int, default=5, help="of the program")
    options = parser.parse_args()
    with sync_playwright() as playwright:
        found = (shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))
        browser = playwright.chromium.launch(executable_path=next(filter(None, found)), args=FLAGS)
        results = measure_in_page(browser, options.rounds) if options.rounds else []
        if options.starts:
            results.append(measure_starts(browser, options.starts))
        browser.close()
    Console().print(table_of(results))


if __name__ == "__main__":
    main()
