"""The prompt: its text, examples, and its tokens, one of which is read."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import dash_mantine_components as dmc
from dash import Dash, Input, Output, State, dcc, html, no_update

from app import ids, notices, words
from app.examples import EXAMPLES
from app.images import TABLE, boxes, shown
from app.panels.pieces import browser, section, switch
from app.services import Services, scene_text
from app.view import View
from models.errors import UserError
from models.picture import MOST_BYTES
from models.tabletop.scenes import EXAMPLES as SCENES
from models.tabletop.scenes import scene_label
from models.types import CLASSIFIER, POLICY, ModelInfo, TokenizedPrompt

NOT_READ = "This model looks at the picture alone: text is not read."
COMPARED = (
    "The picture is the prompt. The texts that it is compared with stand behind the model's name, "
    "after #."
)
NO_INSTRUCTION = "This policy is told no instruction: text is not read."


def layout() -> html.Section:
    """Return the prompt's part of the left column."""
    return section(
        "Prompt",
        dmc.Textarea(
            id=ids.PROMPT_TEXT,
            autosize=True,
            minRows=2,
            maxRows=3,
            size="xs",
            spellCheck=False,
            placeholder="Type a prompt and press Enter",
            **{"aria-label": "Prompt. Enter runs it, Shift and Enter starts a new line"},
        ),
        html.Div(
            dmc.TextInput(
                id=ids.SECOND_TEXT,
                size="xs",
                spellCheck=False,
                leftSectionWidth=66,
                className="second-text",
            ),
            id=ids.SECOND_PLACE,
            hidden=True,
        ),
        html.Div(
            [
                html.Div(id=ids.IMAGE_STRIP, className="image-strip"),  # by assets/images.js
                dcc.Upload(
                    "Add a picture: drop, paste or choose a file",
                    id=ids.IMAGE_UPLOAD,
                    multiple=True,
                    accept="image/*",
                    max_size=MOST_BYTES,
                    className="image-upload",
                ),
            ],
            id=ids.IMAGE_PLACE,
            className="image-place",
            hidden=True,
        ),
        html.Div(
            [
                switch(ids.BOS, "beginning-of-sequence token"),
                html.Div(className="grow"),
                dmc.Button("Run", id=ids.PROMPT_RUN, size="compact-xs"),
            ],
            className="row",
        ),
        html.Div(
            id=ids.TOKEN_STRIP,  # filled by assets/tokens.js
            className="token-strip",
            role="toolbar",
            **{"aria-label": "Tokens. Choose the position at which predictions are read"},
        ),
        dcc.Store(id=ids.TOKENS),
        right=html.Div(
            [
                html.Span(id=ids.TOKEN_COUNT, className="muted"),
                dmc.Select(
                    id=ids.EXAMPLES,
                    data=example_options(None),
                    placeholder="Examples",
                    size="xs",
                    w=104,
                    clearable=False,
                    comboboxProps={"width": 290, "position": "bottom-end"},
                    maxDropdownHeight=360,
                    **{"aria-label": "Example prompts"},
                ),
            ],
            className="row",
        ),
    )


def strip(prompt: TokenizedPrompt) -> dict[str, Any]:
    """Return the tokens as `assets/tokens.js` makes buttons of them.

    Two thousand Dash components would slow everything that happens on the page.
    """
    tokens = {"labels": list(prompt.labels), "kinds": list(prompt.kinds), "ids": list(prompt.ids)}
    return {
        **tokens,
        "segments": None if prompt.segments is None else list(prompt.segments),
        "source": None if prompt.source is None else strip(prompt.source),
    }


def pictured(prompt: TokenizedPrompt, names: Sequence[str]) -> dict[str, Any]:
    """Return the pictures of a prompt as `assets/images.js` takes them.

    Args:
        names: what the view calls them.
    """
    found = (prompt.cells, None if prompt.seen is None else prompt.seen.cells)
    cells, seen = (None if one is None else boxes(one) for one in found)
    sides = {
        side: None if one.cells is None else boxes(one.cells) for side, one in prompt.sides.items()
    }
    return {
        "names": list(names),
        "pictures": [shown(picture) for picture in prompt.pictures],
        "cells": cells,
        "seen": seen,
        "sides": sides,
    }


