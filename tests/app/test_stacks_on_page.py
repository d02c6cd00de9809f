"""An encoder-decoder on the page: two texts, three stacks."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dash import Dash
from page_fixtures import Shelf, make_page, serving, show
from playwright.sync_api import Page, expect

from ablation import Ablation, Zero, compare_attention, head_dossier
from ablation.types import HeadScores, PositionScores
from app import ids, permalink
from app.jobs import Job
from app.panels import attention, drawn_maps, heads, page, prompt, study_run
from app.services import Services, first_heads, most_positions, prompt_of
from app.view import View
from models.attention_flow import moved_attention
from models.builtin import CACHE_VARIABLE
from models.errors import UserError
from models.language_model import LanguageModel
from models.types import Head
from viz import coding
from viz.extent import extent_of

DECODER_TEXT = "The cat sat"
VIEW = View("bart", second=DECODER_TEXT)
CROSS, ENCODER = Head(1, 2, "cross"), Head(0, 1, "encoder")


@pytest.fixture
def services() -> Services:
    return Services(Shelf(), "bart")


@pytest.fixture
def model() -> LanguageModel:
    return Shelf().get("bart")


def test_a_view_settles_with_heads_of_stacks(services: Services, model: LanguageModel) -> None:
    view = services.settled(VIEW, model)
    tokens = prompt_of(view, model)
    assert view.position == len(tokens) - 1
    assert {head.stack for head in view.heads or ()} == {"", "encoder", "cross"}
    alone = first_heads(model, model.tokenize(view.prompt))
    assert {head.stack for head in alone} == {"encoder", "cross"}  # one token looks at itself
    assert services.settled(replace(view, stack="vision"), model).stack == "main"
    assert services.settled(replace(view, stack="cross"), model).stack == "cross"


def test_another_model_begins_without_the_second_text(services: Services) -> None:
    view, _ = page.switched(services, VIEW, "llama")
    assert view.second == ""
    assert view.stack == "main"


def test_a_second_text_means_nothing_to_a_model_that_takes_none(services: Services) -> None:
    llama = services.model("llama")
    view = replace(VIEW, model="llama")
    assert prompt_of(view, llama) == llama.tokenize(view.prompt)


def test_maps_of_all_stacks_stand_beside_each_other(
    services: Services, model: LanguageModel
) -> None:
    chosen = (CROSS, ENCODER, Head(2, 0))
    outcome = services.outcome(replace(VIEW, heads=chosen))
    tokens = outcome.prompt
    assert [maps.heads for maps in outcome.maps] == [(head,) for head in chosen]
    for head, maps in zip(chosen, outcome.maps, strict=True):
        expected = model.attention(tokens, [head])
        np.testing.assert_allclose(maps.values, expected.values, atol=1e-6)
    extents = services.extents(VIEW, outcome)
    how = drawn_maps.look(replace(VIEW, heads=chosen), outcome, extents, False)
    sent = drawn_maps.message(VIEW, outcome, extents, how, "serial", None)
    assert sent is not None
    sides = [sent["maps"][head.short]["figure"]["sides"] for head in chosen]
    assert sides == [["prompt", "source"], ["source", "source"], ["prompt", "prompt"]]
    assert len(sent["names"]) == len(tokens)
    assert len(sent["sides"]["source"]["names"]) == len(tokens.typed)
    assert sent["sides"]["source"]["labels"] == list(tokens.typed.labels)
    marks = [sent["maps"][head.short]["figure"]["layout"]["shapes"] for head in chosen]
    assert [len(shapes) for shapes in marks] == [1, 0, 1]


def test_the_decoder_text_is_part_of_what_is_remembered(services: Services) -> None:
    asked = replace(VIEW, heads=(ENCODER,))
    other = replace(asked, prompt="The key to the cabinets")
    found = [services.outcome(view).before.log_probs for view in (asked, other)]
    assert not np.array_equal(*found)


@pytest.mark.parametrize("values", ["moved", "rollout"])
def test_other_kinds_of_maps_are_refused_and_attention_is_shown(
    services: Services, model: LanguageModel, values: str
) -> None:
    chosen = (ENCODER, CROSS, Head(2, 0))
    view = replace(VIEW, heads=chosen, values=values)
    outcome = services.outcome(view)
    assert outcome.kind == "attention"
    for head, maps in zip(chosen, outcome.maps, strict=True):
        expected = model.attention(outcome.prompt, [head]).values
        np.testing.assert_allclose(maps.values, expected, atol=1e-6)
    tag, sentence = attention.note(view, outcome, len(chosen))
    assert tag.children == "Attention of the clean run"
    assert "needs a model with one stack" in sentence
    extents = services.extents(view, outcome)
    how = drawn_maps.look(view, outcome, extents, False)
    assert how.unit == 1
    sent = drawn_maps.message(view, outcome, extents, how, "serial", None)
    assert sent is not None
    assert sent["order"] == [head.short for head in chosen]


def test_how_far_weights_reach_is_remembered_with_both_texts(services: Services) -> None:
    chosen = (ENCODER, CROSS)  # the encoder's map is the same for every decoder text
    for second in (DECODER_TEXT, "Mary gave", DECODER_TEXT):
        view = replace(VIEW, second=second, heads=chosen)
        outcome = services.outcome(view)
        expected = tuple(extent_of(maps, 0) for maps in outcome.maps)
        assert services.extents(view, outcome) == expected
        assert not expected[1].causal  # also where no key ahead is looked at


def test_a_prompt_is_kept_with_its_second_text(services: Services, model: LanguageModel) -> None:
    views = [VIEW, replace(VIEW, second="Mary gave"), replace(VIEW, second="")]
    for view in views:
        assert services.prompt(view, model) == prompt_of(view, model)
        assert services.prompt(view, model) is services.prompt(view, model)
    bert = services.model("bert")
    pair = View("bert", "The cat sat", second="Mary gave it")
    assert services.prompt(pair, bert) == prompt_of(pair, bert)
    assert services.prompt(replace(pair, second=""), bert).segments is None


def test_moved_norms_of_a_pair_are_shown_from_one_sentence_to_the_other(
    services: Services,
) -> None:
    bert, head = services.model("bert"), Head(1, 2)
    view = View("bert", "The cat sat", second="Mary gave it", heads=(head,), values="moved")
    view = replace(view, between="b-a", position=1)
    outcome = services.outcome(view)
    extents = services.extents(view, outcome)
    how = drawn_maps.look(view, outcome, extents, False)
    sent = drawn_maps.message(view, outcome, extents, how, "serial", None)
    assert sent is not None
    segments = np.array(outcome.prompt.segments)
    drawn = (segments == 1)[:, None] & (segments == 0)
    shown = coding.decode(sent["maps"][head.short]["figure"]["cells"]["coded"])
    [norms] = moved_attention(bert, outcome.prompt, [head]).values
    np.testing.assert_array_equal(np.isfinite(shown), drawn)
    np.testing.assert_allclose(shown[drawn], norms[drawn], rtol=1.1 * coding.RELATIVE_ERROR)


def test_heads_of_stacks_are_ablated(services: Services, model: LanguageModel) -> None:
    outcome = services.outcome(replace(VIEW, heads=(CROSS, ENCODER), ablate=True))
    expected = model.predict(outcome.prompt, ablation=Ablation((CROSS, ENCODER), Zero()))
    assert outcome.after is not None
    np.testing.assert_allclose(outcome.after.log_probs, expected.log_probs, atol=1e-6)


def test_positions_acted_on_are_those_of_the_stack(services: Services) -> None:
    far = str(most_positions(services.outcome(VIEW).prompt) - 1)
    inside = services.outcome(replace(VIEW, heads=(ENCODER,), ablate=True, acted=far))
    assert inside.problem is None
    outside = services.outcome(replace(VIEW, heads=(CROSS,), ablate=True, acted=far))
    assert outside.after is None
    assert "outside the decoder text" in str(outside.problem)


def test_the_list_of_heads_is_grouped_by_stack(model: LanguageModel) -> None:
    groups = [option["group"] for option in heads.options(model.all_heads(None), model.info.stacks)]
    assert groups[:3] == ["Encoder, layer 0", "Encoder, layer 1", "Decoder, layer 0"]
    assert groups[-1] == "Cross attention, layer 2"
    assert [choice["value"] for choice in heads.stack_choices(model.info.stacks)] == [
        "encoder",
        "main",
        "cross",
    ]


def test_the_strip_shows_both_texts(model: LanguageModel) -> None:
    tokens = prompt_of(VIEW, model)
    shown = prompt.strip(tokens)
    assert shown["labels"] == list(tokens.labels)
    assert shown["source"]["labels"] == list(tokens.typed.labels)
    assert prompt.token_count(tokens) == f"{len(tokens.typed)} + {len(tokens)} tokens"


def test_a_sweep_is_of_the_stack_on_the_map(services: Services) -> None:
    view = replace(VIEW, stack="cross")
    result = study_run.run_study(services, view, lambda _: None, Job("tab"))
    assert isinstance(result, HeadScores)
    assert result.stack == "cross"
    kept = study_run.finished(view, "key", result)
    assert (kept["stack"], kept["second"]) == ("cross", DECODER_TEXT)
    assert "of the stack cross" in study_run.sweep_caption(result, kept)


def test_a_study_by_position_has_the_positions_of_its_heads(services: Services) -> None:
    view = replace(VIEW, study="positions", heads=(ENCODER,))
    result = study_run.run_study(services, view, lambda _: None, Job("tab"))
    assert isinstance(result, PositionScores)
    assert len(result.prompt) == len(services.outcome(view).prompt.typed)
    assert study_run.finished(view, "key", result)["opens"] is False
    mixed = replace(view, heads=(ENCODER, CROSS))
    with pytest.raises(UserError, match="one stack at a time"):
        study_run.run_study(services, mixed, lambda _: None, Job("tab"))


# --- in the browser ---


@pytest.fixture(scope="module")
def app() -> Dash:
    return make_page("bart")


@pytest.fixture(scope="module")
def address(app: Dash) -> Iterator[str]:
    with serving(app) as url:
        yield url


@pytest.fixture
def open_view(lasting: Page, address: str) -> Callable[[View], Page]:
    """A function that opens a view; the console stays empty."""

    def open_one(view: View) -> Page:
        show(lasting, address, permalink.encode(view))
        expect(lasting.locator(".map-card .main-svg").first).to_be_visible()
        return lasting

    return open_one


def axis_names(opened: Page, head: str, axis: str) -> list[str]:
    """Return what a map's axis calls its positions."""
    found: list[str] = opened.evaluate(
        """([head, axis]) => {
            const card = [...document.querySelectorAll(".map-card")].find((one) =>
                one.querySelector("[role=img]").ariaLabel.endsWith(" " + head));
            const { layout } = card.querySelector(".js-plotly-plot");
            return layout[axis].categoryarray.map((i) => layout[axis].labelalias[i]);
        }""",
        [head, axis],
    )
    return found


