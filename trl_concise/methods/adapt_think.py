# SPDX-License-Identifier: Apache-2.0
"""
AdaptThink: learn when to think (Zhang et al., 2025, https://huggingface.co/papers/2505.13417).

Half of each group is forced to answer directly, by `</think>` as its first token, the other half to think. A direct answer earns a
small bonus, and every completion is compared with the accuracy of a frozen reference on its prompt. Compared with the authors' code
(https://github.com/THU-KEG/AdaptThink).

Differences from the authors' code:
  1. The two first tokens are looked up in the tokenizer by their text; theirs are ids of the Qwen tokenizer.
  2. The reference accuracies are a column of the dataset; theirs are a file, keyed by the text of the problem.
  3. A truncated completion earns 0; theirs may be correct.
  4. A completion of unknown correctness is left out of the loss.
  5. The correctness function finds the answer; theirs reads the last box after `</think>`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from torch import Tensor

from ..batch.generation import Generated
from ..batch.rollouts import LocalRollouts, Rollouts
from ..components import Advantage, Paper, Rollout, TrainerView
from ..components.base import tokenizer_of
from ..data.problems import PASS_RATE
from ..trainer import ConciseGRPOTrainer
from ..verification.finished import MARKERS, ThinkingMarkers, prompt_opens_reasoning
from .adapt_think_config import AdaptThinkConfig
from .thinking_modes import mode_metrics, read_thoughts


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


ADAPT_THINK_PAPER = Paper(
    title="AdaptThink: Reasoning Models Can Learn When to Think",
    id="2505.13417",
    # docstyle-ignore
    citation="""\
@inproceedings{zhang2025adaptthink,
    title        = {{AdaptThink: Reasoning Models Can Learn When to Think}},
    author       = {Jiajie Zhang and Nianyi Lin and Lei Hou and Ling Feng and Juanzi Li},
    year         = 2025,
    booktitle    = {Proceedings of the 2025 Conference on Empirical Methods in Natural Language Processing},
    eprint       = {arXiv:2505.13417}
}""",
)


def adapt_think_advantage(
    reward: Tensor, reference_accuracy: Tensor, is_direct: Tensor, *, delta: float = 0.05
) -> Tensor:
    r"""
    Return AdaptThink's advantages, which depend on no other completion.

    $$ A(x, y) = \delta \, 1[y_1 = \text{</think>}] + R(x, y) - \bar R_\text{ref}(x) $$

    Args:
        reward (`torch.Tensor`): `(B,)`, $R$, 1 for a correct completion, otherwise 0.
        reference_accuracy (`torch.Tensor`): `(B,)`, $\bar R_\text{ref}$, in `[0, 1]`.
        is_direct (`torch.Tensor`): `(B,)` bool, whether the completion was forced to answer directly.
        delta (`float`, *optional*, defaults to `0.05`): $\delta$.

    Returns:
        `torch.Tensor`: `(B,)`.

    Examples:
        >>> import torch
        >>> adapt_think_advantage(torch.tensor([1.0, 1.0]), torch.full((2,), 0.5625), torch.tensor([True, False]))
        tensor([0.4875, 0.4375])
    """
    return delta * is_direct.to(reward) + (reward - reference_accuracy)


def count_direct(num_generations: int, direct_share: float) -> int:
    """Return how many completions of a group answer directly: its first ones, as many as the authors' code rounds to."""
    return round(num_generations * direct_share)