def token_count(prompt: TokenizedPrompt) -> str:
    if prompt.main:
        return words.count(len(prompt), "position")
    if prompt.source is None:
        return words.count(len(prompt), "token")
    return f"{len(prompt.source)} + {words.count(len(prompt), 'token')}"


SECOND_TEXTS = {
    "encoder-decoder": ("decoder", "Text that the decoder has written so far; may be empty"),
    "pair": ("second", "Second sentence of a pair; may be empty"),
    POLICY: (
        "state",
        "What the robot tells of itself: its numbers, in their own units; empty stands for the "
        "mean of what the policy was trained on, of one of your own for zeros",
    ),
}
"""Kind of the second text -> the word in front of it, and what it is."""


def second_kind(info: ModelInfo) -> str | None:
    """Return which second text a model takes, if any."""
    if info.kind == POLICY:
        return POLICY if info.takes is None or info.takes.n_state else None
    if info.kind == "encoder-decoder":
        return info.kind
    return "pair" if info.pairs else None


def second_word(info: ModelInfo) -> Any:
    """Return what stands in front of the second text."""
    kind = second_kind(info)
    if kind is None:
        return None
    word, meaning = SECOND_TEXTS[kind]
    return html.Span(word, className="field-label", title=meaning)


def not_read(info: ModelInfo, prompt: TokenizedPrompt) -> str | None:
    """Say so where a model reads no text, or none but what stands behind its name."""
    if info.takes is not None and not info.takes.instructed:
        return NO_INSTRUCTION
    if info.kind != CLASSIFIER:
        return None
    return NOT_READ if prompt.compared is None else COMPARED


def example_options(info: ModelInfo | None) -> list[dict[str, Any]]:
    """Return what the list of examples holds for a model: text, or scenes with a picture."""
    groups: dict[str, list[dict[str, str]]] = {}
    sees = info is not None and (info.image_token is not None or info.kind in (CLASSIFIER, POLICY))
    if sees:
        for name in SCENES:
            item = {"value": name, "label": scene_label(name)}
            groups.setdefault("The simulated table", []).append(item)
        return [{"group": group, "items": items} for group, items in groups.items()]
    for example in EXAMPLES:
        item = {"value": example.text, "label": example.label}
        groups.setdefault(example.group, []).append(item)
    return [{"group": group, "items": items} for group, items in groups.items()]


def as_many(given: Sequence[str], before: Sequence[str], n: int) -> list[str]:
    """Return the pictures of a policy that sees by so many cameras: the ones given last, and where
    they are too few, examples that were there before stay behind them."""
    latest = list(given[max(0, len(given) - n) :])
    examples = [name for name in before if name.startswith(TABLE)]
    return [*latest, *examples[len(examples) - (n - len(latest)) :]] if len(latest) < n else latest


