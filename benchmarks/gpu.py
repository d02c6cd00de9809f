"""The sweep on a GPU: against the card's own rate, in absolute time, and against the CPU's numbers.

    .venv/bin/python -m benchmarks.gpu [--rounds 3] [--questions large gpt2 parity]

- large: all 1,024 heads of a random model of Llama 3 8B's shape (32 layers x 32 heads, 8 key-value
  heads, d 4096, MLP 14336, vocabulary 128,256: 16 GB) in bfloat16 at 256 tokens, against the
  growing batch's operations at the card's measured rate of a large bfloat16 matrix product.
- gpt2: the sweep of GPT-2's shape at 64 tokens in float32, in seconds.
- parity: the same model on both devices in float32, TF32 off: log-probabilities (logits less a
  constant) with single heads ablated, and the sweep's KL divergences.

Without the device it says so and exits with 2; it exits with 1 when the numbers differ. To try the
script itself where there is no GPU: `--device cpu --tiny`.
"""

import argparse
import os
import statistics
import sys
import warnings
from collections.abc import Sequence
from typing import Any
from unittest import mock

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers is imported: nothing is fetched

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, LlamaConfig

from ablation import Ablation, Zero, sweep_heads
from benchmarks.agreement import KL_ROUNDING, KL_TOLERANCE, LOGIT_TOLERANCE
from benchmarks.flops import ModelShape, growing_batch_flops, needed_flops
from benchmarks.loops import spread
from benchmarks.machine import matrix_rate, seconds
from benchmarks.report import GIGA, Goal, table
from benchmarks.subjects import (
    GPT2_SHAPE,
    Subject,
    numbered_tokenizer,
    prompt_of_length,
    subject_named,
)
from models import LanguageModel, TokenizedPrompt
from models.attention_tap import ATTENTION_NAME
from models.branching import BranchEngine

QUESTIONS = ("large", "gpt2", "parity")

LARGE_LIMIT_GOAL = Goal(2.0, at_most=True)
GPT2_SECONDS_GOAL = Goal(0.3, at_most=True)

LARGE = {
    "vocab_size": 128_256,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "rope_theta": 500_000.0,
    "max_position_embeddings": 8192,
}
"""Llama 3 8B's shape."""

