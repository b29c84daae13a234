# SPDX-License-Identifier: Apache-2.0
"""
Resa: transparent reasoning models via SAEs (Wang et al., 2025, https://huggingface.co/papers/2506.09967).

SAE-Tuning has two stages, on problems with reference answers and without reasoning:

  1. A sparse autoencoder is trained on the output of one layer of a source model ([`train_sae`]).
  2. The frozen SAE is inserted into a target model, whose LoRA adapter is trained so that the target with SAE predicts what the target without
     adapter and SAE predicts ([`SAETuningTrainer`]):

         loss = sum over positions of KL(y || y~) / batch

     with the teacher y (adapter off, no SAE) and the student y~ (adapter on, the output of the layer replaced by the SAE's reconstruction).

The SAE is then removed. The loss never uses the answer as a label, and the source enters only through the weights of the SAE: a perfect SAE has
loss 0 and changes nothing. So every result needs the controls of docs/experimental/resa.md.

Read in the authors' code: https://github.com/shangshang-wang/Resa at 4fe74be. docs/experimental/resa.md lists the differences.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers.utils import is_peft_available
from trl import SFTConfig, SFTTrainer

from ..checks import check_not_empty
from ..components import Paper
from ..config import own_config
from ..hub.mixin import WritesCard
from ..state.resume import ResumesTraining
from .resa_config import SAETuningConfig
from .resa_layers import InsertedSAE, check_fits, decoder, reasoning_features, sae_inserted
from .resa_sae import TopKSAE
from .resa_text import question_answer_chunks
from .resa_training import train_sae


__all__ = [
    "SAETuningConfig",
    "SAETuningTrainer",
    "TopKSAE",
    "kl_sum",
    "question_answer_chunks",
    "reasoning_features",
    "sae_inserted",
    "train_sae",
]

RESA_PAPER = Paper(
    title="Resa: Transparent Reasoning Models via SAEs",
    id="2506.09967",
    # docstyle-ignore
    citation="""\
@article{wang2025resa,
    title        = {{Resa: Transparent Reasoning Models via SAEs}},
    author       = {Shangshang Wang and Julian Asilis and {\\"O}mer Faruk Akg{\\"u}l and Enes Burak Bilgin and Ollie Liu and Deqing Fu and Willie Neiswanger},
    year         = 2025,
    eprint       = {arXiv:2506.09967}
}""",
)

POSITIONS_AT_A_TIME = 1024  # whose distributions are in memory in float32
# Settings of SFT that would have no effect: (field, value that is accepted).
_WITHOUT_EFFECT = (
    ("packing", False),
    ("padding_free", False),
    ("completion_only_loss", None),
    ("assistant_only_loss", False),
    ("loss_type", "nll"),
    ("label_smoothing_factor", 0.0),
    ("use_liger_kernel", False),
)


def check_peft() -> None:
    """
    Raises:
        `ImportError`: If PEFT is missing.
    """
    if not is_peft_available():
        raise ImportError(
            "SAE-Tuning trains a LoRA adapter, which needs PEFT: pip install 'trl-concise[experimental]'."
        )


def kl_sum(teacher: Tensor, student: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""
    Sum of $\text{KL}(y \,\|\, \tilde y)$ over positions, in nats, computed in float32 for some positions at a time.

    Args:
        teacher, student (`torch.Tensor`): Logits of $y$ and $\tilde y$, `(B, T, V)`.
        mask (`torch.Tensor`, *optional*): `(B, T)`: 0 for positions that do not count.

    Returns:
        `torch.Tensor`: A scalar, at least 0.

    Examples:
        >>> teacher = torch.tensor([[[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]]])
        >>> student = torch.tensor([[[1.0, 1.0, -1.0], [0.0, 0.0, 0.0]]])
        >>> round(kl_sum(teacher, student).item(), 6)
        0.441662
    """
    rows = [logits.flatten(0, 1).split(POSITIONS_AT_A_TIME) for logits in (teacher, student)]
    weights = mask.float() if mask is not None else torch.ones(teacher.shape[:2], device=teacher.device)
    parts = zip(*rows, weights.flatten().split(POSITIONS_AT_A_TIME), strict=True)
    return torch.stack(
        [checkpoint(_weighted_kl, *part, use_reentrant=False, preserve_rng_state=False) for part in parts]
    ).sum()


def _weighted_kl(teacher: Tensor, student: Tensor, weights: Tensor) -> Tensor:
    log_y, log_student = teacher.float().log_softmax(-1), student.float().log_softmax(-1)
    return ((log_y.exp() * (log_y - log_student)).sum(-1) * weights).sum()


