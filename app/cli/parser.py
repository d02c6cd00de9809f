"""The options of the command line and their help. Imports nothing heavy: `--help` is instant."""

import argparse
import math
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8050

PROGRAM = "python main.py"

DESCRIPTION = """\
See, ablate and search the attention heads of Hugging Face transformers.

Without a command the page is served: open the link that is printed.
"""

EXAMPLES = """\
examples:
  python main.py                                  serve the page with the built-in model
  python main.py --model gpt2 --port 9000         another model, another port
  python main.py predict --prompt "The capital of France is"
  python main.py predict --prompt "The capital of France is" --ablate "5.3, 9.*"
  python main.py attention --prompt "The key to the cabinets" --heads "5.3, L9H6"
  python main.py attention --prompt "The key to the cabinets" --heads L9 --html maps.html
  python main.py heads --prompt "The key to the cabinets" --sort previous_weight
  python main.py sweep --prompt "The capital of France is" --json sweep.json
  python main.py sweep --prompt "The capital of France is" --by-position --heads "16.0, 8.*"
  python main.py search --prompt "The capital of France is" --target " London"
  python main.py attribute --prompt "The capital of France is" --versus " London" --lens
  python main.py explain --prompt "The cat sat. The cat" --head 17.4 --query -1 --key 1
  python main.py compare --prompt "The capital of France is" --ablate "16.0"
  python main.py dossier
  python main.py study heads --head 18.6

`python main.py COMMAND --help` tells more. Exit status: 0; 2 for wrong input, with one line on
standard error; 130 when stopped by Ctrl-C.
"""

HEADS_HELP = (
    "5.3 or L5H3, 5.* or L5 for a layer, *.3, 3-5.0-2, 5.0-3, all; of an encoder-decoder also "
    "encoder:5.3, cross:all; separated by commas"
)


