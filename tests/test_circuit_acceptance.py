"""The circuit of the indirect object on a real model, and on GPT-2 where it is at hand."""

import numpy as np
import pytest

from ablation.circuit.attribution import score_edges
from ablation.circuit.discovery import discover_circuit
from ablation.circuit.patching import patch_heads
from ablation.circuit.pruning import first_edges, greedy_order, random_order
from ablation.circuit.question import pose
from ablation.circuit.tasks import make_pairs
from ablation.circuit.types import PromptPair
from models import load_model
from models.hub import hub_models
from models.language_model import LanguageModel
from models.types import Head

pytestmark = pytest.mark.timeout(900)

PROMPT = "When Mary and John went to the store, John gave a drink to"
SWAPPED = "When Mary and John went to the store, Mary gave a drink to"


@pytest.mark.builtin
def test_the_indirect_object_of_the_builtin_model(builtin: LanguageModel) -> None:
    circuit = discover_circuit(builtin, [PromptPair(PROMPT, SWAPPED, " Mary", " John")])
    assert circuit.values.clean == pytest.approx(6.12, abs=0.05)
    assert circuit.reached
    assert circuit.n_edges <= 0.05 * circuit.graph.n_edges
    assert circuit.completeness is not None
    assert abs(circuit.completeness) < 0.05
    for point in circuit.curve[:-2]:
        assert point.random is not None
        assert point.faithfulness > point.random + 0.3
    roles = {(role.head, role.role) for role in circuit.roles}
    # What repeated tokens show, and what the heads behind them do with it.
    assert (Head(14, 3), "duplicate token") in roles
    assert (Head(17, 4), "induction") in roles
    assert (Head(20, 0), "inhibition") in roles
    assert (Head(23, 0), "copying") in roles


@pytest.mark.builtin
@pytest.mark.thorough
def test_the_gradient_at_more_points_ranks_edges_better(builtin: LanguageModel) -> None:
    pairs = make_pairs(builtin, "ioi", 2, only_correct=True)
    question = pose(builtin, pairs, "logit_diff", "resample")
    graph = question.graph
    clean, corrupt = question.value(graph.possible), question.value(~graph.possible)
    orders = {
        "eap-ig": greedy_order(graph, score_edges(question, "eap-ig", 5)),
        "eap": greedy_order(graph, score_edges(question, "eap", 1)),
        "random": random_order(graph, 0),
    }
    means = {
        name: np.mean(
            [
                (question.value(first_edges(graph, order, count)) - corrupt) / (clean - corrupt)
                for count in (200, 700, 1500)
            ]
        )
        for name, order in orders.items()
    }
    assert means["eap-ig"] > means["eap"] + 0.2
    assert means["eap-ig"] > means["random"] + 0.2


@pytest.mark.skipif("gpt2" not in hub_models(), reason="gpt2 is not in the local hub cache")
def test_the_published_heads_of_gpt2_are_found() -> None:
    """Wang et al. 2211.00593, figure 2: patched one by one, its name movers, negative name movers
    and S-inhibition heads are among the strongest, and its circuit holds the earlier ones."""
    model = load_model("gpt2", device="cpu")
    pairs = make_pairs(model, "ioi", 20, only_correct=True)
    ranked = patch_heads(model, pairs).scores.ranked()
    strongest = {head for head, _ in sorted(ranked, key=lambda r: -abs(r[1]))[:24]}
    assert {Head(9, 9), Head(10, 0), Head(10, 7), Head(11, 10)} <= strongest
    assert len({Head(7, 3), Head(7, 9), Head(8, 6), Head(8, 10)} & strongest) >= 3
    heads = set(discover_circuit(model, pairs).heads)
    published = {
        Head(9, 9), Head(10, 0), Head(9, 6), Head(10, 7), Head(11, 10), Head(7, 3), Head(7, 9),
        Head(8, 6), Head(8, 10), Head(5, 5), Head(6, 9), Head(0, 1), Head(3, 0), Head(2, 2),
        Head(4, 11),
    }  # fmt: skip
    assert len(published & heads) >= 12
