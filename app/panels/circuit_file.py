"""The circuit tab, a file of pairs: read, kept, and held against the model at once."""

import base64
from typing import TYPE_CHECKING, Any

from dash import Dash, Input, Output, State, html, no_update

from ablation.circuit.types import PromptPair
from app import ids, words
from app.panels.circuit_asked import file_pairs
from app.services import Services
from models.errors import UserError

if TYPE_CHECKING:
    from models.language_model import LanguageModel

KEPT_BYTES = 2**20


def note(
    model: "LanguageModel", pairs: tuple[PromptPair, ...], name: str, bos: bool | None
) -> list[Any]:
    """Say how many pairs a file has, and what is wrong with them for this model."""
    from ablation.circuit.pairs import check_pairs, lacking_spaces

    said: list[Any] = [f"{words.count(len(pairs), 'pair')} in {name}. "]
    try:
        check_pairs(model, pairs, bos)
    except UserError as error:
        return [*said, _wrong(str(error))]
    return [*said, _wrong(words.space_warning(lacking_spaces(model, pairs)))]


def _wrong(text: str) -> html.Span:
    return html.Span(text, className="error")


def register(app: Dash, services: Services) -> None:
    """Add the callbacks that read a file and check its pairs."""

    @app.callback(
        Output(ids.CIRCUIT_FILE, "data"),
        Output(ids.CIRCUIT_FILE_NOTE, "children"),
        Output(ids.CIRCUIT_PROBLEM, "children", allow_duplicate=True),
        Input(ids.CIRCUIT_UPLOAD, "contents"),
        State(ids.CIRCUIT_UPLOAD, "filename"),
        prevent_initial_call=True,
    )
    def read_file(contents: str | None, name: str | None) -> tuple[Any, ...]:
        if contents is None or name is None:
            return (no_update,) * 3
        from ablation.circuit.pair_files import parse_pairs

        try:
            pairs = parse_pairs(base64.b64decode(contents.partition(",")[2]), name)
        except UserError as error:
            return None, _wrong(str(error)), ""
        key = services.results.keep(pairs, KEPT_BYTES + len(contents))
        return {"key": key, "name": name}, words.count(len(pairs), "pair"), ""

    @app.callback(
        Output(ids.CIRCUIT_FILE_NOTE, "children", allow_duplicate=True),
        Input(ids.CIRCUIT_FILE, "data"),
        Input(ids.MODEL, "data"),
        Input(ids.BOS_USED, "data"),
        prevent_initial_call=True,
    )
    def check_file(file: dict[str, str] | None, name: str, bos: bool | None) -> Any:
        if file is None:
            return no_update
        try:
            pairs = file_pairs(services, file)
            return note(services.model(name), pairs, file["name"], bos)
        except UserError as error:
            return _wrong(str(error))
