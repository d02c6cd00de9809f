"""Figures of the ready-made studies: one module a study, found by the study's name."""

from importlib import import_module

from ablation.studies import study_named
from ablation.studies.types import StudyResult
from viz.studies.figure import StudyFigure

__all__ = ["StudyFigure", "study_figures"]


def study_figures(result: StudyResult, *, dark: bool = False) -> tuple[StudyFigure, ...]:
    """Draw what a study found; nothing if nothing was.

    A study `some-name` has a module `viz.studies.some_name` with a function `figures`.
    """
    if result.details is None:
        return ()
    name = study_named(result.name).name.replace("-", "_")
    figures: tuple[StudyFigure, ...] = import_module(f"viz.studies.{name}").figures(result, dark)
    return figures
