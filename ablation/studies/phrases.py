"""Phrases that the answers of several studies share."""

LENS_CAVEAT = (
    "The logit lens reads early layers by the last layer's code: a prediction may be there before "
    "it is readable (Belrose et al. 2023)."
)
NO_ANSWER_CAVEAT = (
    "Where no right token is known, the one that the clean run finds likeliest stands for it."
)


FEW = 6
"""Prompts below which an interval is rough."""


def few_prompts(n: int) -> tuple[str, ...]:
    """Return what is to be said of intervals over so few prompts; nothing where they are enough."""
    if not 1 < n < FEW:
        return ()
    return (
        f"The intervals are over {n} prompts: a bootstrap over so few is too narrow, so that 95 % "
        "confidence is less.",
    )


def counted(n: int, things: str) -> str:
    """Return "1 head" or "6 heads"; `things` is the plural, in -s."""
    return f"{n} {things}" if n != 1 else f"1 {things.removesuffix('s')}"


def on_set(n: int, things: str, name: str) -> str:
    """Return "1 prompt" or "6 prompts (ioi)", the set being named where there are several."""
    return counted(n, things) if n == 1 else f"{counted(n, things)} ({name})"


def layers_words(layers: range) -> str:
    """Return "layer 3" or "layers 3 to 7"."""
    return f"layer {layers[0]}" if len(layers) == 1 else f"layers {layers[0]} to {layers[-1]}"


def behind_layer(n_run: int) -> str:
    """Return where so many layers have run: "before layer 0", "behind layer 4"."""
    return "before layer 0" if n_run == 0 else f"behind layer {n_run - 1}"