class SAETuningTrainer(ResumesTraining, WritesCard, SFTTrainer):
    """
    [`~trl.SFTTrainer`] for the second stage of SAE-Tuning ([Resa](https://huggingface.co/papers/2506.09967)): LoRA is trained so that the model
    with an SAE predicts what it predicts without.

    Takes the arguments of `SFTTrainer`. `args` is never changed. Datasets have a column `input_ids`, such as [`question_answer_chunks`] returns; all positions that are not padding count. Only the adapter is saved. The
    result is an ordinary adapter, without SAE or hook.

    Args:
        model (`str`, [`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]): The target model.
        args ([`SAETuningConfig`]): Configuration, with `layer`.
        sae ([`TopKSAE`], `str` or `Path`): The SAE, or its folder. It is frozen.
        *sft_args, **sft_kwargs: Further arguments of `SFTTrainer`, such as `train_dataset` and `peft_config`.

    Raises:
        `ImportError`: If PEFT is missing.
        `ValueError`: If the adapter config or the layer is missing, the SAE does not fit the model, a setting has no effect, or a dataset has no
            `input_ids`.

    Logged metrics are `resa/kl` (mean KL per position, in nats), `resa/fvu` (of the target's activations, with adapter, over all
    tokens since the last entry) and `resa/grad_share_before` (norm of
    the gradient of the adapters up to the layer, divided by that of all; missing in evaluation).

    Example:

    ```python
    >>> trainer = SAETuningTrainer(
    ...     model="Qwen/Qwen2.5-1.5B-Instruct",
    ...     args=SAETuningConfig("outputs/resa", layer=12),
    ...     sae="outputs/sae",
    ...     train_dataset=chunks,
    ...     peft_config=LoraConfig(r=32, lora_alpha=128, target_modules="all-linear"),
    ... )
    >>> trainer.train()
    ```
    """

    config_class = SAETuningConfig
    loss_is_scaled_for_ga = True  # the loss is divided by the rows of the whole optimizer step
    _tag_names = ["trl", "sft", "trl-concise", "resa"]
    _name = "SAE-Tuning"
    _paper = RESA_PAPER.as_card()

    def __init__(self, model, args: SFTConfig | None = None, *sft_args, sae: TopKSAE | str | Path, **sft_kwargs):
        check_peft()
        given = signature(SFTTrainer.__init__).bind(self, model, args, *sft_args, **sft_kwargs).arguments
        given = {name: value for name, value in given.items() if name != "self"}
        given["args"] = args = own_config(self.config_class, args, trainer=type(self), parent=SFTConfig, model=model)
        _check_adapter(model, given.get("peft_config"))
        _check_settings(args, given)
        check_not_empty(given.get("train_dataset"), given.get("eval_dataset"))
        _check_columns(given.get("train_dataset"), "train")
        evaluated = given.get("eval_dataset")
        for name, dataset in evaluated.items() if isinstance(evaluated, dict) else [("eval", evaluated)]:
            _check_columns(dataset, name)
        args.dataset_kwargs = {**(args.dataset_kwargs or {}), "skip_prepare_dataset": True}  # chunks stay whole
        self.sae = TopKSAE.load(sae) if isinstance(sae, (str, Path)) else sae
        self._inserted: InsertedSAE | None = None
        self._sums: dict[str, dict[str, Tensor]] = {"train": {}, "eval": {}}
        super().__init__(**given)
        target = self.accelerator.unwrap_model(self.model)
        layer = args.layer
        assert layer is not None
        check_fits(target, layer, self.sae.d_in)
        self.sae.to(next(target.parameters()).device).requires_grad_(False).eval()
        before = {id(parameter) for layer in decoder(target).layers[: layer + 1] for parameter in layer.parameters()}
        self._adapters = [
            (parameter, id(parameter) in before) for parameter in target.parameters() if parameter.requires_grad
        ]

    @contextmanager
    def _sae_inserted(self, model: Any) -> Iterator[InsertedSAE]:
        """Insert the SAE, unless an outer block has done so."""
        if self._inserted is not None:
            yield self._inserted
            return
        with sae_inserted(model, self.args.layer, self.sae, gradient=self.args.sae_gradient) as inserted:
            self._inserted = inserted
            try:
                yield inserted
            finally:
                self._inserted = None

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """Return the micro-batches of an optimizer step, and its rows on all processes, in the place of the label tokens."""
        samples, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        rows = torch.tensor(sum(len(batch["input_ids"]) for batch in samples), device=device)
        return samples, self.accelerator.gather(rows).sum()

    def training_step(self, model, inputs, *args, **kwargs):
        # Some versions of transformers run hooks again when a checkpointed layer is recomputed in the backward pass.
        with self._sae_inserted(self.accelerator.unwrap_model(model)):
            loss = super().training_step(model, inputs, *args, **kwargs)
        if self.accelerator.sync_gradients:
            self._measure_gradients()
        return loss

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        input_ids, mask = inputs["input_ids"], inputs["attention_mask"]
        batch = {"input_ids": input_ids, "attention_mask": mask, "use_cache": False}
        target = self.accelerator.unwrap_model(model)
        with self._sae_inserted(target) as inserted:
            with torch.no_grad(), target.disable_adapter(), inserted.paused():
                teacher = target(**batch).logits
            outputs = model(**batch)
            kl = kl_sum(teacher, outputs.logits, mask)
        self._measure(kl, inserted, mask.bool())
        if num_items_in_batch is None:
            loss = kl / len(input_ids)
        else:  # DDP averages the gradients of the processes
            loss = kl * self.accelerator.num_processes / num_items_in_batch
        return (loss, outputs) if return_outputs else loss

    def _add(self, **sums: Tensor) -> None:
        mode = self._sums["train" if self.model.training else "eval"]
        for name, value in sums.items():
            mode[name] = mode[name] + value if name in mode else value

    @torch.no_grad()
    def _measure(self, kl: Tensor, inserted: InsertedSAE, mask: Tensor) -> None:
        assert inserted.x is not None and inserted.reconstruction is not None
        x, reconstruction = inserted.x[mask].float(), inserted.reconstruction[mask].float()  # (N, d)
        centered = x - self.sae.b_dec  # about 0 on average, so that their sums are exact enough
        local = {
            "kl": kl.detach(),
            "positions": mask.sum().float(),
            "error": (x - reconstruction).square().sum(),
            "squares": centered.square().sum(),
            "total": centered.sum(dim=0),
        }
        # Here, where all processes are, and not in `log`, which a callback may call on one of them.
        self._add(**self.accelerator.reduce(local, reduction="sum"))

    @torch.no_grad()
    def _measure_gradients(self) -> None:
        squares = [
            (parameter.grad.float().square().sum(), before)
            for parameter, before in self._adapters
            if parameter.grad is not None
        ]
        total = sum(square for square, _ in squares)
        if squares and total > 0:
            share = (sum(square for square, before in squares if before) / total) ** 0.5
            self._add(share=share, steps=torch.ones_like(share))

    def _pop_metrics(self, mode: str) -> dict[str, float]:
        """Return the metrics of what was measured since the last call."""
        sums, self._sums[mode] = self._sums[mode], {}
        metrics = {}
        if "kl" in sums:
            metrics["kl"] = (sums["kl"] / sums["positions"]).item()
            variance = sums["squares"] - sums["total"].square().sum() / sums["positions"]
            if variance > 0:
                metrics["fvu"] = (sums["error"] / variance).item()
        if "steps" in sums:
            metrics["grad_share_before"] = (sums["share"] / sums["steps"]).item()
        prefix = "resa" if mode == "train" else "eval_resa"
        return {f"{prefix}/{name}": value for name, value in metrics.items()}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        logs.update(self._pop_metrics("train" if self.model.training else "eval"))
        super().log(logs, start_time)


