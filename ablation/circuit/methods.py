"""Methods, metrics and baselines of circuit discovery; page, command line and docs read them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Choice:
    """One entry of a table that a person chooses from."""

    label: str
    description: str
    takes_steps: bool = False
    """Whether it takes steps of integrated gradients."""
    takes_faithfulness: bool = True
    """Whether it looks for a circuit that is as faithful as asked."""


METHODS: dict[str, Choice] = {
    "eap-ig": Choice(
        "EAP-IG (inputs)",
        "Edge attribution patching with integrated gradients (Hanna et al., arXiv 2403.17806): the "
        "gradient at every edge's end, averaged on the way from the corrupted to the clean "
        "embedding, times what the edge's source puts out differently.",
        takes_steps=True,
    ),
    "eap-ig-cc": Choice(
        "EAP-IG (clean, corrupted)",
        "As EAP-IG, with the gradient averaged over the clean and the corrupted prompt alone: two "
        "passes.",
    ),
    "eap": Choice(
        "EAP",
        "Edge attribution patching (Syed et al., arXiv 2310.10348): the gradient of the clean "
        "prompt alone. One pass, and blind where the metric is flat there.",
    ),
    "acdc": Choice(
        "ACDC",
        "Automated circuit discovery (Conmy et al., arXiv 2304.14997): from the logits down, each "
        "edge is taken away for good if that lowers the metric by less than a threshold. An exact "
        "run for each edge: of a large model only the edges that EAP-IG ranks highest are tried.",
        takes_steps=True,
        takes_faithfulness=False,
    ),
}

DIRECTIONS: dict[str, Choice] = {
    "noising": Choice(
        "Noising",
        "Each head's output on the corrupted prompt is put into the clean run: the share of the "
        "effect that is lost without what the head says; how much it is needed.",
    ),
    "denoising": Choice(
        "Denoising",
        "Each head's output on the clean prompt is put into the corrupted run: the share of the "
        "effect that the head brings back; how much it is enough by itself.",
    ),
}
"""Of head patching: exact runs of one head at a time, beside the discovery of circuits."""

METRICS: dict[str, Choice] = {
    "logit_diff": Choice(
        "logit difference", "The answer's logit less the distractor's, mean over the pairs."
    ),
    "logprob": Choice(
        "log-probability", "The answer's log-probability in nats, mean over the pairs."
    ),
    "kl": Choice(
        "KL from clean",
        "Minus the KL divergence from the clean prompt's next-token distribution, in nats.",
    ),
}

BASELINES: dict[str, Choice] = {
    "resample": Choice(
        "corrupted prompt", "Edges that are not kept carry what the corrupted prompt puts there."
    ),
    "mean": Choice(
        "mean", "They carry the mean over the clean prompts of the set, position by position."
    ),
    "zero": Choice("zero", "They carry nothing."),
}
