"""Groups of options that several commands share, what they read, and the tables in their help."""

import argparse
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ablation.stimuli import Role

HEADS_HELP = (
    "5.3 or L5H3, 5.* or L5 for a layer, *.3, 3-5.0-2, 5.0-3, all; of an encoder-decoder also "
    "encoder:5.3, cross:all, of a model that sees vision:5.3; separated by commas"
)


def add_model(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        default="builtin",
        metavar="M",
        help="builtin (SmolLM2-135M), tabletop (a policy for a simulated robot), a Hugging Face id "
        "such as gpt2, a directory, a .gguf file, or a .py file that wraps a policy of your own, "
        "which is run (default: %(default)s)",
    )
    group.add_argument(
        "--device", default="auto", metavar="D", help="auto, cpu, cuda or mps (default: auto)"
    )
    group.add_argument(
        "--device-map",
        choices=["auto"],
        help="spread a large model over all devices, and what does not fit over main memory and "
        "disk (takes the place of --device)",
    )
    group.add_argument(
        "--dtype", default=None, metavar="T", help="float32, bfloat16, float16 (default: float32)"
    )
    group.add_argument(
        "--memory-gb",
        type=positive_number,
        default=None,
        metavar="G",
        help="gigabytes that one pass over many heads may take (default: half of what is free)",
    )


def add_prompt(
    parser: argparse.ArgumentParser,
    several: bool = False,
    position: bool = True,
    required: bool = True,
) -> None:
    add_model(parser)
    group = parser.add_argument_group("prompt")
    if several:
        group.add_argument(
            "--prompt",
            required=True,
            action="append",
            metavar="TEXT",
            help="the text to run; several times for the mean over several prompts",
        )
    else:
        group.add_argument("--prompt", required=required, metavar="TEXT", help="the text to run")
    if position:
        group.add_argument(
            "--position",
            type=int,
            metavar="I",
            help="read the prediction after this position, from 0; negative counts from the end "
            "(default: the last one, or the first mask token)",
        )
    add_bos(group)


def add_images(group: Any) -> None:
    group.add_argument(
        "--image",
        action="append",
        metavar="FILE",
        help="for a model that reads pictures: a picture, several times for several; or a scene of "
        "the simulated table, tabletop:7 or tabletop:held-out:7",
    )


def add_bos(group: Any) -> None:
    add_images(group)
    group.add_argument(
        "--decoder",
        metavar="TEXT",
        help="of an encoder-decoder: what its decoder has written so far, behind the token that "
        "starts it; --prompt is what its encoder reads",
    )
    group.add_argument(
        "--pair",
        metavar="TEXT",
        help="of an encoder that tells sentences apart: the second sentence of a pair",
    )
    group.add_argument(
        "--state",
        metavar="NUMBERS",
        help="of a policy that answers with numbers (PI0): what the robot tells of itself, "
        "'0.1, 0.2, 0' (default: the mean of what it was trained on; of one of your own, zeros)",
    )
    group.add_argument(
        "--noise",
        type=not_negative,
        default=0,
        metavar="N",
        help="of such a policy: which noise its action is found from (default: %(default)s)",
    )
    group.add_argument(
        "--step",
        type=not_negative,
        metavar="K",
        help="of such a policy: the step of denoising at which its action expert's attention is "
        "read, from 0; of one of your own, which run of a layer (default: the last)",
    )
    group.add_argument(
        "--bos",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="put a beginning-of-sequence token in front, or not (default: as the tokenizer does)",
    )


def add_stack(parser: Any, meaning: str) -> None:
    parser.add_argument(
        "--stack",
        default="",
        metavar="NAME",
        help=f"{meaning}: encoder or cross, of an encoder-decoder; vision, of a model that sees; "
        "text, of one that compares pictures with texts; expert, of PI0; or as a policy of your "
        "own calls it (default: the main one)",
    )


def add_targets(parser: argparse.ArgumentParser, meaning: str) -> None:
    parser.add_argument(
        "--target",
        action="append",
        metavar="TEXT",
        help=f"{meaning}; once for all prompts, or once for each",
    )


