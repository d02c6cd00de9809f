"""A two-layer GPT-2 that tests train in seconds to continue what was said before.

A passage of random tokens is said twice, with random tokens before and between, so that where the
copies stand tells nothing: what comes next can only be found by looking for the token behind the
same one. The circuit of that is known (Elhage et al. 2021, Olsson et al. 2022): a previous-token
head in layer 0 feeds the key of an induction head in layer 1.
"""

import atexit
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import torch
from handwired import word_tokenizer
from transformers import GPT2Config, GPT2LMHeadModel

from ablation.circuit.types import PromptPair
from models.language_model import LanguageModel
from models.registry import load_model

WORDS = tuple("abcdefghijklmnopqrstuvwxyz012345")
PASSAGE, MOST_BEFORE, MOST_BETWEEN = 6, 8, 10
"""Of tokens. With less between the copies, the model learns how far apart they are instead."""

LENGTH = MOST_BEFORE + MOST_BETWEEN + 2 * PASSAGE
STEPS, BATCH, RATE, SEED = 1000, 64, 3e-3, 1


def sequences(n: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return tokens int64 [n, LENGTH], and where the second copies begin, int64 [n]."""
    shuffled = torch.rand(n, len(WORDS), generator=generator).argsort(1)
    befores = torch.randint(0, MOST_BEFORE + 1, (n,), generator=generator).tolist()
    betweens = torch.randint(0, MOST_BETWEEN + 1, (n,), generator=generator).tolist()
    rows, starts = [], []
    for tokens, before, between in zip(shuffled, befores, betweens, strict=True):
        said, others = tokens[:PASSAGE], tokens[PASSAGE:]
        until = before + between
        parts = [others[:before], said, others[before:until], said, others[until:]]
        rows.append(torch.cat(parts)[:LENGTH])
        starts.append(until + PASSAGE)
    return torch.stack(rows), torch.tensor(starts)


@cache
def trained() -> LanguageModel:
    """Train the model and load it as the program loads any; shared and read-only."""
    torch.manual_seed(SEED)
    config = GPT2Config(
        vocab_size=len(WORDS), n_positions=LENGTH, n_embd=64, n_layer=2, n_head=4, n_inner=64,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model, generator = GPT2LMHeadModel(config), torch.Generator().manual_seed(SEED)
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=STEPS)
    behind = torch.arange(PASSAGE - 1)
    for _ in range(STEPS):
        tokens, starts = sequences(BATCH, generator)
        places = starts[:, None] + behind
        logits = model(tokens).logits.gather(1, places[..., None].expand(-1, -1, len(WORDS)))
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), tokens.gather(1, places + 1).flatten()
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    directory = Path(mkdtemp(prefix="trained-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    model.save_pretrained(directory)
    word_tokenizer(WORDS).save_pretrained(directory)
    return load_model(str(directory), device="cpu")


def pairs(n: int, seed: int = 1) -> list[PromptPair]:
    """Return prompts that end in the middle of the second copy; the first copy is corrupted."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for row, start in zip(*sequences(n, generator), strict=True):
        end = int(start) + 3
        tokens = row[:end].tolist()
        answer = int(row[end])
        first = tokens.index(tokens[-1])
        spare = [i for i in range(len(WORDS)) if i not in tokens and i != answer]
        corrupt = list(tokens)
        corrupt[first : first + 2] = spare[:2]  # nothing to be found any more
        words = [WORDS[i] for i in tokens], [WORDS[i] for i in corrupt]
        made.append(PromptPair(*(" ".join(w) for w in words), WORDS[answer], WORDS[spare[1]]))
    return made
