"""Ready-made studies of what heads do: one module a study, and the one table of them.

A study is an entry of `STUDIES` and a module that the entry names, which has a function `run`.
Nothing heavy is imported before a study runs: the help of the command line reads the table too.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ablation.studies.options import (
    CLUSTERED_BY,
    CORE_SHARE,
    GATE_STEPS,
    INTERVENTION,
    LEAST_EFFECT,
    LEAST_OF_ORDER,
    SEED,
    STRATEGY,
    WINDOW,
    ZERO_OR_MEAN,
    StudyOption,
)
from models.errors import ErrorKind, UserError

if TYPE_CHECKING:
    from ablation.studies.prompts import PromptSet
    from ablation.studies.types import StudyPlan, StudyResult
    from ablation.types import Progress
    from models.language_model import LanguageModel


@dataclass(frozen=True, slots=True)
class StudyInfo:
    """A study in words, and where it is."""

    name: str
    label: str
    question: str
    """What it answers, in a sentence."""
    about: str
    """What is done to answer it, in a sentence or two."""
    module: str
    prompt_set: str | None = None
    """The shipped set that it runs on by default; None: it brings its own texts along."""
    n_prompts: int = 0
    """How many of them."""
    options: tuple[StudyOption, ...] = ()


def _study(name: str, label: str, question: str, about: str, **more: Any) -> StudyInfo:
    module = f"ablation.studies.{name.replace('-', '_')}"
    return StudyInfo(name, label, question, about, module, **more)


STUDIES: Mapping[str, StudyInfo] = {
    study.name: study
    for study in (
        _study(
            "heads",
            "Heads over a corpus",
            "How does each head distribute its attention over a corpus, and where does one head "
            "look most?",
            "Every head is read on every passage that ships with the program.",
        ),
        _study(
            "critical-heads",
            "Critical heads",
            "Which attention heads are critical for predicting the next token?",
            "Each head is ablated alone on every prompt; then the leading ones together, beside "
            "random heads of the same layers.",
            prompt_set="passages",
            n_prompts=12,
            options=(INTERVENTION, LEAST_EFFECT, SEED),
        ),
        _study(
            "redundant-heads",
            "Redundant heads",
            "Can redundant heads be identified?",
            "Heads are removed one after the other, the cheapest first, looking again after each "
            "step; pairs and key-value groups are removed to see which heads overlap and which "
            "stand in for each other.",
            prompt_set="passages",
            n_prompts=8,
            options=(INTERVENTION, STRATEGY, SEED),
        ),
        _study(
            "linguistic-heads",
            "Linguistic heads",
            "Do certain heads focus on specific linguistic features?",
            "All heads are read on sentences in which related words are marked, and held against "
            "the best fixed key on templates held out; those that count are ablated on minimal "
            "pairs of subject-verb agreement.",
            prompt_set="agreement",
            n_prompts=30,
            options=(INTERVENTION, SEED),
        ),
        _study(
            "permutation",
            "Permuted outputs",
            "Can permuting attention outputs break coherence?",
            "What heads say is shuffled over positions, for one head, for a layer and for growing "
            "random sets, beside zero and the mean at the same heads; then texts are continued.",
            prompt_set="passages",
            n_prompts=6,
            options=(LEAST_OF_ORDER, SEED),
        ),
        _study(
            "sparsification",
            "Sparsification",
            "Does structured sparsification reveal essential and inessential heads?",
            "Gates on heads are learned on half of the prompts with a penalty on open ones; the "
            "heads that stay are judged on the other half, beside other choices of as many.",
            prompt_set="passages",
            n_prompts=20,
            options=(ZERO_OR_MEAN, GATE_STEPS, CORE_SHARE, SEED),
        ),
        _study(
            "head-clusters",
            "Head clusters",
            "Are there clusters of heads that work together?",
            "Heads are clustered by what they do to predictions, what they write and how they feed "
            "each other; clusters are then removed whole on other prompts, beside random heads of "
            "the same layers.",
            prompt_set="passages",
            n_prompts=14,
            options=(INTERVENTION, CLUSTERED_BY, SEED),
        ),
        _study(
            "locality",
            "Local early, abstract late?",
            "Do early layers focus on local dependencies while later layers capture abstract "
            "meaning?",
            "How far heads look by layer, what it costs to confine layers to near or to far keys, "
            "from where on the prediction is readable, and whether states follow words or meaning.",
            prompt_set="passages",
            n_prompts=12,
            options=(WINDOW,),
        ),
        _study(
            "progression",
            "From tokens to prediction",
            "How do attention patterns change from input tokens to final predictions?",
            "One prompt from layer to layer: what the logit lens reads, which heads write the "
            "answer, where what is read comes from, and which tokens must be seen in which layers.",
            prompt_set="ioi",
            n_prompts=8,
        ),
    )
}
"""Name -> study, in the order in which they are offered."""

PROMPT_STUDIES = tuple(study for study in STUDIES.values() if study.prompt_set is not None)
"""Those that run on a set of prompts, which the Studies page offers."""


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
        prompts: what it runs on: a `PromptSet`, the name of a shipped one, or texts; None for what
            it runs on by default. The study of heads takes passages.
        progress: called with where it stands.
        cancel: looked at between prompts; once set, what was found so far is returned.
        options: those of the study's own `run`.

    Raises:
        UserError: there is no such study, or an argument does not fit the model.
    """
    info = study_named(name)
    check_options(info, options)
    run: Callable[..., StudyResult] = import_module(info.module).run
    given = prompts if info.prompt_set is None else _prompt_set(info, model, prompts)
    return run(model, given, progress=progress, cancel=cancel, **options)


def plan_study(
    name: str, model: "LanguageModel", prompts: Any = None, **options: Any
) -> "StudyPlan":
    """Say what a study takes, running the model twice on one of its prompts.

    Args:
        prompts, options: as of `run_study`.

    Raises:
        UserError: as `run_study`.
    """
    info = study_named(name)
    check_options(info, options)
    plan: Callable[..., StudyPlan] = import_module(info.module).plan
    return plan(model, _prompt_set(info, model, prompts), **options)


def check_options(info: StudyInfo, options: Mapping[str, Any]) -> None:
    """Raise `UserError` for options that a study with options does not have, or wrong values."""
    known = {option.name: option for option in info.options}
    for name, value in options.items():
        if info.prompt_set is None:
            return  # the study's own `run` says what it takes
        if name not in known:
            raise UserError(
                ErrorKind.OPTION,
                f"The study {info.name} has no option {name[:40]!r}; it has "
                f"{', '.join(known) or 'none'}.",
            )
        known[name].check(value)


def asked_words(name: str, prompts: str, options: Mapping[str, Any]) -> str:
    """Return what a study was asked, in words: "passages; intervention: zero; seed: 0"."""
    labels = {option.name: option.label for option in study_named(name).options}
    told = (f"{labels[option].lower()}: {value}" for option, value in options.items())
    return "; ".join((prompts, *told))


def _prompt_set(info: StudyInfo, model: "LanguageModel", given: Any) -> "PromptSet":
    from ablation.studies.prompts import PromptSet, given_prompts, shipped_prompts

    if isinstance(given, PromptSet):
        return given
    if given is None or isinstance(given, str):
        return shipped_prompts(model, given or str(info.prompt_set), info.n_prompts)
    return given_prompts(list(given))