def _check_adapter(model: Any, peft_config: Any) -> None:
    config = peft_config if peft_config is not None else getattr(model, "active_peft_config", None)
    if config is None:
        raise ValueError(
            "SAE-Tuning trains an adapter, and no adapter config was given. Pass peft_config=LoraConfig(...), or a model with an adapter."
        )
    if config.is_prompt_learning:
        raise ValueError(
            f"SAE-Tuning cannot train an adapter of type {config.peft_type.value}, which adds tokens. Use LoRA."
        )


def _check_settings(args: SAETuningConfig, given: dict[str, Any]) -> None:
    if args.layer is None:
        raise ValueError(
            "layer is missing: set it to the decoder layer, counted from 0, on whose output the SAE was trained."
        )
    values = {name: (getattr(args, name), accepted) for name, accepted in _WITHOUT_EFFECT}
    values |= {name: (given.get(name), None) for name in ("formatting_func", "compute_loss_func")}
    for name, (value, accepted) in values.items():
        if value != accepted:
            raise ValueError(
                f"{name}={value!r} is not supported: the loss of SAE-Tuning compares two predictions at every position of whole chunks. "
                f"Leave it at {accepted!r}."
            )


def _check_columns(dataset: Dataset | IterableDataset | None, name: str) -> None:
    columns = getattr(dataset, "column_names", None)
    if columns is not None and "input_ids" not in columns:
        raise ValueError(
            f"The {name} dataset needs the column `input_ids`, it has {columns}. Make it with question_answer_chunks."
        )
