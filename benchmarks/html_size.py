"""Attention as one HTML file: size and time to make it, beside BertViz's and CircuitsVis's.

    .venv-bench/bin/python -m benchmarks.html_size [--tokens 32 128 512 1024 4096] [--no-peers]

For the built-in model's heads of one layer and for six heads, on the same attention, which is read
once and not timed. BertViz's head view and CircuitsVis's attention patterns are asked for their
HTML as their documentation says. Both write every weight as decimal digits, so they are left out
above `--peers-up-to` tokens: at 4,096 they would need more memory than most machines have.
"""

import argparse
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from app.examples import BUILTIN_HEADS
from benchmarks.pictures import text_of
from models import load_model
from models.language_model import LanguageModel
from models.types import AttentionMaps, Head
from viz.standalone import attention_html

Writer = Callable[[AttentionMaps], str]


def _bertviz(maps: AttentionMaps) -> str:
    import torch
    from bertviz import head_view

    layer = torch.from_numpy(maps.values)[None]  # batch, head, query, key
    return str(head_view([layer], list(maps.prompt.labels), html_action="return").data)


def _circuitsvis(maps: AttentionMaps) -> str:
    from circuitsvis.attention import attention_patterns

    return str(attention_patterns(list(maps.prompt.labels), maps.values))


def writers(peers: bool) -> Iterator[tuple[str, Writer]]:
    yield "this program", attention_html
    if peers:
        yield "BertViz", _bertviz
        yield "CircuitsVis", _circuitsvis


def sets_of_heads(model: LanguageModel) -> Sequence[tuple[str, tuple[Head, ...]]]:
    layer = tuple(Head(16, head) for head in range(model.n_heads))
    return (("6 heads", BUILTIN_HEADS), (f"layer 16, {len(layer)} heads", layer))


def measured(write: Writer, maps: AttentionMaps) -> tuple[float, float]:
    """Return the size of the file in megabytes (10^6 bytes) and the seconds to make it."""
    start = time.perf_counter()
    text = write(maps)
    seconds = time.perf_counter() - start
    return len(text.encode()) / 1e6, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[32, 128, 512, 1024, 4096])
    parser.add_argument("--peers-up-to", type=int, default=1024, metavar="TOKENS")
    parser.add_argument("--no-peers", action="store_true")
    options = parser.parse_args()
    random.seed(0)
    model: Any = load_model("builtin", device="cpu")
    table = Table(title="One HTML file: megabytes and seconds to make it")
    for column in ("tokens", "heads", "by", "MB", "seconds"):
        table.add_column(column, justify="right")
    for n_tokens in options.tokens:
        prompt = model.tokenize(text_of(model, n_tokens))
        peers = not options.no_peers and n_tokens <= options.peers_up_to
        for label, heads in sets_of_heads(model):
            maps = model.attention(prompt, heads)
            for name, write in writers(peers):
                size, seconds = measured(write, maps)
                row = (str(len(prompt)), label, name, f"{size:.2f}", f"{seconds:.2f}")
                table.add_row(*row)
                Console(stderr=True).print(*row)
    Console().print(table)


if __name__ == "__main__":
    main()
