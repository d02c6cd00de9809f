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
D_MODEL = 48  # 44 are used; two heads of 24, or four of 12
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
    model = _unwired(n_heads=2)
    with torch.no_grad():
        _wire_circuit(model, head=0, tokens=slice(0, N_TOKENS))
    return model


def _unwired(n_heads: int) -> GPT2LMHeadModel:
    """Return the model with its embeddings and its unembedding, and heads that do nothing."""
    config = GPT2Config(
        vocab_size=N_TOKENS,
        n_positions=N_POSITIONS,
        n_embd=D_MODEL,
        n_layer=2,
        n_head=n_heads,
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
        model.lm_head.weight[:, ANSWER : ANSWER + N_TOKENS] = 8 / ENTRY * torch.eye(N_TOKENS)
    return model


def _embed(model: GPT2LMHeadModel) -> None:
    model.transformer.wte.weight[:, TOKEN : TOKEN + N_TOKENS] = torch.eye(N_TOKENS)
    model.transformer.wpe.weight[:, POSITION : POSITION + N_POSITIONS] = torch.eye(N_POSITIONS)
    model.transformer.wpe.weight[:, BALLAST : BALLAST + 2] = WEIGHT * torch.tensor([1.0, -1.0])


def _wire_circuit(model: GPT2LMHeadModel, head: int, tokens: slice) -> None:
    """Let this head of both layers continue what was said before, for some tokens alone."""
    positions = slice(0, N_POSITIONS)
    ways = (
        (0, (POSITION, positions), (POSITION, positions), BEFORE),
        (1, (TOKEN, tokens), (BEFORE, tokens), ANSWER),
    )
    for layer, (query, of_query), (key, of_key), writes in ways:
        attention = model.transformer.h[layer].attn
        d_head = D_MODEL // model.config.n_head
        asks, answers = _span(query, of_query, d_head), _span(key, of_key, d_head)
        if layer == 0:  # moved down by one: position 3 asks for position 2
            asks = torch.roll(asks, -1, dims=1)
        # Scores are divided by the root of d_head.
        strength = (SHARPNESS * d_head**0.5) ** 0.5 / ENTRY
        value = _span(TOKEN, tokens, d_head)
        for part, matrix in enumerate((strength * asks, strength * answers, value / ENTRY)):
            first = part * D_MODEL + head * d_head
            attention.c_attn.weight[:, first : first + d_head] = matrix
        rows = attention.c_proj.weight[head * d_head : (head + 1) * d_head]
        rows[:N_TOKENS, writes : writes + N_TOKENS] = torch.eye(N_TOKENS)


def _span(first: int, kept: slice, d_head: int) -> torch.Tensor:
    """Return [d_model, d_head] that copies a part of the stream to the head's first dimensions."""
    matrix = torch.zeros(D_MODEL, d_head)
    for i in range(kept.start, kept.stop):
        matrix[first + i, i] = 1
    return matrix


WORDS = tuple("abcdefghij")


def word_tokenizer(words: Sequence[str] = WORDS) -> PreTrainedTokenizerFast:
    """Return a tokenizer whose tokens are these words, set apart by spaces."""
    pieces = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="a"))
    pieces.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=pieces, unk_token="a")


@cache
def hand_wired() -> LanguageModel:
    """Return it loaded as the program loads any model; shared and read-only."""
    return loaded(hand_wired_model())


def loaded(model: GPT2LMHeadModel) -> LanguageModel:
    """Return it as the program loads any model."""
    directory = Path(mkdtemp(prefix="hand-wired-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    model.save_pretrained(directory)
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
    return loaded(twins)


HALVES = (slice(0, 5), slice(5, N_TOKENS))


@cache
def wired_circuits() -> LanguageModel:
    """Return one with four heads a layer and two circuits: heads 0 continue what was said of the
    first five tokens, heads 1 of the others; heads 2 and 3 do nothing."""
    model = _unwired(n_heads=4)
    with torch.no_grad():
        for head, tokens in enumerate(HALVES):
            _wire_circuit(model, head, tokens)
    return loaded(model)


def prompts_of_circuits(n: int = 12) -> list[str]:
    """Return prompts like "c a b d a", each of the tokens of one circuit, in turn."""
    chance = random.Random(0)
    made = []
    for i in range(n):
        said = chance.sample(WORDS[HALVES[i % 2]], 4)
        made.append(" ".join([*said, said[1]]))
    return made


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
