# SPDX-License-Identifier: Apache-2.0
"""The fields of a row in the table of methods, and the questions that group the rows."""

from __future__ import annotations

from dataclasses import dataclass


QUESTIONS = (
    "How do I make completions shorter?",
    "Which prompts should be trained on?",
    "Which completions or tokens should carry the loss?",
    "How do I train without rollouts?",
    "How do I train a reward model?",
    "How do I train without a verifier?",
    "How do I make a model call its tools less?",
    "How do I keep a long run stable?",
    "Which rows of a dataset should I train on?",
    "How do I train a model to check and improve its own answers?",
    "How do I train long completions in a short context?",
    "Which systems are experimental?",
)
PROVENANCE = {
    "code": "from the paper and the authors' code",
    "paper": "from the paper's equations",
    "common": "a common technique, without one paper",
    "reconstructed": "partly or wholly reconstructed; the page lists what is",
}


@dataclass(frozen=True)
class Method:
    """
    One method.

    Attributes:
        name (`str`): As in the paper.
        what (`str`): What it does, in a few words.
        module (`str`): Module in `package`.
        slots (`tuple[str, ...]`): Arguments of the trainer that its components fill; `reward_funcs` for a group reward,
            the TRL trainer of an offline method, `evaluation` for a system that generates with trained models.
        components (`tuple[str, ...]`): Classes for a [`ConciseGRPOTrainer`], or functions of a method without one.
        trainer (`str`, *optional*): The drop-in trainer.
        paper (`str`, *optional*): arXiv identifier.
        provenance (`str`): A key of [`PROVENANCE`].
        page (`str`): Page in docs/.
        evidence (`str`, *optional*): Section of a page in docs/ with results that we measured. `None`: equation and golden values
            only.
        question (`int`): Index in [`QUESTIONS`].
        package (`str`, *optional*, defaults to `"methods"`): Package of the module within `trl_concise`.
    """

    name: str
    what: str
    module: str
    slots: tuple[str, ...]
    components: tuple[str, ...]
    paper: str | None
    provenance: str
    page: str
    question: int
    trainer: str | None = None
    evidence: str | None = None
    package: str = "methods"
