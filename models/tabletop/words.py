"""The policy's language: instructions, the state it is told, and the actions it answers with.

Every word is one token. A prompt reads

    <s> <image>... reach the red square x12 y30 open

and the answer is three tokens: how far along x, how far along y, and what the gripper does.
"""

from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from models.tabletop.table import COLOURS, REACH, SHAPES, SIZE, STEP, VERBS, Action, Scene

BOS, UNKNOWN, PADDING, IMAGE = "<s>", "<unk>", "<pad>", "<image>"
CELL = 2
"""Pixels that one word of the state stands for."""
MOVES = tuple(range(-REACH, REACH + 1, STEP))
GRIPS = ("<open>", "<close>")
WORDS = {"0": "open", "1": "close"}


def move_word(pixels: int) -> str:
    return f"<{pixels:+d}>" if pixels else "<0>"


def state_words(scene: Scene) -> list[str]:
    """Return what the policy is told of the gripper."""
    grip = "closed" if scene.closed else "open"
    return [f"x{int(scene.x) // CELL}", f"y{int(scene.y) // CELL}", grip]


def told(scene: Scene) -> str:
    """Return what the policy is told in a scene beside the picture."""
    return " ".join([scene.instruction, *state_words(scene)])


def action_words(action: Action) -> list[str]:
    """Return the three words of an action."""
    return [move_word(int(action.dx)), move_word(int(action.dy)), GRIPS[int(action.close)]]


VOCABULARY = (
    BOS,
    UNKNOWN,
    PADDING,
    IMAGE,
    *VERBS,
    "the",
    "only",
    *COLOURS,
    *SHAPES,
    "one",
    *(f"x{i}" for i in range(SIZE // CELL)),
    *(f"y{i}" for i in range(SIZE // CELL)),
    "open",
    "closed",
    *(move_word(pixels) for pixels in MOVES),
    *GRIPS,
)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer of this language."""
    ids = {word: i for i, word in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, ids[BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        unk_token=UNKNOWN,
        pad_token=PADDING,
        extra_special_tokens={"image_token": IMAGE},
    )


def description() -> dict[str, Any]:
    """Return what the answer's tokens mean: the file that tells of a policy's actions."""
    moves = {move_word(pixels): pixels for pixels in MOVES}
    origin = {"pattern": "x([0-9]+) y([0-9]+)", "scale": CELL}
    return {
        "origin": origin,
        "state": "x[0-9]+|y[0-9]+|open|closed",
        "actions": [
            {"name": "dx", "unit": "px", "tokens": moves, "axis": "x"},
            {"name": "dy", "unit": "px", "tokens": moves, "axis": "y"},
            {"name": "gripper", "tokens": dict(zip(GRIPS, (0, 1), strict=True)), "words": WORDS},
        ],
    }
