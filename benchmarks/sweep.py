"""How long the sweep of all heads takes, against the loop that everybody writes.

    .venv/bin/python -m benchmarks.sweep [--prompt-tokens 16 64] [--rounds 3] [--threads 2]

Compared, on the built-in model, in one process, in turns: (a) one forward pass a head with a plain
hook on the output projection that zeroes the head, transformers' own attention, logits kept at the
last position only; (b) `ablation.sweep_heads`. The loop runs a sample of heads spread over the
layers and is scaled up to all of them. What is printed is the median of the rounds and the ratio.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM

from ablation import sweep_heads
from models import LanguageModel, load_model
from models.builtin import ensure_builtin
from models.types import Head, TokenizedPrompt

TEXT = "The quick brown fox jumps over the lazy dog while Mary gives a drink to John. "
N_SAMPLED = 27


def plain_forward(model: Any, ids: torch.Tensor, head: Head, d_head: int) -> torch.Tensor:
    """Return the last position's logits with one head zeroed by a plain hook."""

    def zero(_module: Any, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        z = args[0].clone()
        z[..., head.head * d_head : (head.head + 1) * d_head] = 0
        return (z,)

    projection = model.model.layers[head.layer].self_attn.o_proj
    handle = projection.register_forward_pre_hook(zero)
    try:
        with torch.inference_mode():
            return model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[0, -1]
    finally:
        handle.remove()


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def loop_seconds(plain: Any, ids: torch.Tensor, heads: Sequence[Head], d_head: int) -> float:
    """Return the time of the loop over all heads, scaled up from a sample of every k-th."""
    sample = heads[:: max(1, len(heads) // N_SAMPLED)]
    took = seconds(lambda: [plain_forward(plain, ids, head, d_head) for head in sample])
    return took * len(heads) / len(sample)


def prompt_of_length(model: LanguageModel, n: int) -> TokenizedPrompt:
    return model.prompt_of_ids(model.tokenize(TEXT * (n // 8 + 1)).ids[:n])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompt-tokens", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = load_model("builtin", device="cpu")
    plain = AutoModelForCausalLM.from_pretrained(ensure_builtin(), dtype=torch.float32).eval()
    heads = model.all_heads()
    table = Table(title=f"Sweep of all {len(heads)} heads of the built-in model, seconds (median)")
    for column in ("tokens", "loop with a hook", "sweep_heads", "ratio"):
        table.add_column(column, justify="right")
    for n in options.prompt_tokens:
        prompt = prompt_of_length(model, n)
        ids = torch.tensor([prompt.ids])
        plain_forward(plain, ids, heads[0], model.d_head)  # warm up
        pairs = [
            (
                loop_seconds(plain, ids, heads, model.d_head),
                seconds(lambda prompt=prompt: sweep_heads(model, prompt)),
            )
            for _ in range(options.rounds)
        ]
        loop, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(a / b for a, b in pairs)
        table.add_row(str(n), f"{loop:.1f}", f"{ours:.1f}", f"{ratio:.1f}x")
    Console().print(table)


if __name__ == "__main__":
    main()
