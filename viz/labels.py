"""Text and numbers as figures show them: literal, short, with a fixed notation."""

import html

from models.types import TokenProbability

VALUE_NAMES = {"attention": "weight", "moved": "norm", "rollout": "weight"}
"""Kind of maps -> what one of its values is called."""
MAPPED = {"attention": "head", "moved": "head", "rollout": "layer"}
"""Kind of maps -> what each map is of."""
MAX_LABEL_CHARS = 16
"""Longer token labels are shortened beside an axis; a click on the token shows all of it."""


def literal(text: str) -> str:
    """Return `text` such that Plotly shows exactly these characters.

    Plotly reads a small part of HTML (<b>, <a href>, <br>, entities) in titles, ticks and hover
    boxes; token texts and labels come from users and must not be read so.
    """
    # Two dollar signs would start a formula.
    return html.escape(text, quote=False).replace("$", "&#36;")


def clipped(label: str, limit: int = MAX_LABEL_CHARS) -> str:
    """Return `label`, or its first characters and an ellipsis where it is longer than `limit`."""
    return label if len(label) <= limit else f"{label[: limit - 1]}…"


def probability(value: float) -> str:
    """Return a probability in two decimals, near 0 and 1 in three: "0.92", "0.004", "<0.001".

    One that is not 1 is never written as 1, and one that is not 0 never as 0.
    """
    if value in {0, 1}:
        return f"{value:g}"
    if value < 0.0005:
        return "<0.001"
    if value >= 0.9995:
        return ">0.999"
    return f"{value:.2f}" if 0.0095 <= value < 0.995 else f"{value:.3f}"


def short_probability(value: float) -> str:
    """Return the same without the zero before the point, for dense figures: ".92"."""
    return probability(value).replace("0.", ".")


def quoted(token: TokenProbability) -> str:
    """Return a token in quotation marks for a sentence: `' Mary'`, a newline kept visible."""
    readable = token.text.isprintable() and "�" not in token.text
    return f"'{token.text if readable else token.label}'"