TINY = {
    **LARGE,
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
"""To try the script."""

N_COMPARED = 12
"""Heads whose log-probabilities are compared between the devices."""


def random_llama(
    shape: dict[str, float], device: str, seed: int = 0
) -> tuple[LanguageModel, ModelShape]:
    """Make a random bfloat16 model on the device itself, and let it prove itself as at loading."""
    torch.manual_seed(seed)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(
            LlamaConfig(**shape), attn_implementation=ATTENTION_NAME, dtype=torch.bfloat16
        )
    tokenizer = numbered_tokenizer(int(shape["vocab_size"]))
    return LanguageModel(model, tokenizer, "Llama 3 8B's shape"), ModelShape.of(model)


def waiting_blocks(model: LanguageModel, prompt: TokenizedPrompt) -> int:
    """Count the block runs of a sweep in which the host waits for the GPU; there should be none."""
    run_block, waits = BranchEngine._run_block, 0

    def watched(*given: Any) -> torch.Tensor:
        nonlocal waits
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                hidden = run_block(*given)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        waits += any("synchroniz" in str(warning.message) for warning in said)
        return hidden

    with mock.patch.object(BranchEngine, "_run_block", watched):
        sweep_heads(model, prompt)
    return waits


def large_table(device: str, rounds: int, n_tokens: int, tiny: bool) -> Table:
    """Sweep the large model; show seconds, operations, and the card's rate and ours."""
    model, shape = random_llama(TINY if tiny else LARGE, device)
    prompt = prompt_of_length(model, n_tokens)
    born = [shape.n_heads] * shape.n_layers
    limit_flops = growing_batch_flops(shape, n_tokens, born)
    sweep_heads(model, prompt)  # warm up: kernels are chosen and memory is taken
    took, limits, rates = [], [], []
    for _ in range(rounds):
        rate = matrix_rate(256 if tiny else 8192, torch.bfloat16, device)
        took.append(seconds(lambda: sweep_heads(model, prompt), device))
        rates.append(rate)
        limits.append(limit_flops / rate)
    ratio = statistics.median(ours / limit for ours, limit in zip(took, limits, strict=True))
    ours = needed_flops(shape, n_tokens, born) / statistics.median(took)
    made = table(
        f"{model.info.n_layers} x {model.n_heads} heads, bfloat16, {n_tokens} tokens", ("", "")
    )
    made.add_row("heads branch off one shared run", "yes" if model.branches else "NO: plain rows")
    if device.startswith("cuda"):
        made.add_row("blocks that wait for the host", str(waiting_blocks(model, prompt)))
    made.add_row("parameters", f"{model.info.n_parameters:,}")
    made.add_row("vocabulary", f"{shape.n_vocab:,}")
    made.add_row("operations of the growing batch, TFLOP", f"{limit_flops / GIGA / 1000:,.1f}")
    made.add_row(
        "rate of a large product, TFLOP/s", f"{statistics.median(rates) / GIGA / 1e3:,.1f}"
    )
    made.add_row("rate that ours reaches, TFLOP/s", f"{ours / GIGA / 1e3:,.1f}")
    made.add_row("limit, seconds", f"{statistics.median(limits):.3g}")
    made.add_row("ours, seconds", f"{statistics.median(took):.3g}")
    made.add_row("ours / limit", f"{ratio:.2f} ({LARGE_LIMIT_GOAL.verdict(ratio)})")
    return made


def gpt2_table(subject: Subject, device: str, rounds: int) -> Table:
    """Sweep GPT-2's shape at 64 tokens; show the seconds."""
    model = subject.load(device)
    prompt = prompt_of_length(model, 64)
    sweep_heads(model, prompt)
    took = statistics.median(
        seconds(lambda: sweep_heads(model, prompt), device) for _ in range(rounds)
    )
    made = table(f"{subject.label}, float32, 64 tokens", ("", "seconds"))
    made.add_row("sweep", f"{took:.3f} ({GPT2_SECONDS_GOAL.verdict(took)})")
    return made


def parity_table(subjects: Sequence[Subject], device: str, n_tokens: int) -> tuple[Table, bool]:
    """Compare both devices in float32.

    Returns:
        The table, and whether all of it agrees.
    """
    made = table(
        f"GPU and CPU, float32 without TF32, {n_tokens} tokens, largest difference in nats",
        (
            "model",
            "clean log-probabilities",
            f"of {N_COMPARED} heads ablated",
            "KL of all heads",
            "",
        ),
    )
    all_hold = True
    for subject in subjects:
        clean, ablated, kl, holds = _difference(subject, device, n_tokens)
        verdict = "agrees" if holds else "DIFFERS"
        made.add_row(subject.label, f"{clean:.1e}", f"{ablated:.1e}", f"{kl:.1e}", verdict)
        all_hold = all_hold and holds
    return made, all_hold


def _difference(subject: Subject, device: str, n_tokens: int) -> tuple[float, float, float, bool]:
    """Return the largest differences (clean, ablated, KL), and whether they are small enough."""
    here, there = subject.load("cpu"), subject.load(device)
    prompt = prompt_of_length(here, n_tokens)
    ablations = [Ablation((head,), Zero()) for head in spread(here.all_heads(), N_COMPARED)]
    clean, *ablated = (
        float(
            np.abs(
                here.predict(prompt, ablation=ablation).log_probs
                - there.predict(prompt, ablation=ablation).log_probs
            ).max()
        )
        for ablation in (None, *ablations)
    )
    ours, theirs = (sweep_heads(model, prompt).values for model in (here, there))
    kl = np.abs(ours - theirs)
    holds = max(clean, *ablated) <= LOGIT_TOLERANCE
    holds = holds and bool((kl <= KL_TOLERANCE * ours + KL_ROUNDING).all())
    return clean, max(ablated), float(kl.max()), holds


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--questions", nargs="+", choices=QUESTIONS, default=list(QUESTIONS))
    parser.add_argument("--models", nargs="+", default=[GPT2_SHAPE, "builtin"], help="for parity")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=256, help="of the large model's prompt")
    parser.add_argument(
        "--tiny", action="store_true", help="a tiny model in place of the large one"
    )
    options = parser.parse_args(arguments)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print("This machine has no CUDA device that torch can use.", file=sys.stderr)
        return 2
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    console, agrees = Console(width=120), True
    if options.device.startswith("cuda"):
        console.print(torch.cuda.get_device_name(options.device))
    if "large" in options.questions:
        console.print(large_table(options.device, options.rounds, options.tokens, options.tiny))
    if "gpt2" in options.questions:
        console.print(gpt2_table(subject_named(GPT2_SHAPE), options.device, options.rounds))
    if "parity" in options.questions:
        subjects = [subject_named(name) for name in options.models]
        shown, agrees = parity_table(subjects, options.device, n_tokens=64)
        console.print(shown)
    return 0 if agrees else 1


if __name__ == "__main__":
    sys.exit(main())
