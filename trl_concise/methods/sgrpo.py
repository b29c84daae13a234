# SPDX-License-Identifier: Apache-2.0
"""
Stochastic GRPO (Lee & Tong, "Token-Efficient RL for LLM Reasoning", 2025, https://huggingface.co/papers/2504.20834).

Only a random subset of each completion's tokens enters the loss: the first ones always, later ones with a probability, up
to a cap. This is not "S-GRPO: Early Exit via Reinforcement Learning in Reasoning Models" (Dai et al., 2025), which
rewards a series of early exits and shares nothing but the abbreviation.

The objective and the selection rule are the paper's, taken from secondary descriptions; the authors have published no code.
Details that these leave open are reconstructed:
  1. Positions count from 0 over the tokens that the model wrote, EOS included. Tool output is neither drawn nor counted.
  2. The cap counts the forced tokens too (the literal reading of |T| < k); `count_forced=False` caps the random ones alone.
     Beyond the cap, the leftmost random tokens are kept; `cap="random"` keeps a random subset of them, the other reading.
  3. The advantage is GRPO's, group-normalized and the same for all tokens.
  4. The values of all settings.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..batch.rollouts import CompletionTokens, Rollouts
from ..batch.token_credit import check_selection
from ..components import Paper, TokenCredit, TrainerView
from ..trainer import ConciseGRPOTrainer
from .sgrpo_config import CAPS, SGRPOConfig


SGRPO_PAPER = Paper(
    title="Token-Efficient RL for LLM Reasoning",
    id="2504.20834",
    # docstyle-ignore
    citation="""\
