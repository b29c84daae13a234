# SPDX-License-Identifier: Apache-2.0
"""
PCL: prompt curriculum learning (Gao et al., 2025, https://huggingface.co/papers/2510.01135).

A value head predicts the success rate of each prompt, from the prompt alone. Of several candidates per prompt that a batch takes, those
predicted closest to one half are rolled out. The head learns from the same rollouts.

Reconstruction: the authors' code is not public, and the paper was read in notes and reviews of it. Differences:
  1. The value model of the paper is a language model with a head, often as large as the policy. Here it is a linear head with a sigmoid on the
     last hidden state of the policy, which the head never changes; its learning rate and its start at zero are ours.
  2. Candidates are the next prompts in TRL's order. Those that are passed over return in the next epoch.
  3. The data loader reads ahead, so a choice is made before the preceding batches are rolled out: the values lag by one more batch.
  4. The loss is TRL's. The paper has no KL term, no division by the standard deviation and a mean per completion:
     `beta=0, scale_rewards="none", loss_type="grpo"`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import broadcast
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..batch.rollouts import Rollouts, pack_keys, unpack_keys
from ..components import Paper, PromptSelector, TrainerView


PCL_PAPER = Paper(
    title="Prompt Curriculum Learning for Efficient LLM Post-Training",
    id="2510.01135",
    # docstyle-ignore
    citation="""\
