# SPDX-License-Identifier: Apache-2.0
"""
TrRa: training-time realignment (Zhu et al., 2025, https://huggingface.co/papers/2506.12704).

A student is distilled, on fixed text, towards a mix of two frozen models: the reference it starts from, and an aligned model that
reasons in fewer tokens. The mix is of logits, so the weight of the aligned model may exceed 1:

    p_lambda = softmax(lambda * h_aligned + (1 - lambda) * h_reference),    loss = KL(p_lambda || pi_theta)

Differences from the authors' code (zwhong714/ReAligner):
  1. The softmax is over the vocabulary, as in the paper. Theirs is over the positions; `normalize_over="positions"` does the same.
  2. The loss is the mean over the completion tokens of an optimizer step. Theirs includes the prompt and padding.
  3. Every row enters the loss. Of theirs only the first row of a micro-batch does.
  4. Rows are single sequences. Theirs are preference pairs, whose rejected halves are computed and unused.

InRa, the same paper's realignment at inference, is in [`trl_concise.methods.layer_realignment`].
"""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import kl_div
from trl import DistillationConfig, DistillationTrainer

from ..checks import check_not_empty
from ..components import Paper
from ..components.base import tokenizer_of
from ..config import own_config
from ..data.critique_tokens import end_of_turn
from ..hub.mixin import WritesCard
from ..state.resume import ResumesTraining
from ..state.sampling import EpochRepeatSampler
from .realignment_config import NORMALIZATIONS, TrRaConfig, check_beta, check_lambda
from .realignment_models import FusedTeacher, check_tokenizers, load_frozen, mix_logits


__all__ = [
    "FusedTeacher",
    "TrRaConfig",
    "TrRaTrainer",
    "check_columns",
    "completion_ids",
    "kl_over_positions",
    "mix_logits",
    "realignment_kl",
]

REALIGNMENT_PAPER = Paper(
    title="Flexible Realignment of Language Models",
    id="2506.12704",
    # docstyle-ignore
    citation="""\
@inproceedings{zhu2025flexible,
    title        = {{Flexible Realignment of Language Models}},
    author       = {Wenhong Zhu and Ruobing Xie and Weinan Zhang and Rui Wang},
    year         = 2025,
    booktitle    = {Advances in Neural Information Processing Systems},
    eprint       = {arXiv:2506.12704}
}""",
    reconstructed="the softmax over the vocabulary: the authors' code normalizes over the positions",
)


