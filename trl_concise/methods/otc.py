# SPDX-License-Identifier: Apache-2.0
"""
OTC: optimal tool calls (Wang et al., 2025, https://huggingface.co/papers/2504.14870).

A correct completion earns more the closer its number of tool calls is to the fewest with which the policy ever answered the
prompt correctly. A wrong completion earns nothing, however few calls it makes.

No code of the authors was found. Equations and results are from secondary sources, and two details are reconstructed: the constant k
and the order of updating the fewest calls and scoring. docs/otc.md numbers the differences.
"""

from __future__ import annotations

import logging
import math
from numbers import Integral
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..batch.rollouts import LocalRollouts, Rollouts
from ..components import GroupReward, Paper, TrainerView
from ..state.history import PromptHistory


if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

OTC_PAPER = Paper(
    title="Acting Less is Reasoning More! Teaching Model to Act Efficiently",
    id="2504.14870",
    # docstyle-ignore
    citation="""\
@article{wang2025acting,
    title        = {{Acting Less is Reasoning More! Teaching Model to Act Efficiently}},
    author       = {Hongru Wang and Cheng Qian and Wanjun Zhong and Xiusi Chen and Jiahao Qiu and others},
    year         = 2025,
    eprint       = {arXiv:2504.14870}
}""",
    reconstructed="the constant k = 1, and that the fewest calls are updated before a batch is scored",
)


def tool_efficiency(calls: int, fewest: int, *, smoothing: float = 1.0) -> float:
    r"""
    Rate the number of tool calls of a correct completion.

    $$ r_\text{tool}(m, n) = \begin{cases} \cos \frac{m \pi}{2m + k} & n = 0 \\ \sin \frac{f \pi}{2n} & n > 0 \end{cases},
       \qquad f = \frac{2nm}{m + n} $$

    With $x = m / n$ the second case is $\sin \frac{\pi x}{1 + x}$: 1 at $x = 1$, and the same for $x$ and $1 / x$.

    Args:
        calls (`int`): $m$, tool calls of the completion, at least 0.
        fewest (`int`): $n$, the fewest calls of a correct completion, at least 0. OTC-PPO, which keeps none, is `fewest=0`.
        smoothing (`float`, *optional*, defaults to `1.0`): $k$, above 0. The larger it is, the less a call costs where none is needed.

    Returns:
        `float`: In `[0, 1]`; 1 for `calls == fewest`.

    Examples:
        >>> tool_efficiency(2, fewest=2), round(tool_efficiency(4, fewest=2), 4), round(tool_efficiency(1, fewest=0), 4)
        (1.0, 0.866, 0.5)
    """
    if fewest == 0:
        return math.cos(calls * math.pi / (2 * calls + smoothing))
    return math.sin(calls * math.pi / (calls + fewest))  # f pi / 2n


def count_tool_calls(completion: str | list[dict[str, Any]]) -> int:
    """
    Count the tool calls of a completion, as TRL hands it to reward functions.

    Every call that TRL could parse counts: several in one message, calls whose tool failed or does not exist, and a last call that was
    not answered because of a limit. A malformed call, or one that the token limit truncates, is text, and TRL calls nothing.

    Args:
        completion (`str` or `list[dict]`): Messages; a string calls nothing.

    Examples:
        >>> call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 2}}}
        >>> count_tool_calls(
        ...     [
        ...         {"role": "assistant", "content": "", "tool_calls": [call]},
        ...         {"role": "tool", "name": "add", "content": "3"},
        ...         {"role": "assistant", "content": "It is 3."},
        ...     ]
        ... )
        1
    """
    messages = completion if isinstance(completion, list) else []
    return sum(len(message.get("tool_calls") or []) for message in messages)


