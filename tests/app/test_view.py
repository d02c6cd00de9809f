"""The view and its link: both ways, whatever is in them."""

import base64
import json
import random
import string
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablation.types import STRATEGIES
from app.controls import CONTROLS, values
from app.permalink import MAX_FRAGMENT, VERSION, DamagedLinkError, decode, encode
from app.view import (
    BETWEEN,
    DIRECTIONS,
    EXTRAS,
    MAX_PROMPT_CHARACTERS,
    MAX_SIZE,
    MIN_SIZE,
    PICTURES,
    SCALES,
    STUDIES,
    TABS,
    VALUES,
    InterventionForm,
    View,
    head_from_text,
)
from models.types import Head
from viz.sink import SINKS

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)
stacks = st.from_regex(r"[a-z][a-z_]{0,30}", fullmatch=True)
heads = st.builds(Head, st.integers(0, 999), st.integers(0, 999), st.just("") | stacks)
numbers = st.floats(allow_nan=False, allow_infinity=False)
forms = st.builds(
    InterventionForm,
    texts,
    st.dictionaries(texts, texts | numbers, max_size=3).map(lambda d: tuple(sorted(d.items()))),
)
views = st.builds(
    View,
    model=texts,
    prompt=texts,
    second=st.just("") | texts,
    stack=stacks,
    bos=st.none() | st.booleans(),
    position=st.none() | st.integers(0, 5000),
    heads=st.none() | st.lists(heads, unique=True, max_size=20).map(tuple),
    intervention=forms,
    ablate=st.booleans(),
    acted=st.just("") | texts,
    tab=st.sampled_from(TABS),
    picture=st.sampled_from(tuple(PICTURES)),
    cells=texts,
    token=st.none() | st.integers(0, 5000),
    direction=st.sampled_from(tuple(DIRECTIONS)),
    values=st.sampled_from(tuple(VALUES)),
    threshold=st.floats(0, 1),
    scale=st.sampled_from(SCALES),
    log=st.booleans(),
    sink=st.sampled_from(tuple(SINKS)),
    between=st.sampled_from(list(BETWEEN)),
    size=st.integers(MIN_SIZE, MAX_SIZE),
    linked=st.booleans(),
    extra=st.sampled_from(tuple(EXTRAS)),
    watched=st.none() | st.integers(0, 10**6),
    metric=texts,
    study=st.sampled_from(STUDIES),
    target=st.none() | st.integers(0, 10**6),
    max_heads=st.integers(1, 4096),
    strategy=st.sampled_from(list(STRATEGIES)),
)


@given(views)
def test_a_view_survives_json(view: View) -> None:
    assert View.from_json(json.loads(json.dumps(view.to_json()))) == view


@given(views)
def test_a_view_survives_its_link(view: View) -> None:
    fragment = encode(view)
    assert fragment is not None
    assert decode(f"#{fragment}") == view


@given(st.text(max_size=200) | st.binary(max_size=100).map(lambda b: f"#{VERSION}.{b.hex()}"))
def test_a_damaged_link_is_told_from_a_good_one(fragment: str) -> None:
    try:
        view = decode(fragment)
    except DamagedLinkError:
        return
    assert isinstance(view, View)


@given(views, st.data())
def test_a_link_that_lost_characters_opens_or_is_called_damaged(
    view: View, data: st.DataObject
) -> None:
    fragment = encode(view) or ""
    cut = data.draw(st.integers(0, len(fragment) - 1))
    with pytest.raises(DamagedLinkError):
        decode(fragment[:cut])


def test_a_link_says_only_what_differs_from_a_new_page() -> None:
    assert len(encode(View()) or "") < 40


def test_a_link_from_before_there_were_strategies_opens() -> None:
    fragment = (
        "1.eNqrVspITUwpVrKKVjLUM1KK1VHKTayIh4qZA3n5Kak5SlZK6QUlRko6SsUlpSmVQG5JYlF6aklqClAIwlSy"
        "Mq0FAIQFF-0"
    )
    assert decode(fragment) == View(
        model="gpt2", study="targeted", target=5, max_heads=7, heads=(Head(1, 2),)
    )


def test_a_new_page_searches_exactly() -> None:
    assert View().strategy == "exact"


def test_a_long_prompt_makes_no_link() -> None:
    # Random letters cannot be compressed to fit.
    prompt = "".join(random.Random(0).choices(string.printable[:90], k=60_000))
    assert encode(View(prompt=prompt)) is None


def test_a_link_cannot_unpack_to_gigabytes() -> None:
    bomb = base64.urlsafe_b64encode(zlib.compress(b" " * 8_000_000, 9)).decode().rstrip("=")
    assert len(bomb) < MAX_FRAGMENT
    with pytest.raises(DamagedLinkError, match="too long"):
        decode(f"{VERSION}.{bomb}")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", ""),
        ("model", 5),
        ("prompt", "x" * (MAX_PROMPT_CHARACTERS + 1)),
        ("bos", 1),
        ("position", -1),
        ("position", True),
        ("heads", "5.3"),
        ("heads", ["5.3.1"]),
        ("heads", ["L5H3"]),
        ("heads", ["-1.0"]),
        ("heads", ["²." + "1"]),
        ("intervention", "zero"),
        ("intervention", {"name": "zero"}),
        ("intervention", {"name": "scale", "values": {"factor": float("nan")}}),
        ("ablate", "yes"),
        ("tab", "settings"),
        ("picture", "pie"),
        ("cells", ""),
        ("token", -1),
        ("direction", "up"),
        ("threshold", 1.5),
        ("threshold", float("nan")),
        ("scale", "log"),
        ("sink", "drop"),
        ("size", 10),
        ("linked", 1),
        ("extra", "median"),
        ("study", None),
        ("max_heads", 0),
        ("strategy", "lucky"),
        ("strategy", None),
    ],
)
def test_a_value_that_cannot_be_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=r"must|written"):
        View.from_json({field: value})


def test_unknown_fields_of_other_versions_are_ignored() -> None:
    assert View.from_json({"circuit": True}) == View()


def test_half_a_surrogate_pair_becomes_a_replacement_character() -> None:
    assert View.from_json({"prompt": "a\ud800b"}).prompt == "a\ufffdb"


def test_a_head_is_read_in_the_short_notation() -> None:
    assert head_from_text("5.3") == Head(5, 3)


@given(views)
def test_the_controls_hold_the_whole_view(view: View) -> None:
    held = dict(zip([control.field for control in CONTROLS], values(view), strict=True))
    assert View.from_json(held) == view
