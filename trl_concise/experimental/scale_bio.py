# SPDX-License-Identifier: Apache-2.0
"""
ScaleBiO: learned shares of data sources (Pan et al., 2025, https://huggingface.co/papers/2406.19976).

How much of each source to train on is the outer variable of a bilevel problem: train on the mixture, and minimize the loss on a small
validation set. A penalty turns it into a min-max problem with two copies w and u of the model, without second derivatives:

    min over w, lam, max over u:  L1(w) + alpha [L2(w, lam) - L2(u, lam)],   L2 = sum_k p_k l_k,   p = softmax(lam)

The result is `mixture.json`. Both models are discarded; [`mix_sources`] draws the dataset of the next run, and [`SourceMixture`] chooses the prompts of
GRPO.

Differences from the authors' code (2003pro/ScaleBiO at a978317, research4pan/scalebio at 6fa0521):
  1. The losses of the sources are means over the whole optimizer step. The preview averages those of micro-batches.
  2. Every step has rows of every source, and a step without is an error. Theirs gives a missing source the loss 0, which moves its share.
  3. The loss of a row is the mean over its completion tokens. The preview includes prompts and padding.
  4. The shares have no weight decay by default. Theirs is AdamW's 0.01, which pulls them towards uniform ones.
  5. Rows are drawn without replacement, source by source. The code of 2025 draws with replacement.
  6. Rows of the mixture are divided by largest remainder, without repeats, and the validation set is not added to them.
  7. Gradients are clipped together, at `alpha`; theirs for each model, and not those of the shares.
  8. All gradients are those of one loss, a reconstruction, checked against the three formulas.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType
from torch import Tensor
from trl import SFTConfig, SFTTrainer

from ..batch.lm_head import copy_model
from ..config import own_config
from ..evaluation.identity import name_of
from ..hub.mixin import WritesCard
from ..state.checkpoint import read_tensors, write_atomically, write_tensors
from ..state.resume import ResumesTraining
from .scale_bio_config import ScaleBiOConfig
from .scale_bio_data import check_sources, divide_rows, effective_sources, join, load_sources, mix_sources, read_shares
from .scale_bio_model import BilevelModel, bilevel_loss, parameter_groups, share_gradient
from .scale_bio_sampling import SCALE_BIO_PAPER, SOURCE_ID, SourceCollator, SourceMixture, StratifiedSampler


__all__ = [
    "ScaleBiOConfig",
    "ScaleBiOTrainer",
    "SourceMixture",
    "bilevel_loss",
    "divide_rows",
    "effective_sources",
    "load_sources",
    "mix_sources",
    "read_shares",
    "share_gradient",
]

MIXTURE_FILE, SHARES_FILE, STATE_FILE = "mixture.json", "shares.jsonl", "scale_bio.safetensors"
_TRACKER = "tracker."  # prefix of the model u in the saved state
# Settings under which the losses would not be those of single rows, or the steps or the end of the run others.
_UNSUITABLE = {
    "packing": False,
    "padding_free": False,
    "loss_type": "nll",
    "label_smoothing_factor": 0.0,
    "neftune_noise_alpha": None,
    "ignore_data_skip": False,
    "auto_find_batch_size": False,
    "load_best_model_at_end": False,  # the shares are those of the last step
}


class ScaleBiOTrainer(ResumesTraining, WritesCard, SFTTrainer):
    """
    Trainer that learns the shares of data sources with [ScaleBiO](https://huggingface.co/papers/2406.19976), as a [`~trl.SFTTrainer`].

    Takes the arguments of [`~trl.SFTTrainer`]. In the output folder it writes `shares.jsonl`, one line per optimizer step with the shares
    before it and all losses, and at the end `mixture.json`. Each step has `validation_rows` rows of the validation set; the other rows of the
    batch are of the sources, the same number of each, up to one.

    Args:
        model, args, processing_class, peft_config, ...:
            As for [`~trl.SFTTrainer`]. `args` may be a plain [`~trl.SFTConfig`], and is never changed. The model is copied once.
        train_dataset (`dict[str, Dataset]`):
            The sources by name, at least two, in any format of `SFTTrainer`, with the same columns.
        validation_dataset (`Dataset`):
            The validation set, in the same format. The model w is trained on it, so it must not be used to evaluate the next run.

    Attributes:
        shares (`dict[str, float]`): Share of each source by name, positive, with the sum 1.

    Raises:
        `ValueError`: If there are fewer than two sources, a dataset is empty, a validation row is a training row, a step has fewer training
            rows than sources, the mixture is larger than all sources together, or a setting does not fit.

    Example:

    ```python
    >>> from trl_concise.experimental.scale_bio import ScaleBiOConfig, ScaleBiOTrainer, load_sources

    >>> trainer = ScaleBiOTrainer(
    ...     model="Qwen/Qwen2.5-1.5B-Instruct",
    ...     args=ScaleBiOConfig(output_dir="mixture", alpha=100),
    ...     train_dataset=load_sources(["clean.jsonl", "noisy.jsonl", "other.jsonl"]),
    ...     validation_dataset=load_sources(["held_out.jsonl"])["held_out"],
    ... )
    >>> trainer.train()
    ```
    """

    config_class = ScaleBiOConfig
    _tag_names = ["trl", "sft", "trl-concise", "scale-bio"]
    _name = "ScaleBiO"
    _paper = SCALE_BIO_PAPER.as_card()
    model: Any
    optimizer: Any

    def __init__(self, model, args: SFTConfig | None = None, *sft_args, validation_dataset=None, **sft_kwargs):
        given = signature(SFTTrainer.__init__).bind(self, model, args, *sft_args, **sft_kwargs).arguments
        given = {name: value for name, value in given.items() if name != "self"}
        args = own_config(self.config_class, args, trainer=type(self), parent=SFTConfig, model=model)
        sources: Any = given.get("train_dataset")
        check_sources(sources, validation_dataset)
        _check_settings(args, given)
        self.source_rows = {name: len(rows) for name, rows in sources.items()}
        if args.mixture_size is not None:
            divide_rows([1 / len(sources)] * len(sources), args.mixture_size, list(self.source_rows.values()))
        rows = join(
            {**sources, "": validation_dataset}, {name: k for k, name in enumerate(sources)} | {"": -1}, SOURCE_ID
        )
        super().__init__(**given | {"args": args, "train_dataset": rows})
        if self._is_vision_dataset:
            raise ValueError("ScaleBiO learns shares of text: remove the columns `image` and `images`.")
        _check_processes(self.accelerator.distributed_type)
        self.model_accepts_loss_kwargs = True  # the loss is that of the whole step
        self.data_collator: Any = SourceCollator(self.data_collator)
        self.share_logits = torch.nn.Parameter(torch.zeros(len(sources), device=args.device))
        self._pair: BilevelModel | None = None
        self._loss_before: float | None = None  # on the validation set
        self._sums: Tensor | int = 0  # of the micro-batches of this step
        self._groups = self._group_rows()
        self._check_step()

    @property
    def shares(self) -> dict[str, float]:
        """Share of each source, by name."""
        return dict(zip(self.source_rows, self.share_logits.detach().double().softmax(0).tolist(), strict=True))

    # Batches

    def _set_signature_columns_if_needed(self):
        if self._signature_columns is None:
            super()._set_signature_columns_if_needed()
            columns: Any = self._signature_columns
            self._signature_columns: Any = [*columns, SOURCE_ID]

    def _group_rows(self) -> dict[str, list[int]]:
        """Return the rows of each source and of the validation set (`""`) that TRL has kept."""
        groups: dict[str, list[int]] = {name: [] for name in (*self.source_rows, "")}
        names = [*self.source_rows, ""]
        for row, source in enumerate(self.train_dataset[SOURCE_ID]):
            groups[names[source]].append(row)  # -1 is the last
        if empty := [name or "the validation set" for name, rows in groups.items() if not rows]:
            raise ValueError(
                f"No row of {empty} has a completion token within max_length={self.args.max_length}. Raise max_length."
            )
        return groups

    def _check_step(self) -> None:
        args, count = self.args, len(self.source_rows)
        step = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        self._validation_rows = args.validation_rows if args.validation_rows is not None else step // 2
        if self._validation_rows < 1 or step - self._validation_rows < count:
            raise ValueError(
                f"A step has {step} rows, {self._validation_rows} of them for validation, but needs at least one of each of the {count} sources and "
                "one for validation. Raise per_device_train_batch_size or gradient_accumulation_steps, or set validation_rows."
            )
        self._training_rows = step - self._validation_rows

    def _get_train_sampler(self, dataset=None):
        seed = self.args.data_seed if self.args.data_seed is not None else self.args.seed
        return StratifiedSampler(
            self._groups, self._validation_rows, self._training_rows, lambda: self.state.global_step, seed
        )

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        counts = torch.zeros(len(self.source_rows) + 1, device=device)
        for batch in batches:
            sources = batch[SOURCE_ID].to(device)
            counts[:-1] += torch.bincount(sources[sources >= 0], minlength=len(counts) - 1)
            counts[-1] += (batch["labels"].to(device)[sources < 0, 1:] != -100).sum()
        return batches, self.accelerator.reduce(counts)  # in the place of the number of tokens

    # The loss

    def _prepare_for_training(self, *args, **kwargs):
        # transformers prepares `self.model`: for training that is both models and the shares, in one module.
        policy = self.model
        self.model = self.model_wrapped = self._make_pair()
        try:
            prepared = super()._prepare_for_training(*args, **kwargs)
        finally:
            self.model = policy
        self.callback_handler.model = policy
        if self._loss_before is None:
            self._loss_before = self.validation_loss()
        self._trim_shares_file()
        return prepared

    def _make_pair(self) -> BilevelModel:
        if self._pair is None:  # not before transformers has set up gradient checkpointing
            self._pair = BilevelModel(self.model, copy_model(self.model), self.share_logits)
        return self._pair

    def create_optimizer(self, model=None):
        if self.optimizer is None:
            pair = self._make_pair()
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, pair)
            if {"params", "model", "optimizer_dict"} & set(options) or not isinstance(optimizer_class, type):
                raise ValueError(
                    f"optim={self.args.optim!r} chooses its own parameters. Use an optimizer such as 'adamw_torch'."
                )
            decayed = set(self.get_decay_parameter_names(pair))
            self.optimizer = optimizer_class(parameter_groups(pair, self.args, decayed), **options)
        return self.optimizer

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        inputs = dict(inputs)
        sources = inputs.pop(SOURCE_ID, None)
        if not self.model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        counts = num_items_in_batch
        if not (counts > 0).all():
            missing = [name or "validation" for name, n in zip([*self.source_rows, ""], counts, strict=True) if n == 0]
            raise ValueError(
                f"A step has no row of {missing}: without its loss the gradient of the shares is wrong. Do not replace the trainer's sampler."
            )
        output = model(inputs=inputs, sources=sources, counts=counts, alpha=self.args.alpha)
        self._sums = self._sums + output["sums"]
        if self.accelerator.sync_gradients:  # the last micro-batch of the step
            self._record(self.accelerator.reduce(self._sums), counts)
            self._sums = 0
        return output["loss"] * self.accelerator.num_processes  # DDP averages the gradients

    def _record(self, sums: Tensor, counts: Tensor) -> None:
        """Log the losses of a step, and add a line to `shares.jsonl`. `sums` has those of w by source, of u by source, and of validation."""
        count, names = len(self.source_rows), list(self.source_rows)
        means = sums / torch.cat([counts[:-1], counts[:-1], counts[-1:]])
        shares = self.shares
        losses, tracked, validation = means[:count].tolist(), means[count:-1].tolist(), means[-1].item()
        metrics = {f"share/{name}": share for name, share in shares.items()}
        metrics |= {f"gap/{name}": a - b for name, a, b in zip(names, losses, tracked, strict=True)}
        metrics |= {"validation_loss": validation, "effective_sources": effective_sources(list(shares.values()))}
        for name, value in metrics.items():
            self._metrics["train"][f"scale_bio/{name}"].append(value)
        if self.is_world_process_zero():
            line = {
                "step": self.state.global_step,
                "shares": shares,
                "losses": dict(zip(names, losses, strict=True)),
                "tracker_losses": dict(zip(names, tracked, strict=True)),
                "validation_loss": validation,
            }
            path = Path(self.args.output_dir, SHARES_FILE)
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def _trim_shares_file(self) -> None:
        """Remove the lines of steps that are not done yet, of an earlier run or from after the checkpoint."""
        path = Path(self.args.output_dir, SHARES_FILE)
        if self.is_world_process_zero() and path.is_file():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)[: self.state.global_step]
            write_atomically(path, "".join(lines).encode())

    @torch.no_grad()
    def validation_loss(self) -> float:
        """Return the loss of the model w on the whole validation set: the mean over its completion tokens."""
        loader = self.get_eval_dataloader(self.train_dataset.select(self._groups[""]))
        was_training = self.model.training
        self.model.eval()
        total = torch.zeros(2, device=self.args.device, dtype=torch.float64)
        for batch in loader:
            inputs = {name: value for name, value in batch.items() if name != SOURCE_ID}
            with self.accelerator.autocast():
                outputs = self.model(**inputs, use_cache=False, fused_lm_head=True)
            rows = torch.stack([-outputs.log_probs.float().sum(1), outputs.label_mask.sum(1).float()], dim=1)
            total += (
                self.accelerator.gather_for_metrics(rows).double().sum(0)
            )  # without the rows that fill the last batch
        self.model.train(was_training)
        return (total[0] / total[1]).item()

    # Results

    def train(self, *args, **kwargs):
        output = super().train(*args, **kwargs)
        self._write_mixture()
        return output

    def _write_mixture(self) -> None:
        after = self.validation_loss()
        if not self.is_world_process_zero():
            return
        shares, size, args = self.shares, self.args.mixture_size, self.args
        rows = list(self.source_rows.values())
        taken = divide_rows(list(shares.values()), size, rows) if size is not None else [None] * len(rows)
        model = name_of(self.model) if self.model.config._name_or_path else "a model in memory"
        mixture = {
            "sources": [
                {"name": name, "rows": count, "share": share, "taken": own}
                for (name, share), count, own in zip(shares.items(), rows, taken, strict=True)
            ],
            "effective_sources": effective_sources(list(shares.values())),
            "model": model,
            "note": f"Shares learned on {model}; another model can need others.",
            "alpha": args.alpha,
            "learning_rate": args.learning_rate,
            "tracker_learning_rate": args.learning_rate
            if args.tracker_learning_rate is None
            else args.tracker_learning_rate,
            "share_learning_rate": args.share_learning_rate,
            "share_weight_decay": args.share_weight_decay,
            "steps": self.state.global_step,
            "validation_rows": len(self._groups[""]),
            "validation_loss_before": self._loss_before,
            "validation_loss_after": after,
        }
        write_atomically(Path(args.output_dir, MIXTURE_FILE), (json.dumps(mixture, indent=2) + "\n").encode())

    # Checkpoints

    def _save_optimizer_and_scheduler(self, output_dir):
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save:
            tensors = {_TRACKER + name: value.detach() for name, value in self._trained_by_tracker().items()}
            state = {
                "share_logits": self.share_logits.detach(),
                "loss_before": torch.tensor(self._loss_before, dtype=torch.float64),
            }
            write_tensors(Path(output_dir, STATE_FILE), {**tensors, **state}, self._state_metadata())

    def _load_optimizer_and_scheduler(self, checkpoint):
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        state = read_tensors(Path(checkpoint, STATE_FILE), metadata=self._state_metadata())
        expected = {_TRACKER + name: value for name, value in self._trained_by_tracker().items()}
        expected["share_logits"] = self.share_logits
        if {name: value.shape for name, value in expected.items()} != {
            name: value.shape for name, value in state.items() if name != "loss_before"
        }:
            raise ValueError(
                f"{checkpoint} was written with another model or another number of sources. Resume with those that the run was started with."
            )
        with torch.no_grad():
            for name, value in expected.items():
                value.copy_(state[name])
        self._loss_before = state["loss_before"].item()

    def _state_metadata(self) -> dict[str, str]:
        return {
            "sources": json.dumps(list(self.source_rows))
        }  # shares of other sources, or in another order, are not restored

    def _trained_by_tracker(self) -> Mapping[str, torch.nn.Parameter]:
        assert self._pair is not None  # made before a checkpoint is written or read
        return {name: value for name, value in self._pair.tracker.named_parameters() if value.requires_grad}


def _check_settings(args: ScaleBiOConfig, given: Mapping[str, Any]) -> None:
    for name, wanted in _UNSUITABLE.items():
        if getattr(args, name) != wanted:
            raise ValueError(f"{name}={getattr(args, name)!r} is not supported by ScaleBiO. Set it to {wanted!r}.")
    for name in ("compute_loss_func", "optimizer_cls_and_kwargs"):
        if given.get(name) is not None:
            raise ValueError(
                f"{name} would have no effect: ScaleBiO has a loss and parameter groups of its own. Leave it out."
            )
    if any(part is not None for part in given.get("optimizers", (None, None))):
        raise ValueError(
            "ScaleBiO makes its own optimizer, with groups for both models and the shares. Leave optimizers out, and set args."
        )


def _check_processes(kind: DistributedType) -> None:
    if kind not in (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU):
        raise ValueError(
            f"ScaleBiO trains two models as one module, which {kind.value} is not tested with. Launch it with DDP, or on one process."
        )
