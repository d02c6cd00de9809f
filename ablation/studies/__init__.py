"""Ready-made studies of what heads do: one module a study, and the one table of them.

A study is an entry of `STUDIES` and a module that the entry names, which has a function `run`.
Nothing heavy is imported before a study runs: the help of the command line reads the table too.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from models.errors import ErrorKind, UserError

if TYPE_CHECKING:
    from ablation.studies.types import StudyResult
    from ablation.types import Progress
    from models.language_model import LanguageModel


@dataclass(frozen=True, slots=True)
class StudyInfo:
    """A study in words, and where it is."""

    name: str
    question: str
    """What it answers, in a sentence."""
    module: str


STUDIES: Mapping[str, StudyInfo] = {
    study.name: study
    for study in (
        StudyInfo(
            "heads",
            "How does each head distribute its attention over a corpus, and where does one head "
            "look most?",
            "ablation.studies.heads",
        ),
    )
}
"""Name -> study, in the order in which they are offered."""


def study_named(name: str) -> StudyInfo:
    """Look a study up; raise `UserError` if there is none of that name."""
    if name not in STUDIES:
        raise UserError(
            ErrorKind.OPTION,
            f"There is no study {name[:40]!r}; choose one of {', '.join(STUDIES)}.",
        )
    return STUDIES[name]


def run_study(
    name: str,
    model: "LanguageModel",
    prompts: Any = None,
    *,
    progress: "Callable[[Progress], None] | None" = None,
    cancel: threading.Event | None = None,
    **options: Any,
) -> "StudyResult":
    """Run a study.

    Args:
        name: a key of `STUDIES`.
        prompts: what it runs on; None for what it brings along.
        progress: called with where it stands.
        cancel: looked at between prompts; once set, what was found so far is returned.
        options: those of the study's own `run`.

    Raises:
        UserError: there is no such study, or an argument does not fit the model.
    """
    run: Callable[..., StudyResult] = import_module(study_named(name).module).run
    return run(model, prompts, progress=progress, cancel=cancel, **options)
