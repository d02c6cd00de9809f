"""The study of linguistic heads: a wired head is found, and random weights have none."""

import atexit
import re
import shutil
import threading
from collections import Counter
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny_model, tiny_torch_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from ablation import Progress, run_study
from ablation.studies import plan_study
from ablation.studies.prompts import PromptSet, StudyPrompt
from ablation.studies.relations import (
    RELATIONS,
    Mark,
    Sentence,
    make_sentences,
    place_marks,
    words_of_half,
)
from ablation.studies.relations.templates import PRONOUNS, WORDS
from ablation.studies.relations.verdicts import shares
from models.errors import UserError
from models.language_model import LanguageModel
from models.registry import load_model
from models.types import Head, TokenizedPrompt
from viz.studies import study_figures

ADJECTIVE, NOUN, D_MODEL = 0, 1, 8
PAIRS = PromptSet(
    "pairs",
    tuple(
        StudyPrompt(f"the {adjective} house", "is", "are")
        for adjective in ("old", "new", "big", "dark")
    ),
    "typed",
)


@cache
def vocabulary() -> tuple[str, ...]:
    texts = " ".join(s.text for s in make_sentences()) + " ".join(PAIRS.texts) + " is are"
    return tuple(dict.fromkeys(["[UNK]", *re.findall(r"\w+|[^\w\s]+", texts)]))


