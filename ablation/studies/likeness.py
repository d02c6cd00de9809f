"""How alike heads are: in what they do to predictions, in what they write, and in feeding others.

Three measures, each a number for every pair of heads:

- effects: the cosine of two heads' effects, the changes of the logits of likely next tokens without
  each head. Every prompt counts the same, by the size of all heads' effects on it.
- outputs: the correlation of what two heads write into the residual stream, over positions and
  dimensions (the covariance's trace over the roots of the two variances'); a constant that a head
  always writes does not count.
- composition: how strongly the earlier one's output enters the later one's query, key or value
  (`ablation.composition`), by the strongest of the three; none within a layer.

Effects and outputs have a sign: heads that work against each other are the least alike. The
measures have no unit in common, so that they are brought together as ranks among pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats

from ablation.composition import Composition
from ablation.studies.asked import AskedPrompt
from models.language_model import LanguageModel
from models.types import FloatArray, Head, TokenizedPrompt

EFFECTS, OUTPUTS, COMPOSITION = "effects", "outputs", "composition"
MEASURES = (EFFECTS, OUTPUTS, COMPOSITION)
ALL = "all"
"""All measures together."""
N_TOKENS = 15
"""Likeliest tokens of the clean run whose change is looked at, beside the right one."""
MOST_POSITIONS = 16
"""Positions of a prompt at which outputs are compared, spread evenly; the first is left out."""
LEAST_VARIANCE = 1e-10
"""Of a head's mean square output: what varies less is a constant and rounding."""


@dataclass(frozen=True, slots=True, eq=False)
class Outputs:
    """Sums over positions of what heads write, of one prompt."""

    n: int
    sums: FloatArray
    """float64 [n_heads, d_model]."""
    products: FloatArray
    """float64 [n_heads, n_heads], scalar products of two heads' writings."""


def changes(
    asked: AskedPrompt, sets: Sequence[Sequence[Head]], n_tokens: int = N_TOKENS
) -> FloatArray:
    """Ablate each set of heads; return how logits change, float64 [n_sets, 1 + n_tokens].

    Logits are taken less their mean over the vocabulary. They add up where effects do, which
    log-probabilities do not: the softmax makes two independent changes of one logit interact. The
    right token is first; then come the clean run's likeliest others.

    Raises:
        Cancelled: the work was cancelled.
    """
    clean = asked.question.baseline.log_probs
    likeliest = [int(i) for i in np.argsort(-clean)[: n_tokens + 1]] if n_tokens else []
    tokens = [asked.answer, *(i for i in likeliest if i != asked.answer)][: n_tokens + 1]
    found = np.full((len(sets), len(tokens)), np.nan)
    for indices, log_probs in asked.question.evaluate(sets):
        logits = log_probs[:, tokens] - log_probs.mean(dim=1, keepdim=True)
        found[indices] = logits.cpu().numpy() - (clean[tokens] - clean.mean())
    return found


def outputs_of(model: LanguageModel, prompt: TokenizedPrompt) -> Outputs:
    """Run a prompt and sum up what its heads write.

    Raises:
        UserError: the model's blocks do something else than add to the residual stream, or memory
            ran out.
    """
    stream = model.residual.read(prompt)
    n = len(prompt)
    at = sorted({int(i) for i in np.linspace(min(1, n - 1), n - 1, MOST_POSITIONS).round()})
    written = torch.cat([terms.heads(at).cpu() for terms in stream.layers]).double()
    flat = written.flatten(1)
    return Outputs(len(at), written.sum(dim=1).numpy(), (flat @ flat.T).numpy())


def effects_likeness(changed: Sequence[FloatArray]) -> FloatArray:
    """Return cosines of heads' effects, [n_heads, n_heads].

    Args:
        changed: of each prompt, [n_heads, n_tokens]; a head without any effect is like none.
    """
    sizes = [float(np.sqrt((of_one**2).mean())) for of_one in changed]
    profile = np.concatenate(
        [of_one / size for of_one, size in zip(changed, sizes, strict=True) if size > 0]
        or [np.zeros((len(changed[0]), 1))],
        axis=1,
    )
    products = profile @ profile.T
    return _normed(products, np.diag(products))


def outputs_likeness(outputs: Sequence[Outputs], heads: FloatArray) -> FloatArray:
    """Return correlations of what heads write, [n_heads, n_heads].

    Args:
        heads: int [n_heads], numbers of those wanted.
    """
    n = sum(of_one.n for of_one in outputs)
    mean = np.stack([of_one.sums[heads] for of_one in outputs]).sum(axis=0) / n
    square = np.ix_(heads, heads)
    products = np.stack([of_one.products[square] for of_one in outputs]).sum(axis=0) / n
    return _normed(products - mean @ mean.T, np.diag(products))


def composition_likeness(composition: Composition) -> FloatArray:
    """Return how strongly the earlier of two heads feeds the later, as the highest of its ranks
    among all pairs by query, key and value; [n_heads, n_heads], NaN within a layer."""
    ranks = np.stack([_ranks(of_kind, ~np.isnan(of_kind)) for of_kind in composition.scores])
    one_way = np.where(np.isnan(ranks).all(axis=0), -np.inf, np.fmax.reduce(ranks))
    either = np.maximum(one_way, one_way.T)
    return np.where(np.isinf(either), np.nan, either)


def together(likeness: Sequence[FloatArray]) -> FloatArray:
    """Return several measures' mean rank among pairs, ranked again, [n_heads, n_heads] in [0, 1].

    Where a measure is not defined, the others count. The mean of fewer ranks varies more: pairs are
    ranked again among those of as many measures, so that none of them are extreme for that alone.
    """
    ranks = [ranked(of_one) for of_one in likeness]
    counts = np.sum([~np.isnan(of_one) for of_one in ranks], axis=0)
    mean = np.sum([np.nan_to_num(of_one) for of_one in ranks], axis=0) / np.maximum(counts, 1)
    found = np.zeros_like(mean)
    apart = ~np.eye(len(mean), dtype=bool)
    for count in np.unique(counts[apart]):
        among = apart & (counts == count)
        found[among] = _ranks(mean, among)[among]
    return found


def ranked(values: FloatArray) -> FloatArray:
    """Return each entry's rank among all entries off the diagonal, in [0, 1]; NaN stays."""
    return _ranks(values, ~np.isnan(values) & ~np.eye(len(values), dtype=bool))


def _ranks(values: FloatArray, among: FloatArray) -> FloatArray:
    """Return ranks among the entries of a mask, in [0, 1]; NaN elsewhere."""
    found = np.full(values.shape, np.nan)
    # Rounded, so that what is equal but for rounding errors shares a rank.
    found[among] = (stats.rankdata(values[among].round(6)) - 0.5) / max(1, among.sum())
    return found


def _normed(products: FloatArray, sizes: FloatArray) -> FloatArray:
    """Divide scalar products by the lengths of both; 0 where one has none beside its size."""
    squares = np.diag(products)
    lengths = np.sqrt(np.where(squares > LEAST_VARIANCE * sizes, squares, 0))
    both = np.outer(lengths, lengths)
    cosines: FloatArray = np.divide(products, both, out=np.zeros_like(products), where=both > 0)
    return cosines
