# SPDX-License-Identifier: Apache-2.0
"""
CFT: critique fine-tuning (Wang, Yue and Chen, 2025, https://huggingface.co/papers/2501.17703), and CFT on one problem
(Wang et al., 2025, https://huggingface.co/papers/2506.03295).

Supervised fine-tuning whose target is a teacher's critique of a noisy solution, not a solution to imitate:

    maximize  log P(c | [x; y]; theta)        (2501.17703, Eq. 1)

for the question x, the noisy solution y and its critique c. The loss is the mean over critique tokens, the end token
included, of a whole optimizer step. The trained model then solves problems with a prompt that does not ask for a critique.

Differences from the authors' training (LLaMA-Factory for CFT, ms-swift for one problem):
  1. A row that is too long is dropped and counted, or refused. CFT's were truncated, which may lose the verdict; the
     one-problem runs dropped theirs.
  2. The verdict of a critique may be `None`; theirs is then "wrong". `critique_verdict(text, default=False)` is their rule.

The texts themselves are in [`trl_concise.data.critiques`].
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from inspect import signature
from typing import Any

from accelerate import PartialState
from datasets import Dataset, IterableDataset
from transformers import PreTrainedTokenizerBase
from transformers.data.data_collator import DataCollatorMixin
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from ..checks import check_not_empty
from ..components import Paper
from ..components.base import tokenizer_of
from ..config import own_config
from ..data.critique_tokens import IGNORED, LengthLimit, end_of_turn, tokenize_critique
from ..data.critiques import CRITIQUE_TEMPLATES, critique_example, critique_verdict
from ..hub.mixin import WritesCard
from ..state.resume import ResumesTraining
from .cft_config import CFTConfig


__all__ = [
    "CFTConfig",
    "CFTTrainer",
    "DataCollatorForCritique",
    "critique_example",
    "critique_verdict",
]

logger = logging.getLogger(__name__)

_FORMS = ({"input_ids", "labels"}, {"prompt", "completion"}, {"question", "solution", "critique"})

CFT_PAPER = Paper(
    title="Critique Fine-Tuning: Learning to Critique is More Effective than Learning to Imitate",
    id="2501.17703",
    # docstyle-ignore
    citation="""\
@article{wang2025critique,
    title        = {{Critique Fine-Tuning: Learning to Critique is More Effective than Learning to Imitate}},
    author       = {Yubo Wang and Xiang Yue and Wenhu Chen},
    year         = 2025,
    eprint       = {arXiv:2501.17703}
}""",
    reconstructed="the whitespace of the one-problem template, and the filter of the one-problem critiques",
)


@dataclass
class DataCollatorForCritique(DataCollatorMixin):
    """
    Data collator that makes batches of critiques for a plain [`~trl.SFTTrainer`].

    The collator tokenizes raw rows, so the trainer must not process them: set
    `dataset_kwargs={"skip_prepare_dataset": True}` and `remove_unused_columns=False`. Otherwise TRL tokenizes and truncates
    the rows before the collator sees them.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): The model's tokenizer, with a padding token or an EOS.
        max_length (`int`, *optional*): Tokens that a row may have; no limit if `None`.
        overlong (`str`, *optional*, defaults to `"error"`):
            What happens with a longer row: `"error"` raises an error; `"drop"` replaces it with one token without a
            label, so that it adds nothing to the loss, and counts it in `length_limit.dropped` (of this process).
        template, system_prompt: See [`critique_example`].
        pad_to_multiple_of (`int`, *optional*): Pad to a multiple of this.
        return_tensors (`str`, *optional*, defaults to `"pt"`): Only `"pt"` is supported.

    Returns:
        `dict[str, torch.Tensor]`: `input_ids`, `attention_mask` and `labels`, each `(B, T)`, padded on the right.

    Example:

    ```python
    >>> trainer = SFTTrainer(
    ...     model="Qwen/Qwen2.5-Math-7B",
    ...     args=SFTConfig(
    ...         output_dir="cft",
    ...         dataset_kwargs={"skip_prepare_dataset": True},
    ...         remove_unused_columns=False,
    ...     ),
    ...     data_collator=DataCollatorForCritique(tokenizer, max_length=2048),
    ...     train_dataset=dataset,  # columns `question`, `solution` and `critique`
    ... )
    ```
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int | None = None
    overlong: str = "error"
    template: str = "cft"
    system_prompt: str | None = None
    pad_to_multiple_of: int | None = None
    return_tensors: str = "pt"

    def __post_init__(self):
        self.length_limit = LengthLimit(self.max_length, self.overlong)
        self._end_token_id = end_of_turn(self.tokenizer)
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.tokenizer.eos_token_id
        self._pad = DataCollatorForLanguageModeling(pad, pad_to_multiple_of=self.pad_to_multiple_of)

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        rows = [
            tokenize_critique(
                example, self.tokenizer, self._end_token_id, template=self.template, system_prompt=self.system_prompt
            )
            for example in examples
        ]
        placeholder = {"input_ids": [self._end_token_id], "labels": [IGNORED]}
        return self._pad([row if self.length_limit.admits(row) else placeholder for row in rows])


