"""`attribute`: what each part of the model itself adds to a token's logit."""

from argparse import Namespace

import numpy as np

from app.cli.attribution_tables import head_tokens_table, lens_table, terms_table
from app.cli.question import pose, read_target
from app.cli.tables import percent
from app.cli.terminal import Terminal, visible


def run(options: Namespace, terminal: Terminal) -> int:
    question = pose(options, terminal)
    from ablation.attribution import attribute_logits, logit_lens, tokens_by_head

    model, prompt, at = question.model, question.prompt, question.position
    target, versus = read_target(options.target), read_target(options.versus)
    heads = None if options.heads is None else question.heads(options.heads)
    stream = model.residual.read(prompt)
    found = attribute_logits(model, prompt, target, versus, at, stream=stream)
    about = f"{visible(found.target.label)} ({percent(found.target.prob)})"
    if found.versus is not None:
        about += f" less {visible(found.versus.label)} ({percent(found.versus.prob)})"
    terminal.print(question.describe())
    terminal.print(terms_table(found.terms, f"logit of {about}", options.top_k))
    capped = ", before the soft cap" if found.capped else ""
    terminal.print(
        f"sum of {len(found.terms)} terms {found.total:.5f}; the model's {found.logit:.5f}{capped} "
        f"(error {found.error:.1g})"
    )
    stream_error = max(stream.error_at([at]))
    terminal.print(
        "the same parts add up to the residual stream in every layer (largest relative error "
        f"{stream_error:.1g})"
    )
    scores = [[None if np.isnan(v) else float(v) for v in row] for row in found.head_scores.values]
    result = {
        **question.to_json(None),
        "baseline": found.baseline.to_json(),
        **found.to_json(),
        "scores": scores,
        "stream_error": stream_error,
    }
    if options.lens:
        lens = logit_lens(model, prompt, at, found.target.id, stream=stream)
        terminal.print(lens_table(lens))
        result["lens"] = lens.to_json()
    if heads is not None:
        tokens = tokens_by_head(model, prompt, heads, at, stream=stream)
        terminal.print(head_tokens_table(tokens))
        result["head_tokens"] = [entry.to_json() for entry in tokens]
    terminal.write_json(result)
    return 0
