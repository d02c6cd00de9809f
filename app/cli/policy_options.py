"""The options of `policy`."""

from typing import Any

from app.cli.options import (
    add_ablation,
    add_json,
    add_prompt,
    add_stack,
    add_top,
    positive,
)


def add_policy(commands: Any) -> None:
    parser = commands.add_parser(
        "policy",
        help="what a robot's policy does, and which heads it needs for that",
        description="Print the action that a policy answers with; with --ablate, also with heads "
        "ablated. Or score every head by how far it moves the action (--sweep), search for the "
        "heads that move it farthest (--search) or make it what is wanted (--goal), or run whole "
        "episodes on the simulated table (--episodes).",
    )
    add_prompt(parser, position=False, required=False)
    parser.set_defaults(model="tabletop")
    add_ablation(parser)
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument("--sweep", action="store_true", help="score every head of a stack")
    asked.add_argument(
        "--modalities",
        action="store_true",
        help="what the policy does if nobody may look at the picture, the instruction, the state",
    )
    asked.add_argument(
        "--search", action="store_true", help="the heads that together move the action farthest"
    )
    asked.add_argument(
        "--goal",
        metavar="GOAL",
        help="heads, none of which can be missed, that make an action as wanted: 'dx<0', "
        "'gripper=close'",
    )
    asked.add_argument(
        "--episodes",
        type=positive,
        metavar="N",
        help="run N episodes on the table: whole, with --ablate, and with random heads of the same "
        "layers ablated",
    )
    add_stack(parser, "whose heads --sweep is about")
    parser.add_argument(
        "--max-heads",
        type=positive,
        default=5,
        metavar="K",
        help="how many heads a search may take (default: %(default)s)",
    )
    parser.add_argument(
        "--pairs",
        default="seen",
        choices=["seen", "held-out"],
        help="which targets episodes have: pairs of colour and shape seen in training, or held out",
    )
    add_top(parser, "how many heads --sweep lists")
    add_json(parser)
