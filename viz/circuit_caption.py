"""What a circuit is of, said in a line: under its headline, and in its pictures and files."""

import re

from ablation.circuit.methods import BASELINES, METHODS, METRICS
from ablation.circuit.types import Circuit, PromptPair
from viz.circuit_text import number

QUOTED = 160
"""Longer prompts are shortened in a caption."""


_NOT_IN_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def caption(circuit: Circuit) -> str:
    """Return what a circuit is of: prompts, tokens, model, metric, method, what was asked."""
    return f"{_pairs(circuit)}. {_question(circuit)}."


def for_xml(text: str) -> str:
    """Return a text with a mark in the place of each character that no XML file can hold."""
    return _NOT_IN_XML.sub("\ufffd", text)


def _pairs(circuit: Circuit) -> str:
    first, n = circuit.pairs[0], len(circuit.pairs)
    if n == 1:
        return f"{_prompts(first)}; {_tokens(first)}"
    origin = circuit.origin
    where = {"task": f"Task set {origin.name}, ", "file": f"{origin.name}, "}.get(origin.source, "")
    more = [f"seed {origin.seed}"] if origin.seed is not None else []
    if origin.held_out:
        more.append(f"{len(origin.held_out):,} more held out")
    beside = f" ({', '.join(more)})" if more else ""
    said = f"{where}{n:,} pairs{beside}, each with its own {_names(first)}; the first: "
    return f"{said}{_prompts(first)}; {_tokens(first)}"


def _names(pair: PromptPair) -> str:
    return "answer and distractor" if pair.distractor else "answer"


def _prompts(pair: PromptPair) -> str:
    return f"“{_clipped(pair.clean)}” against “{_clipped(pair.corrupt)}”"


def _clipped(text: str) -> str:
    return text if len(text) <= QUOTED else f"{text[: QUOTED - 1]}…"


def _tokens(pair: PromptPair) -> str:
    against = f" against {pair.distractor!r}" if pair.distractor else ""
    return f"{pair.answer!r}{against}"


def _question(circuit: Circuit) -> str:
    method, steps = METHODS[circuit.method], circuit.origin.steps
    said = [
        f"Model {circuit.model}",
        METRICS[circuit.metric].label,
        method.label + (f" with {steps} steps" if steps is not None else ""),
        f"edges outside of it carry: {BASELINES[circuit.baseline].label}",
    ]
    if method.takes_faithfulness:
        said.append(f"faithfulness asked ≥ {number(circuit.asked)}")
    return ", ".join(said)