class OneLineParser(argparse.ArgumentParser):
    """A parser that reports an error in one line, and whose epilog may be made when asked for."""

    def __init__(self, *args: Any, tables: Callable[[], str] | None = None, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, **kwargs)
        self._tables = tables

    def format_help(self) -> str:
        text = super().format_help()
        return text if self._tables is None else f"{text}\n{self._tables()}"

    def error(self, message: str) -> NoReturn:
        line = " ".join(message.split())
        self.exit(2, f"error: {line}; see `{self.prog} --help`.\n")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line; `command` of its result names the command."""
    parser = OneLineParser(prog=PROGRAM, description=DESCRIPTION, epilog=EXAMPLES)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    _add_serve(commands)
    _add_predict(commands)
    _add_attention(commands)
    _add_heads(commands)
    _add_sweep(commands)
    _add_search(commands)
    _add_attribute(commands)
    _add_explain(commands)
    _add_compare(commands)
    _add_dossier(commands)
    _add_study(commands)
    return parser


def with_command(arguments: Sequence[str]) -> list[str]:
    """Put the default command in front of options that name none."""
    if arguments and (not arguments[0].startswith("-") or arguments[0] in ("-h", "--help")):
        return list(arguments)
    return ["serve", *arguments]


def _add_serve(commands: Any) -> None:
    parser = commands.add_parser(
        "serve",
        help="serve the page (the default)",
        description="Serve the page. Ctrl-C ends it.",
    )
    _add_model(parser)
    parser.add_argument(
        "--host",
        default=DEFAULT_HOST,
        help="address to listen on (default: %(default)s, this machine only)",
    )
    parser.add_argument(
        "--port", type=int, default=DEFAULT_PORT, help="port to listen on (default: %(default)s)"
    )
    parser.add_argument("--open", action="store_true", help="open the page in the browser")


def _add_predict(commands: Any) -> None:
    parser = commands.add_parser(
        "predict",
        help="the most likely next tokens, before and after ablating heads",
        description="Print the most likely tokens after a position; with --ablate, also with "
        "heads ablated, and how far the two distributions are apart.",
        tables=_intervention_table,
    )
    _add_prompt(parser)
    _add_ablation(parser)
    _add_top(parser, "how many tokens to show")
    parser.add_argument(
        "--target", metavar="TEXT", help="also tell this token's probability and rank"
    )
    _add_json(parser)


def _add_attention(commands: Any) -> None:
    parser = commands.add_parser(
        "attention",
        help="what chosen heads attend to",
        description="Print where each position looks, for chosen heads; the JSON holds the whole "
        "maps, [head][query][key].",
        tables=_intervention_table,
    )
    _add_prompt(parser)
    parser.add_argument("--heads", required=True, metavar="HEADS", help=HEADS_HELP)
    parser.add_argument(
        "--show",
        choices=["attention", "moved", "rollout"],
        default="attention",
        help="moved: attention times the norm of what is moved, |a W_O v|; rollout: attention "
        "rolled out up to each layer that the heads are in; both of the clean run (default: "
        "%(default)s)",
    )
    _add_ablation(parser)
    _add_top(parser, "how many keys to show for a query", default=3)
    _add_json(parser)
    parser.add_argument(
        "--html",
        metavar="FILE",
        help="also write one HTML file that shows the maps offline: heat maps, lines and text",
    )
    parser.add_argument(
        "--first-token",
        choices=["show", "hide", "renormalise"],
        default="show",
        help="what that file does about the first token, on which many heads leave the attention "
        "that they do not need (default: %(default)s)",
    )


def _add_heads(commands: Any) -> None:
    parser = commands.add_parser(
        "heads",
        help="what every head attends to, in numbers",
        description="Run the prompt once and summarise the attention of every head: entropy, "
        "distance, weight on self, previous and first token. Thousands of tokens will do. The JSON "
        "holds every metric of every head, [layer][head].",
        tables=_head_tables,
    )
    _add_prompt(parser, position=False)
    parser.add_argument(
        "--sort",
        default="largest_weight",
        metavar="NAME",
        help="the metric whose leading heads are listed (default: %(default)s); see below",
    )
    parser.add_argument(
        "--smallest", action="store_true", help="list those with the smallest values"
    )
    _add_ablation(parser)
    _add_top(parser, "how many heads to list")
    _add_json(parser)


def _add_sweep(commands: Any) -> None:
    parser = commands.add_parser(
        "sweep",
        help="ablate every head alone and rank them",
        description="Ablate every head alone and score the change of the prediction; with "
        "--by-position, chosen heads at each position alone.",
        tables=_metric_tables,
    )
    _add_prompt(parser, several=True)
    parser.add_argument(
        "--metric", default="kl", metavar="NAME", help="what is scored (default: %(default)s)"
    )
    _add_targets(parser, "the token that metrics about a target are about")
    parser.add_argument(
        "--stack",
        default="",
        metavar="NAME",
        help="whose heads are ablated: encoder or cross, of an encoder-decoder (default: the "
        "decoder's own)",
    )
    parser.add_argument(
        "--by-position",
        action="store_true",
        help="score the heads of --heads at one position at a time: where they matter",
    )
    parser.add_argument(
        "--heads", metavar="HEADS", help=f"the heads of --by-position: {HEADS_HELP}"
    )
    _add_intervention(parser)
    _add_top(parser, "how many heads (or cells, by position) to list")
    _add_json(parser)


def _add_search(commands: Any) -> None:
    parser = commands.add_parser(
        "search",
        help="find the heads that matter together",
        description="Search greedily for heads. Without --target: those that change the "
        "prediction most (KL divergence). With it: those whose ablation makes the target the most "
        "likely token, reduced to a minimal set.",
        tables=_search_tables,
    )
    _add_prompt(parser, several=True)
    _add_targets(parser, "one token, as typed: ' John' has a space in front")
    parser.add_argument(
        "--max-heads",
        type=_positive,
        default=10,
        metavar="N",
        help="stop after so many heads (default: %(default)s)",
    )
    parser.add_argument(
        "--heads", metavar="HEADS", help=f"search among these only (default: all): {HEADS_HELP}"
    )
    parser.add_argument(
        "--strategy",
        default="exact",
        metavar="NAME",
        help="how each step chooses (default: %(default)s); see below",
    )
    parser.add_argument(
        "--screen",
        type=_positive,
        metavar="N",
        help="how many heads a screened step evaluates; see below",
    )
    _add_intervention(parser)
    _add_json(parser)


def _add_attribute(commands: Any) -> None:
    parser = commands.add_parser(
        "attribute",
        help="what each head and MLP itself adds to a token's logit",
        description="Tell apart what every part of the model adds to a token's logit, or to one "
        "token's less another's, with the final norm's scale frozen (direct logit attribution). "
        "The terms add up; by how little they fail to is printed.",
    )
    _add_prompt(parser)
    parser.add_argument("--target", metavar="TEXT", help="the token (default: the most likely one)")
    parser.add_argument("--versus", metavar="TEXT", help="a token whose logit is subtracted")
    parser.add_argument(
        "--lens",
        action="store_true",
        help="also the prediction read off after each layer (logit lens), following the target",
    )
    parser.add_argument(
        "--heads",
        metavar="HEADS",
        help=f"also the tokens that these heads raise and lower most: {HEADS_HELP}",
    )
    _add_top(parser, "how many terms to list", default=20)
    _add_json(parser)
    parser.set_defaults(intervention="zero", positions=None)


def _add_explain(commands: Any) -> None:
    parser = commands.add_parser(
        "explain",
        help="why a head looks from one position at another",
        description="Tell a head's score for one query and one key apart: by the dimensions of "
        "query and key, and by the parts of the model that the query, and the key, came from, each "
        "with the other side held fixed.",
    )
    _add_prompt(parser)
    parser.add_argument("--head", required=True, metavar="HEAD", help="one head: 5.3 or L5H3")
    for side in ("query", "key"):
        parser.add_argument(
            f"--{side}",
            required=True,
            type=int,
            metavar="I",
            help=f"position of the {side}, from 0; negative counts from the end",
        )
    parser.add_argument(
        "--relative",
        action="store_true",
        help="explain by how much the score is above the mean of all keys that the query can see: "
        "what all keys share does not matter to where a head looks",
    )
    _add_top(parser, "how many terms of each list to show")
    _add_json(parser)
    parser.set_defaults(intervention="zero", positions=None)


def _add_compare(commands: Any) -> None:
    parser = commands.add_parser(
        "compare",
        help="how much each head's attention differs between two runs",
        description="Score every head by how much its attention differs (Jensen-Shannon "
        "divergence, in nats) between two prompts of as many tokens, two models with the same "
        "tokenizer, or the clean run and an ablated one.",
        tables=_intervention_table,
    )
    _add_model(parser)
    group = parser.add_argument_group("what is compared")
    group.add_argument("--prompt", required=True, metavar="TEXT", help="the text to run")
    group.add_argument(
        "--with-prompt", metavar="TEXT", help="another text, of as many tokens, on the same model"
    )
    group.add_argument("--with-model", metavar="M", help="another model, on the same text")
    _add_bos(group)
    _add_ablation(parser)
    _add_top(parser, "how many heads to list")
    _add_json(parser)


def _add_dossier(commands: Any) -> None:
    parser = commands.add_parser(
        "dossier",
        help="the roles of all heads on standard stimuli",
        description="Score every head on repeated random tokens [BOS r r] as a previous-token, "
        "induction, duplicate-token and first-token head. Kept on disk: the second time is "
        "instant.",
        tables=_role_table,
    )
    _add_model(parser)
    group = parser.add_argument_group("stimuli")
    group.add_argument(
        "--sequences",
        type=_positive,
        default=4,
        metavar="N",
        help="how many sequences the scores are the mean of (default: %(default)s)",
    )
    group.add_argument(
        "--length",
        type=_positive,
        metavar="N",
        help="tokens of r (default: 50, or as many as the model's context holds twice)",
    )
    group.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="S",
        help="of the random choice of tokens (default: %(default)s)",
    )
    _add_top(parser, "how many heads to list for each role")
    _add_json(parser)


def _add_study(commands: Any) -> None:
    parser = commands.add_parser(
        "study",
        help="a ready-made study of what heads do",
        description="Run a ready-made study over the corpus that ships with the program, and "
        "print what it found.",
        tables=_study_table,
    )
    parser.add_argument("name", metavar="NAME", help="which study; see below")
    _add_model(parser)
    parser.add_argument(
        "--head", metavar="HEAD", help="also find the strongest contexts of this head, as 5.3"
    )
    _add_top(parser, "how many heads to list for each metric", default=3)
    _add_json(parser)


def _add_model(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        default="builtin",
        metavar="M",
        help="builtin (SmolLM2-135M), a Hugging Face id such as gpt2, a directory, or a .gguf file "
        "(default: %(default)s)",
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
        type=_positive_number,
        default=None,
        metavar="G",
        help="gigabytes that one pass over many heads may take (default: half of what is free)",
    )


def _add_prompt(
    parser: argparse.ArgumentParser, several: bool = False, position: bool = True
) -> None:
    _add_model(parser)
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
        group.add_argument("--prompt", required=True, metavar="TEXT", help="the text to run")
    if position:
        group.add_argument(
            "--position",
            type=int,
            metavar="I",
            help="read the prediction after this position, from 0; negative counts from the end "
            "(default: the last one, or the first mask token)",
        )
    _add_bos(group)


def _add_bos(group: Any) -> None:
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
        "--bos",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="put a beginning-of-sequence token in front, or not (default: as the tokenizer does)",
    )


def _add_targets(parser: argparse.ArgumentParser, meaning: str) -> None:
    parser.add_argument(
        "--target",
        action="append",
        metavar="TEXT",
        help=f"{meaning}; once for all prompts, or once for each",
    )


def _add_ablation(parser: argparse.ArgumentParser) -> None:
    group = _add_intervention(parser)
    group.add_argument("--ablate", metavar="HEADS", help=f"heads to ablate: {HEADS_HELP}")


def _add_intervention(parser: argparse.ArgumentParser) -> Any:
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


def _add_top(parser: argparse.ArgumentParser, meaning: str, default: int = 10) -> None:
    parser.add_argument(
        "--top-k",
        type=_positive,
        default=default,
        metavar="K",
        help=f"{meaning} (default: %(default)s)",
    )


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json",
        metavar="FILE",
        help="also write the result as JSON; - for standard output, and then nothing else there",
    )


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, not {text!r}")
    return number


def _positive_number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:  # nor is NaN
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")
    return number


def _intervention_table() -> str:
    """List the interventions for the help; reads the table, which takes a moment to import."""
    from ablation import INTERVENTIONS

    lines = (f"  {e.usage}\n      {e.description}" for e in INTERVENTIONS.values())
    return "interventions:\n" + "\n".join(lines) + "\n"


def _head_tables() -> str:
    from ablation import HEAD_METRICS

    infos = (metric.info for metric in HEAD_METRICS.values())
    lines = (f"  {info.name} ({info.unit})\n      {info.description}" for info in infos)
    return "metrics:\n" + "\n".join(lines) + "\n\n" + _intervention_table()


def _search_tables() -> str:
    from ablation.screening import SCREENED
    from ablation.types import STRATEGIES

    lines = [f"  {name}\n      {words}" for name, words in STRATEGIES.items()]
    few = f"      (--screen heads a step; {SCREENED} by default)"
    return "strategies:\n" + "\n".join([*lines, few]) + "\n\n" + _intervention_table()


def _role_table() -> str:
    from ablation.stimuli import ROLES

    lines = (f"  {name}\n      {role.info.description}" for name, role in ROLES.items())
    return "roles:\n" + "\n".join(lines) + "\n"


def _study_table() -> str:
    from ablation.studies import STUDIES

    lines = (f"  {study.name}\n      {study.question}" for study in STUDIES.values())
    return "studies:\n" + "\n".join(lines) + "\n"


def _metric_tables() -> str:
    from ablation import METRICS

    infos = (metric.info for metric in METRICS.values())
    lines = (
        f"  {info.name} ({info.unit}){'; needs --target' if info.needs_target else ''}\n"
        f"      {info.description}"
        for info in infos
    )
    return "metrics:\n" + "\n".join(lines) + "\n\n" + _intervention_table()