class CFTTrainer(ResumesTraining, WritesCard, SFTTrainer):
    """
    Drop-in [`~trl.SFTTrainer`] for critique fine-tuning ([CFT](https://huggingface.co/papers/2501.17703)).

    Takes the arguments of `SFTTrainer`. `args` may be a plain [`~trl.SFTConfig`], and is never changed. Datasets have the
    columns `question`, `solution` and `critique`; or `prompt` and `completion`, as texts or messages; or `input_ids` and
    `labels`.

    Attributes:
        dropped_rows (`dict[str, int]`): Rows left out for their length, by dataset (`"train"`, `"eval"` or the name given).
            Streams are counted as they are read, in this process.

    Raises:
        `ValueError`: If the arguments or the datasets do not fit critique fine-tuning. The message says what to change.

    Example:

    ```python
    >>> from datasets import load_dataset
    >>> from trl_concise import CFTConfig, CFTTrainer

    >>> trainer = CFTTrainer(
    ...     model="Qwen/Qwen2.5-Math-7B",
    ...     args=CFTConfig(output_dir="cft", max_length=2048),
    ...     train_dataset=load_dataset("json", data_files="critiques.jsonl", split="train"),
    ... )
    >>> trainer.train()
    ```
    """

    config_class = CFTConfig
    _tag_names = ["trl", "sft", "trl-concise", "cft"]
    _name = "CFT"
    _paper = CFT_PAPER.as_card()

    def __init__(self, model, args: SFTConfig | None = None, *sft_args, **sft_kwargs):
        given = signature(SFTTrainer.__init__).bind(self, model, args, *sft_args, **sft_kwargs).arguments
        given = {name: value for name, value in given.items() if name != "self"}
        given["args"] = own_config(self.config_class, args, trainer=type(self), parent=SFTConfig, model=model)
        _check_settings(given["args"], given.get("formatting_func"))
        check_not_empty(given.get("train_dataset"), given.get("eval_dataset"))
        self._length_limits: dict[str, LengthLimit] = {}  # by dataset
        super().__init__(**given)
        if self._is_vision_dataset:
            raise ValueError(
                "Critiques of images are not supported: remove the dataset's columns `image` and `images`."
            )

    @property
    def dropped_rows(self) -> dict[str, int]:
        return {name: limit.dropped for name, limit in self._length_limits.items()}

    def _prepare_dataset(self, dataset, processing_class, args, packing, formatting_func, dataset_name):
        limit = self._length_limits[dataset_name] = LengthLimit(args.max_length, args.overlong)
        with PartialState().main_process_first():
            dataset = _label_critiques(dataset, processing_class, args, dataset_name)
        if isinstance(dataset, IterableDataset):
            dataset = dataset.filter(limit.admits)
            if next(iter(dataset), None) is None:
                raise _all_too_long(limit, limit.dropped, dataset_name)
        else:
            dataset = _select_admitted(dataset, limit, dataset_name)
        # The rows have labels and are short enough; TRL only packs and shuffles them.
        return super()._prepare_dataset(dataset, processing_class, args, packing, formatting_func, dataset_name)


