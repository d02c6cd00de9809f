"""What the heads of a circuit do, each by a stated test. A head that passes no test has no role.

- Previous token, duplicate token, induction: the mean weight where a head of that role must look,
  on random tokens said twice (`ablation.dossier`).
- Copying (a name mover), of heads that the circuit joins to the logits: on clean prompts, at the
  position read, what the head adds to the logits favours the very token that it looks at most;
  negative: it disfavours it. The score is how many standard deviations that token's logit stands
  from the mean over the vocabulary (after Wang et al., arXiv 2211.00593, sections 3.1 and 3.4, who
  count how often it is among the top five).
- Inhibition: with the head's output taken from the corrupted prompt, copying heads whose query or
  key it feeds look more at the distractor from the position read (their section 3.2). The score is
  the largest rise over those heads, mean over the pairs.
"""

from collections.abc import Callable, Sequence

import numpy as np

from ablation.circuit.question import Batch, CircuitQuestion
from ablation.circuit.types import HeadRole
from ablation.dossier import head_dossier
from ablation.interventions import Resample
from ablation.types import Ablation
from models.errors import UserError
from models.types import AttentionMaps, Component, FloatArray, Head, TokenizedPrompt

LEAST_WEIGHT = 0.25
"""Mean weight on repeated tokens from which a head has that role."""

LEAST_DEVIATIONS = 2.0
"""From the mean over the vocabulary, for copying and negative heads."""

LEAST_LOOK = 0.1
"""A head has to give its strongest key at least this weight, the first position apart."""

LEAST_RISE = 0.05
"""Of a copying head's weight on the distractor, for inhibition."""

MOST_PAIRS = 4
"""Pairs that copying and inhibition are measured on."""

DOSSIER_TESTS = {
    "previous_token": ("previous token", "weight on the token before, on random tokens said twice"),
    "duplicate_token": (
        "duplicate token",
        "weight on the same token before, on random tokens said twice",
    ),
    "induction": (
        "induction",
        "weight on the token behind the same one before, on random tokens said twice",
    ),
}

Say = Callable[[str], None]


def roles_of(
    question: CircuitQuestion, heads: Sequence[Head], kept: np.ndarray, say: Say | None = None
) -> tuple[HeadRole, ...]:
    """Test each head, and return the roles whose tests it passed, by head.

    Args:
        kept: the circuit, bool [n_targets, n_sources].
    """
    found = [*_on_stimuli(question, heads)]
    if say is not None:
        say("Roles on repeated tokens")
    graph = question.graph
    direct = [h for h in heads if kept[-1, graph.first_source(h.layer) + h.head]]
    copying = _copying(question, direct)
    if say is not None:
        say("Copying")
    movers = [role.head for role in copying if role.role == "copying"]
    found += [*copying, *_inhibiting(question, heads, movers, kept)]
    if say is not None:
        say("Inhibition")
    return tuple(sorted(found, key=lambda role: (role.head, role.role)))


def _on_stimuli(question: CircuitQuestion, heads: Sequence[Head]) -> list[HeadRole]:
    try:
        dossier = head_dossier(question.model, cancel=question.cancel)
    except UserError:
        return []  # no such stimuli can be made for this model, so nothing is tested on them
    found = []
    for name, (role, test) in DOSSIER_TESTS.items():
        scores = dossier.of(name).values
        for head in heads:
            score = float(scores[head.layer, head.head])
            if score >= LEAST_WEIGHT:
                found.append(HeadRole(head, role, test, score))
    return found


def _some_pairs(question: CircuitQuestion) -> list[tuple[Batch, int]]:
    """Return the first few pairs, as (batch, row)."""
    places = [(batch, row) for batch in question.batches for row in range(len(batch.pairs))]
    return places[:MOST_PAIRS]