class ToolCallHistory(PromptHistory):
    """
    A [`PromptHistory`] of tool calls in the place of tokens. The two cannot be merged, or loaded in each other's place.

    Examples:
        >>> history = ToolCallHistory()
        >>> history.update(["a", "a", "b"], lengths=[3, 1, 0], correct=[1, 1, 0])
        >>> history.fewest(["a", "b"])
        tensor([1., nan], dtype=torch.float64)
    """

    records_name = "a history of tool calls"
    _SAVED = {"shortest": "fewest", "total": "calls"}  # names in the state, by those of a history of tokens

    def fewest(self, keys: list[str] | tuple[str, ...]) -> Tensor:
        """Return the fewest calls among each prompt's correct completions: `(n,)` float64, NaN if never solved."""
        return self.shortest(keys)

    def to_pandas(self) -> pd.DataFrame:
        """
        Return one row per prompt: `fewest`, `mean` (calls, NaN if never solved), `correct` (completions), `visits`, `solved` (batches).
        """
        return super().to_pandas().rename(columns={"shortest": "fewest"})

    def state_dict(self) -> dict[str, Tensor]:
        """Return the records as tensors: `keys` `(n, 16)` uint8 and one `(n,)` int64 per field."""
        return {self._SAVED.get(name, name): tensor for name, tensor in super().state_dict().items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """
        Replace the records by those of [`~ToolCallHistory.state_dict`].

        Raises:
            `ValueError`: If the tensors are not those of a history of tool calls.
        """
        if missing := {*self._SAVED.values()} - {*state}:
            raise ValueError(
                f"A history of tool calls holds the tensors {sorted(self.state_dict())}, got {sorted(state)}, without {sorted(missing)}. "
                "Lengths of another method, such as HAPO, cannot be used as tool calls."
            )
        names = {saved: name for name, saved in self._SAVED.items()}
        super().load_state_dict({names.get(name, name): tensor for name, tensor in state.items()})


class OTCPPOReward(GroupReward):
    r"""
    The reward of OTC-PPO: a correct completion earns $\alpha \cos \frac{m \pi}{2m + k}$ for $m$ tool calls.

    It compares with no calls at all, and needs neither a group nor a history. TRL has no PPO trainer: it is used with GRPO.

    Args:
        alpha (`float`, *optional*, defaults to `1.0`):
            $\alpha$, the largest reward, above 0. It has no effect if this is the only reward and the group's standard deviation
            divides it.
        smoothing (`float`, *optional*, defaults to `1.0`):
            $k$, above 0, see [`tool_efficiency`]. Reconstructed.
    """

    name = "otc_ppo"
    paper = OTC_PAPER

    def __init__(self, alpha: float = 1.0, smoothing: float = 1.0):
        for setting, value in {"alpha": alpha, "smoothing": smoothing}.items():
            if not 0 < value < math.inf:
                raise ValueError(f"{setting} must be above 0 and finite, got {value}.")
        self.alpha = alpha
        self.smoothing = smoothing
        self._calls_tools = True
        self._metrics: dict[str, float] = {}

    def attach(self, trainer: TrainerView) -> None:
        """
        Check that completions can call tools.

        Raises:
            `ValueError`: If the trainer has neither tools nor a `rollout_func`.
        """
        kind = type(self).__name__
        self._calls_tools = bool(trainer.tools)
        if not trainer.tools and trainer.rollout_func is None:
            raise ValueError(
                f"{kind} rewards few tool calls, but the trainer has no tools. Pass tools=[...], an environment_factory with tools, or "
                "a rollout_func that returns `tool_calls`."
            )
        own = next(column for column, part in trainer.group_rewards.items() if part is self)
        weights, column = trainer.reward_weights.tolist(), trainer.correctness_column
        if column is not None and weights[own] and weights[column]:
            logger.warning(
                "%s is the whole reward of a correct completion in the paper, but %r adds %g to it, so tool calls cost relatively less. "
                "Set its entry in reward_weights to 0 for the paper's reward.",
                kind,
                trainer.reward_func_names[column],
                weights[column],
            )

    def measure(self, local: LocalRollouts) -> dict[str, Tensor]:
        if self._calls_tools:
            calls = [count_tool_calls(completion) for completion in local.completions]
        elif "tool_calls" in local.columns:
            calls = [checked_calls(value) for value in local.columns["tool_calls"]]
        else:
            raise ValueError(
                f"{type(self).__name__} needs the number of tool calls of each completion, but the rollout_func returned {sorted(local.columns)}. "
                "Return a list of integers as `tool_calls` too."
            )
        return {"calls": torch.tensor(calls, device=local.lengths.device)}

    def score(self, rollouts: Rollouts) -> Tensor:
        rewards = [
            math.nan
            if math.isnan(correct)  # unknown correctness: no reward
            else correct * self.alpha * tool_efficiency(calls, fewest, smoothing=self.smoothing)
            for calls, fewest, correct in zip(
                self._calls(rollouts).tolist(), self._targets(rollouts), rollouts.correct.tolist(), strict=True
            )
        ]
        return torch.tensor(rewards, dtype=torch.float32, device=rollouts.correct.device)

    def observe(self, rollouts: Rollouts) -> None:
        calls, correct = self._calls(rollouts).double(), rollouts.correct.cpu()
        of_correct = calls[correct == 1]
        self._metrics = {
            "calls": calls.mean().item(),
            "calls_correct": of_correct.mean().item(),
            # Correct completions per call: the paper's tool productivity. Unknown without a call.
            "productivity": (correct == 1).sum().item() / calls.sum().item() if calls.any() else math.nan,
        }

    def columns(self, rollouts: Rollouts) -> dict[str, Tensor]:
        return {"calls": self._calls(rollouts).double()}

    def _calls(self, rollouts: Rollouts) -> Tensor:
        """Return the tool calls of each completion: `(B,)` int64."""
        return rollouts.measured[self.name]["calls"].cpu().long()

    def _targets(self, rollouts: Rollouts) -> list[int]:
        """Return the number of calls that each completion is compared with: B integers."""
        return [0] * len(rollouts)


class OTCReward(OTCPPOReward):
    r"""
    The reward of OTC-GRPO: a correct completion earns $\alpha$ if no correct completion of its prompt, in this batch or before, makes
    fewer tool calls, and less the more calls it makes beyond that. See [`tool_efficiency`].

    Args:
        alpha (`float`, *optional*, defaults to `1.0`):
            The largest reward, above 0. It has no effect if this is the only reward and the group's standard deviation divides it.
        smoothing (`float`, *optional*, defaults to `1.0`):
            $k$, above 0, see [`tool_efficiency`]. Only for prompts that were solved without a call. Reconstructed.

    Attributes:
        call_history ([`ToolCallHistory`]): Per prompt, the tool calls of correct completions.
    """

    name = "otc"

    def __init__(self, alpha: float = 1.0, smoothing: float = 1.0):
        super().__init__(alpha, smoothing)
        self.call_history = ToolCallHistory()

    def observe(self, rollouts: Rollouts) -> None:
        super().observe(rollouts)
        self.call_history.update(rollouts.prompt_keys, self._calls(rollouts), rollouts.correct.cpu())
        fewest = self.call_history.fewest(list(dict.fromkeys(rollouts.prompt_keys)))
        targets = self.call_history.fewest(rollouts.prompt_keys)
        is_correct = rollouts.correct.cpu() == 1
        self._metrics |= {
            "fewest": fewest.nanmean().item(),
            "at_fewest": (self._calls(rollouts) == targets)[is_correct].double().mean().item(),
        }

    def state_dict(self) -> dict[str, Any]:
        return self.call_history.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.call_history.load_state_dict(state)

    def _targets(self, rollouts: Rollouts) -> list[int]:
        # This batch counts too: a completion with fewer calls than ever before would earn less than one with as many.
        fewest: dict[str, float] = dict(
            zip(rollouts.prompt_keys, self.call_history.fewest(rollouts.prompt_keys).tolist(), strict=True)
        )
        for key, calls, correct in zip(
            rollouts.prompt_keys, self._calls(rollouts).tolist(), rollouts.correct.tolist(), strict=True
        ):
            if correct == 1 and not fewest[key] <= calls:  # not: NaN too
                fewest[key] = calls
        return [
            0 if math.isnan(fewest[key]) else int(fewest[key]) for key in rollouts.prompt_keys
        ]  # never solved: all wrong


def checked_calls(value: Any) -> int:
    """
    Return a number of tool calls that a `rollout_func` has counted.

    Raises:
        `ValueError`: If it is not an integer of at least 0.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 0:
        raise ValueError(f"The rollout_func returned {value!r} among `tool_calls`. Return integers of at least 0.")
    return int(value)
