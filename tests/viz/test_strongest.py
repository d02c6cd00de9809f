"""The single weights that are sent of long maps, against a sort of all of them."""

import base64

import numpy as np
import pytest
from viz_samples import causal_maps, prompt

from models.types import AttentionMaps, Head
from viz import coding
from viz.attention import Look, attention_message
from viz.cells import Region
from viz.strongest import FAINTEST, MOST_LINES, strongest_weights


def single_weights(sent: dict) -> dict[tuple[int, int], float]:
    """(query, key) -> weight of what `strongest_weights` returned."""
    places = [
        np.frombuffer(base64.urlsafe_b64decode(sent[name]), "<u2") for name in ("queries", "keys")
    ]
    weights = coding.decode(sent["coded"])[0]
    return {(q, k): w for q, k, w in zip(*(p.tolist() for p in places), weights, strict=True)}


def test_the_strongest_weights_of_a_long_map_are_sent_too() -> None:
    n = 1500
    chance = np.random.default_rng(0)
    weights = np.tril(chance.random((n, n)) ** 8).astype(np.float32)
    weights /= weights.sum(axis=1, keepdims=True)
    maps = AttentionMaps((Head(0, 0),), weights[None], prompt(*["x"] * n))
    zmax = float(weights[1:].max())
    for threshold in (0.0, 0.3):
        message = attention_message(maps, 0, Look(size=300, threshold=threshold))
        found = single_weights(message["strongest"])
        least = max(threshold, FAINTEST * zmax)
        expected = np.sort(weights[weights >= least])[::-1][:MOST_LINES]
        assert 0 < len(found) == len(expected)
        held = sorted(found.values(), reverse=True)
        np.testing.assert_allclose(held, expected, rtol=coding.RELATIVE_ERROR)
        places = tuple(np.array(list(found)).T)
        np.testing.assert_allclose(
            weights[places], list(found.values()), rtol=coding.RELATIVE_ERROR
        )
    region = attention_message(maps, 0, Look(size=300), Region(0, 1400, 0, 1400))
    short = attention_message(causal_maps("a", "b"), 0, Look())
    assert region["strongest"] is short["strongest"] is None


def test_a_map_with_many_strong_weights_sends_only_the_strongest() -> None:
    weights = np.linspace(0.5, 1, 20_000, dtype=np.float32).reshape(100, 200)[::-1]
    found = single_weights(strongest_weights(weights, 1.0, 0.0))
    assert len(found) == MOST_LINES
    assert min(found.values()) == pytest.approx(1 - 0.5 * MOST_LINES / 20_000, rel=1e-3)