def loaded(model: Any) -> LanguageModel:
    directory = Path(mkdtemp(prefix="linguistic-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    model.save_pretrained(directory)
    known = {word: i for i, word in enumerate(vocabulary())}
    pieces = Tokenizer(models.WordLevel(known, unk_token="[UNK]"))
    pieces.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=pieces, unk_token="[UNK]")
    tokenizer.save_pretrained(directory)
    return load_model(str(directory), device="cpu")


@cache
def wired() -> LanguageModel:
    """One layer whose head 0 looks from nouns at adjectives, and says "is" where it does."""
    words = vocabulary()
    config = GPT2Config(
        vocab_size=len(words), n_positions=64, n_embd=D_MODEL, n_layer=1, n_head=2, n_inner=4,
        tie_word_embeddings=False, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    kinds = {ADJECTIVE: ("adj",), NOUN: ("thing", "place", "person", "man")}
    entry = (D_MODEL / 2) ** 0.5 / 100  # what the norm makes of 1
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "ln_" in name and name.endswith("weight") else 0.0)
        embedding, attention = model.transformer.wte.weight, model.transformer.h[0].attn
        for entry_of, named in kinds.items():
            own = {word for kind in named for word in WORDS[kind]}
            embedding[[i for i, word in enumerate(words) if word in own], entry_of] = 1.0
        model.transformer.wpe.weight[:, -2:] = torch.tensor([100.0, -100.0])
        attention.c_attn.weight[NOUN, 0] = 4 / entry
        attention.c_attn.weight[ADJECTIVE, D_MODEL] = 4 / entry
        attention.c_attn.weight[ADJECTIVE, 2 * D_MODEL] = 1 / entry
        attention.c_proj.weight[0, 3] = 1.0
        model.lm_head.weight[words.index("is"), 3] = 3 / entry
    return loaded(model)


def test_the_sentences_are_as_promised() -> None:
    sentences = make_sentences()
    marks = [(s, mark) for s in sentences for mark in s.marks]
    counts = Counter(mark.relation for _, mark in marks)
    assert set(counts) == set(RELATIONS)
    assert min(counts.values()) >= 60
    for relation in RELATIONS:
        for held_out in (False, True):
            own = [(s, m) for s, m in marks if (m.relation, s.held_out) == (relation, held_out)]
            assert len({s.structure.split(":")[0] for s, _ in own}) >= 5
            assert len({m.query[0] - m.key[1] for _, m in own}) >= 3, "distances vary"
    for kind in WORDS.keys() - PRONOUNS:
        assert not set(words_of_half(kind, 0)) & set(words_of_half(kind, 1))
    for sentence, mark in marks:
        key, query = (sentence.text[slice(*span)] for span in (mark.key, mark.query))
        assert key.isalpha()
        assert query.isalpha()
        assert mark.key[1] <= mark.query[0]
    assert make_sentences() == sentences
    assert make_sentences(1) != sentences


def test_split_words_are_looked_at_from_their_last_token() -> None:
    sentence = Sentence("An oldish cat", (Mark("adjective-noun", (3, 9), (10, 13)),), "0:", False)
    tokens = ("<s>", "An", " old", "ish", " c", "at")
    kinds = ("special", *["text"] * 5)
    prompt = TokenizedPrompt(sentence.text, tuple(range(6)), tokens, tokens, kinds)
    [mark] = place_marks(prompt, sentence)
    assert (mark.keys, mark.query, mark.split) == ((2, 3), 5, True)
    tokens = ("<s>", "An", " old", "ish c", "at", "")
    across = TokenizedPrompt(sentence.text, tuple(range(6)), tokens, tokens, kinds)
    assert place_marks(across, sentence) == ()


def test_each_structure_counts_the_same() -> None:
    hits = np.array([[1, 0], [1, 0], [1, 1], [0, 1]], dtype=bool)
    found = shares(hits, np.array(["0:1", "0:1", "0:1", "1:"]))
    np.testing.assert_allclose(found, [[1, 1 / 3], [0, 1]])


def test_the_wired_head_is_found_and_no_other() -> None:
    result = run_study("linguistic-heads", wired(), PAIRS)
    found = result.details
    assert {v.relation: [one.head for one in v.winners] for v in found.verdicts} == {
        relation: [Head(0, 0)] if relation == "adjective-noun" else [] for relation in RELATIONS
    }
    assert found.marks.n_lost == 0
    row = result.table[result.table["counts"]].iloc[0]
    assert (row["head"], row["relation"]) == ("L0H0", "adjective-noun")
    # Ablated, the answer's entry is as far below the mean as the noun's lifts it: 1 of 8, times 3.
    effect = found.agreement
    assert effect.clean.min() > 1
    np.testing.assert_allclose(effect.singles[Head(0, 0)], -3 / D_MODEL, atol=1e-4)
    np.testing.assert_allclose(effect.singles[Head(0, 1)], effect.clean, atol=1e-5)
    assert row["margin"] == pytest.approx(-3 / D_MODEL - effect.clean.mean(), abs=1e-4)
    assert result.answer[0].startswith("1 of 2 heads look at the related word")
    assert result.n_prompts == 240 + 4
    assert result.to_json()["relations"][3]["heads"] == [[0, 0]]
    figures = study_figures(result)
    assert [one.name for one in figures] == [
        "shares", "map", "by-distance", "agreement", "interventions"
    ]  # fmt: skip
    assert set(effect.others) == {"mean", "permute"}
    assert effect.others["mean"].shape == (4, len(effect.groups))
    assert any(said.startswith("By other interventions") for said in result.answer)
    assert figures[3].figure.data[0].y[0] == pytest.approx(row["margin"])


@pytest.mark.parametrize(("family", "seed"), [("llama", 0), ("gpt2", 1)])
def test_on_random_weights_no_head_is_called_linguistic(family: str, seed: int) -> None:
    model = loaded(tiny_torch_model(family, seed, vocab_size=len(vocabulary())))
    result = run_study("linguistic-heads", model, PAIRS)
    assert result.details.winners == ()
    assert result.details.agreement is None
    assert sum(verdict.judged for verdict in result.details.verdicts) == len(RELATIONS)
    assert result.answer[0].startswith("No head of 12")
    assert len(study_figures(result)) == 3


def test_cancelling_keeps_the_sentences_read() -> None:
    cancel = threading.Event()

    def progress(at: Progress) -> None:
        if at.done == 120:
            cancel.set()

    result = run_study("linguistic-heads", wired(), PAIRS, progress=progress, cancel=cancel)
    assert (result.stopped, result.n_prompts) == ("cancelled", 120)
    assert result.details.marks.n_sentences == 120
    assert any(said.startswith("Cancelled: 120 of 240 sentences") for said in result.caveats)
    cancel.clear()
    result = run_study(
        "linguistic-heads",
        wired(),
        PAIRS,
        progress=lambda at: cancel.set() if "prompt 1 of" in at.message else None,
        cancel=cancel,
    )
    assert (result.stopped, result.details.agreement.n_prompts) == ("cancelled", 1)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match="prompt 1 has no answer"):
        run_study("linguistic-heads", wired(), ["the old house"])
    with pytest.raises(UserError, match="does not predict"):
        plan_study("linguistic-heads", tiny_model("bert"), PAIRS)
    with pytest.raises(UserError, match="encoder-decoder"):
        plan_study("linguistic-heads", tiny_model("t5"), PAIRS)


def test_cancelling_before_the_other_interventions_is_said() -> None:
    cancel = threading.Event()

    def progress(seen: Progress) -> None:
        if seen.message.startswith("The same heads by"):
            cancel.set()

    result = run_study("linguistic-heads", wired(), PAIRS, progress=progress, cancel=cancel)
    assert result.stopped == "cancelled"
    assert result.details.agreement.others == {}
    assert "other interventions was not measured" in result.caveats[-1]