@article{lee2025token,
    title        = {{Token-Efficient RL for LLM Reasoning}},
    author       = {Alan Lee and Harry Tong},
    year         = 2025,
    eprint       = {arXiv:2504.20834}
}""",
    reconstructed="indexing of positions, what the cap counts, the form of the advantage, and all settings",
)


def stochastic_token_mask(
    completion_mask: Tensor,
    *,
    cutoff: int,
    max_tokens: int,
    probability: float,
    count_forced: bool = True,
    cap: str = "left",
    generator: torch.Generator | None = None,
    uniforms: Tensor | None = None,
) -> Tensor:
    r"""
    Draw the tokens of each completion that enter the loss.

    $$ t \in T_i \text{ with probability } 1 \text{ if } t < \alpha, \quad
       P \text{ if } t \ge \alpha \text{ and } |T_i| < k, \quad 0 \text{ otherwise} $$

    with $t$ counting the tokens of `completion_mask` from 0, from left to right.

    Args:
        completion_mask (`torch.Tensor`):
            `(B, T)`, nonzero where a token may be selected; padding and tool output are 0.
        cutoff (`int`):
            $\alpha$, how many tokens are always selected, at least 0.
        max_tokens (`int`):
            $k$, no random token is selected once this many tokens are, at least 0.
        probability (`float`):
            $P$ in `[0, 1]`.
        count_forced (`bool`, *optional*, defaults to `True`):
            Whether the first $\alpha$ tokens count toward $k$. If they do and $\alpha \ge k$, no random token is taken.
        cap (`str`, *optional*, defaults to `"left"`):
            Which random tokens are kept if more than $k$ are drawn: the leftmost (`"left"`), or a uniform random subset
            (`"random"`). The first $\alpha$ tokens are kept in both cases.
        generator (`torch.Generator`, *optional*):
            Source of the draw, on the mask's device.
        uniforms (`torch.Tensor`, *optional*):
            `(B, T)` in `[0, 1)`, the draw itself: the token at a position is taken if its number is below $P$. With
            `cap="random"` the smallest of these numbers are kept.

    Returns:
        `torch.Tensor`: `(B, T)` bool.

    Raises:
        `ValueError`: If a setting is out of range, or `uniforms` has another shape.

    Examples:
        >>> uniforms = torch.tensor([[0.0, 0.0, 0.0, 0.7, 0.2, 0.9, 0.1, 0.3, 0.4, 0.8]])
        >>> mask = stochastic_token_mask(
        ...     torch.ones(1, 10), cutoff=3, max_tokens=5, probability=0.5, uniforms=uniforms
        ... )
        >>> mask.nonzero()[:, 1].tolist()
        [0, 1, 2, 4, 6]
    """
    _check(cutoff, max_tokens, probability, cap)
    if uniforms is None:
        uniforms = torch.rand(completion_mask.shape, generator=generator, device=completion_mask.device)
    if uniforms.shape != completion_mask.shape:
        raise ValueError(f"uniforms must be {tuple(completion_mask.shape)}, got {tuple(uniforms.shape)}.")
    candidates = completion_mask.bool()
    position = candidates.cumsum(dim=1) - 1  # t
    forced = candidates & (position < cutoff)
    drawn = candidates & (position >= cutoff) & (uniforms < probability)
    room = max_tokens - forced.sum(dim=1, keepdim=True) if count_forced else max_tokens
    if cap == "left":
        return forced | (drawn & (drawn.cumsum(dim=1) <= room))
    # Below P the numbers are uniform, so their order is a random order of the drawn tokens.
    rank = uniforms.masked_fill(~drawn, torch.inf).argsort(dim=1, stable=True).argsort(dim=1)
    return forced | (drawn & (rank < room))


def _check(cutoff: int, max_tokens: int, probability: float, cap: str) -> None:
    if cap not in CAPS:
        raise ValueError(f"cap must be one of {CAPS}, got {cap!r}.")
    if cutoff < 0 or max_tokens < 0:
        raise ValueError(f"cutoff and max_tokens must be at least 0, got {cutoff} and {max_tokens}.")
    if not 0 <= probability <= 1:
        raise ValueError(f"probability must lie in [0, 1], got {probability}.")


class StochasticTokens(TokenCredit):
    r"""
    Keeps a random subset of each completion's tokens in the loss: the token selection of Stochastic GRPO.

    A completion's draw depends on the seed, the optimizer step and its row in the batch of all processes, and on nothing
    else: not on the number of processes, nor on how rows are split into micro-batches. With `num_iterations > 1` a
    completion keeps its draw.

    Args:
        cutoff (`int`, *optional*, defaults to `50`):
            $\alpha$, how many tokens at the beginning are always kept.
        max_tokens (`int`, *optional*, defaults to `100`):
            $k$, at least 1: no random token is kept once this many are.
        probability (`float`, *optional*, defaults to `0.5`):
            $P$, probability of keeping a token after the first `cutoff`.
        count_forced (`bool`, *optional*, defaults to `True`):
            Whether the first `cutoff` tokens count toward `max_tokens`.
        cap (`str`, *optional*, defaults to `"left"`):
            Which random tokens are kept if more than `max_tokens` are drawn: the leftmost (`"left"`) or a random subset
            (`"random"`).
        seed (`int`, *optional*):
            Seed of the draws. Defaults to the trainer's `seed`.
    """

    name = "sgrpo"
    paper = SGRPO_PAPER
    needs_correctness = False

    def __init__(
        self,
        cutoff: int = 50,
        max_tokens: int = 100,
        probability: float = 0.5,
        count_forced: bool = True,
        seed: int | None = None,
        cap: str = "left",
    ):
        _check(cutoff, max_tokens, probability, cap)
        if max_tokens == 0:
            raise ValueError(
                "max_tokens must be at least 1, got 0, which is not a way to keep all tokens. For no cap, set it to the completion "
                "length; for the first `cutoff` tokens only, set probability to 0."
            )
        if cutoff == 0 and probability == 0:
            raise ValueError("cutoff=0 with probability=0 keeps no token at all. Raise one.")
        self.cutoff = cutoff
        self.max_tokens = max_tokens
        self.probability = probability
        self.count_forced = count_forced
        self.cap = cap
        self.seed = seed
        self._metrics: dict[str, float] = {}

    def attach(self, trainer: TrainerView) -> None:
        check_selection(self, trainer.args)
        if self.seed is None:
            self.seed = trainer.args.seed

    def select(self, tokens: CompletionTokens) -> Tensor:
        first = tokens.earlier + tokens.local.start
        masks = [torch.tensor(mask) for _, mask in tokens.own()]
        mask = torch.nn.utils.rnn.pad_sequence(masks, batch_first=True)  # (b, T)
        uniforms = torch.zeros(mask.shape, dtype=torch.float64)
        for row in range(len(mask)):
            rng = np.random.default_rng([self.seed or 0, tokens.step, first + row])
            uniforms[row] = torch.from_numpy(rng.random(mask.size(1)))
        return stochastic_token_mask(
            mask,
            cutoff=self.cutoff,
            max_tokens=self.max_tokens,
            probability=self.probability,
            count_forced=self.count_forced,
            cap=self.cap,
            uniforms=uniforms,
        )

    def assign(
        self, rollouts: Rollouts, batch: dict[str, Any], advantages: Tensor, selected: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        tokens = CompletionTokens.of(rollouts, batch)
        if selected is None:
            selected = self.select(tokens)
            selected = torch.nn.functional.pad(selected, (0, batch["completion_ids"].size(1) - selected.size(1)))
        keep = selected
        candidates = sum(sum(mask) for _, mask in tokens.own())
        self._metrics = {"kept_fraction": keep.sum().item() / max(1, candidates)}
        return advantages, keep.to(advantages.device)


class SGRPOTrainer(ConciseGRPOTrainer):
    """
    Drop-in [`~trl.GRPOTrainer`] for [Stochastic GRPO](https://huggingface.co/papers/2504.20834).

    Takes the arguments of [`ConciseGRPOTrainer`] and adds a [`StochasticTokens`] with the settings of `args`. A plain
    [`~trl.GRPOConfig`] keeps its own `loss_type`; `"grpo"` is the paper's objective.

    Example:

    ```python
    >>> from trl_concise import SGRPOConfig, SGRPOTrainer, load_problems, math_accuracy_reward

    >>> trainer = SGRPOTrainer(
    ...     model="Qwen/Qwen2-1.5B-Instruct",
    ...     reward_funcs=math_accuracy_reward,
    ...     args=SGRPOConfig(output_dir="sgrpo"),
    ...     train_dataset=load_problems("openai/gsm8k", config_name="main"),
    ... )
    >>> trainer.train()
    ```
    """

    config_class = SGRPOConfig
    _tag_names = ["trl", "grpo", "trl-concise", "sgrpo"]
    _name = "Stochastic GRPO"
    _paper = SGRPO_PAPER.as_card()

    def _own_slots(self, args):
        return {
            "token_credit": StochasticTokens(
                args.cutoff, args.max_tokens, args.probability, args.count_forced, cap=args.cap
            )
        }
