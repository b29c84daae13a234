# SPDX-License-Identifier: Apache-2.0
"""
RLPR: reinforcement learning with the probability of the reference answer as reward (Yu et al., 2025,
https://huggingface.co/papers/2506.18254). No verifier is needed.

The answer in a completion is replaced by the reference answer, and the policy scores it in one forward pass. The reward is the mean
probability of the answer's tokens, minus the same without any reasoning. From the authors' code (OpenBMB/RLPR @ 8490fca:
verl/workers/reward_manager/prob.py, verl/trainer/ppo/ray_trainer.py, verl/utils/reward_score/repetition.py).

Differences from the authors' code:
  1. Probabilities are not rounded to bfloat16.
  2. The sampled token ids of the reasoning are kept. The authors decode the completion and tokenize it again as a whole.
  3. A problem without a base score is an error. The authors skip its batch.
  4. The penalty for repetition always applies. Theirs is added to rewards other than 0 only.
  5. TRL divides by the standard deviation plus 1e-4, the authors by that plus 1e-6.
  6. Groups are filtered per generation batch, and exactly the missing ones are drawn again. The authors draw whole batches, without a
     limit, and keep the surplus for later steps.
  7. With `pad_answer=False`, the base score has no spaces around the answer either. Theirs always has.
  8. The mean logarithm as an aggregate is left out: a completion without an answer, whose score is 0, would be the best one.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate.utils import gather
from datasets import IterableDataset
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase, TrainerCallback

from ..batch.rollouts import LocalRollouts, Rollouts, pack_keys, prompt_key, unpack_keys
from ..checks import check_text_only
from ..components import GroupFilter, GroupReward, Paper, TrainerView
from ..components.base import tokenizer_of
from .rlpr_answer import (
    R1_TAGS,
    answer_probability,
    decode,
    encode_answer,
    has_format,
    repeats_itself,
    rlpr_rewards,
    splice_answer,
)


logger = logging.getLogger(__name__)

RLPR_PAPER = Paper(
    title="RLPR: Extrapolating RLVR to General Domains without Verifiers",
    id="2506.18254",
    # docstyle-ignore
    citation="""\
