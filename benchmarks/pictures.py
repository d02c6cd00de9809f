"""How quickly the pictures of attention are drawn and follow the pointer, measured in Chromium.

    .venv/bin/python -m benchmarks.pictures [--tokens 200 1000 4000] [--moves 20]

On the built-in model and six of its heads, with everything computed already: from a click on the
name of a picture to the picture painted, and from a movement of the pointer to another token to
that token's attention painted. Times are of the browser's own clock, from the event to the frame
after the last change; printed are the first switch, and the median and the slowest of the moves.
"""

import argparse
import random
import shutil
import statistics

from playwright.sync_api import Page, sync_playwright
from rich.console import Console
from rich.table import Table

from app import create_app, permalink
from app.examples import BUILTIN_HEADS
from app.view import View
from benchmarks.page import FLAGS, PATIENCE, SCREEN, WORDS, serving
from models.language_model import LanguageModel
from models.registry import Registry

READY = {
    # What tells that a picture is painted: something that changes with each painting.
    "lines": "(document.querySelector('.lines canvas') || {dataset: {}}).dataset.painted",
    "text": """(() => {
        const rows = document.querySelector('.text-rows');
        return rows && rows.dataset.lit === 'yes' ? rows.dataset.token : undefined;
    })()""",
}

UNTIL_PAINTED = """(event) => {
    const read = () => STATE;
    const before = read();
    window.took = new Promise((resolve) => {
        let start = null;
        const begin = (e) => { start = start === null ? e.timeStamp : start; };
        document.addEventListener(event, begin, { capture: true });
        const look = () => {
            const now = read();
            if (start !== null && now !== undefined && now !== before) {
                document.removeEventListener(event, begin, { capture: true });
                requestAnimationFrame(() => resolve(performance.now() - start));
            } else {
                requestAnimationFrame(look);
            }
        };
        look();
    });
}"""


def text_of(model: LanguageModel, n_tokens: int) -> str:
    """Return a text of as many tokens, or very few less."""
    chance = random.Random(0)
    text = "The"
    while (missing := n_tokens - len(model.tokenize(text))) > 0:
        text += "".join(" " + chance.choice(WORDS) for _ in range(max(1, missing // 2)))
    return text


def milliseconds(page: Page, event: str, picture: str, act: object) -> float:
    page.evaluate(UNTIL_PAINTED.replace("STATE", READY[picture]), event)
    act()  # type: ignore[operator]
    return float(page.evaluate("window.took"))


def places(page: Page, picture: str, moves: int) -> list[tuple[float, float]]:
    """Return where different tokens stand that are in sight."""
    if picture == "lines":
        box = page.locator(".lines canvas").bounding_box()
        assert box is not None
        rows = int(box["height"] // 16) - 1
        chosen = random.Random(1).choices(range(rows), k=moves)
        return [(box["x"] + 0.1 * box["width"], box["y"] + 6 + 16 * (row + 0.5)) for row in chosen]
    found = page.evaluate(
        """(count) => {
            const flow = document.querySelector(".text-flow").getBoundingClientRect();
            const seen = [...document.querySelector(".text-flow").querySelectorAll(".text-token")]
                .map((token) => token.getBoundingClientRect())
                .filter((box) => box.top > flow.top && box.bottom < flow.bottom);
            const step = Math.max(1, Math.floor(seen.length / count));
            return seen.filter((_, i) => i % step === 0).slice(0, count)
                .map((box) => [box.left + box.width / 2, box.top + box.height / 2]);
        }""",
        moves,
    )
    return [(x, y) for x, y in found]


def moving(page: Page, picture: str, moves: int) -> list[float]:
    """Point at one token after another; return what each took."""
    took = []
    last = None
    for place in places(page, picture, moves):
        if place != last:
            took.append(
                milliseconds(page, "mousemove", picture, lambda at=place: page.mouse.move(*at))
            )
            page.wait_for_timeout(120)
        last = place
    return took


def measure(page: Page, url: str, text: str, moves: int) -> dict[str, tuple[float, list[float]]]:
    page.goto("about:blank")
    page.goto(f"{url}#{permalink.encode(View(prompt=text, heads=BUILTIN_HEADS))}", timeout=PATIENCE)
    page.locator(".map-card .hm image").nth(len(BUILTIN_HEADS) - 1).wait_for(timeout=PATIENCE)
    page.wait_for_timeout(1500)
    found = {}
    for picture, name in (("lines", "Lines"), ("text", "Text")):
        label = page.get_by_text(name, exact=True)
        switched = milliseconds(page, "mousedown", picture, label.click)
        page.wait_for_timeout(1000)
        found[picture] = (switched, moving(page, picture, moves))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[200, 1000, 4000])
    parser.add_argument("--moves", type=int, default=20)
    options = parser.parse_args()
    app = create_app(Registry(device="cpu"))
    model = app.server.state.services.model("builtin")
    table = Table(title="Pictures of six heads, in milliseconds")
    for column in ("tokens", "picture", "switch to painted", "pointer to painted", "slowest"):
        table.add_column(column, justify="right")
    with serving(app) as url, sync_playwright() as playwright:
        found = (shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))
        browser = playwright.chromium.launch(executable_path=next(filter(None, found)), args=FLAGS)
        page = browser.new_page(viewport=SCREEN)
        page.set_default_timeout(PATIENCE)
        for n_tokens in options.tokens:
            text = text_of(model, n_tokens)
            for picture, (switched, moves) in measure(page, url, text, options.moves).items():
                numbers = (switched, statistics.median(moves), max(moves))
                n_exact = str(len(model.tokenize(text)))
                table.add_row(n_exact, picture, *(f"{number:.0f}" for number in numbers))
        browser.close()
    Console().print(table)


if __name__ == "__main__":
    main()
