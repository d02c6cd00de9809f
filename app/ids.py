"""Every component id of the page, once.

A constant is a component; a function makes the id of one of many alike (a pattern-matching id).
"""

# What the browser keeps
VIEW = "view"
TAB_ID = "tab-id"
FRAGMENT_IN = "fragment-in"
FRAGMENT_OUT = "fragment-out"
LIMITS = "limits"
MODEL = "model"
MODEL_SHAPE = "model-shape"
PROMPT = "prompt"
BOS_USED = "bos-used"
POSITION = "position"
INTERVENTION = "intervention"
WATCHED = "watched"
TARGET = "target"
SWEEP = "sweep"
SEARCH = "search"
BY_POSITION = "by-position"
DRAWN = "drawn"
MAPS = "maps"
ZOOM_REQUEST = "zoom-request"
ZOOMED = "zoomed"
DROP_HEAD = "drop-head"
SHOWN = "shown"
DARK = "dark"

# The frame
PROVIDER = "provider"
SHELL = "shell"
NOTICES = "notices"
LOST = "lost"
TABS = "tabs"

# Header
MODEL_PICKER = "model-picker"
MODEL_PROGRESS = "model-progress"
MODEL_FACTS = "model-facts"
MODEL_LOADER = "model-loader"
SELF_CHECK = "self-check"
SHARE = "share"
DARK_TOGGLE = "dark-toggle"

# Prompt
EXAMPLES = "examples"
PROMPT_TEXT = "prompt-text"
PROMPT_RUN = "prompt-run"
PROMPT_REQUEST = "prompt-request"
BOS = "bos"
TOKEN_COUNT = "token-count"
TOKEN_STRIP = "token-strip"
TOKENS = "tokens"

# Heads
HEADS = "heads"
HEADS_TEXT = "heads-text"
HEADS_COUNT = "heads-count"
HEADS_CLEAR = "heads-clear"
HEADS_MAP = "heads-map"

# Intervention
ABLATE = "ablate"
INTERVENTION_KIND = "intervention-kind"
INTERVENTION_HELP = "intervention-help"
INTERVENTION_PARAMETERS = "intervention-parameters"
INTERVENTION_ERROR = "intervention-error"
ACTED_TEXT = "acted-text"

# Attention
ATTENTION_NOTE = "attention-note"
ATTENTION_GRID = "attention-grid"
ATTENTION_EMPTY = "attention-empty"
THRESHOLD = "threshold"
THRESHOLD_READING = "threshold-reading"
SCALE = "scale"
LOG = "log"
SIZE = "size"
SHOW_MORE = "show-more"
SHOW_MORE_PLACE = "show-more-place"

# Prediction
PREDICTED = "predicted"
PREDICTION_CAPTION = "prediction-caption"
PREDICTION_FIGURE = "prediction-figure"
PREDICTION_NUMBERS = "prediction-numbers"
WATCHED_PICKER = "watched-picker"
WATCHED_TEXT = "watched-text"

# Token
TOKEN_OPEN = "token-open"
TOKEN_PANEL = "token-panel"
TOKEN_NAME = "token-name"
TOKEN_BODY = "token-body"
TOKEN_CLOSE = "token-close"

