"""The options of `policy`."""

from typing import Any

from app.cli.options import (
    add_ablation,
    add_json,
    add_prompt,
    add_stack,
    add_top,
    not_negative,
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
        "'gripper=close'; in a scene of the table 'towards purple circle'",
    )
    asked.add_argument(
        "--episodes",
        type=positive,
        metavar="N",
        help="run N episodes on the table: whole, with --ablate, and with random heads of the same "
        "layers ablated",
    )
    asked.add_argument(
        "--recording",
        metavar="PATH",
        help="follow a recorded episode: a folder of frames with episode.json, or a LeRobot "
        "dataset's directory",
    )
    asked.add_argument(
        "--record",
        metavar="DIR",
        help="let the policy act from the scene --image tabletop:7 on, and write the episode as a "
        "folder of frames",
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
        "--draws",
        type=positive,
        default=1,
        metavar="N",
        help="of a policy that answers with numbers: ask with so many noises, from --noise on, and "
        "tell the mean and its error (default: %(default)s)",
    )
    parser.add_argument(
        "--pairs",
        default="seen",
        choices=["seen", "held-out"],
        help="which targets episodes have: pairs of colour and shape seen in training, or held out",
    )
    parser.add_argument(
        "--number",
        type=not_negative,
        default=0,
        metavar="N",
        help="which episode of a dataset --recording follows (default: %(default)s)",
    )
    parser.add_argument(
        "--camera",
        action="append",
        metavar="NAME",
        help="a camera whose pictures the policy is shown along --recording, of several; may be "
        "given again (default: all)",
    )
    parser.add_argument(
        "--watch",
        metavar="HEADS",
        help="heads whose attention on the picture and on things --recording notes down",
    )
    parser.add_argument(
        "--film",
        metavar="FILE",
        help="write what --recording follows as a film, .gif or .mp4, the first watched head over "
        "the pictures",
    )
    add_top(parser, "how many heads --sweep lists")
    add_json(parser)
