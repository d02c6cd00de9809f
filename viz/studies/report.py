"""A study as one HTML file that works offline: its answer, figures, table and caveats."""

from html import escape

import plotly.io

from ablation.studies import study_named
from ablation.studies.phrases import counted
from ablation.studies.types import StudyResult
from viz.studies import study_figures

STYLE = (
    "body{font-family:system-ui,sans-serif;max-width:960px;margin:24px auto;padding:0 16px;"
    "color:#1f2733}table{border-collapse:collapse;font-size:13px}td,th{padding:3px 9px;"
    "border-bottom:1px solid #dde3ea;text-align:right}.caveats{color:#5b6675;font-size:13px}"
    ".answer p:first-child{font-size:18px;font-weight:600}"
)
MOST_ROWS = 500


def study_html(result: StudyResult, model: str, asked: str = "") -> str:
    """Write a study's page; Plotly's script is in it, so that it needs no network.

    Args:
        asked: the prompts and options in words.
    """
    info = study_named(result.name)
    scripted, parts = False, []
    for drawn in study_figures(result):
        parts.append(f"<h2>{escape(drawn.title)}</h2><p>{escape(drawn.about)}</p>")
        parts.append(
            plotly.io.to_html(drawn.figure, full_html=False, include_plotlyjs=not scripted)
        )
        scripted = True
    answer = "".join(f"<p>{escape(sentence)}</p>" for sentence in result.answer)
    caveats = "".join(f"<li>{escape(caveat)}</li>" for caveat in result.caveats)
    table = result.table.head(MOST_ROWS).to_html(index=False, float_format="%.4g", border=0)
    return (
        f"<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'><title>{escape(info.label)}"
        f"</title><style>{STYLE}</style></head><body><h1>{escape(info.question)}</h1>"
        f"<p>{escape(model)}, {counted(result.n_prompts, 'prompts')}"
        f"{f' ({escape(asked)})' if asked else ''}, {result.seconds:.0f} s</p>"
        f"<div class='answer'>{answer}</div>"
        f"<ul class='caveats'>{caveats}</ul>{''.join(parts)}<h2>Table</h2>{table}</body></html>\n"
    )