def _copying(question: CircuitQuestion, heads: Sequence[Head]) -> list[HeadRole]:
    deviations: dict[Head, list[float]] = {head: [] for head in heads}
    model = question.model
    for batch, row in _some_pairs(question):
        prompt, read = batch.pairs[row].clean, batch.clean.reads[row]
        maps = model.attention(prompt, heads, queries=[read])
        readout = model.residual.ending.readout(batch.clean.parts.final[row, read])
        for i, head in enumerate(heads):
            key = strongest_key(maps, i)
            if key is None:
                continue
            source = question.graph.first_source(head.layer) + head.head
            added = readout.of_terms(batch.clean.parts.outputs[source, row, read][None])[0]
            moved = added[prompt.ids[key]] - added.mean()
            deviations[head].append(float(moved / added.std()))
    found = []
    for head, values in deviations.items():
        # A head that hardly looks anywhere on most prompts is not tested.
        if 2 * len(values) < len(_some_pairs(question)) or not values:
            continue
        score = float(np.mean(values))
        if abs(score) >= LEAST_DEVIATIONS:
            role = "copying" if score > 0 else "negative"
            test = (
                "standard deviations by which it favours the token it looks at most; on at most "
                f"{MOST_PAIRS} pairs"
            )
            found.append(HeadRole(head, role, test, score))
    return found


def strongest_key(maps: AttentionMaps, index: int) -> int | None:
    """Return the key that a head's only row gives most, the first apart; None if it is little."""
    row = maps.values[index, 0, 1:]
    if not len(row) or row.max() < LEAST_LOOK:
        return None
    return 1 + int(row.argmax())


def _inhibiting(
    question: CircuitQuestion, heads: Sequence[Head], movers: Sequence[Head], kept: np.ndarray
) -> list[HeadRole]:
    fed = {head: _fed(question, head, movers, kept) for head in heads}
    rises: dict[Head, list[float]] = {head: [] for head, fed_by in fed.items() if fed_by}
    for batch, row in _some_pairs(question) if rises else ():
        places = _places(batch.pairs[row].clean, batch.pairs[row].distractor_id)
        if not places:
            continue
        before = _looks(question, batch, row, movers, places, None)
        for head, values in rises.items():
            after = _looks(question, batch, row, movers, places, head)
            chosen = [movers.index(mover) for mover in fed[head]]
            values.append(float((after - before)[chosen].max()))
    test = (
        "largest rise of a copying head's weight on the distractor, of those it feeds, when it is "
        f"ablated; on at most {MOST_PAIRS} pairs"
    )
    return [
        HeadRole(head, "inhibition", test, float(np.mean(values)))
        for head, values in rises.items()
        if values and np.mean(values) >= LEAST_RISE
    ]


def _fed(
    question: CircuitQuestion, head: Head, movers: Sequence[Head], kept: np.ndarray
) -> list[Head]:
    """Return the copying heads whose query or key a head feeds in the circuit."""
    graph = question.graph
    source = graph.first_source(head.layer) + head.head
    found = []
    for mover in movers:
        query, key, _ = graph.inputs_of(Component("head", mover.layer, mover.head))
        if kept[[query, key], source].any():
            found.append(mover)
    return found


def _looks(
    question: CircuitQuestion,
    batch: Batch,
    row: int,
    movers: Sequence[Head],
    places: Sequence[int],
    ablated: Head | None,
) -> FloatArray:
    """Return the weight of each mover on some keys at the position read, [n_movers]."""
    pair, read = batch.pairs[row], batch.clean.reads[row]
    ablation = None if ablated is None else Ablation((ablated,), Resample(pair.corrupt.text))
    maps = question.model.attention(pair.clean, movers, queries=[read], ablation=ablation)
    weights: FloatArray = maps.values[:, 0, list(places)].sum(axis=1)
    return weights


def _places(prompt: TokenizedPrompt, token: int | None) -> list[int]:
    return [i for i, token_id in enumerate(prompt.ids) if token_id == token]
