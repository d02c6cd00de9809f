"""What each edge adds to the metric, estimated for all edges at once from gradients."""

from collections.abc import Callable, Iterator

import numpy as np
from torch import Tensor

from ablation.circuit.question import Batch, CircuitQuestion
from ablation.evaluation import stop_if
from models.errors import ErrorKind, UserError

Report = Callable[[int, int, str], None]
"""(done, of how many, what is being done)"""


def scoring_method(method: str) -> str:
    """Return by which gradients edges are ranked; ACDC tries them in the order of EAP-IG."""
    return "eap-ig" if method == "acdc" else method


def n_passes(method: str, steps: int) -> int:
    """Return how many forward and backward passes a method takes, over all pairs; ACDC those of
    EAP-IG, by which it ranks what it tries."""
    return {"eap": 1, "eap-ig-cc": 2}.get(method, steps)


def score_edges(
    question: CircuitQuestion, method: str, steps: int, report: Report | None = None
) -> np.ndarray:
    """Return the score of every edge: by how much keeping it raises the metric, to first order.

        (clean output of the source - reference) * mean gradient of the metric at the target's input

    The gradient is that of the clean prompt (EAP, Syed et al. 2310.10348, equation 2), its mean
    over the clean and the corrupted prompt, or over points between the corrupted and the clean
    embedding (EAP-IG, Hanna et al. 2403.17806, equation 3; taken in the middle of each step, which
    is closer to the integral).

    Returns:
        float64 [n_targets, n_sources], mean over the pairs; 0 where there is no edge.

    Raises:
        UserError: the metric is flat at the clean prompt, so that EAP sees nothing.
        Cancelled: the work was cancelled.
    """
    if method == "eap" and question.metric == "kl":
        raise UserError(
            ErrorKind.OPTION,
            "KL from the clean prompt is flat at the clean prompt, so EAP finds no edge; choose "
            "EAP-IG or another metric.",
        )
    graph = question.graph
    total = np.zeros((len(graph.targets), len(graph.sources)))
    n_all, done = n_passes(method, steps) * len(question.batches), 0
    for batch in question.not_cancelled():
        points = list(gradient_points(batch, method, steps))
        for hidden in points:
            found = question.patching.scores(
                batch.clean, batch.reference, hidden, scorer(question, batch)
            )
            total += found / len(points)
            done += 1
            if report is not None:
                report(done, n_all, f"Gradients: {done} of {n_all} passes")
            stop_if(question.cancel)
    return total / question.n_pairs


def falls(question: CircuitQuestion, kept: np.ndarray) -> np.ndarray:
    """Return by how much the metric falls without each edge of a set, to first order in the run
    of that very set, float64 [n_targets, n_sources]; 0 outside of it.

    Raises:
        Cancelled: the work was cancelled.
    """
    total = np.zeros(kept.shape)
    for batch in question.not_cancelled():
        total += question.patching.gate_gradients(
            batch.clean, batch.reference, kept, scorer(question, batch)
        )
    return total / question.n_pairs


def scorer(question: CircuitQuestion, batch: Batch) -> Callable[[Tensor], Tensor]:
    """Return what gradients are taken of: the metric from logits [row, n_vocab], summed."""

    def score(logits: Tensor) -> Tensor:
        return question.scores_of(batch, logits).sum()

    return score


def gradient_points(batch: Batch, method: str, steps: int) -> Iterator[Tensor]:
    """Yield what goes into the first layer where gradients are taken."""
    clean, reference = batch.clean.hidden.float(), batch.reference.outputs[0]
    if method == "eap":
        yield clean
        return
    shares = (0.0, 1.0) if method == "eap-ig-cc" else [(i + 0.5) / steps for i in range(steps)]
    for share in shares:
        yield reference + share * (clean - reference)
