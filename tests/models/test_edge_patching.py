"""Edge patching: exact, held against a run written out by formula and against finite differences.

Tolerances: logits of the tiny models are around 1 to 10 and float32 rounds at 1e-6 of that, so 1e-4
is asked for, as the issue does; a wrong edge moves them by more than 1e-2.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from edge_reference import patched_run
from tiny import CAUSAL, reference_model, tiny_model
from torch import Tensor

from models.edge_graph import EdgeGraph
from models.edge_patching import EdgePatching
from models.errors import UserError
from models.language_model import LanguageModel
from models.patched_run import PatchedRun, Prompts, Reference

HOOKED = ("gptj", "gpt_neo", "bloom", "falcon", "falcon_alibi")
DISPATCHING = [family for family in CAUSAL if family not in HOOKED]
N_ROWS, LENGTH = 3, 7
EXACT = 1e-4


def some_rows(model: LanguageModel, seed: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, model.n_vocab - 1, (N_ROWS, LENGTH), generator=generator).tolist()


def posed(model: LanguageModel) -> tuple[Prompts, Prompts, Reference]:
    edges, reads = model.edges, [LENGTH - 1] * N_ROWS
    clean, corrupt = edges.run(some_rows(model, 0), reads), edges.run(some_rows(model, 1), reads)
    return clean, corrupt, edges.reference(clean, corrupt.parts, is_run=True)


def own_logits(family: str, rows: list[list[int]]) -> Tensor:
    with torch.no_grad():
        found: Tensor = reference_model(family)(torch.tensor(rows)).logits[:, -1]
    return found


@pytest.mark.parametrize("family", DISPATCHING)
def test_all_edges_are_the_clean_run_and_none_the_corrupted(family: str) -> None:
    model = tiny_model(family)
    edges = model.edges
    clean, _, reference = posed(model)
    every = edges.graph.possible
    found = edges.logits(clean, reference, every)
    torch.testing.assert_close(found, own_logits(family, some_rows(model, 0)), atol=EXACT, rtol=0)
    found = edges.logits(clean, reference, np.zeros_like(every))
    torch.testing.assert_close(found, own_logits(family, some_rows(model, 1)), atol=EXACT, rtol=0)


def slow_logits(
    family: str, graph: EdgeGraph, rows: list[list[int]], others: list[list[int]], kept: np.ndarray
) -> Tensor:
    """Return the same from `tests.edge_reference`, a prompt at a time."""
    model = reference_model(family)
    places = {
        (str(edge.source), str(edge.target)): bool(kept[target, source])
        for target, source, edge in graph.edges(graph.possible)
    }
    found = []
    with torch.no_grad():
        for ids, other in zip(rows, others, strict=True):
            _, corrupt = patched_run(model, torch.tensor(other), {}, lambda _s, _t: True)
            logits, _ = patched_run(model, torch.tensor(ids), corrupt, lambda s, t: places[s, t])
            found.append(logits)
    return torch.stack(found)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_random_sets_of_edges_equal_a_run_by_formula(family: str, share: float) -> None:
    model = tiny_model(family)
    edges = model.edges
    clean, _, reference = posed(model)
    chance = np.random.default_rng(round(10 * share))
    kept = edges.graph.possible & (chance.random(edges.graph.possible.shape) < share)
    expected = slow_logits(family, edges.graph, some_rows(model, 0), some_rows(model, 1), kept)
    found = edges.logits(clean, reference, kept)
    torch.testing.assert_close(found, expected, atol=EXACT, rtol=0)
    # The set matters: the clean run is far away.
    assert (expected - own_logits(family, some_rows(model, 0))).abs().max() > 100 * EXACT


@pytest.mark.parametrize("family", DISPATCHING)
def test_what_is_the_same_before_the_first_difference_need_not_be_run(family: str) -> None:
    """Prompts that begin alike: runs and scores from where they differ equal those of all."""
    model = tiny_model(family)
    edges, reads, alike = model.edges, [LENGTH - 1] * N_ROWS, 4
    rows, others = some_rows(model, 0), some_rows(model, 1)
    others = [row[:alike] + other[alike:] for row, other in zip(rows, others, strict=True)]
    clean, corrupt = edges.run(rows, reads), edges.run(others, reads)
    whole = edges.reference(clean, corrupt.parts, is_run=True)
    later = edges.reference(clean, corrupt.parts, is_run=True, first=alike)
    assert (whole.first, later.first) == (0, alike)
    possible = edges.graph.possible
    kept = possible & (np.random.default_rng(1).random(possible.shape) < 0.5)
    expected = edges.logits(clean, whole, kept)
    torch.testing.assert_close(edges.logits(clean, later, kept), expected, atol=EXACT, rtol=0)
    expected = edges.outputs(clean, whole, kept)
    torch.testing.assert_close(edges.outputs(clean, later, kept), expected, atol=EXACT, rtol=0)
    score = weighted(model)
    slow, fast = (edges.scores(clean, of, clean.hidden, score) for of in (whole, later))
    np.testing.assert_allclose(fast, slow, rtol=0, atol=1e-4 * np.abs(slow).max())


def weighted(model: LanguageModel) -> Callable[[Tensor], Tensor]:
    weights = torch.randn(model.n_vocab, generator=torch.Generator().manual_seed(3))
    return lambda logits: (logits.float() @ weights).sum()


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "gpt_neox"])
def test_gates_of_all_edges_have_the_edges_scores_as_gradients(family: str) -> None:
    """Two ways to the same derivative: through the run with every edge patched, and through the
    plain run and what each source puts out."""
    model = tiny_model(family)
    edges, score = model.edges, weighted(model)
    clean, _, reference = posed(model)
    expected = edges.scores(clean, reference, clean.hidden, score)
    found = edges.gate_gradients(clean, reference, edges.graph.possible, score)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_gates_of_a_circuit_tell_what_a_little_less_of_an_edge_loses(family: str) -> None:
    model = tiny_model(family)
    edges, score = model.edges, weighted(model)
    clean, _, reference = posed(model)
    possible = edges.graph.possible
    kept = possible & (np.random.default_rng(3).random(possible.shape) < 0.3)
    found = edges.gate_gradients(clean, reference, kept, score)
    assert not found[~kept].any()
    assert not edges.gate_gradients(clean, reference, np.zeros_like(kept), score).any()

    def opened(target: int, source: int, by: float) -> float:
        gates = torch.as_tensor(kept, dtype=torch.float32)
        gates[target, source] = by
        run = PatchedRun(edges._layerwise, clean, reference, kept, gates)
        with torch.no_grad():
            return float(score(edges.read(run.final(), clean, reference.first)))

    step = 0.02
    for target, source in np.argwhere(kept)[::9]:
        slope = (opened(target, source, 1 + step) - opened(target, source, 1 - step)) / (2 * step)
        assert found[target, source] == pytest.approx(slope, abs=1e-3 * np.abs(found).max())


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "gpt_neox", "gpt_oss"])
def test_scores_are_the_slope_of_exact_patching(family: str) -> None:
    """Central differences of runs in which one edge carries 3 % more or less, and 1.5 %, taken to
    their limit; what rounding leaves is 4e-5 of the largest score."""
    model = tiny_model(family)
    edges, score = model.edges, weighted(model)
    clean, _, reference = posed(model)
    scores = edges.scores(clean, reference, clean.hidden, score)
    every = edges.graph.possible

    def opened(target: int, source: int, by: float) -> float:
        gates = torch.as_tensor(every, dtype=torch.float32)
        gates[target, source] = by
        run = PatchedRun(edges._layerwise, clean, reference, every, gates)
        with torch.no_grad():
            return float(score(edges.read(run.final(), clean, reference.first)))

    def slope(target: int, source: int, step: float) -> float:
        ends = (opened(target, source, 1 + step), opened(target, source, 1 - step))
        return (ends[0] - ends[1]) / (2 * step)

    largest = np.abs(scores).max()
    for target, source in np.random.default_rng(0).permutation(np.argwhere(every))[:16]:
        far, near = (slope(target, source, step) for step in (0.03, 0.015))
        expected = (4 * near - far) / 3
        assert scores[target, source] == pytest.approx(expected, rel=1e-3, abs=1e-4 * largest)
    assert not scores[~every].any()


def test_mean_and_zero_references_are_what_flows_when_no_edge_is_kept() -> None:
    model = tiny_model("qwen2")
    edges = model.edges
    clean, _, _ = posed(model)
    zeros = type(clean.parts)(
        torch.zeros_like(clean.parts.outputs), clean.parts.biases, clean.parts.final
    )
    reference = edges.reference(clean, zeros, is_run=False)
    nothing = np.zeros_like(edges.graph.possible)
    nowhere = edges.logits(clean, reference, nothing)
    # RMS norm of nothing is nothing, and neither output projection nor unembedding has a bias.
    torch.testing.assert_close(nowhere, torch.zeros_like(nowhere))
    everything = edges.logits(clean, reference, edges.graph.possible)
    expected = own_logits("qwen2", some_rows(model, 0))
    torch.testing.assert_close(everything, expected, atol=EXACT, rtol=0)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox"])
def test_the_graph_counts_what_the_model_has(family: str) -> None:
    model = tiny_model(family)
    graph = model.edges.graph
    shape = graph.layers[0]
    assert graph.n_layers == model.n_layers
    assert (shape.n_heads, shape.n_kv_heads) == (model.n_heads, model.n_kv_heads)
    assert shape.parallel == (family == "gpt_neox")
    assert graph.n_edges == int(graph.possible.sum())
    assert len(graph.sources) == 1 + model.n_layers * (model.n_heads + 1)


def test_heads_share_keys_and_values_by_group() -> None:
    graph = tiny_model("llama").edges.graph
    keys = [target for target in graph.targets if target.input == "k"]
    assert [str(head) for head in graph.heads_of(keys[1])] == ["L0H2", "L0H3"]
    head = graph.sources[graph.first_source(1) + 3]
    assert [str(graph.targets[i]) for i in graph.inputs_of(head)] == [
        "L1H3.q", "L1KV1.k", "L1KV1.v",
    ]  # fmt: skip


@pytest.mark.parametrize("family", ["gptj", "bloom"])
def test_hooked_architectures_are_refused_with_the_reason(family: str) -> None:
    with pytest.raises(UserError, match="edges cannot be patched"):
        _ = tiny_model(family).edges


def test_parts_that_do_not_add_up_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    edges = tiny_model("opt").edges
    added = type(edges._layerwise).mlp_added
    monkeypatch.setattr(type(edges._layerwise), "mlp_added", lambda *args: 1.01 * added(*args))
    with pytest.raises(UserError, match="do not add up"):
        edges.run([[1, 2, 3]], [2])


def test_edge_patching_is_made_once() -> None:
    model = tiny_model("gpt2")
    assert isinstance(model.edges, EdgePatching)
    assert model.edges is model.edges
