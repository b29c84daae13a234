# SPDX-License-Identifier: Apache-2.0
"""
TDRM: process reward models trained with temporal-difference targets (Zhang et al., 2025, https://huggingface.co/papers/2509.15110).

The value of a state, a problem with the steps so far, is V(s) = sigmoid(logit) of a sequence classifier with one label. Its target is the
rewards of the next n steps and the value of the state after them, so values change smoothly from step to step. The last state of a
completion has the label as its target.

Differences from the authors' code (THUDM/TDRM, tdrm/tdrm_{1,2,3}_step_train.py; the commit was not recorded):
  1. The mask of a bootstrap state is that of its own example; theirs of 2 and 3 steps gives the whole batch the last one's.
  2. One trainer for any n, and rows are whole completions; theirs is a script per n, whose rows are single states.
  3. The loss is computed from logits, without 1e-10 inside the logarithms, so a saturated value has a gradient.
  4. The shaping of step rewards is reconstructed (`data/steps.py`): the paper names a cosine, and the datasets hold its results.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import PreTrainedTokenizerBase
from transformers.data.data_collator import DataCollatorMixin
from trl import RewardConfig, RewardTrainer

from ..checks import check_not_empty
from ..components import Paper
from ..components.base import tokenizer_of
from ..config import own_config
from ..hub.mixin import WritesCard
from ..state.checkpoint import write_atomically
from ..state.resume import ResumesTraining
from .tdrm_config import TDRMConfig
from .tdrm_reward import ENTRY, ENTRY_FILE, ProcessReward, check_template_keeps_steps, encode_states


__all__ = ["DataCollatorForTDRM", "ProcessReward", "TDRMConfig", "TDRMTrainer", "smoothness", "td_loss", "td_targets"]

TDRM_PAPER = Paper(
    title="TDRM: Smooth Reward Models with Temporal Difference for LLM RL and Inference",
    id="2509.15110",
    # docstyle-ignore
    citation="""\
