"""Lists of terms, checked as the lines that a person reads."""

import numpy as np
import pytest

from ablation.attribution_types import LogitLens
from models.types import Component, Prediction, TokenizedPrompt, TokenProbability
from viz.terms import component_name, dimension_bars, lens_rows, term_bars

TERMS = (
    (Component("embed"), 0.5),
    (Component("head", 1, 2), -4.0),
    (Component("bias", 1), 0.1),
    (Component("mlp", 1), 2.0),
    (Component("constant"), -0.25),
)


def test_the_largest_terms_come_first_and_the_rest_is_summed() -> None:
    first, second, third, rest = term_bars(TERMS, 3)
    assert [bar.label for bar in (first, second, third)] == ["L1H2", "MLP1", "embedding"]
    assert [bar.value for bar in (first, second, third)] == ["−4.00", "+2.00", "+0.50"]
    assert (rest.label, rest.value, rest.width) == ("2 others", "−0.15", 0.0)
    assert [bar.label for bar in rest.rest] == ["constant", "bias L1"]


def test_bars_start_in_the_middle_and_share_a_scale() -> None:
    negative, positive, *_ = term_bars(TERMS, 3)
    assert (negative.start, negative.width, negative.positive) == (0.0, 0.5, False)
    assert (positive.start, positive.width, positive.positive) == (0.5, 0.25, True)


def test_only_heads_can_be_chosen() -> None:
    assert [bar.head for bar in term_bars(TERMS, 5)] == ["1.2", "", "", "", ""]


def test_a_single_term_that_is_left_keeps_its_name() -> None:
    assert term_bars(TERMS, 4)[-1].label == "bias L1"


def test_no_terms_make_no_lines() -> None:
    assert term_bars((), 3) == []


def test_terms_of_zero_have_no_bar() -> None:
    (bar,) = term_bars([(Component("embed"), 0.0)], 3)
    assert bar.width == 0


def test_dimensions_are_numbered() -> None:
    bars = dimension_bars([(26, -5.0), (3, 1.0), (4, 0.5)], 2)
    assert [bar.label for bar in bars] == ["dim 26", "dim 3", "dim 4"]
    assert not bars[2].rest  # a single one that is left keeps its bar


@pytest.mark.parametrize(
    ("component", "name"),
    [
        (Component("embed"), "embedding"),
        (Component("head", 3, 1), "L3H1"),
        (Component("mlp", 3), "MLP3"),
        (Component("bias", 3), "bias L3"),
        (Component("constant"), "constant"),
    ],
)
def test_components_have_names(component: Component, name: str) -> None:
    assert component_name(component) == name


def test_the_lens_is_read_from_the_last_layer_down() -> None:
    def predicted(probs: list[float]) -> Prediction:
        log_probs = np.log(np.array(probs))
        best = int(np.argmax(probs))
        top = TokenProbability(best, f"t{best}", f"t{best}", probs[best], float(log_probs[best]))
        return Prediction(0, (top,), 1.0, log_probs)

    prompt = TokenizedPrompt("a", (0,), ("a",), ("a",), ("text",))
    watched = TokenProbability(1, "t1", "t1", 0.9, float(np.log(0.9)))
    lens = LogitLens(prompt, (predicted([0.7, 0.3]), predicted([0.1, 0.9])), watched)
    last, first = lens_rows(lens)
    assert (last.after, last.top, last.rank, last.is_watched) == ("L0", "t1", "1", True)
    assert (first.after, first.top, first.rank, first.is_watched) == ("embedding", "t0", "2", False)
    assert first.prob == ".70"
    assert first.share == 0.7
    assert first.log_prob == "−1.20"
