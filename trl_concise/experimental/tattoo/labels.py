# SPDX-License-Identifier: Apache-2.0
r"""
Labels of steps by the claims in them, and the rewards of TaTToo.

$$ r_i \in \{-1, +1\}, \qquad r_\tau = \frac{1}{|\{i : r_i \text{ exists}\}|} \sum_i r_i $$
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from ...data.steps import SEPARATOR, split_steps
from ...verification.reward import completion_text
from .claims import Claim, check_claim, find_claims
from .table import Table, read_number


LEAST_PROBABILITY = 1e-4  # of the true label in the calibration term
_NUMBERS = re.compile(r"[-+−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")


@dataclass(frozen=True)
class Step:
    """
    One step of a completion.

    Attributes:
        text (`str`): The step, with the separator after it.
        claims (`list[tuple[Claim, bool]]`): Its claims that no step before it has, and whether each is true.
    """

    text: str
    claims: list[tuple[Claim, bool]] = field(default_factory=list)

    @property
    def label(self) -> int | None:
        """-1 if a claim is false, 1 if all are true, `None` without a claim."""
        return (1 if all(is_true for _, is_true in self.claims) else -1) if self.claims else None


def label_steps(text: str, table: Table | None = None, *, finished: bool = True) -> list[Step]:
    r"""
    Split a completion into steps, and check the claims of each.

    Steps are paragraphs or, in a text without an empty line, lines. A claim counts once: where it is repeated, it belongs to the first step that
    has it. Reasoning before `</think>` is read too.

    Args:
        text (`str`): The completion.
        table ([`Table`], *optional*): The table of the problem. Without one, cells and aggregates are not checked.
        finished (`bool`, *optional*, defaults to `True`): Whether the completion is finished. Of a truncated one, a claim at the very end is not
            checked, because its number may be incomplete.

    Returns:
        `list[Step]`: At least one.

    Examples:
        >>> [step.label for step in label_steps("27+8=35\n35*2=70\n70-6=65\nSo it is 65.")]
        [1, 1, -1, None]
    """
    pieces = split_steps(text, SEPARATOR if SEPARATOR in text.strip() else "\n")
    steps = [Step(piece) for piece in pieces]
    ends: list[int] = []
    for piece in pieces:
        ends.append((ends[-1] if ends else 0) + len(piece))
    written = len(text.rstrip())
    seen, place = set(), 0
    for claim in find_claims(text):
        while ends[place] <= claim.start:
            place += 1
        is_true = check_claim(claim, table)
        if is_true is None:
            continue
        if claim.key in seen or (not finished and claim.end >= written):
            continue
        seen.add(claim.key)
        steps[place].claims.append((claim, is_true))
    return steps


def mean_label(labels: Sequence[int | None]) -> float:
    r"""
    Average the labels of steps: $r_\tau$. The score for votes is $(1 + r_\tau) / 2$.

    Args:
        labels (`Sequence[int | None]`): -1, 1, or `None` for a step without a label, which is left out.

    Returns:
        `float`: In `[-1, 1]`; 0 without a labeled step.

    Raises:
        `ValueError`: If a label is something else.

    Examples:
        >>> mean_label([1, 1, -1, 1]), mean_label([None])
        (0.5, 0.0)
    """
    known = [label for label in labels if label is not None]
    _check_labels(known)
    return fmean(known) if known else 0.0


def step_tool_reward(
    completions: list[Any],
    table: list[Any] | None = None,
    completion_finished: list[bool] | None = None,
    log_metric: Any = None,
    **kwargs: Any,
) -> list[float]:
    r"""
    Reward function that checks the claims in the steps of a completion: $r_\tau$, from -1 (false) to 1 (true), and 0 without a claim.

    It reads no reference answer. Use it next to a reward of correctness, with a small weight: `reward_funcs=[math_accuracy_reward, step_tool_reward]`,
    `reward_weights=[1.0, 0.2]`. It is also a score for [`~trl_concise.evaluation.best_of_n`].

    It logs, for each batch, `tattoo/claims` (per completion), `tattoo/false_fraction` (of the claims) and `tattoo/labeled_fraction` (completions
    with a labeled step).

    Args:
        completions (`list`): Completions as text, or as lists of messages, of which the last is read.
        table (`list`, *optional*): The dataset's column `table`: for each row, `{"columns": [...], "rows": [[...], ...]}`, CSV text, or `None`.
        completion_finished (`list[bool]`, *optional*): Whether each completion is finished. [`ConciseGRPOTrainer`] provides it.
        log_metric (`callable`, *optional*): Logs a number under a name; the trainer provides it.
        **kwargs: Other columns, which are not used.

    Returns:
        `list[float]`: One reward per completion, in `[-1, 1]`.

    Raises:
        `ValueError`: If a table is malformed (see [`Table`]).

    Examples:
        >>> step_tool_reward(["27+8=35\n35*2=70\n70-6=65\n\\boxed{65}", "\\boxed{64}"])
        [0.3333333333333333, 0.0]
    """
    tables = table if table is not None else [None] * len(completions)
    finished = completion_finished if completion_finished is not None else [True] * len(completions)
    read: dict[int, Table] = {}  # the completions of a group have the same table
    labeled = []
    for completion, own, is_finished in zip(completions, tables, finished, strict=True):
        if own is not None and id(own) not in read:
            read[id(own)] = Table.read(own)
        labeled.append(label_steps(completion_text(completion), read.get(id(own)), finished=bool(is_finished)))
    if log_metric is not None and labeled:
        verdicts = [is_true for steps in labeled for step in steps for _, is_true in step.claims]
        log_metric("tattoo/claims", len(verdicts) / len(labeled))
        log_metric("tattoo/labeled_fraction", fmean(any(step.claims for step in steps) for steps in labeled))
        if verdicts:
            log_metric("tattoo/false_fraction", 1 - fmean(verdicts))
    return [mean_label([step.label for step in steps]) for steps in labeled]


def tool_support(outputs: Sequence[str | None], texts: Sequence[str]) -> int:
    """
    Return whether the rationale of a verifier uses what its tools returned.

    It does if it made a call, no call failed, and every output occurs in the text after its call and before the label: as a number with the same value
    or, if it is not a number, as text. A reconstruction.

    Args:
        outputs (`Sequence[str | None]`): Output of each call; `None` for one that failed.
        texts (`Sequence[str]`): The text after each call, up to the next call or the label.

    Returns:
        `int`: 1 or 0.

    Raises:
        `ValueError`: If there is not one text per output.

    Examples:
        >>> tool_support(["0.5"], ["The result is 0.50, so the step is right."]), tool_support(["36"], ["It is 35."]), tool_support([], [])
        (1, 0, 0)
    """
    if len(outputs) != len(texts):
        raise ValueError(f"Each call needs the text after it; got {len(outputs)} outputs and {len(texts)} texts.")
    for place, output in enumerate(outputs):
        if not output or not output.strip():
            return 0
        after = "\n".join(texts[place:])
        number = read_number(output)
        numbers = (read_number(found) for found in _NUMBERS.findall(after))
        if not (number in numbers if number is not None else output.strip() in after):
            return 0
    return int(bool(outputs))


def tool_grounded_step_rewards(
    predicted: Sequence[int | None],
    labels: Sequence[int],
    probabilities: Sequence[float],
    supports: Sequence[int],
    *,
    lam_cal: float = 1.0,
    lam_tool: float = 1.0,
) -> list[float]:
    r"""
    Compute the rewards of a generative verifier, one per step.

    $$ s_i = \mathbb{1}[\hat r_i = r_i] + \lambda_\text{cal} \log R_i + \lambda_\text{tool} \, \text{support}_i $$

    The equation is from a summary of the paper (https://huggingface.co/papers/2510.06217). That $R_i$ is at least $10^{-4}$ is a reconstruction. The reward of a verifier's
    completion is the mean over its steps.

    Args:
        predicted (`Sequence[int | None]`): $\hat r_i$, -1 or 1. For `None`, a missing label, match and support are 0 and $R_i$ is $10^{-4}$.
        labels (`Sequence[int]`): $r_i$, -1 or 1.
        probabilities (`Sequence[float]`): $R_i$ in `[0, 1]`, the verifier's probability of the true label.
        supports (`Sequence[int]`): 1 or 0, see [`tool_support`].
        lam_cal, lam_tool (`float`, *optional*, defaults to `1.0`): Weights, at least 0.

    Returns:
        `list[float]`: $s_i$.

    Raises:
        `ValueError`: If a weight is negative, a label is not -1 or 1, or a probability or a support is out of range.

    Examples:
        >>> [round(s, 6) for s in tool_grounded_step_rewards([1, 1, -1], [1, 1, 1], [0.9, 0.6, 0.3], [1, 0, 1])]
        [1.894639, 0.489174, -0.203973]
    """
    if not (0 <= lam_cal < math.inf and 0 <= lam_tool < math.inf):
        raise ValueError(f"lam_cal and lam_tool must be finite numbers of at least 0; got {lam_cal} and {lam_tool}.")
    _check_labels([label for label in predicted if label is not None])
    _check_labels(labels)
    if not all(0 <= value <= 1 for value in probabilities) or not all(value in (0, 1) for value in supports):
        raise ValueError(
            f"Probabilities are in [0, 1] and supports are 0 or 1; got {list(probabilities)} and {list(supports)}."
        )
    rewards = []
    for guess, label, probability, support in zip(predicted, labels, probabilities, supports, strict=True):
        if guess is None:
            probability, support = 0.0, 0
        calibration = math.log(max(probability, LEAST_PROBABILITY))
        rewards.append(float(guess == label) + lam_cal * calibration + lam_tool * support)
    return rewards


def _check_labels(labels: Sequence[int | None]) -> None:
    if wrong := [label for label in labels if label not in (-1, 1)]:
        raise ValueError(
            f"Labels of steps are -1 or 1; got {wrong[0]!r}. Leave a step without a label out, or give None."
        )