@pytest.mark.browser
def test_both_texts_are_written_and_all_stacks_seen(
    open_view: Callable[[View], Page], model: LanguageModel
) -> None:
    opened = open_view(replace(VIEW, heads=(CROSS, ENCODER)))
    tokens = prompt_of(VIEW, model)
    strip = opened.locator(f"#{ids.TOKEN_STRIP}")
    expect(strip.locator("button.token")).to_have_count(len(tokens))
    expect(strip.locator("span.token")).to_have_count(len(tokens.typed))
    down, across = (axis_names(opened, str(CROSS), f"{axis}axis") for axis in "yx")
    assert down == [*tokens.unique_labels[:-1], f"<b>{tokens.unique_labels[-1]}</b>"]
    assert across == list(tokens.typed.unique_labels)
    assert axis_names(opened, str(ENCODER), "yaxis") == across
    opened.fill(f"#{ids.SECOND_TEXT}", "The")
    opened.press(f"#{ids.SECOND_TEXT}", "Enter")
    expect(strip.locator("button.token")).to_have_count(2)
    expect(opened.locator(f"#{ids.PREDICTION_CAPTION}")).to_contain_text("(position 1)")
    opened.wait_for_function(
        "() => document.querySelector('.map-card .js-plotly-plot')._fullData[0].z.length === 2"
    )


