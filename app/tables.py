"""Files of what the tabs beside the maps show: a table as CSV, or all there is to say as JSON.

What a tab shows is asked for again, from what the page keeps of it: the numbers in the files have
every digit, not those that are written on the page.
"""

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pandas as pd

import ablation
from ablation.attention_change import to_json as comparison_json
from ablation.attribution_types import HeadTokens
from ablation.studies import asked_words
from app.panels.comparison import pair_of
from app.services import Services, ablation_of
from app.view import View, head_from_text
from models.errors import ErrorKind, UserError
from models.types import TokenizedPrompt

if TYPE_CHECKING:
    from dash import Dash

Asked = Mapping[str, Any]
"""What a browser asks for: what the page keeps of a result, or a view."""
N_TOKENS = 10
"""How many tokens a head raises, and lowers, are written to a file."""


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """What goes into the files."""

    frame: pd.DataFrame
    about: dict[str, Any]
    """All there is to say, as JSON has it."""
    page: Callable[[], str] | None = None
    """Writes all of it as one HTML file, where there is such a page."""


def overview(services: Services, asked: Asked) -> Table:
    """Return the metrics of all heads on the prompt of a view."""
    view = View.from_json(asked["view"])
    model = services.model(view.model)
    prompt = services.prompt(view, model)
    acted, problem = ablation_of(view, prompt)
    if problem is not None:
        raise problem
    nobody = threading.Event()
    found = services.overviews.of(
        model, prompt, acted, view.stack_name, view.position, lambda progress: None, nobody
    )
    heads = [] if acted is None else [head.to_json() for head in acted.heads]
    spec = None if acted is None else acted.intervention.spec
    about = {"intervention": spec, "ablated_heads": heads, **found.to_json()}
    return Table(found.to_frame(), {**_of_prompt(view, prompt), **about})


def attribution(services: Services, asked: Asked) -> Table:
    """Return what the attribution tab shows of a view: {view, show, target, versus}."""
    view = View.from_json(asked["view"])
    target, versus = asked["target"] or None, asked["versus"] or None
    model = services.model(view.model)
    prompt = services.prompt(view, model)
    stream = services.streams.get(model, prompt)
    about = {**_of_prompt(view, prompt), "position": view.position}
    if asked["show"] == "lens":
        lens = ablation.logit_lens(model, prompt, view.position, target, stream=stream)
        return Table(lens.to_frame(), {**about, **lens.to_json()})
    if asked["show"] == "tokens":
        tokens = ablation.tokens_by_head(
            model, prompt, view.heads or (), view.position, N_TOKENS, stream=stream
        )
        listed = [entry.to_json() for entry in tokens]
        return Table(head_tokens_frame(tokens), {**about, "head_tokens": listed})
    found = ablation.attribute_logits(model, prompt, target, versus, view.position, stream=stream)
    return Table(found.to_frame(), {**about, **found.to_json()})


def head_tokens_frame(found: list[HeadTokens]) -> pd.DataFrame:
    """Return one row for each token that a head raises or lowers; "logit" is by how much."""
    rows = [
        (entry.head.layer, entry.head.head, effect, token.id, token.text, value)
        for entry in found
        for effect, side in (("raised", entry.raised), ("lowered", entry.lowered))
        for token, value in side
    ]
    return pd.DataFrame(rows, columns=["layer", "head", "effect", "id", "token", "logit"])


def roles(services: Services, asked: Asked) -> Table:
    """Return the roles of all heads."""
    dossier = _kept(services, asked)
    return Table(dossier.to_frame(), dossier.to_json())


def corpus(services: Services, asked: Asked) -> Table:
    """Return how the heads attend over the corpus."""
    result = _kept(services, asked)
    return Table(result.table, {"model": asked["model"], **result.to_json()})


def distribution(services: Services, asked: Asked) -> Table:
    """Return each metric of one head on each passage of the corpus."""
    result = _kept(services, asked)
    if not asked["head"]:
        raise UserError(ErrorKind.HEADS, "No head is told about; choose one first.")
    details = replace(result.details, head=head_from_text(asked["head"]))
    found = [details.distribution(details.head, info.name) for info in details.metrics]
    frame = found[0].to_frame().assign(**{one.metric.name: one.values for one in found[1:]})
    return Table(frame, {"model": asked["model"], **details.to_json()})


def comparison(services: Services, asked: Asked) -> Table:
    """Return how much each head's attention differs between two runs."""
    change = _kept(services, asked)
    view = View.from_json(asked["view"])
    pair = pair_of(services, view, asked["way"], asked["text"], asked.get("second", ""))
    about = {**_of_prompt(view, pair.before.prompt), **comparison_json(pair, change)}
    return Table(change.to_frame(), about)


def study(services: Services, asked: Asked) -> Table:
    """Return what a ready-made study found."""
    result = _kept(services, asked)
    about = {name: asked[name] for name in ("model", "prompts", "options")}

    def page() -> str:
        from viz.studies.report import study_html

        told = asked_words(result.name, about["prompts"], about["options"])
        return study_html(result, about["model"], told)

    return Table(result.table, about | result.to_json(), page)


TABLES: Mapping[str, Callable[[Services, Asked], Table]] = {
    "overview": overview,
    "attribution": attribution,
    "roles": roles,
    "corpus": corpus,
    "distribution": distribution,
    "compare": comparison,
    "studies": study,
}
"""What a table is of -> how it is made from what a browser asks."""


def _kept(services: Services, asked: Asked) -> Any:
    result = services.results.get(str(asked["key"]))
    if result is None:
        raise UserError(
            ErrorKind.OPTION,
            "This result had to make room for others; run it again, and export it then.",
        )
    return result


def _of_prompt(view: View, prompt: TokenizedPrompt) -> dict[str, Any]:
    return {"model": view.model, **prompt.to_json()}


def csv(table: Table) -> str:
    return str(table.frame.to_csv(index=False))


def json_text(table: Table) -> str:
    return json.dumps(table.about, ensure_ascii=False) + "\n"


def html(table: Table) -> str:
    if table.page is None:
        raise UserError(ErrorKind.OPTION, "There is no page of this; export its table or JSON.")
    return table.page()


WRITERS: Mapping[str, tuple[Callable[[Table], str], str]] = {
    "csv": (csv, "text/csv; charset=utf-8"),
    "json": (json_text, "application/json"),
    "html": (html, "text/html; charset=utf-8"),
}
"""Kind of file -> how it is written, and its media type."""


def register(app: "Dash", services: Services) -> None:
    """Add the route of each table, to which what is asked is posted."""
    # Imported here: `import app` is cheap.
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse, Response

    def written(of: str, kind: str, asked: Asked) -> str:
        write, _ = WRITERS[kind]
        return write(TABLES[of](services, asked))

    async def table(request: Request) -> Response:
        of, kind = request.path_params["of"], request.path_params["kind"]
        if of not in TABLES or kind not in WRITERS:
            return PlainTextResponse("There is no such file.", status_code=404)
        try:
            text = await run_in_threadpool(written, of, kind, await request.json())
        except UserError as error:
            return PlainTextResponse(str(error), status_code=400)
        except (ValueError, KeyError, TypeError):
            return PlainTextResponse("This is not a request for a file.", status_code=400)
        return Response(text, media_type=WRITERS[kind][1])

    route = "/export/table/{of}/{kind}"
    app.server.add_route(route, table, methods=["POST"], include_in_schema=False)
