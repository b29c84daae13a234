# SPDX-License-Identifier: Apache-2.0
"""
REDI: reinforcement distillation from a teacher's correct and incorrect traces (Xu et al., 2025,
https://huggingface.co/papers/2505.24850).

Stage 1 is supervised fine-tuning on the correct traces, TRL's `SFTTrainer`. Stage 2, here, raises the mean log-probability
per token of correct traces and lowers that of incorrect ones, the latter weighted by `alpha < 1`. It uses no reference
model, margin or clipping.

Differences from the authors' code (Tim-Siu/reinforcement-distillation @ dda07d2):
  1. No reference model exists. Theirs is loaded, although no forward pass of it runs.
  2. Log-probabilities are float32, by TRL's fused LM head; theirs keep the model's dtype.
  3. Lengths are counted after truncation, so that numerator and denominator see the same tokens.
  4. A completion ends with the end token of the chat template; theirs has an additional EOS.
  5. Traces without a counterpart can be used too (ours; the paper trains on pairs only).
"""

from __future__ import annotations

from dataclasses import MISSING, fields
from inspect import signature
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PretrainedConfig
from transformers.utils import logging
from trl import DPOConfig, DPOTrainer

from ..callbacks import CollapseCallback
from ..checks import check_not_empty
from ..components import Paper
from ..config import own_config
from ..hub.mixin import WritesCard
from ..state.resume import ResumesTraining
from .redi_config import REDIConfig
from .redi_rows import DataCollatorForREDI, check_label_and_weight, check_template_keeps_traces


logger = logging.get_logger(__name__)

REDI_PAPER = Paper(
    title="Harnessing Negative Signals: Reinforcement Distillation from Teacher Data for LLM Reasoning",
    id="2505.24850",
    # docstyle-ignore
    citation="""\
@article{xu2025redi,
    title        = {{Harnessing Negative Signals: Reinforcement Distillation from Teacher Data for LLM Reasoning}},
    author       = {Shuyao Xu and Cheng Peng and Jiangxuan Long and Weidi Xu and Wei Chu and Yuan Qi},
    year         = 2025,
    eprint       = {arXiv:2505.24850}
}""",
)

# DPO settings that have no effect. `beta` is ignored without an error, because every DPO config has one.
_WITHOUT_EFFECT = (
    "loss_type",
    "loss_weights",
    "ld_alpha",
    "f_divergence_type",
    "label_smoothing",
    "use_weighting",
    "precompute_ref_log_probs",
    "sync_ref_model",
)


def redi_loss(
    chosen_logps: Tensor,
    chosen_lengths: Tensor,
    rejected_logps: Tensor,
    rejected_lengths: Tensor,
    *,
    alpha: float = 0.8,
) -> Tensor:
    r"""
    Raise the correct trace of a pair and lower the incorrect one, each by its mean log-probability per token.

    $$ L = -\frac{\log \pi(y_w \mid x)}{|y_w|} + \alpha \frac{\log \pi(y_l \mid x)}{|y_l|} $$

    Eq. 5 of the [paper](https://huggingface.co/papers/2505.24850); `alpha=1` is its symmetric objective (Eq. 4), `alpha=0`
    supervised fine-tuning in which every sequence weighs the same. Unbounded below for `alpha > 0`.

    Args:
        chosen_logps (`torch.Tensor`): `(pairs,)`, log-probability of the correct completion, summed over its tokens.
        chosen_lengths (`torch.Tensor`): `(pairs,)`, its tokens, EOS included, prompt and padding excluded.
        rejected_logps (`torch.Tensor`): `(pairs,)`, the same of the incorrect completion.
        rejected_lengths (`torch.Tensor`): `(pairs,)`, its tokens.
        alpha (`float`, *optional*, defaults to `0.8`): $\alpha$, weight of the incorrect completion, in `[0, 1]`.

    Returns:
        `torch.Tensor`: `(pairs,)`, the loss of each pair. The loss of a batch is their mean. A length of 0 counts as 1.

    Examples:
        >>> tensor = torch.tensor
        >>> redi_loss(tensor([-0.6, -2.0]), tensor([3, 4]), tensor([-2.0, -1.5]), tensor([2, 3]))
        tensor([-0.6000,  0.1000])
    """
    return -chosen_logps / chosen_lengths.clamp(min=1) + alpha * rejected_logps / rejected_lengths.clamp(min=1)


def redi_loss_of_rows(logps: Tensor, lengths: Tensor, signs: Tensor, weights: Tensor, *, alpha: float = 0.8) -> Tensor:
    """
    [`redi_loss`] for completions without a counterpart: each row is half a pair.

    The mean over the rows of whole pairs, with weight 1, is the mean of [`redi_loss`] over these pairs.

    Args:
        logps (`torch.Tensor`): `(rows,)`, log-probability of each completion, summed over its tokens.
        lengths (`torch.Tensor`): `(rows,)`, its tokens, as in [`redi_loss`].
        signs (`torch.Tensor`): `(rows,)`, above 0 for a correct completion, below for an incorrect one.
        weights (`torch.Tensor`): `(rows,)`, factor of the row.
        alpha (`float`, *optional*, defaults to `0.8`): Weight of the incorrect completions, in `[0, 1]`.

    Returns:
        `torch.Tensor`: `(rows,)`.
    """
    return torch.where(signs > 0, -2.0, 2.0 * alpha) * weights * logps / lengths.clamp(min=1)