@pytest.mark.browser
def test_a_stack_is_put_on_the_map_clicked_swept_and_kept_in_the_link(
    open_view: Callable[[View], Page],
) -> None:
    opened = open_view(replace(VIEW, heads=(ENCODER,)))
    opened.click(f"#{ids.STACK}")
    opened.get_by_role("option", name="cross").click()
    opened.wait_for_function(
        "(id) => document.querySelector(`#${id} .js-plotly-plot`).layout.meta.stack === 'cross'",
        arg=ids.HEADS_MAP,
    )
    box = opened.locator(f"#{ids.HEADS_MAP} .nsewdrag").bounding_box()
    assert box is not None
    # Head 2 of 4 across, layer 1 of 3 up.
    opened.mouse.click(box["x"] + box["width"] * 0.62, box["y"] + box["height"] * 0.5)
    card = opened.get_by_role("img", name=f"Attention of head {CROSS}", exact=True)
    expect(card).to_be_visible()
    opened.get_by_role("tab", name="Ablation study").click()
    opened.click(f"#{ids.STUDY_RUN}")
    expect(opened.locator(f"#{ids.SWEEP_CAPTION}")).to_contain_text("of the stack cross")
    opened.reload()
    expect(opened.locator(f"#{ids.STACK}")).to_have_value("cross")
    expect(opened.locator(f"#{ids.SECOND_TEXT}")).to_have_value(DECODER_TEXT)
    expect(opened.locator(f"#{ids.HEADS_COUNT}")).to_have_text("2 of 28")