def register(app: Dash, services: Services) -> None:
    """Add the callbacks that ask for a prompt, run it, and choose a position."""
    app.clientside_callback(
        browser("requestPrompt"),
        Output(ids.PROMPT_REQUEST, "data"),
        Output(ids.PROMPT_TEXT, "value", allow_duplicate=True),
        Output(ids.PROMPT_TEXT, "error", allow_duplicate=True),
        Output(ids.SECOND_TEXT, "error", allow_duplicate=True),
        Output(ids.EXAMPLES, "value"),
        Input(ids.PROMPT_RUN, "n_clicks"),
        Input(ids.EXAMPLES, "value"),
        Input(ids.BOS, "checked"),
        State(ids.PROMPT, "data"),
        State(ids.BOS_USED, "data"),
        State(ids.SECOND, "data"),
        State(ids.IMAGES, "data"),
        State(ids.LIMITS, "data"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        browser("show", "images"), Input(ids.IMAGES_SHOWN, "data"), prevent_initial_call=True
    )

    @app.callback(
        Output(ids.PROMPT_REQUEST, "data", allow_duplicate=True),
        Output(ids.IMAGE_UPLOAD, "contents"),
        Input(ids.IMAGE_UPLOAD, "contents"),
        State(ids.IMAGE_UPLOAD, "filename"),
        State(ids.PROMPT_TEXT, "value"),
        State(ids.SECOND_TEXT, "value"),
        State(ids.VIEW, "data"),
        running=[(Output(ids.IMAGE_UPLOAD, "disabled"), True, False)],
        prevent_initial_call=True,
    )
    def take(
        contents: list[str] | None,
        names: list[str] | None,
        text: str | None,
        second: str | None,
        data: dict[str, Any] | None,
    ) -> Any:
        if not contents or data is None:
            return no_update, no_update
        kept = []
        for url, name in zip(contents, names or [], strict=False):
            try:
                kept.append(services.images.keep_url(url, name))
            except UserError as error:
                notices.tell(str(error), color="red")
        if not kept:
            return no_update, None
        view = View.from_json(data)
        # A picture of the table is an example: what a person gives takes its place.
        given = [name for name in view.images if not name.startswith(TABLE)]
        model = services.model(view.model)
        if model.actions is not None or model.kind == CLASSIFIER:  # which look at one picture
            given, kept = [], kept[:1]
        named = [*given, *kept]
        if model.takes is not None and model.takes.n_pictures is not None:
            named = as_many(named, view.images, model.takes.n_pictures)
        request = {"text": text or view.prompt, "second": second or "", "bos": view.bos}
        return {**request, "images": named, "at": time.time()}, None

    app.clientside_callback(
        browser("show", "tokens"),
        Input(ids.TOKENS, "data"),
        Input(ids.POSITION, "data"),
        prevent_initial_call=True,
    )
    _register_run(app, services)


def _register_run(app: Dash, services: Services) -> None:
    @app.callback(
        Output(ids.PROMPT, "data", allow_duplicate=True),
        Output(ids.SECOND, "data", allow_duplicate=True),
        Output(ids.IMAGES, "data", allow_duplicate=True),
        Output(ids.IMAGES_SHOWN, "data", allow_duplicate=True),
        Output(ids.BOS_USED, "data", allow_duplicate=True),
        Output(ids.POSITION, "data", allow_duplicate=True),
        Output(ids.TOKEN, "data", allow_duplicate=True),
        Output(ids.TOKENS, "data", allow_duplicate=True),
        Output(ids.TOKEN_COUNT, "children", allow_duplicate=True),
        Output(ids.PROMPT_TEXT, "error", allow_duplicate=True),
        Output(ids.SECOND_TEXT, "error", allow_duplicate=True),
        Output(ids.PROMPT_TEXT, "value", allow_duplicate=True),
        Input(ids.PROMPT_REQUEST, "data"),
        State(ids.VIEW, "data"),
        State(ids.TAB_ID, "data"),
        running=[(Output(ids.PROMPT_RUN, "disabled"), True, False)],
        prevent_initial_call=True,
    )
    def run_prompt(request: dict[str, Any] | None, data: dict[str, Any] | None, tab: str) -> Any:
        if request is None or data is None:
            return no_update
        scene = request.get("scene")
        model = services.model(data["model"])
        written = scene_text(scene, model) if scene else request["text"]
        text = View.from_json({"prompt": written}).prompt if written else ""
        second = View.from_json({"second": request["second"]}).second
        named = [scene] if scene else request.get("images")
        images = View.from_json({"images": named}).images
        asked = replace(
            View.from_json(data), prompt=text, second=second, images=images, bos=request["bos"]
        )
        tokens = services.prompt(asked, model)
        position = model.resolve_position(tokens, None)
        services.begin(replace(asked, position=position), tab)
        tokens_shown, count = strip(tokens), token_count(tokens)
        drawn = no_update if not model.reads_pictures else pictured(tokens, images)
        kept = (text, second, list(images), drawn, request["bos"], position, None)
        return *kept, tokens_shown, count, None, None, text if scene else no_update
