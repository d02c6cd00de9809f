"""Records the pictures of the README from the running page on the built-in model.

    .venv/bin/pip install -q -r tests/requirements.txt && .venv/bin/python media/record.py

starts the server, drives Chromium through short sessions and writes `select_prompt_and_heads.gif`,
`see_every_head.gif`, `run_ablation_study.gif`, `circuit.png` and `circuit_by_token.png` beside this
file; `prompt`, `pictures`, `study` or `circuit` behind it records that alone. Nothing is staged:
waiting times are shortened in the playback, what is on the screen is what was computed.
"""

import io
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SIZE = {"width": 1280, "height": 800}
SHOWN_WIDTH = 1000
"""Pixels across in the GIF."""
COLOURS = 224
START_SECONDS = 300
STUDY_MILLISECONDS = 180_000

POINTER = """() => {
    const dot = document.createElement("div");
    dot.style.cssText = "position:fixed;width:18px;height:18px;border-radius:50%;z-index:9999;" +
        "pointer-events:none;background:rgba(213,94,0,.45);border:2px solid rgb(213,94,0);" +
        "transform:translate(-50%,-50%);left:640px;top:780px";
    document.body.append(dot);
    document.addEventListener("mousemove", (event) => {
        dot.style.left = event.clientX + "px";
        dot.style.top = event.clientY + "px";
    }, true);
}"""
"""A dot that follows the mouse: screenshots do not show the pointer."""


@dataclass
class Recorder:
    """Collects frames of a page, each with the time it stays on the screen."""

    page: Page
    frames: list[Image.Image] = field(default_factory=list)
    milliseconds: list[int] = field(default_factory=list)

    def shoot(self, milliseconds: int) -> None:
        """Add what the page shows now; a frame equal to the last one lengthens it instead."""
        picture = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")
        height = round(picture.height * SHOWN_WIDTH / picture.width)
        picture = picture.resize((SHOWN_WIDTH, height), Image.Resampling.LANCZOS)
        if self.frames and picture.tobytes() == self.frames[-1].tobytes():
            self.milliseconds[-1] += milliseconds
            return
        self.frames.append(picture)
        self.milliseconds.append(milliseconds)

    def click(self, target: Locator, milliseconds: int = 700) -> None:
        """Move to a thing, show that, click it."""
        target.scroll_into_view_if_needed()
        target.hover()
        self.shoot(500)
        target.click()
        self.page.wait_for_timeout(150)
        self.shoot(milliseconds)

    def type(self, target: Locator, text: str) -> None:
        """Replace what stands in a field, a few characters a frame."""
        target.click()
        target.press("Control+a")
        for start in range(0, len(text), 4):
            target.press_sequentially(text[start : start + 4])
            self.shoot(120)

    def save(self, path: Path) -> None:
        """Write an animated GIF with one palette for all frames."""
        palette = _palette(self.frames)
        quantized = [f.quantize(palette=palette, dither=Image.Dither.NONE) for f in self.frames]
        quantized[0].save(
            path,
            save_all=True,
            append_images=quantized[1:],
            duration=self.milliseconds,
            loop=0,
            optimize=False,
        )
        size = path.stat().st_size / 1e6
        print(f"{path.name}: {len(self.frames)} frames, {size:.2f} MB")


