"""A two-layer GPT-2 whose weights are set by formula, so that its circuit is known.

It continues what was said before. The residual stream has four parts of its own: the token, the
position, the token before (written by a head of layer 0) and the answer (written by a head of
layer 1), each one-hot. The unembedding reads the answer. Two more entries are large constants, so
that norms hardly see the rest: their scale is the same whatever flows.

- L0H0, the previous-token head: the query is the position, the key the position after it, so that
  it looks at the token before; what it moves is that token.
- L1H0, the induction head: the query is the token, the key the token before; what it moves is the
  token that it looks at.

All other heads and both MLPs are exactly 0. A prompt corrupted in its tokens changes the prediction
over five edges alone (`TRUE_EDGES`); positions are the same in both prompts.
"""

import atexit
import random
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from ablation.circuit.types import PromptPair
from models.language_model import LanguageModel
from models.registry import load_model

N_TOKENS, N_POSITIONS = 10, 12
TOKEN, POSITION = 0, N_TOKENS
BEFORE = N_TOKENS + N_POSITIONS
ANSWER = BEFORE + N_TOKENS
BALLAST = ANSWER + N_TOKENS
D_MODEL = BALLAST + 2  # 44: two heads of 22
D_HEAD = D_MODEL // 2

SHARPNESS = 6.0
"""Score of the key that is looked for; others have 0. Not so high that gradients vanish."""

WEIGHT = 100.0
"""Of the constants; what a norm makes of 1 is `ENTRY`."""

ENTRY = (D_MODEL / 2) ** 0.5 / WEIGHT

TRUE_EDGES = {
    ("embed", "L0H0.v"),
    ("L0H0", "L1H0.k"),
    ("embed", "L1H0.q"),
    ("embed", "L1H0.v"),
    ("L1H0", "logits"),
}


def hand_wired_model() -> GPT2LMHeadModel:
    config = GPT2Config(
        vocab_size=N_TOKENS,
        n_positions=N_POSITIONS,
        n_embd=D_MODEL,
        n_layer=2,
        n_head=2,
        n_inner=4,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_gain = "ln_" in name and name.endswith("weight")
            parameter.fill_(1.0 if is_gain else 0.0)
        _embed(model)
        _wire(model, 0, query=_next_position(), key=_span(POSITION, N_POSITIONS), writes=BEFORE)
        _wire(model, 1, query=_span(TOKEN, N_TOKENS), key=_span(BEFORE, N_TOKENS), writes=ANSWER)
        model.lm_head.weight[:, ANSWER : ANSWER + N_TOKENS] = 8 / ENTRY * torch.eye(N_TOKENS)
    return model


def _embed(model: GPT2LMHeadModel) -> None:
    model.transformer.wte.weight[:, TOKEN : TOKEN + N_TOKENS] = torch.eye(N_TOKENS)
    model.transformer.wpe.weight[:, POSITION : POSITION + N_POSITIONS] = torch.eye(N_POSITIONS)
    model.transformer.wpe.weight[:, BALLAST:] = WEIGHT * torch.tensor([1.0, -1.0])


def _span(first: int, count: int) -> torch.Tensor:
    """Return [d_model, d_head] that copies a part of the stream to the head's first dimensions."""
    matrix = torch.zeros(D_MODEL, D_HEAD)
    matrix[first : first + count, :count] = torch.eye(count)
    return matrix


def _next_position() -> torch.Tensor:
    """Return the same of positions, moved down by one: position 3 asks for position 2."""
    return torch.roll(_span(POSITION, N_POSITIONS), -1, dims=1)


def _wire(
    model: GPT2LMHeadModel, layer: int, query: torch.Tensor, key: torch.Tensor, writes: int
) -> None:
    """Let head 0 of a layer look by `query` and `key`, and write the token it finds."""
    attention = model.transformer.h[layer].attn
    strength = (SHARPNESS * D_HEAD**0.5) ** 0.5 / ENTRY  # scores are divided by the root of d_head
    attention.c_attn.weight[:, :D_HEAD] = strength * query
    attention.c_attn.weight[:, D_MODEL : D_MODEL + D_HEAD] = strength * key
    value = _span(TOKEN, N_TOKENS) / ENTRY
    attention.c_attn.weight[:, 2 * D_MODEL : 2 * D_MODEL + D_HEAD] = value
    attention.c_proj.weight[:N_TOKENS, writes : writes + N_TOKENS] = torch.eye(N_TOKENS)


WORDS = tuple("abcdefghij")


def word_tokenizer(words: Sequence[str] = WORDS) -> PreTrainedTokenizerFast:
    """Return a tokenizer whose tokens are these words, set apart by spaces."""
    pieces = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="a"))
    pieces.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=pieces, unk_token="a")


@cache
def hand_wired() -> LanguageModel:
    """Return it loaded as the program loads any model; shared and read-only."""
    directory = Path(mkdtemp(prefix="hand-wired-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    hand_wired_model().save_pretrained(directory)
    word_tokenizer().save_pretrained(directory)
    return load_model(str(directory), device="cpu")


@cache
def wired_twins() -> LanguageModel:
    """Return it with a second induction head, L1H1, that does what L1H0 does: each is enough."""
    twins = hand_wired_model()
    attention = twins.transformer.h[1].attn
    with torch.no_grad():
        for first in range(0, 3 * D_MODEL, D_MODEL):
            own = attention.c_attn.weight[:, first : first + D_HEAD]
            attention.c_attn.weight[:, first + D_HEAD : first + D_MODEL] = own
        attention.c_proj.weight[D_HEAD:] = attention.c_proj.weight[:D_HEAD]
    directory = Path(mkdtemp(prefix="wired-twins-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    twins.save_pretrained(directory)
    word_tokenizer().save_pretrained(directory)
    return load_model(str(directory), device="cpu")


def pairs(n: int = 8, seed: int = 0) -> list[PromptPair]:
    """Return prompts like "c a b f a" (answer b), corrupted in every token, and so that the token
    said before stands elsewhere: "d e h g h"."""
    chance = random.Random(seed)
    made = []
    for _ in range(n):
        letters = chance.sample(WORDS[1:], 9)
        said, other = letters[:4], letters[4:8]
        answer, distractor = said[2], other[3]
        clean = [*said, said[1]]
        corrupt = [*other, other[2]]
        made.append(PromptPair(" ".join(clean), " ".join(corrupt), answer, distractor))
    return made