def add_ablation(parser: argparse.ArgumentParser) -> None:
    group = add_intervention(parser)
    group.add_argument("--ablate", metavar="HEADS", help=f"heads to ablate: {HEADS_HELP}")


def add_intervention(parser: argparse.ArgumentParser) -> Any:
    group = parser.add_argument_group("ablation")
    group.add_argument(
        "--intervention",
        default="zero",
        metavar="NAME[:PARAMETERS]",
        help="what is done to an ablated head (default: %(default)s); see below",
    )
    group.add_argument(
        "--positions",
        metavar="LIST",
        help="positions at which it is done, such as 4,7-9 or -1 (default: all)",
    )
    return group


def add_top(parser: argparse.ArgumentParser, meaning: str, default: int = 10) -> None:
    parser.add_argument(
        "--top-k",
        type=positive,
        default=default,
        metavar="K",
        help=f"{meaning} (default: %(default)s)",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json",
        metavar="FILE",
        help="also write the result as JSON; - for standard output, and then nothing else there",
    )


def positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, not {text!r}")
    return number


def not_negative(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = -1
    if number < 0:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0, not {text!r}")
    return number


def positive_number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:  # nor is NaN
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")
    return number


def intervention_table() -> str:
    """List the interventions for the help; reads the table, which takes a moment to import."""
    from ablation import INTERVENTIONS

    lines = (f"  {e.usage}\n      {e.description}" for e in INTERVENTIONS.values())
    return "interventions:\n" + "\n".join(lines) + "\n"


def head_tables() -> str:
    from ablation import HEAD_METRICS

    infos = (metric.info for metric in HEAD_METRICS.values())
    lines = (f"  {info.name} ({info.unit})\n      {info.description}" for info in infos)
    return "metrics:\n" + "\n".join(lines) + "\n\n" + intervention_table()


def search_tables() -> str:
    from ablation.screening import SCREENED
    from ablation.types import STRATEGIES

    lines = [f"  {name}\n      {words}" for name, words in STRATEGIES.items()]
    few = f"      (--screen heads a step; {SCREENED} by default)"
    return "strategies:\n" + "\n".join([*lines, few]) + "\n\n" + intervention_table()


def role_table() -> str:
    from ablation.stimuli import CROSS_ROLES, ROLES

    def told(roles: Mapping[str, Role]) -> str:
        lines = (f"  {name}\n      {role.info.description}" for name, role in roles.items())
        return "\n".join(lines) + "\n"

    return f"roles:\n{told(ROLES)}roles of cross attention:\n{told(CROSS_ROLES)}"


def study_table() -> str:
    from ablation.head_metrics import HEAD_METRICS
    from ablation.studies import STUDIES, StudyInfo
    from ablation.studies.prompts import SHIPPED

    def told(study: StudyInfo) -> str:
        options = "".join(
            f"\n      --set {option.name}={option.default}: {option.help}"
            + (f" ({', '.join(name for name, _ in option.choices)})" if option.choices else "")
            for option in study.options
        )
        given = "" if study.prompt_set is None else f"\n      --prompts {study.prompt_set}"
        number = f" --n-prompts {study.n_prompts}" if study.n_prompts else ""
        return f"  {study.name}\n      {study.question}{given}{number}{options}\n"

    sets = "\n".join(f"  {info.name}\n      {info.about}" for info in SHIPPED.values())
    metrics = ", ".join(HEAD_METRICS)
    return (
        "studies, with what they take by default:\n"
        + "".join(map(told, STUDIES.values()))
        + f"prompt sets:\n{sets}\nmetrics of --metric:\n  {metrics}\n"
    )


def metric_tables() -> str:
    from ablation import METRICS

    infos = (metric.info for metric in METRICS.values())
    lines = (
        f"  {info.name} ({info.unit}){'; needs --target' if info.needs_target else ''}\n"
        f"      {info.description}"
        for info in infos
    )
    return "metrics:\n" + "\n".join(lines) + "\n\n" + intervention_table()
