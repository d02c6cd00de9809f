"""The options of the command line and their help. Imports nothing heavy: `--help` is instant."""

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from app.cli.circuit_options import add_circuit
from app.cli.options import (
    HEADS_HELP,
    add_ablation,
    add_bos,
    add_intervention,
    add_json,
    add_model,
    add_prompt,
    add_stack,
    add_targets,
    add_top,
    head_tables,
    intervention_table,
    metric_tables,
    positive,
    role_table,
    search_tables,
    study_table,
)
from app.cli.policy_options import add_policy

PROMPTS_HELP = (
    "a shipped set, see below, or a file: .txt with one prompt a line; .csv, .json or .jsonl with "
    "prompt and, where known, answer, distractor and template"
)
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
  python main.py circuit --prompt "The capital of France is"
  python main.py policy --image tabletop:7 --ablate "vision:1.4, 2.1"
  python main.py policy --image tabletop:7 --goal "dx<0"
  python main.py dossier
  python main.py study heads --head 18.6

`python main.py COMMAND --help` tells more. Exit status: 0; 2 for wrong input, with one line on
standard error; 130 when stopped by Ctrl-C.
"""


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
    add_circuit(commands)
    add_policy(commands)
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
    add_model(parser)
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
        tables=intervention_table,
    )
    add_prompt(parser)
    add_ablation(parser)
    add_top(parser, "how many tokens to show")
    parser.add_argument(
        "--target", metavar="TEXT", help="also tell this token's probability and rank"
    )
    add_json(parser)


def _add_attention(commands: Any) -> None:
    parser = commands.add_parser(
        "attention",
        help="what chosen heads attend to",
        description="Print where each position looks, for chosen heads; the JSON holds the whole "
        "maps, [head][query][key].",
        tables=intervention_table,
    )
    add_prompt(parser)
    parser.add_argument("--heads", required=True, metavar="HEADS", help=HEADS_HELP)
    parser.add_argument(
        "--show",
        choices=["attention", "moved", "rollout"],
        default="attention",
        help="moved: attention times the norm of what is moved, |a W_O v|; rollout: attention "
        "rolled out up to each layer that the heads are in; both of the clean run (default: "
        "%(default)s)",
    )
    add_ablation(parser)
    add_top(parser, "how many keys to show for a query", default=3)
    add_json(parser)
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
        tables=head_tables,
    )
    add_prompt(parser, position=False)
    parser.add_argument(
        "--sort",
        default="largest_weight",
        metavar="NAME",
        help="the metric whose leading heads are listed (default: %(default)s); see below",
    )
    parser.add_argument(
        "--smallest", action="store_true", help="list those with the smallest values"
    )
    add_stack(parser, "whose heads are summarised")
    add_ablation(parser)
    add_top(parser, "how many heads to list")
    add_json(parser)


def _add_sweep(commands: Any) -> None:
    parser = commands.add_parser(
        "sweep",
        help="ablate every head alone and rank them",
        description="Ablate every head alone and score the change of the prediction; with "
        "--by-position, chosen heads at each position alone.",
        tables=metric_tables,
    )
    add_prompt(parser, several=True)
    parser.add_argument(
        "--metric", default="kl", metavar="NAME", help="what is scored (default: %(default)s)"
    )
    add_targets(parser, "the token that metrics about a target are about")
    add_stack(parser, "whose heads are ablated")
    parser.add_argument(
        "--by-position",
        action="store_true",
        help="score the heads of --heads at one position at a time: where they matter",
    )
    parser.add_argument(
        "--heads", metavar="HEADS", help=f"the heads of --by-position: {HEADS_HELP}"
    )
    add_intervention(parser)
    add_top(parser, "how many heads (or cells, by position) to list")
    add_json(parser)


def _add_search(commands: Any) -> None:
    parser = commands.add_parser(
        "search",
        help="find the heads that matter together",
        description="Search greedily for heads. Without --target: those that change the "
        "prediction most (KL divergence). With it: those whose ablation makes the target the most "
        "likely token, reduced to a minimal set.",
        tables=search_tables,
    )
    add_prompt(parser, several=True)
    add_targets(parser, "one token, as typed: ' John' has a space in front")
    parser.add_argument(
        "--max-heads",
        type=positive,
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
        type=positive,
        metavar="N",
        help="how many heads a screened step evaluates; see below",
    )
    add_intervention(parser)
    add_json(parser)


def _add_attribute(commands: Any) -> None:
    parser = commands.add_parser(
        "attribute",
        help="what each head and MLP itself adds to a token's logit",
        description="Tell apart what every part of the model adds to a token's logit, or to one "
        "token's less another's, with the final norm's scale frozen (direct logit attribution). "
        "The terms add up; by how little they fail to is printed.",
    )
    add_prompt(parser)
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
    add_top(parser, "how many terms to list", default=20)
    add_json(parser)
    parser.set_defaults(intervention="zero", positions=None)


def _add_explain(commands: Any) -> None:
    parser = commands.add_parser(
        "explain",
        help="why a head looks from one position at another",
        description="Tell a head's score for one query and one key apart: by the dimensions of "
        "query and key, and by the parts of the model that the query, and the key, came from, each "
        "with the other side held fixed.",
    )
    add_prompt(parser)
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
    add_top(parser, "how many terms of each list to show")
    add_json(parser)
    parser.set_defaults(intervention="zero", positions=None)


def _add_compare(commands: Any) -> None:
    parser = commands.add_parser(
        "compare",
        help="how much each head's attention differs between two runs",
        description="Score every head by how much its attention differs (Jensen-Shannon "
        "divergence, in nats) between two prompts of as many tokens, two models with the same "
        "tokenizer, or the clean run and an ablated one.",
        tables=intervention_table,
    )
    add_model(parser)
    group = parser.add_argument_group("what is compared")
    group.add_argument("--prompt", required=True, metavar="TEXT", help="the text to run")
    group.add_argument(
        "--with-prompt", metavar="TEXT", help="another text, of as many tokens, on the same model"
    )
    group.add_argument(
        "--with-decoder",
        metavar="TEXT",
        help="of an encoder-decoder: another text of its decoder, of as many tokens; alone, or "
        "beside --with-prompt",
    )
    group.add_argument("--with-model", metavar="M", help="another model, on the same text")
    add_stack(group, "whose heads are compared")
    add_bos(group)
    add_ablation(parser)
    add_top(parser, "how many heads to list")
    add_json(parser)


def _add_dossier(commands: Any) -> None:
    parser = commands.add_parser(
        "dossier",
        help="the roles of all heads on standard stimuli",
        description="Score every head on repeated random tokens [BOS r r] as a previous-token, "
        "induction, duplicate-token and first-token head; heads of cross attention on r given to "
        "both sides. Kept on disk: the second time is instant.",
        tables=role_table,
    )
    add_model(parser)
    add_stack(parser, "whose heads are scored")
    group = parser.add_argument_group("stimuli")
    group.add_argument(
        "--sequences",
        type=positive,
        default=4,
        metavar="N",
        help="how many sequences the scores are the mean of (default: %(default)s)",
    )
    group.add_argument(
        "--length",
        type=positive,
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
    add_top(parser, "how many heads to list for each role")
    add_json(parser)


def _add_study(commands: Any) -> None:
    parser = commands.add_parser(
        "study",
        help="a ready-made study of what heads do",
        description="Run a ready-made study, and print its answer, its table and its caveats.",
        tables=study_table,
    )
    parser.add_argument("name", metavar="NAME", help="which study; see below")
    add_model(parser)
    group = parser.add_argument_group("what it runs on")
    group.add_argument("--prompts", metavar="SET", help=PROMPTS_HELP)
    group.add_argument("--prompt", metavar="TEXT", help="one prompt of your own, instead")
    group.add_argument(
        "--n-prompts", type=positive, metavar="N", help="how many prompts of a shipped set"
    )
    group.add_argument(
        "--seed", type=int, default=0, metavar="S", help="of a shipped set (default: %(default)s)"
    )
    parser.add_argument(
        "--set",
        action="append",
        metavar="NAME=VALUE",
        help="an option of the study, see below; may be given several times",
    )
    parser.add_argument(
        "--html", metavar="FILE", help="also write the study with its figures as one HTML file"
    )
    heads = parser.add_argument_group("the study of heads over a corpus")
    heads.add_argument(
        "--head",
        metavar="HEAD",
        help="also tell this head's distributions and its strongest contexts, as 5.3",
    )
    heads.add_argument(
        "--metric",
        metavar="NAME",
        help="also the heads ranked by this metric and layers x heads; with --head its histogram",
    )
    heads.add_argument(
        "--statistic",
        default="mean",
        metavar="NAME",
        help="what of each head's distribution over the passages --metric shows: mean, low "
        "(10 %%), median or high (90 %%) (default: %(default)s)",
    )
    add_stack(parser, "whose heads are read")
    add_top(parser, "how many rows of the table to print (heads for each metric)", default=10)
    add_json(parser)