def _palette(frames: list[Image.Image]) -> Image.Image:
    """Return one palette that suits frames from all over the film."""
    chosen = frames[:: max(1, len(frames) // 6)] + frames[-1:]
    width, height = chosen[0].size
    sheet = Image.new("RGB", (width, height * len(chosen)))
    for i, frame in enumerate(chosen):
        sheet.paste(frame, (0, i * height))
    return sheet.quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE)


def open_page(page: Page, url: str) -> Recorder:
    """Open the page afresh and wait until it stands."""
    page.goto(url)
    expect(page.locator("#attention-grid .main-svg").first).to_be_visible(timeout=60_000)
    expect(page.locator("#prediction-figure .main-svg").first).to_be_visible(timeout=60_000)
    page.wait_for_timeout(1500)
    page.evaluate(POINTER)
    return Recorder(page)


def settle(page: Page, milliseconds: int = 1800) -> None:
    """Let the page finish what a click started; this is a film, not a test."""
    page.wait_for_timeout(milliseconds)


def record_prompt_and_heads(page: Page, url: str) -> None:
    """Type a prompt, choose heads three ways, read another position, switch heads off."""
    film = open_page(page, url)
    film.shoot(1800)
    text = page.locator("#prompt-text")
    film.type(text, "The cat sat on the mat. The cat sat on the")
    text.press("Enter")
    settle(page)
    film.shoot(1500)
    film.click(page.locator("#heads-clear"))
    notation = page.locator("#heads-text")
    film.type(notation, "17.3, 18.6, 11.1, 8.0")
    notation.press("Enter")
    settle(page)
    film.shoot(1800)
    token = page.locator("#token-strip button").nth(8)
    film.click(token)
    settle(page)
    film.shoot(1600)
    if page.locator("#token-close").is_visible():
        film.click(page.locator("#token-close"))
    film.click(page.locator("#token-strip button").last)
    settle(page)
    if page.locator("#token-close").is_visible():
        film.click(page.locator("#token-close"))
    switch = page.locator("label[for='ablate'], #ablate").first
    switch.hover()
    film.shoot(400)
    page.locator("#ablate").click(force=True)
    settle(page, 2500)
    film.shoot(3500)
    film.save(HERE / "select_prompt_and_heads.gif")


def record_pictures(page: Page, url: str) -> None:
    """Find a head among all, see it as lines and as text, and ask why it looks where it looks."""
    film = open_page(page, url)
    text = page.locator("#prompt-text")
    film.type(text, "The cat sat on the mat. The cat sat on the")
    text.press("Enter")
    settle(page)
    film.click(page.locator("#heads-clear"))
    picture = page.locator("#picture")
    film.click(picture.get_by_text("Overview", exact=True), 300)
    settle(page)
    film.shoot(1800)
    for layer, head in ((16, 0), (17, 3), (18, 6)):
        point_at_thumbnail(page, layer, head)
        settle(page, 400)
        film.shoot(1500)
        page.mouse.down()
        page.mouse.up()
        settle(page, 600)
        film.shoot(700)
    film.click(picture.get_by_text("Lines", exact=True), 300)
    settle(page)
    film.shoot(1800)
    film.click(picture.get_by_text("Text", exact=True), 300)
    settle(page)
    film.shoot(2200)
    film.click(picture.get_by_text("Matrix", exact=True), 300)
    settle(page)
    film.shoot(1000)
    plot = page.locator(".map-card .nsewdrag").nth(1)
    box = plot.bounding_box()
    assert box is not None
    # The last query is the second "the", the seventh key follows the first.
    at = {"x": box["width"] * 5.5 / 12, "y": box["height"] * 11.5 / 12}
    plot.hover(position=at)
    film.shoot(900)
    plot.click(position=at)
    settle(page, 2500)
    film.shoot(4500)
    film.save(HERE / "see_every_head.gif")


def point_at_thumbnail(page: Page, layer: int, head: int) -> None:
    """Move the pointer over the overview until the enlarged head is the one that is wanted."""
    grid = page.locator(".overview-grid")
    box = grid.bounding_box()
    assert box is not None
    card = page.locator(".overview-card")
    for row in range(30):
        for column in range(40):
            x, y = box["width"] * (column + 0.5) / 40, box["height"] * (row + 0.5) / 30
            page.mouse.move(box["x"] + x, box["y"] + y)
            if card.is_visible() and f"L{layer}H{head}" in (card.text_content() or ""):
                return
    sys.exit(f"L{layer}H{head} was not found in the overview.")


def record_study(page: Page, url: str) -> None:
    """Run the targeted study on the first example and use the heads that it finds."""
    film = open_page(page, url)
    film.shoot(1200)
    film.click(page.get_by_role("tab", name="Ablation study"))
    film.click(page.locator("#study").get_by_text("Targeted"))
    film.click(page.locator("#target-picker"), 900)
    film.click(page.get_by_role("option").filter(has_text="John").first)
    page.locator("#study-run").hover()
    film.shoot(500)
    page.locator("#study-run").click()
    use = page.locator("#use-heads")
    waited = 0
    while use.is_disabled() and waited < STUDY_MILLISECONDS:
        page.wait_for_timeout(1000)
        waited += 1000
        film.shoot(350)
    expect(use).to_be_enabled()
    settle(page)
    film.shoot(2500)
    film.click(use)
    settle(page, 3000)
    film.shoot(2500)
    film.click(page.get_by_role("tab", name="Attention"))
    settle(page, 2500)
    film.shoot(3500)
    film.save(HERE / "run_ablation_study.gif")


def photograph_circuit(page: Page, url: str) -> None:
    """Discover the circuit of the first example and take pictures of it, by layer and by token."""
    page.set_viewport_size({"width": 1500, "height": 1280})
    open_page(page, url)
    page.get_by_role("tab", name="Circuit").click()
    settle(page, 3000)
    page.get_by_role("button", name="Discover circuit").click()
    expect(page.locator("#circuit-cancel")).to_be_enabled(timeout=30_000)
    expect(page.locator("#circuit-cancel")).to_be_disabled(timeout=STUDY_MILLISECONDS)
    settle(page, 3000)
    keep_picture(page.screenshot(), "circuit.png")
    page.locator("#circuit-layout label", has_text="By token").click()
    page.mouse.move(2, 1270)
    settle(page, 2000)
    keep_picture(page.locator("#circuit-picture").screenshot(), "circuit_by_token.png")


def keep_picture(png: bytes, name: str) -> None:
    image = Image.open(io.BytesIO(png)).convert("RGB")
    # Rare colours count as much as those of large areas: a legend's must be its own.
    image.quantize(256, method=Image.Quantize.MAXCOVERAGE).save(HERE / name, optimize=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_served(url: str, server: "subprocess.Popen[bytes]") -> None:
    for _ in range(START_SECONDS * 2):
        if server.poll() is not None:
            sys.exit("The server did not start.")
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except (urllib.error.URLError, TimeoutError):
            try:
                server.wait(0.5)
            except subprocess.TimeoutExpired:
                continue
        else:
            return
    sys.exit("The server did not answer.")


@contextmanager
def browsing(*options: str) -> Iterator[tuple[Browser, str]]:
    """Serve the page and open a browser; yield that and the page's address.

    Args:
        options: of `main.py`.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}/"
    command = [sys.executable, str(ROOT / "main.py"), "--port", str(port), *options]
    server = subprocess.Popen(command)
    try:
        wait_until_served(url, server)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium") or shutil.which("google-chrome"),
                args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
            )
            yield browser, url
            browser.close()
    finally:
        server.terminate()
        server.wait()


def main() -> None:
    records = {
        "prompt": record_prompt_and_heads,
        "pictures": record_pictures,
        "study": record_study,
        "circuit": photograph_circuit,
    }
    with browsing() as (browser, url):
        for record in (records[name] for name in sys.argv[1:] or records):
            page = browser.new_page(viewport=SIZE)
            record(page, url)
            page.close()


if __name__ == "__main__":
    main()