@article{zhang2025tdrm,
    title        = {{TDRM: Smooth Reward Models with Temporal Difference for LLM RL and Inference}},
    author       = {Dan Zhang and Min Cai and Jonathan Light and Ziniu Hu and Yisong Yue and Jie Tang},
    year         = 2025,
    eprint       = {arXiv:2509.15110}
}""",
    reconstructed="the shaping of step rewards, and the distance in the smoothness",
)

_COLUMNS = ("prompt", "completions", "rewards", "label")
_STATES = ("state_ids", "bootstrap_ids", "rewards", "label", "done", "mask")  # of a row that is ready


def td_targets(rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float = 0.8) -> Tensor:
    r"""
    n-step temporal-difference targets.

    $$ y = \operatorname{clamp}_{[0, 1]}\Big(\sum_{k=0}^{n-1} \gamma^k r_{t+k} + \gamma^n m V(s_{t+n})\Big) $$

    Args:
        rewards (`torch.Tensor`): `(B, n)`, rewards of the steps from t on; 0 after the last step.
        values (`torch.Tensor`): `(B,)`, $V(s_{t+n})$ in [0, 1]. No gradient flows through them.
        mask (`torch.Tensor`): `(B,)`, $m$: 1 where the state exists, otherwise 0, and its value has no influence, NaN included.
        gamma (`float`, *optional*, defaults to `0.8`): $\gamma$, in [0, 1].

    Returns:
        `torch.Tensor`: `(B,)`, in [0, 1].

    Examples:
        >>> td_targets(torch.tensor([[0.1, 0.2], [0.1, 0.2]]), torch.tensor([0.5, 0.5]), torch.tensor([1, 0]))
        tensor([0.5800, 0.2600])
    """
    n = rewards.size(1)
    discounts = gamma ** torch.arange(n, device=rewards.device, dtype=rewards.dtype)
    values = torch.where(mask.bool(), values.detach(), 0.0)
    return ((rewards * discounts).sum(dim=1) + gamma**n * values).clamp(0, 1)


def td_loss(logits: Tensor, targets: Tensor, labels: Tensor, done: Tensor, *, terminal_weight: float = 1.0) -> Tensor:
    r"""
    Cross-entropy of the values with their targets: the label for the last state of a completion, otherwise the soft target.

    $$ L = d \, w_T \, \operatorname{BCE}(V, \text{label}) + (1 - d) \operatorname{BCE}(V, y), \qquad V = \sigma(\text{logit}) $$

    Args:
        logits (`torch.Tensor`): `(B,)`, logits of the states.
        targets (`torch.Tensor`): `(B,)`, [`td_targets`].
        labels (`torch.Tensor`): `(B,)`, 1 for a correct completion, otherwise 0.
        done (`torch.Tensor`): `(B,)`, $d$: 1 for the last state of a completion, otherwise 0.
        terminal_weight (`float`, *optional*, defaults to `1.0`): $w_T$.

    Returns:
        `torch.Tensor`: `(B,)`, float32. The loss of a batch is their mean.

    Examples:
        >>> td_loss(torch.tensor([0.8]).logit(), torch.tensor([0.6]), torch.tensor([1]), torch.tensor([0]))
        tensor([0.7777])
    """
    is_last = done.bool()
    wanted = torch.where(is_last, labels.float(), targets.float())
    losses = binary_cross_entropy_with_logits(logits.float(), wanted, reduction="none")
    return torch.where(is_last, terminal_weight, 1.0) * losses


def smoothness(values: Sequence[Sequence[float]], distances: Sequence[Sequence[float]] | None = None) -> float:
    r"""
    Mean change of the value per unit of distance between consecutive states. Smaller is smoother.

    $$ \operatorname{mean} \frac{|V(s_{t+1}) - V(s_t)|}{d(s_t, s_{t+1})} $$

    Args:
        values (`Sequence[Sequence[float]]`): The values of the states of each completion (see [`~ProcessReward.values`]).
        distances (`Sequence[Sequence[float]]`, *optional*):
            $d$, positive, one fewer than the values of each completion: for example the tokens of each step. Default: 1, one step.
            Which distance the paper uses is not known to us.

    Returns:
        `float`: Over all pairs of all completions. NaN if no completion has two states.

    Raises:
        `ValueError`: If the distances do not match the values, or are not positive.

    Examples:
        >>> smoothness([[0.5, 0.75, 0.5], [0.4]])
        0.25
    """
    if distances is None:
        distances = [[1.0] * (len(own) - 1) for own in values]
    if [len(own) for own in distances] != [max(len(own) - 1, 0) for own in values] or not all(
        distance > 0 for own in distances for distance in own
    ):
        raise ValueError("Smoothness needs one positive distance for each pair of consecutive values of a completion.")
    changes = [
        abs(later - earlier) / distance
        for own, apart in zip(values, distances, strict=True)
        for earlier, later, distance in zip(own, own[1:], apart, strict=False)
    ]
    return sum(changes) / len(changes) if changes else math.nan


@dataclass
class DataCollatorForTDRM(DataCollatorMixin):
    """
    Data collator for states and their bootstrap states.

    Args:
        pad_token_id (`int`): Token id to pad with.
        pad_to_multiple_of (`int`, *optional*): Pad to a multiple of this.
        return_tensors (`str`, *optional*, defaults to `"pt"`): Only `"pt"` is supported.

    Returns:
        `dict[str, torch.Tensor]`: `input_ids` and `attention_mask`, `(B, T)`, of the states; `bootstrap_ids` and `bootstrap_mask`,
        `(B, T')`, of the states n steps later, a single padding token where there is none; `rewards`, `(B, n)`; `label`, `done` and
        `mask`, `(B,)`.
    """

    pad_token_id: int
    pad_to_multiple_of: int | None = None
    return_tensors: str = "pt"

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        input_ids, attention_mask = self._pad([example["state_ids"] for example in examples])
        bootstrap_ids, bootstrap_mask = self._pad([example["bootstrap_ids"] for example in examples])
        numbers = {
            name: torch.tensor([example[name] for example in examples], dtype=torch.float32)
            for name in ("rewards", "label", "done", "mask")
        }
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "bootstrap_ids": bootstrap_ids,
            "bootstrap_mask": bootstrap_mask,
            **numbers,
        }

    def _pad(self, rows: list[list[int]]) -> tuple[Tensor, Tensor]:
        multiple = self.pad_to_multiple_of or 1
        width = -(-max(1, *map(len, rows), 1) // multiple) * multiple
        ids = torch.full((len(rows), width), self.pad_token_id)
        mask = torch.zeros(len(rows), width, dtype=torch.long)
        for row, own in enumerate(rows):
            ids[row, : len(own)] = torch.tensor(own, dtype=torch.long)
            mask[row, : max(len(own), 1)] = 1  # a row that is not used attends to one token
        return ids, mask


class TDRMTrainer(ResumesTraining, WritesCard, RewardTrainer):
    """
    Trainer of a process reward model with [TDRM](https://huggingface.co/papers/2509.15110), as a drop-in [`~trl.RewardTrainer`].

    Takes the arguments of [`~trl.RewardTrainer`]; the model is a sequence classifier with one label, or the name of a causal model, which
    gets a new value head. The datasets have TRL's stepwise format with rewards, as [`~trl_concise.data.build_steps`] makes it: `prompt` (text or
    messages), `completions` (the steps, with the separators between them), `rewards` (one number per step) and `label` (whether the final answer
    is correct).

    Args:
        model, args, data_collator, train_dataset, ...:
            As for [`~trl.RewardTrainer`]. `args` may be a plain [`~trl.RewardConfig`] and is never changed. The data collator defaults to
            [`DataCollatorForTDRM`].

    Raises:
        `ValueError`: If a dataset is empty or a row is not valid, if prepared rows have another `n_steps`, if the chat template drops
            text of a completion, or if an adapter has another task type than `"SEQ_CLS"`.

    Example:

    ```python
    >>> from trl_concise.data import build_steps
    >>> from trl_concise.methods.tdrm import TDRMConfig, TDRMTrainer

    >>> trainer = TDRMTrainer(
    ...     model="Qwen/Qwen2.5-1.5B-Instruct",
    ...     args=TDRMConfig(output_dir="tdrm", n_steps=2),
    ...     train_dataset=build_steps("rollouts", problems),
    ... )
    >>> trainer.train()
    ```
    """

    config_class = TDRMConfig
    _tag_names = ["trl", "reward-trainer", "trl-concise", "tdrm"]
    _name = "TDRM"
    _paper = TDRM_PAPER.as_card()

    def __init__(self, model, args: RewardConfig | None = None, *reward_args, **reward_kwargs):
        given = signature(RewardTrainer.__init__).bind(self, model, args, *reward_args, **reward_kwargs).arguments
        given = {name: value for name, value in given.items() if name != "self"}
        args = own_config(self.config_class, args, trainer=type(self), parent=RewardConfig, model=model)
        given["args"] = args
        check_not_empty(given.get("train_dataset"), given.get("eval_dataset"))
        _check_task_type(given.get("peft_config") or getattr(model, "active_peft_config", None))
        super().__init__(**given)
        setattr(self.model.config, ENTRY, {"separator": args.step_separator, "max_length": args.max_length})
        if given.get("data_collator") is None:
            self.data_collator: Any = DataCollatorForTDRM(self.processing_class.pad_token_id, args.pad_to_multiple_of)

    def _prepare_dataset(self, dataset, processing_class, args, dataset_name):
        columns = dataset.column_names or list(next(iter(dataset)))  # a stream may not know its columns
        if set(_STATES) <= set(columns):
            width = len(next(iter(dataset))["rewards"])
            if width != args.n_steps:
                raise ValueError(
                    f"The rows of the {dataset_name} dataset are prepared for n_steps={width}, but n_steps is {args.n_steps}. Set "
                    f"n_steps={width}, or pass the rows that they were prepared from."
                )
            return dataset
        if missing := [name for name in _COLUMNS if name not in columns]:
            raise ValueError(
                f"The {dataset_name} dataset lacks the columns {missing}; it has {sorted(columns)}. "
                "trl_concise.data.build_steps makes such a dataset from rollouts."
            )
        if not isinstance(next(iter(dataset))["prompt"], str):
            check_template_keeps_steps(tokenizer_of(processing_class))
        options = {}
        if isinstance(dataset, Dataset):  # streams take neither
            options = {"num_proc": args.dataset_num_proc, "desc": f"Tokenizing {dataset_name} dataset"}
        with PartialState().main_process_first():  # the others find the result in the cache
            return dataset.map(
                _split_into_states,
                with_indices=True,
                batched=True,
                remove_columns=columns,
                fn_kwargs={
                    "tokenizer": tokenizer_of(processing_class),
                    "n": args.n_steps,
                    "separator": args.step_separator,
                    "max_length": args.max_length,
                },
                **options,
            )

    _signature_columns: Any  # the parent's; a list of column names once it is set

    def _set_signature_columns_if_needed(self):
        if self._signature_columns is None:
            self._signature_columns = list(_STATES)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        with torch.no_grad():  # always, so that every process makes the same calls of a sharded model
            later = model(
                input_ids=inputs["bootstrap_ids"], attention_mask=inputs["bootstrap_mask"], use_cache=False
            ).logits[:, 0]
        outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False)
        logits, done, mask, labels = outputs.logits[:, 0], inputs["done"], inputs["mask"], inputs["label"]
        next_values = later.float().sigmoid()
        targets = td_targets(inputs["rewards"], next_values, mask, gamma=self.args.gamma)
        losses = td_loss(logits, targets, labels, done, terminal_weight=self.args.terminal_weight)
        self._record(logits.detach().float().sigmoid(), next_values, targets, inputs)
        return (losses.mean(), outputs) if return_outputs else losses.mean()

    def _save(self, output_dir=None, state_dict=None):
        super()._save(output_dir, state_dict)
        if hasattr(self.model, "peft_config"):  # PEFT does not save the config of the model
            content = json.dumps(getattr(self.model.config, ENTRY)).encode()
            for folder in {
                Path(output_dir or self.args.output_dir),
                Path(self.args.output_dir),
            }:  # the latter is uploaded
                write_atomically(folder / ENTRY_FILE, content)

    @torch.no_grad()
    def _record(self, values: Tensor, next_values: Tensor, targets: Tensor, inputs: Mapping[str, Tensor]) -> None:
        """Add the batch's metrics, taken over all processes, to those that TRL logs."""
        last, exists, correct = inputs["done"] > 0, inputs["mask"] > 0, inputs["label"] > 0
        measured = {
            "tdrm/value": values,
            "tdrm/target": targets[~last],
            "tdrm/last_value_correct": values[last & correct],
            "tdrm/last_value_wrong": values[last & ~correct],
            "tdrm/accuracy": ((values > 0.5) == correct)[last],
            "tdrm/smoothness": ((next_values - values).abs() / inputs["rewards"].size(1))[exists],
            "num_tokens": inputs["attention_mask"],
        }
        sums = torch.stack([value.float().sum() for value in measured.values()])
        counts = torch.tensor([value.numel() for value in measured.values()], device=sums.device, dtype=sums.dtype)
        sums, counts = self.accelerator.gather(torch.stack([sums, counts])[None]).sum(dim=0)  # (metrics,) each
        mode = "train" if self.model.training else "eval"
        *totals, tokens = sums.tolist()
        for name, total, count in zip(measured, totals, counts.tolist(), strict=False):
            if count:
                self._metrics[mode][name].append(total / count)
        if mode == "train":
            self._total_train_tokens += int(tokens) // self._tp_size
        self._metrics[mode]["num_tokens"] = [self._total_train_tokens]


