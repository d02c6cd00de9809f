"""`study`, those that run on a set of prompts: what they run on, and what they found."""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from app.cli.question import open_model
from app.cli.sweep import INTERRUPTED
from app.cli.terminal import Terminal, cancelled_by_interrupt, check_writable, visible
from models.errors import ErrorKind, UserError

if TYPE_CHECKING:
    import pandas as pd

    from ablation.studies import StudyInfo
    from ablation.studies.prompts import PromptSet


def run(options: Namespace, terminal: Terminal, info: "StudyInfo") -> int:
    """Run a study of prompts and print what it found."""
    chosen = options_of(info, options.set or [])
    _check_fit(options)
    if options.html is not None:
        check_writable(options.html, "--html")
    with terminal.sentences() as say:
        from ablation.studies import asked_words, plan_study, run_study
        from ablation.studies.phrases import on_set
        from ablation.studies.prompts import shipped_prompts

        prompts = _own_prompts(options)
        model = open_model(options, options.model, say)
        if prompts is None:
            name = options.prompts or str(info.prompt_set)
            n = options.n_prompts or info.n_prompts
            prompts = shipped_prompts(model, name, n, options.seed)
        plan = plan_study(info.name, model, prompts, **chosen)
        say(f"{plan.words} {plan.n_passes:,.0f} passes, about {plan.seconds:.0f} s.")
    with cancelled_by_interrupt() as cancel, terminal.bar() as progress:
        result = run_study(info.name, model, prompts, progress=progress, cancel=cancel, **chosen)
    in_force = {option.name: option.default for option in info.options} | chosen
    on = on_set(result.n_prompts, "prompts", prompts.name)
    terminal.print(f"{model.name}: {info.name}, {on}")
    for number, sentence in enumerate(result.answer):
        terminal.print(Text(sentence, style="" if number else "bold"))
    if len(result.table):
        terminal.print(_table(result.table.head(options.top_k)))
    for caveat in result.caveats:
        terminal.print(f"note: {caveat}")
    if options.html is not None:
        from viz.studies.report import study_html

        told = asked_words(info.name, prompts.name, in_force)
        Path(options.html).write_text(study_html(result, model.name, told), encoding="utf-8")
    asked = {"model": model.name, "prompts": prompts.name, "options": in_force}
    terminal.write_json({**asked, **result.to_json()})
    if result.stopped == "cancelled":
        terminal.warn("Stopped by Ctrl-C; what was measured until then is given.")
        return INTERRUPTED
    return 0


def options_of(info: "StudyInfo", given: Sequence[str]) -> dict[str, Any]:
    """Read "NAME=VALUE" as the options of a study.

    Raises:
        UserError: one is not of that form, or the study has no such option or value.
    """
    known = {option.name: option for option in info.options}
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or name not in known:
            wrong = "is none of this study's" if equals else "has no ="
            raise UserError(
                ErrorKind.OPTION,
                f"--set takes NAME=VALUE, and {visible(text[:40])!r} {wrong}; the study's names "
                f"are {', '.join(known)}.",
            )
        found[name] = known[name].read(value)
    return found


def _check_fit(options: Namespace) -> None:
    """Raise `UserError` for options that only the study of heads over a corpus has."""
    for name in ("head", "metric", "stack"):
        if getattr(options, name):
            raise UserError(
                ErrorKind.OPTION, f"--{name} goes with the study heads alone; leave it out."
            )


def _own_prompts(options: Namespace) -> "PromptSet | None":
    """Return prompts that are typed or in a file; None for a shipped set, which takes a model.

    Raises:
        UserError: they cannot be had, or there is no such set: said before a model is loaded.
    """
    from ablation.studies.prompts import check_shipped, given_prompts, read_prompts

    if options.prompt is not None:
        if options.prompts is not None:
            raise UserError(
                ErrorKind.OPTION, "--prompt and --prompts do not go together; give one of them."
            )
        return given_prompts([options.prompt])
    name = options.prompts
    if name is not None and Path(name).suffix:
        return read_prompts(name)
    if name is not None:
        check_shipped(name)
    if options.seed < 0:
        raise UserError(ErrorKind.OPTION, f"--seed is {options.seed}; give 0 or more.")
    return None


def _table(frame: "pd.DataFrame") -> Table:
    table = Table(box=None)
    for name in frame.columns:  # folded: a cut number reads as another one
        table.add_column(str(name).replace("_", " "), overflow="fold")
    for row in frame.itertuples(index=False):
        table.add_row(*(_cell(value) for value in row))
    return table


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    return f"{value:.3g}" if isinstance(value, float) else visible(str(value))
