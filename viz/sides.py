"""Whose positions the queries and the keys of a map are: those of the prompt, or of another side.

An encoder-decoder has its encoder's source beside the prompt, a model that sees its tower's
positions, a policy with an action expert the expert's own, and those that it looks at, and one that
compares pictures with texts has the texts; a policy that a person wrapped has sides of its own.
"""

from collections.abc import Mapping

from models.types import AttentionMaps, TokenizedPrompt

PROMPT, SOURCE, ACTING, ALL, COMPARED = "prompt", "source", "acting", "all", "compared"


def other_sides(prompt: TokenizedPrompt) -> dict[str, TokenizedPrompt]:
    """Return the positions of every side that a prompt has beside its own."""
    found: dict[str, TokenizedPrompt] = {}
    other = prompt.source or prompt.seen
    if other is not None:
        found[SOURCE] = other
    if prompt.acting is not None:
        found |= {ACTING: prompt.acting, ALL: prompt.with_acting()}
    if prompt.compared is not None:
        found[COMPARED] = prompt.compared
    return {**found, **prompt.sides}


def sides_of(
    maps: AttentionMaps,
    prompt: TokenizedPrompt,
    others: Mapping[str, TokenizedPrompt] | None = None,
) -> tuple[str, str]:
    """Return the sides of a map's queries and keys.

    Args:
        others: the sides beside the prompt's own; None for `other_sides`.

    Raises:
        ValueError: they are positions of another prompt.
    """
    names = {prompt.content: PROMPT}
    found = other_sides(prompt) if others is None else others
    names |= {positions.content: side for side, positions in found.items()}
    try:
        return names[maps.prompt.content], names[maps.keys.content]
    except KeyError:
        raise ValueError("all maps must be of one prompt") from None
