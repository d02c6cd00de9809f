"""The circuit tab, what stands on it. See `circuit_question`, `circuit_run`, `circuit_result`."""

from collections.abc import Mapping
from typing import Any

import dash_mantine_components as dmc
from dash import dcc, html

from ablation.circuit.methods import BASELINES, DIRECTIONS, METHODS, METRICS
from ablation.circuit.tasks import TASKS
from app import ids
from app.panels import head_patching
from app.panels.circuit_asked import FORM
from app.panels.circuit_shown import result_place
from app.panels.pieces import empty, segmented
from app.panels.progress import progress_place

SOURCES = (("prompt", "This prompt"), ("task", "Task set"), ("file", "File of pairs"))
READ = (
    "Explained is what is predicted at the last position (or at the mask), whatever position is "
    "chosen on the left."
)
HELP = {
    "prompt": "Finds the parts that carry this prediction and how they feed each other: the prompt "
    f"on the left against a corrupted one of as many tokens. {READ}",
    "task": "Finds the circuit of a task, over many pairs of prompts that come with the program. "
    f"{READ}",
    "file": "Finds the circuit of your own pairs of prompts: a CSV or JSON file with clean, "
    f"corrupt, answer and distractor. {READ}",
}


def help_texts() -> dict[str, Any]:
    """Return what the browser says of the choices: of sources, tasks, methods, and what it needs
    to know of them: what a method takes, and what the fields of a question are called."""
    return {
        "sources": dict(HELP),
        "tasks": {
            name: f"{task.question} Corrupted: {task.corruption}. {task.source}"
            for name, task in TASKS.items()
        },
        "methods": {name: method.description for name, method in {**METHODS, **DIRECTIONS}.items()},
        "metrics": {name: metric.description for name, metric in METRICS.items()},
        "baselines": {name: baseline.description for name, baseline in BASELINES.items()},
        "patching": list(DIRECTIONS),
        "takeSteps": [name for name, method in METHODS.items() if method.takes_steps],
        "takeFaithfulness": [name for name, method in METHODS.items() if method.takes_faithfulness],
        "fields": [[field.name, field.label] for field in FORM],
    }


def layout() -> html.Div:
    """Return the contents of the tab."""
    return html.Div(
        [
            html.Div(
                [
                    segmented(ids.CIRCUIT_PAIRS, SOURCES, "prompt", "What the circuit is of"),
                    html.Div(className="grow"),
                    dmc.Button("Discover circuit", id=ids.CIRCUIT_RUN, size="xs"),
                    dmc.Button(
                        "Cancel", id=ids.CIRCUIT_CANCEL, size="xs", variant="default", disabled=True
                    ),
                ],
                className="toolbar",
            ),
            html.P(id=ids.CIRCUIT_HELP, className="help"),
            _of_prompt(),
            _options(),
            html.P(id=ids.CIRCUIT_FILE_NOTE, className="help", role="status"),
            html.P(id=ids.CIRCUIT_METHOD_HELP, className="help"),
            html.P(id=ids.CIRCUIT_PROBLEM, className="error", role="alert"),
            html.P(id=ids.CIRCUIT_PLAN, className="help"),
            progress_place(
                ids.CIRCUIT_PROGRESS, ids.CIRCUIT_BAR, ids.CIRCUIT_STATUS, "Progress of discovery"
            ),
            html.Div(
                [
                    html.P(id=ids.CIRCUIT_OUTDATED, className="note", role="status"),
                    empty(
                        "Discover the circuit to see which heads and MLPs carry the prediction, "
                        "how they feed each other, and the proof of it. Every edge drawn was "
                        "measured.",
                        id=ids.CIRCUIT_EMPTY,
                    ),
                    result_place(),
                ],
                id=ids.CIRCUIT_FOUND,
            ),
            head_patching.layout(),
            *(
                dcc.Store(id=store)
                for store in (
                    ids.CIRCUIT_REQUEST, ids.CIRCUIT_FILE, ids.CIRCUIT_ROOM, ids.CIRCUIT_DRAWN,
                    ids.CIRCUIT_CHOSEN, ids.CIRCUIT_OPENED, ids.CIRCUIT_ABOUT, ids.CIRCUIT_PARTIAL,
                )
            ),
        ],
        className="tab-body",
    )  # fmt: skip


def _of_prompt() -> html.Div:
    """Return the corrupted prompt; the answer and the distractor stand among the options."""
    return html.Div(
        [
            html.Div(
                [
                    dmc.TextInput(
                        id=ids.CIRCUIT_CORRUPT,
                        label="Corrupted prompt",
                        size="xs",
                        debounce=True,
                        spellCheck=False,
                        placeholder="as many tokens as the prompt, a word or two changed",
                        className="grow",
                    ),
                    dmc.Button("Propose", id=ids.CIRCUIT_PROPOSE, size="xs", variant="default"),
                ],
                className="pair lower",
            ),
            html.P(id=ids.CIRCUIT_PROPOSED, className="help"),
            html.Div(id=ids.CIRCUIT_TOKENS, className="circuit-tokens", **{"aria-live": "polite"}),
        ],
        id=ids.CIRCUIT_PROMPT_PLACE,
    )


