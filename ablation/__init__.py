"""Questions asked of a model: what its heads do, and which of them matter.

The names of the Python contract are re-exported lazily, so that a room which needs only the
values (`viz`) does not pull in torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ablation.attention_change import compare_attention
    from ablation.attribution import attribute_logits, logit_lens, tokens_by_head
    from ablation.circuit.corruption import propose_corruption
    from ablation.circuit.discovery import discover_circuit
    from ablation.circuit.pair_files import parse_pairs, read_pairs
    from ablation.circuit.pairs import check_pair, check_pairs
    from ablation.circuit.patching import patch_heads
    from ablation.circuit.tasks import TASKS, make_pairs
    from ablation.circuit.types import Circuit, PromptPair
    from ablation.composition import Composition, composition_scores
    from ablation.corpus import load_corpus
    from ablation.dossier import Dossier, head_dossier
    from ablation.grid import sweep_positions
    from ablation.head_metrics import HEAD_METRICS
    from ablation.heads import format_heads, parse_heads
    from ablation.interventions import (
        INTERVENTIONS,
        Intervention,
        Knockout,
        Mean,
        Permute,
        Resample,
        Scale,
        Sparsify,
        Zero,
        parse_intervention,
    )
    from ablation.metrics import METRICS, compare
    from ablation.query_key import explain_attention
    from ablation.search import search_heads
    from ablation.studies import STUDIES, plan_study, run_study
    from ablation.summaries import summarise_heads
    from ablation.sweep import sweep_heads
    from ablation.types import (
        Ablation,
        Comparison,
        HeadScores,
        HeadSummaries,
        PositionScores,
        Progress,
        SearchResult,
        SearchStep,
    )
    from models.types import Head

_HOMES = {
    "ablation.attention_change": ("compare_attention",),
    "ablation.attribution": ("attribute_logits", "logit_lens", "tokens_by_head"),
    "ablation.circuit.corruption": ("propose_corruption",),
    "ablation.circuit.discovery": ("discover_circuit",),
    "ablation.circuit.patching": ("patch_heads",),
    "ablation.circuit.pair_files": ("parse_pairs", "read_pairs"),
    "ablation.circuit.pairs": ("check_pair", "check_pairs"),
    "ablation.circuit.tasks": ("TASKS", "make_pairs"),
    "ablation.circuit.types": ("Circuit", "PromptPair"),
    "ablation.composition": ("Composition", "composition_scores"),
    "ablation.corpus": ("load_corpus",),
    "ablation.dossier": ("Dossier", "head_dossier"),
    "ablation.grid": ("sweep_positions",),
    "ablation.head_metrics": ("HEAD_METRICS",),
    "ablation.heads": ("format_heads", "parse_heads"),
    "ablation.interventions": (
        "INTERVENTIONS",
        "Intervention",
        "Knockout",
        "Mean",
        "Permute",
        "Resample",
        "Scale",
        "Sparsify",
        "Zero",
        "parse_intervention",
    ),
    "ablation.metrics": ("METRICS", "compare"),
    "ablation.query_key": ("explain_attention",),
    "ablation.search": ("search_heads",),
    "ablation.summaries": ("summarise_heads",),
    "ablation.studies": ("STUDIES", "plan_study", "run_study"),
    "ablation.sweep": ("sweep_heads",),
    "ablation.types": (
        "Ablation",
        "Comparison",
        "HeadScores",
        "HeadSummaries",
        "PositionScores",
        "Progress",
        "SearchResult",
        "SearchStep",
    ),
    "models.types": ("Head",),
}
"""Module -> the names that it gives to this package."""

_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "HEAD_METRICS",
    "INTERVENTIONS",
    "METRICS",
    "STUDIES",
    "TASKS",
    "Ablation",
    "Circuit",
    "Comparison",
    "Composition",
    "Dossier",
    "Head",
    "HeadScores",
    "HeadSummaries",
    "Intervention",
    "Knockout",
    "Mean",
    "Permute",
    "PositionScores",
    "Progress",
    "PromptPair",
    "Resample",
    "Scale",
    "SearchResult",
    "SearchStep",
    "Sparsify",
    "Zero",
    "attribute_logits",
    "check_pair",
    "check_pairs",
    "compare",
    "compare_attention",
    "composition_scores",
    "discover_circuit",
    "explain_attention",
    "format_heads",
    "head_dossier",
    "load_corpus",
    "logit_lens",
    "make_pairs",
    "parse_heads",
    "parse_intervention",
    "parse_pairs",
    "patch_heads",
    "plan_study",
    "propose_corruption",
    "read_pairs",
    "run_study",
    "search_heads",
    "summarise_heads",
    "sweep_heads",
    "sweep_positions",
    "tokens_by_head",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'ablation' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)