def _check_settings(args: CFTConfig, formatting_func) -> None:
    if args.critique_template not in CRITIQUE_TEMPLATES:
        raise ValueError(
            f"critique_template must be one of {list(CRITIQUE_TEMPLATES)}, got {args.critique_template!r}."
        )
    if args.completion_only_loss is False or args.assistant_only_loss:
        raise ValueError(
            "The loss of critique fine-tuning is on the critique alone: leave completion_only_loss and assistant_only_loss "
            "at their defaults."
        )
    if formatting_func is not None:
        raise ValueError(
            "formatting_func writes texts in which the critique cannot be distinguished. Map the dataset to `prompt` and "
            "`completion` instead."
        )
    if (args.packing or args.eval_packing) and args.packing_strategy == "wrapped":
        raise ValueError(
            "packing_strategy='wrapped' splits critiques at block ends. Set packing_strategy='bfd', which packs whole ones."
        )


def _label_critiques(
    dataset: Dataset | IterableDataset, processing_class, args: CFTConfig, name: str
) -> Dataset | IterableDataset:
    """Turn a dataset of any of the accepted forms into `input_ids` and `labels`."""
    columns = dataset.column_names or list(next(iter(dataset), {}))  # a stream may not know its columns
    if not any(form <= set(columns) for form in _FORMS):
        raise ValueError(
            f"The {name} dataset needs the columns `question`, `solution` and `critique`, or `prompt` and `completion`, or "
            f"`input_ids` and `labels`; it has {columns}. Rename them with `dataset.rename_columns`."
        )
    tokenizer = tokenizer_of(processing_class)
    if not any(form <= set(columns) for form in _FORMS[:2]) and tokenizer.chat_template is None:
        raise ValueError(
            "The tokenizer has no chat template to put critiques into. Set chat_template_path, or map the dataset to texts "
            "in the columns `prompt` and `completion`."
        )
    arguments = {
        "tokenizer": tokenizer,
        "end_token_id": end_of_turn(tokenizer),
        "template": args.critique_template,
        "system_prompt": args.critique_system_prompt,
    }
    options = {}
    if isinstance(dataset, Dataset):  # streams take neither
        options = {"num_proc": args.dataset_num_proc, "desc": f"Tokenizing {name} dataset"}
    unused = [column for column in columns if column not in ("input_ids", "labels")]
    return dataset.map(tokenize_critique, fn_kwargs=arguments, remove_columns=unused, **options)


def _select_admitted(dataset: Dataset, limit: LengthLimit, name: str) -> Dataset:
    admitted = [index for index, row in enumerate(dataset) if limit.admits(row)]
    if limit.dropped:
        if not admitted:
            raise _all_too_long(limit, len(dataset), name)
        logger.warning(
            "%s They are left out, not truncated; max_length=%d would keep them all.",
            _describe_dropped(limit, len(dataset), name),
            limit.longest,
        )
        dataset = dataset.select(admitted)
    return dataset


def _describe_dropped(limit: LengthLimit, rows: int, name: str) -> str:
    return (
        f"{limit.dropped} of {rows} rows of the {name} dataset have more than max_length={limit.max_length} tokens, the "
        f"longest {limit.longest}."
    )


def _all_too_long(limit: LengthLimit, rows: int, name: str) -> ValueError:
    return ValueError(f"All rows are too long: {_describe_dropped(limit, rows, name)} Raise max_length.")