@pytest.mark.browser
@pytest.mark.thorough
def test_a_pair_of_sentences_and_one_looking_at_the_other(
    open_view: Callable[[View], Page],
) -> None:
    view = View("bert", "The cat sat on the [MASK].", second="Mary gave it", heads=(Head(1, 2),))
    opened = open_view(view)
    tokens = prompt_of(view, Shelf().get("bert"))
    assert tokens.segments is not None
    strip = opened.locator(f"#{ids.TOKEN_STRIP}")
    expect(strip.locator("button.token.second")).to_have_count(sum(tokens.segments))
    opened.locator(f"#{ids.BETWEEN}").get_by_text("A→B").click()
    n_first = len(tokens) - sum(tokens.segments)
    opened.wait_for_function(
        """([n, first]) => {
            const { z } = document.querySelector(".map-card .js-plotly-plot")._fullData[0];
            const drawn = (query, key) => query < first && key >= first;
            return [...z].every((row, query) =>
                [...row].every((value, key) => (value === value) === drawn(query, key))
            );
        }""",
        arg=[len(tokens), n_first],
    )
    opened.reload()
    expect(opened.locator(f"#{ids.SECOND_TEXT}")).to_have_value("Mary gave it")


@pytest.mark.browser
def test_lines_and_text_draw_one_stack_at_a_time_with_both_its_texts(
    open_view: Callable[[View], Page], model: LanguageModel
) -> None:
    view = replace(VIEW, heads=(CROSS, ENCODER))
    opened = open_view(view)
    tokens = prompt_of(view, model)
    [weights] = model.attention(tokens, [CROSS]).values
    picture = opened.locator(f"#{ids.PICTURE}")
    picture.get_by_text("Lines", exact=True).click()
    stacks = opened.locator(".lines").get_by_role("radio")
    assert stacks.all_text_contents() == ["cross attention", "encoder"]
    canvas = opened.locator(".lines canvas")
    box = canvas.bounding_box()
    assert box is not None
    canvas.click(position={"x": 60, "y": 6 + 16 * 1.5})  # the second query
    best = int(weights[1].argmax())
    expected = f"1 {tokens.labels[1]} looks at {CROSS}: {best} {tokens.typed.labels[best]} "
    expect(opened.locator(".lines-reading")).to_contain_text(expected)
    picture.get_by_text("Text", exact=True).click()
    flows = opened.locator(".text-row .text-flow")
    texts = ["".join(side.labels) for side in (tokens, tokens.typed)]
    assert [flow.text_content() for flow in flows.all()] == texts
    named = opened.locator(".text-key").first
    expect(named).to_contain_text(tokens.typed.labels[best])
    flows.nth(1).locator(".text-token").nth(3).click()  # a key: who looks at it
    by = int(weights[:, 3].argmax())
    expect(named).to_contain_text(tokens.labels[by])
    opened.locator(".text").get_by_role("radio", name="encoder").click()
    expect(flows).to_have_count(1)
    expect(flows).to_have_text(texts[1])