class REDITrainer(ResumesTraining, WritesCard, DPOTrainer):
    """
    Drop-in [`~trl.DPOTrainer`] for the second stage of [REDI](https://huggingface.co/papers/2505.24850).

    Takes the arguments of [`~trl.DPOTrainer`], without a `ref_model`. The datasets have TRL's preference format (`prompt`,
    `chosen`: a correct trace, `rejected`: an incorrect one), or its unpaired format (`prompt`, `completion`, `label`: true
    if correct), with a `weight` per row if you like.

    Args:
        model, args, data_collator, train_dataset, ...:
            As for [`~trl.DPOTrainer`]. `args` may be a plain [`~trl.DPOConfig`] and is never changed. The data collator
            defaults to [`DataCollatorForREDI`].

    Raises:
        `ValueError`: If there is a `ref_model`, a setting of DPO's loss that would have no effect, or an empty dataset; if a row has a label
            or weight without meaning, or the chat template drops text of a trace. Rows of a stream are checked when they
            are read.

    Example:

    ```python
    >>> from datasets import load_dataset
    >>> from trl_concise import REDIConfig, REDITrainer

    >>> trainer = REDITrainer(
    ...     model="Qwen/Qwen2.5-Math-1.5B",  # better: after stage 1
    ...     args=REDIConfig(output_dir="redi"),
    ...     train_dataset=load_dataset("json", data_files="pairs.jsonl", split="train"),
    ... )
    >>> trainer.train()
    ```
    """

    config_class = REDIConfig
    _tag_names = ["trl", "trl-concise", "redi"]
    _name = "REDI"
    _paper = REDI_PAPER.as_card()
    _metrics_prefix = "redi"

    def __init__(
        self, model, ref_model=None, args: DPOConfig | None = None, data_collator=None, *dpo_args, **dpo_kwargs
    ):
        if ref_model is not None:
            raise ValueError(f"{self._name} uses no reference model: leave ref_model out.")
        args = own_config(self.config_class, args, trainer=type(self), parent=DPOConfig, model=model)
        _check_settings(args, self._name)
        given = signature(DPOTrainer.__init__).bind(self, model, None, args, data_collator, *dpo_args, **dpo_kwargs)
        check_not_empty(given.arguments.get("train_dataset"), given.arguments.get("eval_dataset"))
        super().__init__(model, _NoReference(), args, data_collator, *dpo_args, **dpo_kwargs)
        if isinstance(self.train_dataset, Dataset) and not len(self.train_dataset):
            raise ValueError(
                f"All rows are too long: their prompts have at least max_length={args.max_length} tokens. Raise max_length."
            )
        self.ref_model = None
        if not self._is_vision_dataset and data_collator is None:
            self.data_collator: Any = DataCollatorForREDI(**vars(self.data_collator))
        if isinstance(args, REDIConfig) and args.collapse_slope is not None:
            self.add_callback(CollapseCallback(args.collapse_slope, args.alpha))

    def _prepare_dataset(self, dataset, processing_class, args, dataset_name):
        first = next(iter(dataset))
        is_single = "completion" in first and "chosen" not in first
        if is_single and ("label" not in first or "prompt" not in first):
            raise ValueError(
                f"Traces without a counterpart need the columns `prompt`, `completion` and `label` (true if correct); "
                f"the {dataset_name} dataset has {sorted(first)}."
            )

        def check(row: dict[str, Any], index: int) -> dict[str, Any] | None:
            check_label_and_weight(row if is_single else {"weight": row.get("weight")}, index)
            check_template_keeps_traces(processing_class, row, index)
            return None if isinstance(dataset, Dataset) else row

        if isinstance(dataset, Dataset):  # every row, now
            dataset.map(
                check, with_indices=True, num_proc=args.dataset_num_proc, desc=f"Checking {dataset_name} dataset"
            )
        else:  # each row when it is read
            dataset = dataset.map(check, with_indices=True)
        if not is_single:
            return super()._prepare_dataset(dataset, processing_class, args, dataset_name)
        # Tokenized as a pair with itself, so exactly as pairs are.
        dataset = dataset.map(_as_pair, remove_columns=["completion"])
        dataset = super()._prepare_dataset(dataset, processing_class, args, dataset_name)
        return dataset.rename_column("chosen_ids", "completion_ids").remove_columns("rejected_ids")

    _signature_columns: Any  # the parent's; a list of column names once it is set

    def _set_signature_columns_if_needed(self):
        if self._signature_columns is None:
            super()._set_signature_columns_if_needed()
            columns: Any = self._signature_columns
            self._signature_columns = [*columns, "completion_ids", "label", "weight"]

    def _compute_loss(self, model, inputs, return_outputs):
        inputs = dict(inputs)
        completion_mask = inputs.pop("completion_mask")
        signs, weights = inputs.pop("sign", None), inputs.pop("weight", None)
        labels = inputs["input_ids"].masked_fill(completion_mask == 0, -100)
        if self.aux_loss_enabled:  # mixture of experts
            inputs["output_router_logits"] = True
        outputs = model(**inputs, labels=labels, use_cache=False, fused_lm_head=True)

        mask = completion_mask[:, 1:]  # (rows, T - 1): the first token is predicted by none
        logps = outputs.log_probs[:, -mask.size(1) :].sum(dim=1)  # float32; 0 outside the completion
        lengths = mask.sum(dim=1)
        if signs is None:  # pairs: the chosen half, then the rejected half
            (chosen, rejected), (chosen_lengths, rejected_lengths) = logps.chunk(2), lengths.chunk(2)
            loss = self._pair_loss(chosen, chosen_lengths, rejected, rejected_lengths).mean()
        else:
            loss = redi_loss_of_rows(logps, lengths, signs, weights, alpha=self.args.alpha).mean()
        if self.aux_loss_enabled:
            loss = loss + self.router_aux_loss_coef * outputs.aux_loss

        self._record(outputs, inputs["attention_mask"], mask, logps.detach(), lengths, signs)
        if return_outputs:  # deprecated in TRL: the logits that `compute_metrics` sees
            with torch.no_grad():
                return loss, model(**inputs)
        return loss

    def _pair_loss(self, chosen: Tensor, chosen_lengths: Tensor, rejected: Tensor, rejected_lengths: Tensor) -> Tensor:
        """Return the loss of each pair, `(pairs,)`. Another loss on the same pairs overrides it."""
        return redi_loss(chosen, chosen_lengths, rejected, rejected_lengths, alpha=self.args.alpha)

    @torch.no_grad()
    def _record(self, outputs, attention_mask, mask, logps, lengths, signs) -> None:
        """Add the batch's metrics, taken over all processes, to those that TRL logs."""
        correct = signs > 0 if signs is not None else torch.arange(len(logps), device=logps.device) < len(logps) // 2
        scored = mask.bool()
        entropy, mean_logits, is_top1 = (
            values[:, -mask.size(1) :] for values in (outputs.entropy, outputs.mean_logits, outputs.is_top1)
        )
        means = logps / lengths.clamp(min=1)
        margins = means[:0] if signs is not None else means[correct] - means[~correct]  # single rows have none
        values = {
            "entropy": entropy[scored],
            "mean_token_accuracy": is_top1[scored & correct[:, None]],
            "rewards/margins": margins,
            "rewards/accuracies": margins > 0,
        }
        for side, rows in {"chosen": correct, "rejected": ~correct}.items():
            values |= {
                f"rewards/{side}": means[rows],
                f"logps/{side}": logps[rows],
                f"logits/{side}": mean_logits[scored & rows[:, None]],
                f"{self._metrics_prefix}/{side}_logps_per_token": means[rows],
                f"{self._metrics_prefix}/{side}_length": lengths[rows],
            }
        if self.aux_loss_enabled:
            values["aux_loss"] = outputs.aux_loss.reshape(1)

        # Sums and counts of all metrics travel together: one gather and one transfer per batch.
        sums = torch.stack([*(value.float().sum() for value in values.values()), attention_mask.sum().float()])
        counts = torch.tensor([*(value.numel() for value in values.values()), 1], device=sums.device)
        gathered = self.accelerator.gather(torch.stack([sums, counts])[None]).sum(dim=0)  # (2, metrics + 1)
        *sums, tokens = gathered[0].tolist()
        mode = "train" if self.model.training else "eval"
        for name, total, count in zip(values, sums, gathered[1].tolist(), strict=False):
            if count:
                self._metrics[mode][name].append(total / count)
        if mode == "train":
            self._total_train_tokens += int(tokens) // self._tp_size
        self._metrics[mode]["num_tokens"] = [self._total_train_tokens]


class _NoReference(torch.nn.Linear):
    """Two numbers in place of a reference model, so that `DPOTrainer` does not load, copy or hash one."""

    def __init__(self):
        super().__init__(1, 1)
        self.config = PretrainedConfig()


def _as_pair(row: dict[str, Any]) -> dict[str, Any]:
    return {"chosen": row["completion"], "rejected": row["completion"]}


def _check_settings(args: DPOConfig, name: str) -> None:
    for item in fields(DPOConfig):
        if item.name in _WITHOUT_EFFECT:
            default = item.default_factory() if item.default_factory is not MISSING else item.default
            if getattr(args, item.name) != default:
                raise ValueError(
                    f"{item.name}={getattr(args, item.name)!r} has no effect in {name}, which has another loss and no "
                    f"reference model. Leave it at {default!r}."
                )