# Ablation study
STUDY = "study"
STUDY_HELP = "study-help"
SWEEP_OPTIONS = "sweep-options"
SEARCH_OPTIONS = "search-options"
TARGET_OPTIONS = "target-options"
METRIC = "metric"
MAX_HEADS = "max-heads"
STRATEGY = "strategy"
TARGET_PICKER = "target-picker"
TARGET_TEXT = "target-text"
STUDY_RUN = "study-run"
STUDY_REQUEST = "study-request"
STUDY_CANCEL = "study-cancel"
STUDY_PROGRESS = "study-progress"
STUDY_BAR = "study-bar"
STUDY_STATUS = "study-status"
STUDY_OUTDATED = "study-outdated"
SWEEP_RESULT = "sweep-result"
SWEEP_EMPTY = "sweep-empty"
SWEEP_BODY = "sweep-body"
SWEEP_MAP = "sweep-map"
SWEEP_CAPTION = "sweep-caption"
SWEEP_TABLE = "sweep-table"
BY_POSITION_RESULT = "by-position-result"
BY_POSITION_EMPTY = "by-position-empty"
BY_POSITION_HINT = "by-position-hint"
BY_POSITION_BODY = "by-position-body"
BY_POSITION_CAPTION = "by-position-caption"
BY_POSITION_FRAME = "by-position-frame"
BY_POSITION_MAP = "by-position-map"
SEARCH_RESULT = "search-result"
SEARCH_EMPTY = "search-empty"
SEARCH_BODY = "search-body"
SEARCH_TRACE = "search-trace"
SEARCH_TABLE = "search-table"
SEARCH_SENTENCES = "search-sentences"
USE_HEADS = "use-heads"

# Heads: their roles
HEADS_TAB = "heads-tab"
ROLES_PLACE = "roles-place"
DOSSIER = "dossier"
DOSSIER_RUN = "dossier-run"
DOSSIER_CANCEL = "dossier-cancel"
DOSSIER_PROGRESS = "dossier-progress"
DOSSIER_BAR = "dossier-bar"
DOSSIER_STATUS = "dossier-status"
DOSSIER_EMPTY = "dossier-empty"
DOSSIER_BODY = "dossier-body"
DOSSIER_CAPTION = "dossier-caption"
DOSSIER_ROLE = "dossier-role"
DOSSIER_MAP = "dossier-map"
DOSSIER_LEADERS = "dossier-leaders"

# Heads: over a corpus
CORPUS_PLACE = "corpus-place"
CORPUS = "corpus"
CORPUS_RUN = "corpus-run"
CORPUS_CANCEL = "corpus-cancel"
CORPUS_PROGRESS = "corpus-progress"
CORPUS_BAR = "corpus-bar"
CORPUS_STATUS = "corpus-status"
CORPUS_EMPTY = "corpus-empty"
CORPUS_BODY = "corpus-body"
CORPUS_CAPTION = "corpus-caption"
CORPUS_METRIC = "corpus-metric"
CORPUS_MAP = "corpus-map"
CORPUS_HEAD = "corpus-head"
CORPUS_NUMBERS = "corpus-numbers"
CORPUS_CONTEXTS = "corpus-contexts"

# Heads: how two runs differ
COMPARE_PLACE = "compare-place"
COMPARISON = "comparison"
COMPARE_WAY = "compare-way"
COMPARE_HELP = "compare-help"
COMPARE_PROMPT = "compare-prompt"
COMPARE_MODEL = "compare-model"
COMPARE_PROBLEM = "compare-problem"
COMPARE_RUN = "compare-run"
COMPARE_REQUEST = "compare-request"
COMPARE_CANCEL = "compare-cancel"
COMPARE_PROGRESS = "compare-progress"
COMPARE_BAR = "compare-bar"
COMPARE_STATUS = "compare-status"
COMPARE_EMPTY = "compare-empty"
COMPARE_BODY = "compare-body"
COMPARE_CAPTION = "compare-caption"
COMPARE_MAP = "compare-map"
COMPARE_LEADERS = "compare-leaders"
COMPARE_HINT = "compare-hint"
COMPARE_MAPS = "compare-maps"


def leader(of: object, head: object) -> dict[str, object]:
    """Return the id of a head in the list of those that lead in something."""
    return {"type": "leader", "of": of, "head": head}


def use_role(role: object) -> dict[str, object]:
    """Return the id of the button that chooses the heads which play a role most."""
    return {"type": "use-role", "role": role}


def parameter(intervention: object, name: object) -> dict[str, object]:
    """Return the id of the control of one parameter of an intervention."""
    return {"type": "parameter", "intervention": intervention, "name": name}