def _split_into_states(
    rows: Mapping[str, list[Any]],
    indices: list[int],
    *,
    tokenizer: PreTrainedTokenizerBase,
    n: int,
    separator: str,
    max_length: int | None,
) -> dict[str, list[Any]]:
    """Return the states of completions, each with the rewards of its next n steps and the state after them."""
    found: dict[str, list[Any]] = {name: [] for name in _STATES}
    for index, prompt, steps, rewards, label in zip(indices, *(rows[name] for name in _COLUMNS), strict=True):
        _check_row(index, steps, rewards, label, separator)
        count = len(steps)
        texts = ["".join(steps[: t + 1]) for t in range(count)]
        ids = encode_states(tokenizer, [prompt] * count, texts, max_length)
        padded = [*map(float, rewards), *[0.0] * n]
        for t in range(count):
            exists = t + n < count
            found["state_ids"].append(ids[t])
            found["bootstrap_ids"].append(ids[t + n] if exists else [])
            found["rewards"].append(padded[t : t + n])
            found["label"].append(float(label))
            found["done"].append(float(t == count - 1))
            found["mask"].append(float(exists))
    return found


def _check_row(index: int, steps: Any, rewards: Any, label: Any, separator: str) -> None:
    if not isinstance(steps, list) or not steps or not all(isinstance(step, str) for step in steps):
        raise ValueError(
            f"Row {index}: `completions` must be a list of one or more steps, as text; got {steps!r:.80}. "
            "trl_concise.data.steps.split_steps splits a text."
        )
    if other := [step for step in steps[:-1] if not step.endswith(separator)]:
        raise ValueError(
            f"Row {index}: every step but the last must end with step_separator={separator!r}, but one ends with {other[0][-20:]!r}. "
            "Set step_separator to the text between your steps, or add it to the steps."
        )
    if not isinstance(rewards, list) or len(rewards) != len(steps):
        raise ValueError(
            f"Row {index} has {len(steps)} steps, so `rewards` needs as many numbers; got {rewards!r:.80}."
        )
    if not all(isinstance(reward, (int, float)) and math.isfinite(reward) for reward in rewards):
        raise ValueError(f"Row {index}: `rewards` must be finite numbers; got {rewards!r:.80}.")
    if label not in (0, 1):
        raise ValueError(
            f"Row {index}: `label` must be true or false, whether the final answer is correct; got {label!r:.80}."
        )


def _check_task_type(peft_config: Any) -> None:
    task_type = getattr(peft_config, "task_type", None)
    if peft_config is not None and task_type != "SEQ_CLS":
        raise ValueError(
            f"The adapter has the task type {getattr(task_type, 'value', task_type)!r}, with which the value head is not trained, saved and "
            'loaded. Set task_type="SEQ_CLS", on the command line --lora_task_type SEQ_CLS.'
        )
