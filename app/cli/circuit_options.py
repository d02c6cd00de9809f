"""The options of `circuit` and its help."""

from typing import Any

from app.cli.options import add_bos, add_json, add_model, add_top, positive


def circuit_tables() -> str:
    """List methods, metrics, baselines and task sets for the help."""
    from ablation.circuit.methods import BASELINES, DIRECTIONS, METHODS, METRICS
    from ablation.circuit.tasks import TASKS

    tables = {"methods": METHODS, "metrics": METRICS, "baselines": BASELINES,
              "head patching": DIRECTIONS}  # fmt: skip
    parts = [
        f"{title}:\n" + "\n".join(f"  {name}\n      {c.description}" for name, c in table.items())
        for title, table in tables.items()
    ]
    tasks = "\n".join(
        f"  {name}\n      {info.question} Corrupted: {info.corruption}."
        for name, info in TASKS.items()
    )
    return "\n\n".join([*parts, f"task sets:\n{tasks}"]) + "\n"


def add_circuit(commands: Any) -> None:
    parser = commands.add_parser(
        "circuit",
        help="the heads and MLPs that carry a prediction, and how they feed each other",
        description="Find the smallest set of edges between embedding, heads, MLPs and logits that "
        "carries a prediction, and prove that it does: everything else is set to what it is on a "
        "corrupted prompt. Of one prompt, of a task set, or of your own pairs.",
        tables=circuit_tables,
    )
    add_model(parser)
    group = parser.add_argument_group("prompts: one pair, a task set, or a file")
    group.add_argument("--prompt", metavar="TEXT", help="the clean prompt")
    group.add_argument(
        "--corrupt",
        metavar="TEXT",
        help="the corrupted one, of as many tokens (default: one is proposed, and said)",
    )
    group.add_argument(
        "--answer",
        metavar="TEXT",
        help="the token that is explained (default: the likeliest after the clean prompt)",
    )
    group.add_argument(
        "--distractor",
        metavar="TEXT",
        help="the token it is weighed against (default: the likeliest after the corrupted prompt)",
    )
    add_bos(group)
    group.add_argument("--task", metavar="NAME", help="a task set that ships; see below")
    group.add_argument(
        "--pairs",
        metavar="FILE",
        help="a CSV, JSON or JSONL file with clean, corrupt, answer and distractor",
    )
    group.add_argument(
        "--n-pairs",
        type=positive,
        default=20,
        metavar="N",
        help="pairs of a task set (default: %(default)s)",
    )
    group.add_argument(
        "--held-out",
        type=positive,
        metavar="N",
        help="pairs on which the circuit is measured but not found: more of the task set, or the "
        "last of the file",
    )
    group.add_argument(
        "--seed", type=int, default=0, metavar="S", help="of the task set (default: %(default)s)"
    )
    group = parser.add_argument_group("discovery")
    group.add_argument("--method", default="eap-ig", metavar="NAME", help="(default: %(default)s)")
    group.add_argument(
        "--metric", default="logit_diff", metavar="NAME", help="(default: %(default)s)"
    )
    group.add_argument(
        "--baseline", default="resample", metavar="NAME", help="(default: %(default)s)"
    )
    group.add_argument(
        "--faithfulness",
        type=float,
        default=0.85,
        metavar="F",
        help="the share of the effect that the circuit has to keep (default: %(default)s)",
    )
    group.add_argument(
        "--steps",
        type=positive,
        default=5,
        metavar="N",
        help="of integrated gradients (default: %(default)s)",
    )
    group = parser.add_argument_group("head patching, instead of a circuit")
    group.add_argument(
        "--patch-heads",
        choices=("noising", "denoising"),
        help="replace each head's output by that of the other prompt, one head at a time: "
        "corrupted ones in the clean run (noising: is the head needed?), or clean ones in the "
        "corrupted run (denoising: is it enough?)",
    )
    parser.add_argument(
        "--by-position",
        action="store_true",
        help="score the circuit's edges at each position too (pairs of one length); with "
        "--patch-heads, patch at each position alone too (one pair)",
    )
    parser.add_argument(
        "--svg",
        metavar="FILE",
        help="also draw the circuit, by token if its edges are scored --by-position",
    )
    parser.add_argument("--graphml", metavar="FILE", help="also write the circuit as GraphML")
    add_top(parser, "how many edges or heads to list", default=20)
    add_json(parser)
