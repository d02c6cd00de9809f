"""How far a layer's state is from words and near to meaning, in two numbers.

By the logit lens (nostalgebraist 2020): from which layer on the final prediction can be read off.
By sentences: whether the state of a sentence is closer to that of a paraphrase in other words than
to that of a sentence with another meaning in nearly the same words, or to one about something else.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ablation.evaluation import stop_if
from ablation.studies.paraphrases import Triple, load_triples, word_overlap
from ablation.studies.statistics import CONFIDENCE, Interval
from models.language_model import LanguageModel
from models.residual_stream import ResidualStream
from models.types import FloatArray

N_DRAWS = 500
"""Bootstrap draws of sentences; each has to be ranked anew."""
PARAPHRASE, LOOKALIKE, UNRELATED = 0, 1, 2
"""What a sentence is compared with; unrelated is the paraphrase of the next sentence."""
MEAN, LAST = 0, 1
"""The state of a sentence: the mean over its tokens but the first, or that of its last token."""


@dataclass(frozen=True, slots=True, eq=False)
class Separation:
    """How similar states of sentences are, layer by layer."""

    similarity: FloatArray
    """float64 [n_triples, n_layers + 1, 2 (`MEAN`, `LAST`), 3 (`PARAPHRASE`, `LOOKALIKE`,
    `UNRELATED`)]: cosines, the mean state of all sentences taken off."""
    overlap: FloatArray
    """float64 [n_triples, 3]: share of words in common."""

    def auc(self, state: int, against: int) -> Interval:
        """How well paraphrases are told from others, [n_layers + 1]: the probability that a
        paraphrase is the more similar one, over all pairs of the two (area under the ROC curve).

        Args:
            state: `MEAN` or `LAST`.
            against: `LOOKALIKE` or `UNRELATED`.
        """
        values = self.similarity[:, :, state][..., [PARAPHRASE, against]]
        rng = np.random.default_rng(0)
        n = len(values)
        draws = np.stack([_auc(values[rng.integers(0, n, n)]) for _ in range(N_DRAWS)])
        outside = (1 - CONFIDENCE) / 2
        low, high = np.quantile(draws, [outside, 1 - outside], axis=0)
        return Interval(_auc(values), low, high)

    def overlap_auc(self, against: int) -> float:
        """The same of word overlap alone."""
        return float(_auc(self.overlap[:, None, [PARAPHRASE, against]])[0])


def _auc(values: FloatArray) -> FloatArray:
    """Return P(first > second), ties counting half, [n]; values [n_triples, n, 2]."""
    n = len(values)
    ranks = stats.rankdata(np.concatenate([values[..., 0], values[..., 1]]), axis=0)
    area: FloatArray = (ranks[:n].sum(axis=0) - n * (n + 1) / 2) / n**2
    return area


def separate(
    model: LanguageModel,
    report: Callable[[str], None],
    cancel: threading.Event | None,
    triples: Sequence[Triple] | None = None,
) -> Separation:
    """Read the states of all sentences and compare them.

    Args:
        report: called after each triple.
        triples: None for those that ship with the program.

    Raises:
        UserError: a sentence does not fit the model, or its residual stream cannot be read.
        Cancelled: the work was cancelled.
    """
    triples = load_triples() if triples is None else triples
    states = []
    for index, triple in enumerate(triples):
        stop_if(cancel)
        states.append(np.stack([_states(model, text) for text in triple.sentences]))
        report(f"Sentences: {3 * (index + 1)} of {3 * len(triples)}")
    after = [*triples[1:], triples[0]]
    overlaps = [
        [word_overlap(t.sentence, other) for other in (t.paraphrase, t.lookalike, n.paraphrase)]
        for t, n in zip(triples, after, strict=True)
    ]
    return Separation(similarities(np.stack(states)), np.array(overlaps))


def similarities(states: FloatArray) -> FloatArray:
    """Return cosines of sentences with their paraphrase, their look-alike and an unrelated one.

    States of one layer all point the same way (Ethayarajh 2019), so that their mean is taken off.

    Args:
        states: [n_triples, 3, n_layers + 1, 2, d_model].

    Returns:
        [n_triples, n_layers + 1, 2, 3].
    """
    centred = states - states.mean(axis=(0, 1))
    length = np.linalg.norm(centred, axis=-1, keepdims=True)
    unit = centred / np.where(length > 0, length, 1)
    others = (unit[:, 1], unit[:, 2], np.roll(unit[:, 1], -1, axis=0))
    found: FloatArray = np.stack([(unit[:, 0] * o).sum(axis=-1) for o in others], axis=-1)
    return found


def _states(model: LanguageModel, text: str) -> FloatArray:
    """Return the states of a sentence, float64 [n_layers + 1, 2, d_model]."""
    stream = model.residual.read(model.tokenize(text))
    layers = []
    for layer in range(model.n_layers + 1):
        hidden = stream.before(layer).double().cpu().numpy()
        layers.append(np.stack([hidden[1:].mean(axis=0), hidden[-1]]))
    return np.stack(layers)


def readable_from(model: LanguageModel, stream: ResidualStream, first: int = 1) -> np.ndarray:
    """Return from which layer on the logit lens puts the final top token first.

    Args:
        first: the first position that counts.

    Returns:
        int [n_positions]: how many layers have run by then, 0 for the embedding alone.
    """
    n = model.n_layers
    tops = np.stack([
        model.residual.ending.logits(stream.before(layer)[first:].to(model.device))
        .argmax(dim=-1)
        .cpu()
        .numpy()
        for layer in range(n + 1)
    ])  # [n_layers + 1, n_positions]  # fmt: skip
    wrong = tops != tops[-1]
    # The last layer at which it is another token, and one more.
    last_wrong = n - wrong[::-1].argmax(axis=0)
    return np.where(wrong.any(axis=0), last_wrong + 1, 0)