def realignment_kl(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """
    Compute the loss of TrRa: the mean of $KL(p_teacher || p_student)$ over the tokens of the completions.

    [`TrRaTrainer`] computes the same from hidden states, without these tensors.

    Args:
        student, teacher (`torch.Tensor`): `(B, T, V)`, logits; the teacher's are of [`mix_logits`].
        mask (`torch.Tensor`): `(B, T)`, 1 where the token is of a completion.

    Returns:
        `torch.Tensor`: A scalar; 0 if no token is of a completion.
    """
    per_token = kl_div(student.log_softmax(-1), teacher.log_softmax(-1), reduction="none", log_target=True).sum(-1)
    return per_token.masked_fill(mask == 0, 0).sum() / mask.sum().clamp(min=1)


def kl_over_positions(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """
    Compute the loss as the authors' code does: each vocabulary entry is normalized over the positions of the sequence.

    This is not a divergence between next-token distributions. It reproduces how the published models were trained.

    Args:
        student, teacher (`torch.Tensor`): `(B, T, V)`, logits; the teacher's are of [`mix_logits`].
        mask (`torch.Tensor`): `(B, T)`, 0 on padding, which the authors include. They train on one row at a time, which has none.

    Returns:
        `torch.Tensor`: `(B,)`, for each row the sum of the divergences of all vocabulary entries, by the number of its positions.
    """
    padding = (mask == 0)[..., None]
    lowest = torch.finfo(student.dtype).min
    own, other = (logits.masked_fill(padding, lowest).log_softmax(1) for logits in (student, teacher))
    terms = kl_div(own, other, reduction="none", log_target=True).masked_fill(padding, 0)
    return terms.sum((1, 2)) / mask.sum(1)


class TrRaTrainer(ResumesTraining, WritesCard, DistillationTrainer):
    """
    Drop-in [`~trl.DistillationTrainer`] for realignment ([TrRa](https://huggingface.co/papers/2506.12704)).

    Takes the arguments of `DistillationTrainer`. The datasets have the columns `prompt` and `completion`, texts or messages; nothing is
    generated. `args` may be a plain [`~trl.DistillationConfig`], and is never changed.

    Args:
        model (`str` or [`~transformers.PreTrainedModel`]):
            The student. It starts from the reference model.
        teacher_model (`str` or [`~transformers.PreTrainedModel`]):
            The aligned model, for example one that was trained with HAPO from the reference model.
        args, train_dataset, eval_dataset, processing_class, ...:
            As for `DistillationTrainer`. `tools` are refused.
        ref_model (`str` or [`~transformers.PreTrainedModel`], *optional*):
            The reference model. Default: the student as it is at the start, loaded or copied once more.

    Raises:
        `ValueError`: If the models do not share tokenizer and vocabulary, or the arguments or the datasets do not fit. The message says
            what to change.

    Example:

    ```python
    >>> from datasets import load_dataset
    >>> from trl_concise.methods.realignment import TrRaConfig, TrRaTrainer

    >>> trainer = TrRaTrainer(
    ...     model="deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
    ...     teacher_model="agentica-org/DeepScaleR-1.5B-Preview",
    ...     args=TrRaConfig(output_dir="trra", lambda_=1.5, max_completion_length=8192),
    ...     train_dataset=load_dataset("json", data_files="completions.jsonl", split="train"),
    ... )
    >>> trainer.train()
    ```
    """

    config_class = TrRaConfig
    _tag_names = ["trl", "distillation", "trl-concise", "trra"]
    _name = "TrRa"
    _paper = REALIGNMENT_PAPER.as_card()

    def __init__(
        self,
        model,
        teacher_model=None,
        args: DistillationConfig | None = None,
        *trl_args,
        ref_model=None,
        **trl_kwargs,
    ):
        given = signature(DistillationTrainer.__init__).bind(self, model, teacher_model, args, *trl_args, **trl_kwargs)
        arguments = {name: value for name, value in given.arguments.items() if name != "self"}
        args = own_config(self.config_class, args, trainer=type(self), parent=DistillationConfig, model=model)
        _check_settings(args, teacher_model, arguments.get("tools"))
        datasets = {name: arguments.get(f"{name}_dataset") for name in ("train", "eval")}
        check_not_empty(datasets["train"], datasets["eval"])
        for name, dataset in datasets.items():
            check_columns(dataset, name)
        check_tokenizers(model, teacher_model, ref_model, arguments.get("processing_class"), args.trust_remote_code)
        # As TRL loads the student, in float32 unless its arguments say otherwise.
        options = {"dtype": "float32", "trust_remote_code": args.trust_remote_code, **(args.model_init_kwargs or {})}
        aligned_options = {
            **{name: options[name] for name in ("dtype", "trust_remote_code")},
            "revision": args.teacher_model_revision,
            **(args.teacher_model_init_kwargs or {}),
        }
        aligned = load_frozen(teacher_model, model, aligned_options)
        args.teacher_model_init_kwargs = None  # TRL refuses them with a model that is loaded
        if ref_model is None:
            ref_model = model
            if arguments.get("quantization_config") is not None:
                options["quantization_config"] = arguments["quantization_config"]
        teacher = FusedTeacher(aligned, load_frozen(ref_model, model, options), args.lambda_)
        super().__init__(**arguments | {"args": args, "teacher_model": teacher})
        self._end_token_id = end_of_turn(tokenizer_of(self.processing_class))
        self._completions: list[Any] = []  # of the rows that are being prepared

    def _set_signature_columns_if_needed(self):
        super()._set_signature_columns_if_needed()
        columns: Any = self._signature_columns
        if "completion" not in columns:
            self._signature_columns: Any = [*columns, "completion"]

    def _get_train_sampler(self, dataset=None):
        sampler = super()._get_train_sampler(dataset)
        if sampler.num_samples < sampler.batch_size:
            raise ValueError(
                f"The train dataset has {sampler.num_samples} rows, but an optimizer step takes {sampler.batch_size}. Lower "
                "per_device_train_batch_size or gradient_accumulation_steps, or add rows."
            )
        return EpochRepeatSampler(sampler, lambda: self.state.global_step, self.args.gradient_accumulation_steps)

    def _generate_and_score_completions(self, inputs):
        self._completions = [row["completion"] for row in inputs]
        return super()._generate_and_score_completions(inputs)

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, *args, **kwargs):
        # Instead of generating: the completions of the dataset, in the order of the prompts.
        tokenizer = tokenizer_of(self.processing_class)
        rows = [completion_ids(completion, tokenizer, self._end_token_id) for completion in self._completions]
        for prompt, ids in zip(prompt_ids, rows, strict=True):
            if not prompt:
                raise ValueError("A prompt has no tokens. Remove rows with an empty prompt.")
            seam = tokenizer.decode(prompt[-16:] + ids[:16])
            if "<think><think>" in "".join(seam.split()):
                raise ValueError(
                    "The prompts end with `<think>`, which the chat template adds, and a completion begins with `<think>` again. Remove it "
                    "from the completions."
                )
        return [ids[: self.max_completion_length] for ids in rows]

    def _compute_loss(self, unwrapped_student, inputs, num_items_in_batch):
        if self.args.normalize_over == "vocabulary":
            return super()._compute_loss(unwrapped_student, inputs, num_items_in_batch)
        input_ids, mask = (torch.cat([inputs[f"prompt_{x}"], inputs[f"completion_{x}"]], 1) for x in ("ids", "mask"))
        student = unwrapped_student(input_ids=input_ids, attention_mask=mask, use_cache=False).logits.float()
        with torch.no_grad():
            teacher = self.teacher_model(input_ids=input_ids, attention_mask=mask).float()
        loss = kl_over_positions(student / self.temperature, teacher / self.temperature, mask).mean()
        if unwrapped_student.training:  # the trainer does not scale the loss itself
            loss = loss / self.args.gradient_accumulation_steps
        with torch.no_grad():
            width = inputs["completion_ids"].size(1)
            logps = (student[:, -width - 1 : -1] / self.temperature).log_softmax(-1)
            entropies = -(logps.exp() * logps).sum(-1) * inputs["completion_mask"]
        return loss, entropies.sum(), inputs["completion_mask"].sum()


def completion_ids(completion: str | list[dict[str, str]], tokenizer: Any, end_token_id: int) -> list[int]:
    """
    Tokenize a completion as the model would have written it.

    Args:
        completion (`str` or `list[dict[str, str]]`): A text, or one message of the assistant.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): The models' tokenizer.
        end_token_id (`int`): Token that ends a reply of messages, see [`end_of_turn`]. Texts end with the EOS.

    Returns:
        `list[int]`: Token ids, the end token last.

    Raises:
        `ValueError`: If it is neither.
    """
    if isinstance(completion, str):
        text, end = completion.removesuffix(tokenizer.eos_token), tokenizer.eos_token_id
    elif isinstance(completion, list) and len(completion) == 1 and isinstance(completion[0].get("content"), str):
        text, end = completion[0]["content"], end_token_id
    else:
        raise ValueError(
            f"A completion is a text or a list of one message with a text; got {completion!r:.100}. Split conversations into a prompt "
            "and the last reply."
        )
    return [*tokenizer(text, add_special_tokens=False).input_ids, end]


def _check_settings(args: TrRaConfig, teacher_model: Any, tools: Any) -> None:
    check_lambda(args.lambda_)
    if teacher_model is None:
        raise ValueError("TrRa needs the aligned model: pass it as teacher_model, a name, a folder or a model.")
    check_beta(args.beta)
    if args.deepspeed_plugin is not None and args.deepspeed_plugin.zero_stage == 3:
        raise ValueError(
            "TrRa concatenates the output embeddings of two models, which DeepSpeed ZeRO-3 splits among processes. Use zero_stage 2."
        )
    if tools or args.use_vllm:
        raise ValueError(
            f"{'tools' if tools else 'use_vllm'} would have no effect: TrRa trains on the completions of the dataset and generates none. "
            "Leave it out."
        )
    if args.normalize_over not in NORMALIZATIONS:
        raise ValueError(f"normalize_over must be one of {list(NORMALIZATIONS)}, got {args.normalize_over!r}.")
    if args.max_completion_length is not None and args.max_completion_length < 1:
        raise ValueError(
            f"max_completion_length={args.max_completion_length} leaves no token to train on. Set it to at least 1, or to None for no limit."
        )


def check_columns(dataset: Any, name: str) -> None:
    """
    Check the columns of a dataset, or of each in a mapping.

    Args:
        dataset: A dataset, a stream, a mapping of them, or `None`.
        name (`str`): Its purpose, for messages.

    Raises:
        `ValueError`: If it lacks `prompt` or `completion`, or has images.
    """
    for one in dataset.values() if isinstance(dataset, dict) else [dataset]:
        if one is None:
            continue
        columns = set(next(iter(one)))
        if not {"prompt", "completion"} <= columns or {"image", "images"} & columns:
            raise ValueError(
                f"TrRa needs the columns `prompt` and `completion`, and no images; the {name} dataset has {sorted(columns)}. Rename them "
                "with `dataset.rename_columns`."
            )
