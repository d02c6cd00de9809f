"""Whole episodes on the simulated table: success with and without the chosen heads, and one as a
film."""

import base64
from typing import Any

import dash_mantine_components as dmc
from dash import Dash, Input, Output, State, html, no_update

from app import ids
from app.images import TABLE
from app.panels.pieces import segmented
from app.panels.progress import Bar, cancels, progress_place, watch_page
from app.services import Services, ablation_of
from app.view import View
from models.errors import ErrorKind, UserError
from models.tabletop import NAME as TABLETOP_NAME

N_EPISODES = 100


def layout() -> html.Section:
    """Return the panel; it shows for the policy of the table."""
    return html.Section(
        [
            html.Div(html.H2("Episodes", className="section-title"), className="section-head"),
            html.Div(
                [
                    segmented(
                        ids.EPISODES_PAIRS,
                        (("seen", "seen pairs"), ("held-out", "held-out pairs")),
                        "seen",
                        "Which targets: pairs of colour and shape seen in training, or held out",
                    ),
                ],
                className="row",
            ),
            html.Div(
                [
                    dmc.Button(f"Run {N_EPISODES}", id=ids.EPISODES_RUN, size="compact-xs"),
                    dmc.Button(
                        "Cancel",
                        id=ids.EPISODES_CANCEL,
                        size="compact-xs",
                        variant="default",
                        disabled=True,
                    ),
                    html.Div(className="grow"),
                    dmc.Button(
                        "Play this one", id=ids.EPISODE_PLAY, size="compact-xs", variant="default"
                    ),
                ],
                className="row episodes-tools",
            ),
            progress_place(
                ids.EPISODES_PROGRESS, ids.EPISODES_BAR, ids.EPISODES_STATUS, "Episodes run"
            ),
            html.Div(id=ids.EPISODES_RESULT, **{"aria-live": "polite"}),
            html.Div(id=ids.EPISODE_FILM),
        ],
        id=ids.EPISODES_PLACE,
        className="section",
        hidden=True,
    )


def result(found: Any, heads: str, intervention: str) -> list[Any]:
    """Return what was found in words, a line for each kind of run."""
    lines = [("whole", found.clean)]
    if found.ablated is not None:
        lines.append((f"{heads}: {intervention}", found.ablated))
    said_of = [(name, success.said()) for name, success in lines]
    said_of += [("as many random heads of the same layers", found.said_of_random())]
    rows = [
        html.Tr([html.Th(name, scope="row"), html.Td(said, className="figure")])
        for name, said in said_of
        if said
    ]
    n = found.clean.outcomes.n_episodes
    said = f"Targets reached in {n} episodes, pairs {found.pairs} (95 %)."
    return [html.P(said, className="caption"), html.Table(html.Tbody(rows), className="numbers")]


def beginning(view: View) -> str:
    """Return the name of the scene that an episode begins in; raise `UserError` if a view's picture
    is no scene of the table."""
    if len(view.images) != 1 or not view.images[0].startswith(TABLE):
        raise UserError(
            ErrorKind.PICTURE,
            "An episode begins in a scene of the table; choose one from the examples.",
        )
    return view.images[0]


def film_of(services: Services, view: View) -> bytes:
    """Return the episode that begins in a view's scene, with its heads ablated beside it.

    Raises:
        UserError: the view's picture is no scene of the table.
    """
    from ablation.closed_loop import run_episode
    from models.tabletop.film import Reel, film
    from models.tabletop.scenes import named_scene
    from models.tabletop.words import told

    scene, model = named_scene(beginning(view)), services.model(view.model)
    if view.prompt != told(scene):
        raise UserError(
            ErrorKind.PROMPT,
            f"An episode follows its scene's own instruction ({told(scene)!r}); choose the scene "
            "from the examples again.",
        )
    ablation, problem = ablation_of(view, services.prompt(view, model))
    if problem is not None:
        raise problem
    whole = run_episode(model, scene)
    reels = [Reel("whole", whole.scenes, outcome=whole.outcome)]
    if ablation is not None:
        without = run_episode(model, scene, ablation)
        reels.append(Reel("heads ablated", without.scenes, outcome=without.outcome))
    return film(reels)


def register(app: Dash, services: Services) -> None:
    """Add the callbacks that run episodes."""

    @app.callback(
        Output(ids.EPISODES_PLACE, "hidden"),
        Output(ids.EPISODES_RESULT, "children", allow_duplicate=True),
        Output(ids.EPISODE_FILM, "children", allow_duplicate=True),
        Input(ids.MODEL, "data"),
        Input(ids.ACTED, "data"),  # another scene, other heads: what was found is of others
        prevent_initial_call=True,
    )
    def show(name: str | None, _acted: Any) -> Any:
        return name != TABLETOP_NAME, None, None

    @app.callback(
        Output(ids.EPISODES_RESULT, "children"),
        Input(ids.EPISODES_RUN, "n_clicks"),
        State(ids.VIEW, "data"),
        State(ids.EPISODES_PAIRS, "value"),
        State(ids.TAB_ID, "data"),
        running=[
            (Output(ids.EPISODES_RUN, "disabled"), True, False),
            (Output(ids.EPISODES_CANCEL, "disabled"), False, True),
            (Output(ids.EPISODES_PROGRESS, "hidden"), False, True),
        ],
        prevent_initial_call=True,
    )
    def run(n_clicks: int | None, data: dict[str, Any] | None, pairs: str, tab: str) -> Any:
        if not n_clicks or data is None:
            return no_update
        from ablation.closed_loop import closed_loop
        from ablation.evaluation import Cancelled
        from ablation.heads import format_heads

        view = View.from_json(data)
        model = services.model(view.model)
        ablation, problem = ablation_of(view, services.prompt(view, model))
        if problem is not None:
            raise problem
        chosen = () if ablation is None else ablation.heads
        options: dict[str, Any] = {}
        if ablation is not None:
            options["intervention"] = ablation.intervention
            options["positions"] = ablation.positions
        with services.jobs.start(tab) as job:
            bar = Bar(job, ids.EPISODES_BAR, ids.EPISODES_STATUS, watch_page())
            bar.start()
            try:
                found = closed_loop(
                    model,
                    chosen,
                    pairs=pairs,
                    n_episodes=N_EPISODES,
                    progress=bar,
                    cancel=job.cancel,
                    **options,
                )
            except Cancelled:
                return html.P("Cancelled.", className="caption")
        label = "" if ablation is None else ablation.intervention.label
        return result(found, format_heads(chosen), label)

    cancels(app, services, ids.EPISODES_CANCEL, ids.EPISODES_STATUS)

    @app.callback(
        Output(ids.EPISODE_FILM, "children"),
        Input(ids.EPISODE_PLAY, "n_clicks"),
        State(ids.VIEW, "data"),
        running=[(Output(ids.EPISODE_PLAY, "disabled"), True, False)],
        prevent_initial_call=True,
    )
    def play(n_clicks: int | None, data: dict[str, Any] | None) -> Any:
        if not n_clicks or data is None:
            return no_update
        try:
            reel = film_of(services, View.from_json(data))
        except UserError as error:
            return html.P(str(error), className="error", role="alert")
        coded = base64.b64encode(reel).decode("ascii")
        alt = "The episode that begins in this scene, step by step"
        return html.Img(src=f"data:image/gif;base64,{coded}", alt=alt, className="film")