@pytest.mark.browser
def test_what_is_not_for_encoder_decoders_is_said_in_its_place(
    open_view: Callable[[View], Page],
) -> None:
    opened = open_view(replace(VIEW, heads=(CROSS,), stack="cross"))
    opened.locator(f"#{ids.PICTURE}").get_by_text("Overview", exact=True).click()
    # Cross attention's thumbnails are of the decoder's queries and the encoder's keys.
    expect(opened.locator(f"#{ids.OVERVIEW_NOTE}")).to_contain_text("heads")
    opened.locator("canvas.overview-grid").hover(position={"x": 60, "y": 40})
    expect(opened.locator(".overview-card")).to_contain_text("cross:")
    opened.click(f"#{ids.STACK}")
    opened.get_by_role("option", name="encoder").click()
    expect(opened.locator(f"#{ids.OVERVIEW_NOTE}")).to_contain_text("4 heads")
    opened.locator("canvas.overview-grid").click(position={"x": 60, "y": 40})
    expect(opened.locator(f"#{ids.HEADS_COUNT}")).to_have_text("2 of 28")
    opened.get_by_role("tab", name="Attribution", exact=True).click()
    note = opened.locator(f"#{ids.ATTRIBUTION_NOTE}")
    expect(note).to_contain_text("needs a model with one stack")
    expect(opened.locator(".mantine-Notification-root")).to_have_count(0)


@pytest.mark.browser
@pytest.mark.thorough
def test_roles_and_comparisons_are_of_the_stack_that_is_picked(
    open_view: Callable[[View], Page],
    model: LanguageModel,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    opened = open_view(replace(VIEW, heads=(CROSS, ENCODER), stack="cross"))
    opened.get_by_role("tab", name="Heads", exact=True).click()
    opened.get_by_role("button", name="Measure roles").click()
    leader = head_dossier(model, stack="cross").leaders("same_token", 1)[0][0]
    expect(opened.locator(".leaders .leader").first).to_have_text(str(leader))
    expect(opened.locator(f"#{ids.DOSSIER_ROLE} label")).to_have_text(["Same", "Next", "First"])
    opened.locator(f"#{ids.HEADS_TAB}").get_by_text("Compare").click()
    opened.get_by_role("button", name="Compare", exact=True).click()
    prompt = model.tokenize(VIEW.prompt, decoder=DECODER_TEXT)
    ablation = Ablation((CROSS, ENCODER), Zero())
    changed = compare_attention(model, prompt, ablation=ablation, stack="cross")
    buttons = opened.locator(f"#{ids.COMPARE_LEADERS} .leader")
    expect(buttons).to_have_text([str(head) for head, _ in changed.ranked()])
    name = f"Difference of the attention of head {CROSS}"
    expect(opened.get_by_role("img", name=name)).to_be_visible()
    opened.click(f"#{ids.STACK}")
    opened.get_by_role("option", name="encoder").click()
    expect(opened.locator(f"#{ids.COMPARE_CAPTION}")).to_contain_text("cross attention")
    opened.get_by_role("button", name="Compare", exact=True).click()
    name = f"Difference of the attention of head {ENCODER}"
    expect(opened.get_by_role("img", name=name)).to_be_visible()
    expect(opened.locator(".mantine-Notification-root")).to_have_count(0)


@pytest.mark.browser
def test_a_map_of_all_heads_is_one_of_each_stack(open_view: Callable[[View], Page]) -> None:
    opened = open_view(replace(VIEW, heads=(CROSS, ENCODER, Head(0, 0, "cross")), extra="mean"))
    expect(opened.locator(".map-card")).to_have_count(5)
    for name in ("Mean of 2 heads (cross)", "Mean of 1 head (encoder)"):
        expect(opened.get_by_role("img", name=name)).to_be_visible()


@pytest.mark.browser
def test_other_models_have_one_text_and_no_choice_of_stacks(
    open_view: Callable[[View], Page],
) -> None:
    opened = open_view(View("llama"))
    expect(opened.locator(f"#{ids.TOKEN_STRIP} button.token").first).to_be_visible()
    expect(opened.locator(f"#{ids.SECOND_TEXT}")).to_be_hidden()
    expect(opened.locator(f"#{ids.STACK}")).to_be_hidden()
    expect(opened.locator(f"#{ids.BETWEEN}")).to_be_hidden()


def test_settings_of_the_map_are_plain_data(model: LanguageModel) -> None:
    kept: dict[str, Any] = heads.shape(model)
    assert [stack["name"] for stack in kept["stacks"]] == ["encoder", "", "cross"]
    assert (kept["n_layers"], kept["n_heads"]) == (3, 4)