@article{yu2025rlpr,
    title        = {{RLPR: Extrapolating RLVR to General Domains without Verifiers}},
    author       = {Tianyu Yu and Bo Ji and Shouli Wang and Shu Yao and Zefan Wang and Ganqu Cui and Lifan Yuan and others},
    year         = 2025,
    eprint       = {arXiv:2506.18254}
}""",
)
AGGREGATES = ("mean", "product", "geometric")


class RLPRReward(GroupReward):
    """
    Rewards a completion by the probability that the policy gives to the reference answer after its reasoning.

    The probability without any reasoning is subtracted. It is computed once, with the model that the run begins with, when the training
    begins, and saved with each checkpoint. Each batch is scored once more without a gradient.

    Args:
        tags (`Sequence[str]`, *optional*, defaults to `R1_TAGS`):
            Tags of the required format, in order; the last two surround the answer. The authors' formats are `<think>`, `</think>`,
            `<answer>`, `</answer>`, where a completion must begin with the first, and the last two alone. If the prompt ends with an
            open `<think>`, leave it out. `("\\\\boxed{", "}")` suits completions that end with a boxed answer; its braces are matched.
        answer_column (`str`, *optional*, defaults to `"solution"`):
            Column of the dataset with the reference answers.
        aggregate (`str`, *optional*, defaults to `"mean"`):
            How the probabilities of the answer's tokens become one: `"mean"`, `"product"` or `"geometric"`. The paper's is the mean.
        format_weight (`float`, *optional*, defaults to `0.1`):
            Weight of the format in the reward, in `[0, 1]`; or -1: the reward is -1 without the required format.
        pad_answer (`bool`, *optional*, defaults to `True`):
            Whether a space is placed before a reference answer where the model has written none, and after it. The base score has
            the same spaces. Set it to `False` for tags that the model writes without spaces inside.
        repetition_limit (`int`, *optional*, defaults to `10`):
            Number of occurrences of the same ten words at which the reward is lowered by 1; 0 disables the penalty.

    Raises:
        `ValueError`: If an argument is out of range. When the trainer is built, if the dataset is streamed, lacks the column or has
            images, or the tokenizer is not a fast one. When training begins, if an answer is empty, or a resumed run has no base scores
            of its training problems.
    """

    name = "rlpr"
    paper = RLPR_PAPER
    needs_correctness = False
    text_only = True
    card_settings = ("tags", "answer_column")

    def __init__(
        self,
        tags: Sequence[str] = R1_TAGS,
        answer_column: str = "solution",
        aggregate: str = "mean",
        format_weight: float = 0.1,
        pad_answer: bool = True,
        repetition_limit: int = 10,
    ):
        if isinstance(tags, str) or len(tags) not in (2, 3, 4) or not all(tags):
            raise ValueError(f"tags must be two to four texts, the last two around the answer, got {tags!r}.")
        if aggregate not in AGGREGATES:
            raise ValueError(f"aggregate must be one of {AGGREGATES}, got {aggregate!r}.")
        if not (0 <= format_weight <= 1 or format_weight == -1):
            raise ValueError(f"format_weight must lie in [0, 1] or be -1, got {format_weight}.")
        if repetition_limit < 0:
            raise ValueError(f"repetition_limit must be at least 0, got {repetition_limit}. 0 disables the penalty.")
        self.tags = list(tags)
        self.answer_column = answer_column
        self.aggregate = aggregate
        self.format_weight = format_weight
        self.pad_answer = pad_answer
        self.repetition_limit = repetition_limit
        self._base: dict[str, float] = {}  # by the key of prompt and answer
        self._trainer: TrainerView | None = None
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._end_ids: set[int] = set()

    def attach(self, trainer: TrainerView) -> None:
        tokenizer = tokenizer_of(trainer.processing_class)
        if isinstance(trainer.train_dataset, IterableDataset):
            raise ValueError(
                "RLPR scores every problem before training, but the training dataset is a stream. Load it without streaming."
            )
        if self.answer_column not in trainer.train_dataset.column_names:
            raise ValueError(
                f"RLPR reads the reference answers from the column {self.answer_column!r}, but the dataset has "
                f"{trainer.train_dataset.column_names}. Rename the column, or set `answer_column`."
            )
        if not tokenizer.is_fast:
            raise ValueError(
                "RLPR needs the place of each token in its text, which only fast tokenizers report. Load the tokenizer with "
                "use_fast=True."
            )
        self._end_ids = trainer.end_token_ids
        self._trainer, self._tokenizer = trainer, tokenizer

    def callbacks(self) -> list[TrainerCallback]:
        return [_ScoreBase(self)]

    # Base scores

    def score_base(self, step: int) -> None:
        """Score every problem without reasoning, unless that is done. Every process calls this, before the first step."""
        trainer = self._trainer
        assert trainer is not None  # attached
        rows = {self._key(row): row for row in trainer.train_dataset}
        if step > 0 and (lost := len(rows.keys() - self._base.keys())):
            raise ValueError(
                f"{lost} of {len(rows)} problems have no base score, which only the model before training can give: this run "
                f"has done {step} steps. Resume from a checkpoint of a run with RLPR and the same problems, or start from the beginning."
            )
        for dataset in eval_datasets(trainer.eval_dataset):
            if self.answer_column in (getattr(dataset, "column_names", None) or ()):
                rows |= {self._key(row): row for row in dataset if row[self.answer_column] is not None}
        missing = [key for key in rows if key not in self._base]
        if not missing:
            return
        if step > 0:
            logger.warning(
                "%d evaluation problems get no RLPR reward: they have no base score, which only the model before training can give.",
                len(missing),
            )
            return
        logger.info("RLPR scores %d problems without reasoning.", len(missing))
        processes, size = trainer.accelerator.num_processes, trainer.args.per_device_train_batch_size
        share = math.ceil(len(missing) / processes)
        filled = missing + missing[-1:] * (share * processes - len(missing))
        own = filled[trainer.accelerator.process_index * share :][:share]
        scores = [self._base_scores([rows[key] for key in own[i : i + size]]) for i in range(0, share, size)]
        gathered = gather(torch.cat(scores).to(trainer.accelerator.device))
        self._base |= dict(zip(missing, gathered[: len(missing)].tolist(), strict=True))

    def _base_scores(self, rows: Sequence[Mapping[str, Any]]) -> Tensor:
        assert self._trainer is not None and self._tokenizer is not None  # attached
        prompts = self._trainer.tokenize_prompts([row["prompt"] for row in rows])
        space = " " * self.pad_answer
        answers = [encode_answer(self._tokenizer, space, self._answer(row), space) for row in rows]
        return self._score(prompts, [ids for ids, _ in answers], [mask for _, mask in answers])

    def _score(self, prompts: list[list[int]], ids: list[list[int]], masks: Sequence[Sequence[bool]]) -> Tensor:
        assert self._trainer is not None  # attached
        logps = self._trainer.score_logps(prompts, ids)
        mask = pad_sequence([torch.tensor(row, dtype=torch.bool) for row in masks], batch_first=True)
        return answer_probability(logps, mask.to(logps.device), self.aggregate)

    def _answer(self, row: Mapping[str, Any]) -> str:
        answer = row[self.answer_column]
        text = str(answer).strip() if answer is not None else ""
        if not text or isinstance(answer, (list, tuple, dict)):
            raise ValueError(
                f"The column {self.answer_column!r} has {answer!r} as the reference answer of {row['prompt']!r}. Give every problem one "
                "answer that is not empty."
            )
        return text

    def _key(self, row: Mapping[str, Any]) -> str:
        text = f"{prompt_key(row)}\n{self._answer(row)}"
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()

    # Rewards

    def measure(self, local: LocalRollouts) -> dict[str, Tensor]:
        tokenizer = self._tokenizer
        assert tokenizer is not None  # attached
        check_text_only([self], local.columns)  # of a dataset whose columns were not known before
        prompts, continuations, masks, texts, base = [], [], [], [], []
        for i, (prompt, ids) in enumerate(zip(local.prompt_ids, local.completion_ids, strict=True)):
            row = local.row(i)
            own = ids[:-1] if ids[-1] in self._end_ids else ids
            spliced, base_score = None, math.nan
            if local.training or row.get(self.answer_column) is not None:
                spliced = splice_answer(tokenizer, own, self._answer(row), self.tags, self.pad_answer)
                base_score = self._base_of(row, local.training)
            # Without an answer or a place for it, any token is scored, and counts nowhere.
            kept, continuation, mask = spliced if spliced is not None else (0, [ids[0]], [False])
            prompts.append([*prompt, *own[:kept]])
            continuations.append(continuation)
            masks.append(mask)
            texts.append(decode(tokenizer, own))
            base.append(base_score)
        limit = self.repetition_limit
        return {
            "probability": self._score(prompts, continuations, masks),
            "base": torch.tensor(base),
            "well_formed": torch.tensor([float(has_format(text, self.tags)) for text in texts]),
            "repeats": torch.tensor([float(limit > 0 and repeats_itself(text, limit)) for text in texts]),
        }

    def _base_of(self, row: Mapping[str, Any], training: bool) -> float:
        key = self._key(row)
        if key not in self._base and training:
            raise ValueError(
                f"RLPR has no base score of the problem {row['prompt']!r}: it was not in the dataset when training began. Use the "
                "prompts of the dataset as they are."
            )
        return self._base.get(key, math.nan)

    def score(self, rollouts: Rollouts) -> Tensor:
        own = rollouts.measured[self.name]
        rewards = rlpr_rewards(own["probability"], own["base"], own["well_formed"], self.format_weight)
        return rewards - own["repeats"]

    def observe(self, rollouts: Rollouts) -> None:
        own = rollouts.measured[self.name]
        gain = own["probability"] - own["base"]
        self._metrics = {
            "probability": own["probability"].mean().item(),
            "base": own["base"].mean().item(),
            "gain": gain.clamp(min=0).mean().item(),
            "below_base": (gain < 0).float().mean().item(),
            "well_formed": own["well_formed"].mean().item(),
            "repeats": own["repeats"].mean().item(),
        }

    def columns(self, rollouts: Rollouts) -> dict[str, Tensor]:
        own = rollouts.measured[self.name]
        return {"probability": own["probability"], "base": own["base"]}

    def state_dict(self) -> dict[str, Any]:
        return {"keys": pack_keys(self._base), "base": torch.tensor(list(self._base.values()))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._base = dict(zip(unpack_keys(state["keys"]), state["base"].tolist(), strict=True))


def eval_datasets(given: Any) -> list[Any]:
    """Return the evaluation datasets that can be read before training: one, those of a mapping, or none."""
    datasets = given.values() if isinstance(given, Mapping) else [given]
    return [dataset for dataset in datasets if dataset is not None and not isinstance(dataset, IterableDataset)]


class _ScoreBase(TrainerCallback):
    """Computes the base scores when training begins, after the state of a resumed run is restored."""

    def __init__(self, component: RLPRReward):
        self.component = component

    def on_train_begin(self, args, state, control, **kwargs):
        self.component.score_base(state.global_step)


def group_stds(scores: Tensor, num_generations: int) -> Tensor:
    """
    Return the standard deviation of each group, with n - 1 in the denominator: `(B / G,)`, NaN if a score is unknown.

    Args:
        scores (`torch.Tensor`): `(B,)`, groups in consecutive rows.
        num_generations (`int`): Completions per group, G.
    """
    return scores.view(-1, num_generations).std(dim=1)


class RewardStdFilter(GroupFilter):
    """
    Keeps groups whose rewards are spread, by a threshold that follows the training.

    A group is kept if the standard deviation of its rewards is at least `ratio` times a moving average. Generation batches are counted
    from 1: the first ones train on everything. The mean deviation of batches `collect_from` to `filter_from - 1` starts the average, and
    each later batch moves it, with its replaced groups.

    Args:
        max_refills (`int`, *optional*, defaults to `10`):
            How often missing groups are replaced per generation batch. The authors have no limit.
        ratio (`float`, *optional*, defaults to `0.5`):
            Share of the average below which a group is replaced; 0 keeps every group with known rewards.
        decay (`float`, *optional*, defaults to `0.99`):
            Weight of the average in the next one, in `[0, 1]`.
        collect_from (`int`, *optional*, defaults to `6`):
            First generation batch whose deviations count, at least 1.
        filter_from (`int`, *optional*, defaults to `11`):
            First generation batch that is filtered, after `collect_from`.

    Raises:
        `ValueError`: If an argument is out of range.
    """

    name = "reward_std_filter"
    paper = RLPR_PAPER
    needs_correctness = False

    def __init__(
        self,
        max_refills: int = 10,
        ratio: float = 0.5,
        decay: float = 0.99,
        collect_from: int = 6,
        filter_from: int = 11,
    ):
        if max_refills < 0:
            raise ValueError(f"max_refills must be at least 0, got {max_refills}. 0 replaces no group.")
        if not 0 <= ratio < math.inf:
            raise ValueError(f"ratio must be at least 0 and finite, got {ratio}.")
        if not 0 <= decay <= 1:
            raise ValueError(f"decay must lie in [0, 1], got {decay}.")
        if not 1 <= collect_from < filter_from:
            raise ValueError(
                f"collect_from must be at least 1 and below filter_from, got {collect_from} and {filter_from}."
            )
        self.max_refills = max_refills
        self.ratio = ratio
        self.decay = decay
        self.collect_from = collect_from
        self.filter_from = filter_from
        self.average = math.nan  # of the deviations; NaN until it is known
        self._batches = 0  # generation batches observed
        self._collected: list[float] = []

    @property
    def threshold(self) -> float:
        """Smallest deviation of a group that is kept in the next batch; NaN if every group is kept."""
        return self.ratio * self.average if self._batches + 1 >= self.filter_from else math.nan

    def _stds(self, rollouts: Rollouts) -> Tensor:
        return group_stds(rollouts.total_rewards(), rollouts.num_generations)

    def keep(self, rollouts: Rollouts) -> Tensor:
        stds = self._stds(rollouts)
        kept = torch.ones_like(stds, dtype=torch.bool) if math.isnan(self.threshold) else stds >= self.threshold
        return kept.repeat_interleave(rollouts.num_generations)

    def observe(self, rollouts: Rollouts) -> None:
        threshold, stds = self.threshold, self._stds(rollouts)
        mean = stds[stds.isfinite()].mean().item()  # of all groups, those that were replaced included; NaN without one
        self._metrics = {"std": mean, "threshold": threshold}
        self._batches += 1
        if math.isnan(mean) or self._batches < self.collect_from:
            return
        if not math.isnan(self.average):
            self.average = self.decay * self.average + (1 - self.decay) * mean
            return
        self._collected.append(mean)
        if self._batches + 1 >= self.filter_from:
            self.average = sum(self._collected) / len(self._collected)
            self._collected = []

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self._batches, "average": self.average, "collected": list(self._collected)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._batches, self.average, self._collected = state["batches"], state["average"], list(state["collected"])