@article{gao2025pcl,
    title        = {{Prompt Curriculum Learning for Efficient LLM Post-Training}},
    author       = {Zhaolin Gao and Joongwon Kim and Wen Sun and Thorsten Joachims and Sid Wang and Richard Yuanzhe Pang and Liang Tan},
    year         = 2025,
    eprint       = {arXiv:2510.01135}
}""",
    reconstructed="the value model: a linear head on the hidden states of the policy, its learning rate and its start",
)
_PROMPTS_AT_ONCE = 64


def closest_values(values: Sequence[float], count: int, target: float = 0.5) -> list[int]:
    r"""
    Return the positions of the values closest to a target.

    $$ D_m = \operatorname*{argmin}_{|S| = m} \sum_{x \in S} |V(x) - \tau| $$

    Args:
        values (`Sequence[float]`): $V(x)$, one per candidate.
        count (`int`): $m$, how many to choose; at most all.
        target (`float`, *optional*, defaults to `0.5`): $\tau$.

    Returns:
        `list[int]`: `count` positions, ascending. Of equally close values, the first.

    Examples:
        >>> closest_values([0.05, 0.30, 0.48, 0.55, 0.70, 0.95, 0.61, 0.20], 2)
        [2, 3]
    """
    return sorted(sorted(range(len(values)), key=lambda position: abs(values[position] - target))[:count])


def pcl_value_loss(values: Tensor, success_rates: Tensor) -> Tensor:
    r"""
    Squared distance of predicted from measured success rates.

    $$ \sum_i \Big( V(x_i) - \frac1n \sum_j r(x_i, y_{ij}) \Big)^2 $$

    Args:
        values (`torch.Tensor`): `(m,)`, $V(x_i)$ in `[0, 1]`.
        success_rates (`torch.Tensor`): `(m,)`, share of correct completions of each prompt.

    Returns:
        `torch.Tensor`: The sum, a scalar.

    Examples:
        >>> round(pcl_value_loss(torch.tensor([0.48, 0.55]), torch.tensor([6 / 16, 10 / 16])).item(), 5)
        0.01665
    """
    return (values - success_rates).square().sum()


class PCL(PromptSelector):
    """
    Selects the prompts whose predicted success rate is closest to a target.

    Args:
        candidates (`int`, *optional*, defaults to `4`):
            $k$, candidates per prompt that a batch takes. 1 takes every prompt, in TRL's order.
        target (`float`, *optional*, defaults to `0.5`):
            The success rate to look for, in (0, 1).
        learning_rate (`float`, *optional*, defaults to `1e-2`):
            Learning rate of Adam for the value head.
        updates (`int`, *optional*, defaults to `4`):
            Steps of Adam per generation batch.

    Attributes:
        head (`torch.Tensor`, *optional*): `(hidden + 1,)`, weights and bias of the head; `None` before the first choice.

    Raises:
        `ValueError`: If an argument is out of range.
    """

    name = "pcl"
    paper = PCL_PAPER
    text_only = True

    def __init__(self, candidates: int = 4, target: float = 0.5, learning_rate: float = 1e-2, updates: int = 4):
        if candidates < 1:
            raise ValueError(f"candidates must be at least 1, got {candidates}.")
        if not 0 < target < 1:
            raise ValueError(f"target must lie between 0 and 1, got {target}.")
        if not (0 < learning_rate < math.inf and updates >= 1):
            raise ValueError(
                f"learning_rate must be positive and updates at least 1, got {learning_rate} and {updates}."
            )
        self.candidates = self.candidates_per_prompt = candidates
        self.target = target
        self.learning_rate = learning_rate
        self.updates = updates
        self.head: Tensor | None = None
        self._adam: torch.optim.Adam | None = None
        self._chosen: dict[
            str, Tensor
        ] = {}  # prompt key -> hidden state, of chosen prompts that are not rolled out yet
        self._metrics: dict[str, float] = {}

    def attach(self, trainer: TrainerView) -> None:
        self._trainer = trainer

    def choose(self, candidates: list[dict[str, Any]], count: int, step: int) -> list[int]:
        features = self._features([row["prompt"] for row in candidates])
        chosen = closest_values(self._values(features).tolist(), count, self.target)
        self._chosen |= {candidates[position]["prompt_key"]: features[position] for position in chosen}
        return chosen

    def _features(self, prompts: list[Any]) -> Tensor:
        """Return the last hidden state of the policy at the end of each prompt: `(prompts, hidden)` float32 on the CPU."""
        trainer = self._trainer
        model = trainer.model
        wrapped = trainer.accelerator.unwrap_model(model)
        forward = (wrapped.get_base_model() if hasattr(wrapped, "get_base_model") else wrapped).forward
        options = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(forward).parameters else {}
        rows = [torch.tensor(ids) for ids in trainer.tokenize_prompts(prompts)]
        found = []
        was_training = model.training
        model.eval()
        for first in range(0, len(rows), _PROMPTS_AT_ONCE):
            batch = rows[first : first + _PROMPTS_AT_ONCE]
            ids = pad_sequence(batch, batch_first=True).to(trainer.accelerator.device)
            mask = pad_sequence([torch.ones_like(row) for row in batch], batch_first=True).to(ids)
            with torch.no_grad(), trainer.accelerator.autocast():
                hidden = model(input_ids=ids, attention_mask=mask, output_hidden_states=True, **options).hidden_states[
                    -1
                ]
            found.append(hidden[torch.arange(len(batch)), mask.sum(1) - 1].float())
        model.train(was_training)
        # Every process has computed the same, up to rounding; all of them choose by the numbers of the first one.
        return broadcast(torch.cat(found)).cpu()

    def _values(self, features: Tensor) -> Tensor:
        if self.head is None:
            self._set_head(torch.zeros(features.size(1) + 1))
        assert self.head is not None
        return (features @ self.head[:-1] + self.head[-1]).sigmoid()

    def _set_head(self, head: Tensor) -> None:
        self.head = head.clone().requires_grad_()
        self._adam = torch.optim.Adam([self.head], lr=self.learning_rate)

    def observe(self, rollouts: Rollouts) -> None:
        correct = rollouts.correct.view(-1, rollouts.num_generations)
        keys = rollouts.prompt_keys[:: rollouts.num_generations]
        rates = correct.nanmean(dim=1).float().cpu()
        known = [i for i, key in enumerate(keys) if key in self._chosen and not rates[i].isnan()]
        features = [self._chosen[keys[i]] for i in known]
        for key in keys:
            self._chosen.pop(key, None)
        if not known:
            return
        states, targets = torch.stack(features), rates[known]
        values = self._values(states).detach()
        spread = (targets - targets.mean()).square().sum()
        loss = pcl_value_loss(values, targets)
        self._metrics = {
            "success_rate": targets.mean().item(),
            "predicted_rate": values.mean().item(),
            "value_loss": loss.item() / len(known),
            "explained_variance": (1 - loss / spread).item() if spread > 0 else math.nan,
        }
        for _ in range(self.updates):
            self._update(states, targets)

    def _update(self, states: Tensor, targets: Tensor) -> None:
        """Make a step of Adam on the mean of [`pcl_value_loss`]."""
        with torch.enable_grad():
            loss = pcl_value_loss(self._values(states), targets) / len(targets)
        assert self._adam is not None  # made with the head
        self._adam.zero_grad()
        loss.backward()
        self._adam.step()

    def state_dict(self) -> dict[str, Any]:
        hidden = list(self._chosen.values())
        adam = dict(self._adam.state[self.head]) if self._adam is not None and self._adam.state else {}
        return {
            "head": self.head.detach().clone() if self.head is not None else torch.empty(0),
            **{f"adam_{name}": value.clone() for name, value in adam.items()},
            "keys": pack_keys(self._chosen),
            "hidden": torch.stack(hidden) if hidden else torch.empty(0, 0),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.head = self._adam = None
        if state["head"].numel():
            self._set_head(state["head"])
            adam = {
                name.removeprefix("adam_"): value.clone() for name, value in state.items() if name.startswith("adam_")
            }
            if adam and self._adam is not None:
                self._adam.state[self.head] = adam
        self._chosen = dict(zip(unpack_keys(state["keys"]), state["hidden"].unbind(0), strict=True))
