# SPDX-License-Identifier: Apache-2.0
"""
LASER: efficient reasoning with length-based reward shaping (Liu et al., 2025, https://huggingface.co/papers/2505.15612).

A correct completion that stays within a target length earns a bonus. This module has the method with one target for all prompts;
LASER-D and LASER-DE, whose targets follow the policy, are in `laser_d.py`.

Differences from the authors' code (hkust-nlp/Laser):
  1. Correctness may come from any reward function; the authors' scores of 1, -0.5 and -1 are [`laser_base_score`].
  2. `<think>` is not required, because chat templates open the reasoning themselves; `</think>` is.
  3. Lengths exclude EOS; theirs include it, so a target is one token shorter there.
  4. A completion is split at its last `</think>`; theirs at its first.
  5. The target defaults to half of `max_completion_length`, which is the paper's best at its 16,384 tokens.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..batch.rollouts import Rollouts
from ..components import GroupReward, Paper, TrainerView
from ..trainer import ConciseGRPOTrainer
from ..verification.reward import completion_text, has_boxed_answer, math_accuracy_reward
from .laser_config import LASERConfig


LASER_PAPER = Paper(
    title="Learn to Reason Efficiently with Adaptive Length-based Reward Shaping",
    id="2505.15612",
    # docstyle-ignore
    citation="""\
@article{liu2025laser,
    title        = {{Learn to Reason Efficiently with Adaptive Length-based Reward Shaping}},
    author       = {Wei Liu and Ruochen Zhou and Yiyun Deng and Yuzhen Huang and Junteng Liu and Yuntian Deng and Yizhe Zhang and Junxian He},
    year         = 2025,
    eprint       = {arXiv:2505.15612}
}""",  # noqa: E501
)


def laser_reward(
    lengths: Tensor, scores: Tensor, targets: Tensor | float, *, alpha: float = 0.5, explores: Tensor | None = None
) -> Tensor:
    r"""
    Add LASER's length bonus to base scores.

    $$ r = s + \alpha \, [s = 1][\ell \le L] \;+\; \alpha \, [s = -0.5][\ell > L] \text{ (LASER-DE only)} $$

    Args:
        lengths (`torch.Tensor`): $\ell$, in tokens, of any shape.
        scores (`torch.Tensor`): $s$: 1 correct, -0.5 wrong, -1 without an answer in the right form; of the same shape.
        targets (`torch.Tensor` or `float`): $L$, in tokens: one, or one per completion.
        alpha (`float`, *optional*, defaults to `0.5`): The bonus.
        explores (`torch.Tensor`, *optional*): LASER-DE: bool, `False` where a completion only repeats itself. With `None`, no wrong
            completion gets the bonus.

    Returns:
        `torch.Tensor`: Of the same shape, `scores` or `alpha` more; NaN where the score is.

    Examples:
        >>> import torch
        >>> laser_reward(torch.tensor([4096, 4097, 9000]), torch.tensor([1.0, 1.0, -0.5]), 4096)
        tensor([ 1.5000,  1.0000, -0.5000])
    """
    paid = (scores == 1) & (lengths <= targets)
    if explores is not None:
        paid = paid | ((scores == -0.5) & (lengths > targets) & explores)
    return scores + alpha * paid


def laser_base_score(
    completions: list[Any], solution: list[Any] | None = None, answer: list[Any] | None = None, **kwargs: Any
) -> list[float | None]:
    r"""
    Reward function with the scores of the LASER authors, for reasoning models that think before `</think>`.

    Args:
        completions (`list`): Completions as text, or as lists of messages, of which the last is read.
        solution, answer (`list[str]`, *optional*): Reference answers, as for [`math_accuracy_reward`].
        **kwargs: Other arguments that the trainer passes; ignored.

    Returns:
        `list[float | None]`: 1.0 for a correct answer; -0.5 for a wrong one; -1.0 without `</think>`, or without a
        `\boxed` answer after it; `None` where the reference answer is unreadable.

    Examples:
        >>> completions = [r"</think>\boxed{3}", r"</think>\boxed{4}", "</think>3"]
        >>> laser_base_score(completions, solution=["3", "3", "3"])
        [1.0, -0.5, -1.0]
    """
    verdicts = math_accuracy_reward(completions, solution=solution, answer=answer, **kwargs)
    formed = ["</think>" in completion_text(completion) and has_boxed_answer(completion) for completion in completions]
    return [
        (-1.0 if not well_formed else 1.0 if verdict else -0.5) if verdict is not None else None
        for verdict, well_formed in zip(verdicts, formed, strict=True)
    ]


class LASERReward(GroupReward):
    """
    The length bonus of LASER: one target for all prompts.

    Args:
        target_length (`int`):
            A correct completion of at most this many tokens earns the bonus.
        alpha (`float`, *optional*, defaults to `0.5`):
            The bonus, at least 0.
    """

    name = "laser"
    paper = LASER_PAPER

    def __init__(self, target_length: int, alpha: float = 0.5):
        if target_length < 1 or alpha < 0:
            raise ValueError(
                f"target_length must be at least 1 and alpha at least 0, got {target_length} and {alpha}. In LASERConfig "
                "alpha is length_bonus."
            )
        self.target_length = target_length
        self.alpha = alpha
        self._metrics: dict[str, float] = {}

    def attach(self, trainer: TrainerView) -> None:
        limit = trainer.args.max_completion_length
        if limit is not None and self.target_length >= limit:
            raise ValueError(
                f"With target_length = {self.target_length} and max_completion_length = {limit} every correct completion "
                "would earn the bonus. Lower target_length, or raise max_completion_length."
            )

    def score(self, rollouts: Rollouts) -> Tensor:
        scores = rollouts.correct  # a wrong completion earns nothing, whatever its score
        return laser_reward(rollouts.lengths, scores, self.target_length, alpha=self.alpha) - scores

    def observe(self, rollouts: Rollouts) -> None:
        within = rollouts.lengths <= self.target_length
        self._metrics = {"within_target": within[rollouts.correct == 1].float().mean().item()}


class LASERTrainer(ConciseGRPOTrainer):
    """
    Drop-in [`~trl.GRPOTrainer`] with the length bonus of [LASER](https://huggingface.co/papers/2505.15612).

    Takes the arguments of [`ConciseGRPOTrainer`]. The first reward function (or `args.correctness`) says whether a
    completion is correct; the bonus is added as the last column.

    Example:

    ```python
    >>> from trl_concise import LASERConfig, LASERTrainer, load_problems, math_accuracy_reward

    >>> trainer = LASERTrainer(
    ...     model="Qwen/Qwen2.5-1.5B-Instruct",
    ...     reward_funcs=math_accuracy_reward,
    ...     args=LASERConfig(output_dir="laser", max_completion_length=2048, target_length=512),
    ...     train_dataset=load_problems("openai/gsm8k", config_name="main"),
    ... )
    >>> trainer.train()
    ```
    """

    config_class = LASERConfig
    _tag_names = ["trl", "grpo", "trl-concise", "laser"]
    _name = "LASER"
    _paper = LASER_PAPER.as_card()

    def _own_rewards(self, args):
        target = args.target_length
        if target is None:
            if args.max_completion_length is None:
                raise ValueError(
                    "target_length defaults to half of max_completion_length, which is None. Set one of them."
                )
            target = max(args.max_completion_length // 2, 1)
        return [(LASERReward(target, alpha=args.length_bonus), 1.0)]
