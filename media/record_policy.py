"""Records the pictures of the README that show the policy of the simulated table.

    .venv/bin/pip install -q -r tests/requirements.txt && .venv/bin/python media/record_policy.py

writes `policy_episode.gif`, an episode of the policy with what one head looks at, beside
the same episode with the heads ablated that break it; `policy_on_the_page.png` and
`recording_on_the_page.png`. Nothing is staged: which head and which heads is measured first, and
printed.
"""

import sys
from pathlib import Path

import numpy as np
from playwright.sync_api import Page, expect

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(HERE)]

from record import SIZE, browsing, keep_picture, settle  # noqa: E402

from ablation import Ablation, Zero  # noqa: E402
from ablation.closed_loop import run_episode  # noqa: E402
from ablation.heads import format_heads  # noqa: E402
from app import permalink  # noqa: E402
from app.images import table_text  # noqa: E402
from app.view import View  # noqa: E402
from benchmarks.tabletop import looks, prompt_of, scenes_of  # noqa: E402
from models import load_model  # noqa: E402
from models.language_model import LanguageModel  # noqa: E402
from models.tabletop.film import Reel, film  # noqa: E402
from models.tabletop.policy import N_PATCHES  # noqa: E402
from models.tabletop.scenes import named_scene  # noqa: E402
from models.tabletop.table import Scene  # noqa: E402
from models.types import Head  # noqa: E402

SCENE, LONGER = "tabletop:7", "tabletop:11"
TALL = {"width": 1440, "height": 1000}
N_SCENES = 30
SIDE = round(N_PATCHES**0.5)


def leaders(model: LanguageModel) -> list[Head]:
    """Return the language model's heads, the one that looks most at the named thing first."""
    target = looks(model, scenes_of(N_SCENES)).target
    order = np.argsort(-target, axis=None)
    return [Head(*map(int, np.unravel_index(i, target.shape))) for i in order]


def on_patches(model: LanguageModel, scenes: tuple[Scene, ...], head: Head) -> list[np.ndarray]:
    """Return what a head looks at from the last word at each scene, float [row, column]."""
    found = []
    for scene in scenes:
        row = model.attention(prompt_of(model, scene), [head], queries=[-1]).values[0, 0]
        found.append(row[1 : 1 + N_PATCHES].reshape(SIDE, SIDE))
    return found


def record_episode(model: LanguageModel) -> tuple[Head, tuple[Head, ...]]:
    """Write the film; return the head that it shows and the heads that it ablates."""
    heads, scene = leaders(model), named_scene(SCENE)
    whole = run_episode(model, scene)
    for n in range(1, len(heads) + 1):
        broken = run_episode(model, scene, Ablation(tuple(heads[:n]), Zero()))
        if not broken.reached:
            break
    ablated = tuple(sorted(heads[:n]))
    print(f"{heads[0]} looks most at the named thing; without {format_heads(ablated)} it misses")
    reels = [
        Reel(
            f"whole; {heads[0]} glows",
            whole.scenes,
            on_patches(model, whole.scenes, heads[0]),
            whole.outcome,
        ),
        Reel(f"without {format_heads(ablated)}", broken.scenes, outcome=broken.outcome),
    ]
    (HERE / "policy_episode.gif").write_bytes(film(reels))
    return heads[0], ablated


def photograph(page: Page, url: str, shown: Head, ablated: tuple[Head, ...]) -> None:
    """Take a picture of the page with heads on the picture and the action without them."""
    heads = tuple(dict.fromkeys((shown, *ablated)))[:4]
    view = View(
        "tabletop",
        table_text(SCENE),
        images=(SCENE,),
        heads=heads,
        ablate=True,
        picture="image",
        size=240,
    )
    page.goto(url + "#" + str(permalink.encode(view)))
    expect(page.locator(".on-image-canvas").first).to_be_visible(timeout=60_000)
    expect(page.locator("#action-body table")).to_contain_text("after", timeout=60_000)
    settle(page, 2500)
    keep_picture(page.screenshot(), "policy_on_the_page.png")


def photograph_recording(page: Page, url: str, shown: Head, ablated: tuple[Head, ...]) -> None:
    """Take a picture of the page with an episode that the policy acted out and is followed along,
    the heads that break it ablated."""
    heads = tuple(dict.fromkeys((shown, *ablated)))[:4]
    scene = View(
        "tabletop", table_text(LONGER), images=(LONGER,), heads=heads, picture="image", size=240
    )
    page.goto(url + "#" + str(permalink.encode(scene)))
    expect(page.locator(".on-image-canvas").first).to_be_visible(timeout=60_000)
    page.locator("#recording-play").click()
    expect(page.locator("#recording-caption")).to_contain_text("frame 1 of", timeout=60_000)
    settle(page, 1000)
    page.locator("#recording-on").click()
    expect(page.locator("#recording-caption")).to_contain_text("frame 2 of", timeout=60_000)
    page.locator("#ablate").click(force=True)
    settle(page, 1500)
    page.locator("#trace-run").click()
    expect(page.locator("#trace-place")).to_be_visible(timeout=60_000)
    page.locator("#trace-place").scroll_into_view_if_needed()
    settle(page, 2500)
    keep_picture(page.screenshot(), "recording_on_the_page.png")


def main() -> None:
    shown, ablated = record_episode(load_model("tabletop", device="cpu"))
    with browsing("--model", "tabletop") as (browser, url):
        photograph(browser.new_page(viewport=SIZE), url, shown, ablated)
        photograph_recording(browser.new_page(viewport=TALL), url, shown, ablated)


if __name__ == "__main__":
    main()