def _token(component_id: str, label: str, placeholder: str) -> dmc.Autocomplete:
    return dmc.Autocomplete(
        id=component_id,
        label=label,
        value="",
        data=[],
        debounce=True,
        size="xs",
        w=118,
        placeholder=placeholder,
        className="token-field",
        inputProps={"spellCheck": False},
        filter={"function": "allTokens"},
    )


def _of_set() -> html.Div:
    return html.Div(
        [
            html.Div(
                dmc.Select(
                    id=ids.CIRCUIT_TASK,
                    label="Task",
                    data=[{"value": name, "label": task.label} for name, task in TASKS.items()],
                    value=next(iter(TASKS)),
                    allowDeselect=False,
                    size="xs",
                    w=200,
                ),
                id=ids.CIRCUIT_TASK_PLACE,
            ),
            html.Div(
                [
                    dcc.Upload(
                        dmc.Button("Choose a file", size="xs", variant="default"),
                        id=ids.CIRCUIT_UPLOAD,
                        accept=".csv,.json,.jsonl",
                        max_size=4 * 2**20,
                    ),
                    _whole(ids.CIRCUIT_FILE_HELD_OUT, "Held out, the last", 0, 0, 1000),
                ],
                id=ids.CIRCUIT_FILE_PLACE,
                className="pair lower",
            ),
            _whole(ids.CIRCUIT_N_PAIRS, "Pairs", 20, 1, 1000),
            _whole(ids.CIRCUIT_HELD_OUT, "Held out beside", 5, 0, 1000),
        ],
        id=ids.CIRCUIT_SET_PLACE,
        className="pair lower",
        hidden=True,
    )


def _options() -> html.Div:
    return html.Div(
        [
            html.Div(
                [
                    _token(ids.CIRCUIT_ANSWER, "Answer", "with its space"),
                    _token(ids.CIRCUIT_DISTRACTOR, "Distractor", "none"),
                ],
                id=ids.CIRCUIT_TOKENS_PLACE,
                className="pair",
            ),
            _of_set(),
            _method(),
            dmc.NumberInput(
                id=ids.CIRCUIT_ASKED,
                label="Faithfulness ≥",
                value=0.85,
                min=0.01,
                max=1,
                step=0.05,
                decimalScale=3,
                clampBehavior="strict",
                debounce=True,
                size="xs",
                w=84,
            ),
            _more(),
        ],
        className="options lower",
    )


def _method() -> dmc.Select:
    select = _choice(ids.CIRCUIT_METHOD, "Method", METHODS, 190)
    patching = [{"value": name, "label": entry.label} for name, entry in DIRECTIONS.items()]
    select.data = [
        {"group": "Circuit discovery", "items": select.data},
        {"group": "Head patching", "items": patching},
    ]
    return select


def _more() -> dmc.Popover:
    """Return what is changed now and then about how circuits are found."""
    opener = dmc.Button("More", size="xs", variant="default", rightSection="▾")
    return dmc.Popover(
        [
            dmc.PopoverTarget(opener),
            dmc.PopoverDropdown(
                [
                    _choice(ids.CIRCUIT_METRIC, "Metric", METRICS, 190),
                    _choice(ids.CIRCUIT_BASELINE, "Edges outside of it carry", BASELINES, 190),
                    _whole(ids.CIRCUIT_STEPS, "Steps of integrated gradients", 5, 1, 100),
                    dmc.Switch(
                        id=ids.CIRCUIT_BY_POSITION,
                        label="Score edges at each token too",
                        description="For a second picture by token; pairs of one length only.",
                        checked=True,
                        size="xs",
                    ),
                ],
                className="display-tools",
                **{"aria-label": "More about how circuits are found"},
            ),
        ],
        keepMounted=True,
        position="bottom-end",
        shadow="md",
    )


def _choice(component_id: str, label: str, table: Mapping[str, Any], width: int) -> dmc.Select:
    return dmc.Select(
        id=component_id,
        label=label,
        data=[{"value": name, "label": entry.label} for name, entry in table.items()],
        value=next(iter(table)),
        allowDeselect=False,
        size="xs",
        w=width,
        comboboxProps={"withinPortal": False},
    )


def _whole(component_id: str, label: str, value: int, low: int, high: int) -> dmc.NumberInput:
    return dmc.NumberInput(
        id=component_id,
        label=label,
        value=value,
        min=low,
        max=high,
        allowDecimal=False,
        clampBehavior="strict",
        debounce=True,
        size="xs",
        w=96,
    )