def find_token(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    """
    Return the id of a text that is one token.

    Raises:
        `ValueError`: If the tokenizer splits it.
    """
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        raise ValueError(
            f"AdaptThink forces one token, but {text!r} is {len(ids)} tokens of this tokenizer. Choose a text that is one token: "
            "thinking_start for the beginning of a thought, end_marker for the end of the thinking."
        )
    return ids[0]


class ForcedModes(Rollout):
    """
    Forces the first token of every training completion: the end of the thinking for some of each group, the beginning of a
    thought for the others.

    The forced token belongs to the completion and is trained on. Evaluation is not forced. Prompts must end inside the thinking,
    as with DeepSeek-R1's chat template.

    `rollouts.measured["forced_modes"]` holds `direct`, 1 if the completion was forced to answer directly, and `direct_probability`,
    the probability with which the policy would have done so.

    Args:
        direct_share (`float`, *optional*, defaults to `0.5`): Share of each group that answers directly, in `[0, 1]`.
        thinking_start (`str`, *optional*, defaults to `"Alright"`): First token of the others.
        max_direct_length (`int`, *optional*): Largest length of a direct answer, in tokens, the forced one included. `None` is that of
            the other completions.
        corrects_importance (`bool`, *optional*, defaults to `True`): Whether the loss takes the share as the probability of the
            forced token under the old policy. `False` takes what the old policy says.
        start_marker, end_marker (`str`, *optional*): The texts around the thinking, of which the second is one token. Default: `<think>`
            and `</think>`.

    Raises:
        `ValueError`: If a setting is out of range. When a trainer is built: if the tokenizer splits a forced text, the limit of direct
            answers has no effect, or the first prompt does not end inside the thinking. In training: if another prompt does not.
    """

    name = "forced_modes"
    paper = ADAPT_THINK_PAPER
    needs_correctness = False

    def __init__(
        self,
        direct_share: float = 0.5,
        thinking_start: str = "Alright",
        max_direct_length: int | None = None,
        corrects_importance: bool = True,
        start_marker: str = MARKERS.start,
        end_marker: str = MARKERS.end,
    ):
        if not 0 <= direct_share <= 1:
            raise ValueError(f"direct_share must lie in [0, 1], got {direct_share}.")
        if max_direct_length is not None and max_direct_length < 1:
            raise ValueError(f"max_direct_length must be at least 1 token, got {max_direct_length}.")
        self._markers = ThinkingMarkers(start_marker, end_marker)
        self.direct_share = direct_share
        self.thinking_start = thinking_start
        self.max_direct_length = max_direct_length
        self.corrects_importance = corrects_importance
        self.start_marker = start_marker
        self.end_marker = end_marker
        self._metrics: dict[str, float] = {}

    def attach(self, trainer: TrainerView) -> None:
        self._tokenizer = tokenizer_of(trainer.processing_class)
        self._end = find_token(self._tokenizer, self.end_marker)
        self._start = find_token(self._tokenizer, self.thinking_start)
        direct = count_direct(trainer.num_generations, self.direct_share)
        if self.direct_share not in (0, 1) and direct in (0, trainer.num_generations):
            raise ValueError(
                f"direct_share = {self.direct_share} of num_generations = {trainer.num_generations} is {direct} completions, so one mode "
                "is never sampled. Raise num_generations, or change direct_share."
            )
        limit = trainer.max_completion_length
        if self.max_direct_length is not None and limit is not None and self.max_direct_length > limit:
            raise ValueError(
                f"max_direct_length = {self.max_direct_length} has no effect: completions have at most max_completion_length = {limit} "
                "tokens. Lower it, or leave it out."
            )
        if isinstance(trainer.train_dataset, Dataset) and trainer.environment_factories is None:
            self._check_prompt(trainer.tokenize_prompts([trainer.train_dataset[0]["prompt"]])[0])

    def _check_prompt(self, prompt_ids: list[int]) -> None:
        if not prompt_opens_reasoning(self._tokenizer, prompt_ids, markers=self._markers):
            end = self._tokenizer.decode(prompt_ids[-8:], skip_special_tokens=False)
            raise ValueError(
                f"The prompt ends with {end!r}, not with {self.start_marker!r}, so {self.end_marker!r} as first token does not skip the "
                "thinking. Use a chat template whose generation prompt opens the thinking, such as DeepSeek-R1's."
            )

    def generate(self, trainer: TrainerView, rows: list[dict[str, Any]]) -> Generated:
        group, first = trainer.num_generations, trainer.accelerator.process_index * len(rows)
        direct_rows = count_direct(group, self.direct_share)
        is_direct = [(first + i) % group < direct_rows for i in range(len(rows))]
        rollouts = trainer.generate_rollouts(
            rows, 1, prefix_ids=[[self._end if direct else self._start] for direct in is_direct]
        )
        for prompt_ids in rollouts.prompt_ids:
            self._check_prompt(prompt_ids)
        probability = trainer.score_logps(rollouts.prompt_ids, [[self._end]] * len(rows))[:, 0].exp()
        share = {True: self.direct_share, False: 1 - self.direct_share}  # not 0 for a mode that was drawn
        generated = Generated.of(
            rollouts,
            [[math.log(share[direct]) if self.corrects_importance else math.nan] for direct in is_direct],
            numbers={
                "direct": [float(direct) for direct in is_direct],
                "direct_probability": probability.tolist(),
            },
        )
        return self._shorten(generated, is_direct)

    def _shorten(self, generated: Generated, is_direct: Sequence[bool]) -> Generated:
        """Truncate direct answers that are too long. All completions are generated together, so that no process waits."""
        if self.max_direct_length is None:
            return generated
        for row in (row for row, direct in enumerate(is_direct) if direct):
            del generated.completion_ids[row][self.max_direct_length :]
            for values in (generated.logps, generated.old_logps):
                if values is not None:
                    del values[row][self.max_direct_length :]
        return generated

    def observe(self, rollouts: Rollouts) -> None:
        measured = rollouts.measured[self.name]
        self._metrics = {
            "direct_probability": measured["direct_probability"].mean().item(),
            **mode_metrics(rollouts, measured["direct"] == 1),
        }


class AdaptThink(Advantage):
    """
    The advantages of AdaptThink. See [`adapt_think_advantage`].

    They replace TRL's: correctness alone is the reward. Needs the dataset column `pass_rate`: the accuracy of the reference on each
    prompt, from completions that think. `trl-concise filter DATASET --keep 0 1` writes it, and [`load_problems`] reads it.

    With a [`ForcedModes`] in the slot `rollout`, the mode of a completion is the one that was forced; otherwise it is what the
    completion did (see [`has_thought`]). A completion earns 0 if it is wrong or truncated, or if it contains `<think>` or not exactly
    one `</think>`.

    Args:
        delta (`float`, *optional*, defaults to `0.05`): Advantage of a direct answer over one with thinking of the same accuracy, at
            least 0.
        start_marker, end_marker (`str`, *optional*): The texts around the thinking. Default: `<think>` and `</think>`.

    Raises:
        `ValueError`: If `delta` is negative. When a trainer is built: if a row of its dataset has no reference accuracy.
    """

    name = "adapt_think"
    paper = ADAPT_THINK_PAPER

    def __init__(self, delta: float = 0.05, start_marker: str = MARKERS.start, end_marker: str = MARKERS.end):
        if not 0 <= delta < math.inf:
            raise ValueError(
                f"delta must be at least 0 and finite, got {delta}: a negative value would prefer to think. In AdaptThinkConfig it is "
                "direct_bonus."
            )
        self._markers = ThinkingMarkers(start_marker, end_marker)
        self.delta = delta
        self.start_marker = start_marker
        self.end_marker = end_marker
        self._metrics: dict[str, float] = {}

    def attach(self, trainer: TrainerView) -> None:
        self._tokenizer = tokenizer_of(trainer.processing_class)
        if isinstance(trainer.train_dataset, Dataset):  # a streamed one is checked batch by batch
            is_there = PASS_RATE in trainer.train_dataset.column_names
            check_references(trainer.train_dataset[PASS_RATE] if is_there else [None] * len(trainer.train_dataset))

    def measure(self, local: LocalRollouts) -> dict[str, Tensor]:
        references = local.columns.get(PASS_RATE) or [None] * len(local.completion_ids)
        check_references(references)
        texts, thoughts = read_thoughts(local, self._tokenizer, self._markers)
        is_formed = [self.start_marker not in text and text.count(self.end_marker) == 1 for text in texts]
        return {
            "reference": torch.tensor(references, dtype=torch.float32),
            "formed": torch.tensor(is_formed),
            "direct": torch.tensor([thought is False for thought in thoughts]),
        }

    def compute(self, rollouts: Rollouts, advantages: Tensor) -> Tensor:
        measured = rollouts.measured[self.name]
        is_direct = rollouts.measured.get(ForcedModes.name, measured)["direct"] == 1
        earns = measured["formed"].bool() & ~rollouts.truncated
        reward = torch.where(earns | rollouts.correct.isnan(), rollouts.correct, 0.0)  # NaN drops a completion
        own = adapt_think_advantage(reward, measured["reference"], is_direct, delta=self.delta)
        self._metrics = {
            "reference_accuracy": measured["reference"].mean().item(),
            "malformed_fraction": 1 - measured["formed"].mean().item(),
            "direct_advantage": own[is_direct].nanmean().item(),
            "thinking_advantage": own[~is_direct].nanmean().item(),
        }
        return own.to(advantages)


def check_references(accuracies: Iterable[float | None]) -> None:
    """
    Check that every row has the accuracy of the reference.

    Raises:
        `ValueError`: If one is missing, or is not a number in [0, 1].
    """
    accuracies = list(accuracies)
    wrong = [
        row
        for row, accuracy in enumerate(accuracies)
        if not isinstance(accuracy, (int, float)) or not 0 <= accuracy <= 1
    ]
    if wrong:
        raise ValueError(
            f"{len(wrong):,} of {len(accuracies):,} rows have no accuracy of the reference in the column {PASS_RATE!r}, the first is "
            f"row {wrong[0]} ({accuracies[wrong[0]]!r}). It must be a number in [0, 1] in every row. Make the table with `trl-concise filter "
            "DATASET --model REFERENCE --keep 0 1 --num_completions 16 --output TABLE.jsonl`, and train on it."
        )


class AdaptThinkTrainer(ConciseGRPOTrainer):
    """
    Drop-in [`~trl.GRPOTrainer`] for [AdaptThink](https://huggingface.co/papers/2505.13417).

    Takes the arguments of [`ConciseGRPOTrainer`], without `rollout` and `advantage`, which are a [`ForcedModes`] and an
    [`AdaptThink`] with the settings of `args`. The dataset has the column `pass_rate`. A plain [`~trl.GRPOConfig`] keeps its own
    `loss_type` and `importance_sampling_level`.

    Example:

    ```python
    >>> from trl_concise import load_problems, math_accuracy_reward
    >>> from trl_concise.methods.adapt_think import AdaptThinkConfig, AdaptThinkTrainer

    >>> trainer = AdaptThinkTrainer(
    ...     model="deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
    ...     reward_funcs=math_accuracy_reward,
    ...     args=AdaptThinkConfig(output_dir="adapt-think", max_completion_length=16384, max_direct_length=4096),
    ...     train_dataset=load_problems("table.jsonl"),  # written by `trl-concise filter`
    ... )
    >>> trainer.train()
    ```
    """

    config_class = AdaptThinkConfig
    _tag_names = ["trl", "grpo", "trl-concise", "adapt-think"]
    _name = "AdaptThink"
    _paper = ADAPT_THINK_PAPER.as_card()

    def _own_slots(self, args):
        return {
            "rollout": ForcedModes(
                args.direct_share, args.thinking_start, args.max_direct_length, args.corrects_importance
            ),
            "advantage": AdaptThink(args.direct_bonus),
        }
