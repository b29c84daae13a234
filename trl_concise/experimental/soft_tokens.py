# SPDX-License-Identifier: Apache-2.0
"""
Soft Tokens: train a model whose chain of thought is mixtures of embeddings plus noise (Butt et al., 2025,
https://huggingface.co/papers/2509.19170).

The noise gives the chain of thought a density, so REINFORCE with a leave-one-out baseline (RLOO) can train it. The trained model is an
ordinary checkpoint, which the authors recommend to run with ordinary tokens. They report more diverse completions, not shorter ones. The
differences are listed in docs/experimental/soft_tokens.md.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..batch.generation import Generated
from ..batch.rollouts import Rollouts
from ..components import Advantage, BudgetSchedule, Paper, Rollout, TrainerView
from ..components.base import context_of, tokenizer_of
from ..components.reward_functions import check_rewards_are_summed
from ..trainer import ConciseGRPOTrainer
from ..verification.extraction import final_answer
from .soft_tokens_config import SoftTokensConfig
from .soft_tokens_equations import rloo_advantages
from .soft_tokens_generation import SoftCompletions, SoftThinking, write_completions
from .soft_tokens_scoring import check_on_policy, check_plain_embeddings, check_plain_head, reading, score_soft


SOFT_TOKENS_PAPER = Paper(
    title="Soft Tokens, Hard Truths",
    id="2509.19170",
    # docstyle-ignore
    citation="""\
@article{butt2025soft,
    title        = {{Soft Tokens, Hard Truths}},
    author       = {Natasha Butt and Ariel Kwiatkowski and Ismail Labiad and Julia Kempe and Yann Ollivier},
    year         = 2025,
    eprint       = {arXiv:2509.19170}
}""",
    reconstructed="the noise scale per coordinate, the temperature of the answer, no loss on forced tokens, the gradient through the embeddings",
)


def boxed_answer_reward(completions: list[Any], **kwargs: Any) -> list[float]:
    r"""
    Reward function that is 1 for a completion with an answer in `\boxed{}`, right or wrong, and 0 otherwise. An empty box earns 0, and so does one in
    reasoning that ends with `</think>`.

    With [`math_accuracy_reward`] and `reward_weights=[90, 10]`, it is the paper's reward: 100 for a right answer, 10 for a wrong one in a box, 0 otherwise.

    Args:
        completions (`list`): Completions as text, or as lists of messages, of which the last is read.

    Returns:
        `list[float]`: One reward per completion.

    Examples:
        >>> boxed_answer_reward([r"\boxed{3}", r"\boxed{ }", r"\boxed{3", "3"])
        [1.0, 0.0, 0.0, 0.0]
    """
    texts = [one if isinstance(one, str) else one[-1]["content"] for one in completions]
    return [float(bool(final_answer(text or "", "boxed").text)) for text in texts]


class RLOO(Advantage):
    """
    The advantage of REINFORCE with a leave-one-out baseline, see [`rloo_advantages`]. It replaces TRL's, so `scale_rewards` has no effect.

    Raises:
        `ValueError`: If the trainer normalizes each reward separately.
    """

    name = "rloo"
    needs_correctness = False

    def attach(self, trainer: TrainerView) -> None:
        check_rewards_are_summed(self, trainer)

    def compute(self, rollouts: Rollouts, advantages: Tensor) -> Tensor:
        return rloo_advantages(rollouts.by_group(rollouts.total_rewards())).flatten().to(advantages)


class SoftRollout(Rollout):
    r"""
    Writes the completions of training batches with a soft chain of thought, and gives the loss its log-densities.

    Evaluation samples ordinary tokens, as the trained model is meant to be used.

    Args:
        cot (`str`, *optional*, defaults to `"soft"`): `"soft"`, `"fuzzy"` or `"hard"`. `"hard"` leaves generation to TRL, and the other settings
            have no effect.
        cot_temperature (`float`, *optional*): $\tau$ of the mixture. Defaults to the paper's: 0.5 if soft, 1e-4 if fuzzy.
        noise_scale (`float`, *optional*, defaults to `0.33`): Factor of the noise, positive, see [`embedding_noise_scale`].
        max_cot_length, max_answer_length, cot_end, answer_prefix: See [`SoftThinking`].

    Raises:
        `ValueError`: If a setting is out of range. When a trainer is built: if it does not train on-policy, generates with vLLM, has weights
            that are sharded, components that read token ids, a budget, or a model whose embeddings or head are not plain.
    """

    name = "soft_tokens"
    paper = SOFT_TOKENS_PAPER
    needs_correctness = False
    text_only = True

    def __init__(
        self,
        cot: str = "soft",
        cot_temperature: float | None = None,
        noise_scale: float = 0.33,
        max_cot_length: int = 128,
        max_answer_length: int = 32,
        cot_end: str = "The final answer is: ",
        answer_prefix: str = "\\boxed{",
    ):
        self.thinking = SoftThinking(
            cot, cot_temperature, noise_scale, max_cot_length, max_answer_length, cot_end, answer_prefix
        )
        if cot != "hard" and not noise_scale:
            raise ValueError(
                "noise_scale is 0, so the chain of thought would have no density to train. Set it above 0; the paper's is 0.33."
            )
        self.in_training = cot != "hard"
        self.cot = cot
        self.cot_temperature = cot_temperature
        self.noise_scale = noise_scale
        self.max_cot_length = max_cot_length
        self.max_answer_length = max_answer_length
        self.cot_end = cot_end
        self.answer_prefix = answer_prefix
        self._metrics: dict[str, float] = {}

    def attach(self, trainer: TrainerView) -> None:
        if self.cot == "hard":
            return
        check_on_policy(trainer.args)
        if trainer.accelerator.distributed_type in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
            raise ValueError(
                f"Soft tokens read the embedding matrix outside of the model's forward pass, but {trainer.accelerator.distributed_type} shards "
                "it. Train on one GPU, or on several without sharding (DDP)."
            )
        others = [
            type(one).__name__
            for one in trainer.components
            if one is not self and (one.reads_tokens or isinstance(one, BudgetSchedule))
        ]
        if others := [*others, *(type(one).__name__ for one in trainer.token_credits)]:
            raise ValueError(
                f"{', '.join(others)} scores, selects or limits the tokens of completions, but those of a soft chain of thought are only "
                "shadows of what the model reads. Leave it out."
            )
        longest = self.thinking.longest(tokenizer_of(trainer.processing_class))
        limit = trainer.max_completion_length
        if (limit or 0) < longest:
            raise ValueError(
                f"max_completion_length = {limit}, but chain of thought, forced tokens and answer may have {longest} tokens. Raise it, or "
                "lower max_cot_length or max_answer_length."
            )
        self._autocast = trainer.accelerator.autocast  # the same in generation and in the loss
        check_plain_embeddings(trainer.model)
        check_plain_head(trainer.model)

    def generate(self, trainer: TrainerView, rows: list[dict[str, Any]]) -> Generated:
        tokenizer, args = tokenizer_of(trainer.processing_class), trainer.args
        prompt_ids = trainer.tokenize_prompts([row["prompt"] for row in rows])
        longest = max(map(len, prompt_ids)) + self.thinking.longest(tokenizer)
        if longest > context_of(trainer):
            raise ValueError(
                f"A prompt of {max(map(len, prompt_ids))} tokens and its completion may have {longest} tokens, but the context of the model has "
                f"{context_of(trainer)}. Filter long prompts out, or lower max_cot_length."
            )
        names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
        sampling = {
            "do_sample": True,
            **{name: getattr(args, name) for name in names},
            **(args.generation_kwargs or {}),
        }
        with self._autocast():
            written = write_completions(
                trainer.model,
                tokenizer,
                prompt_ids,
                self.thinking,
                end_ids=trainer.end_token_ids,
                sampling=sampling,
            )
        return self._as_generated(written, prompt_ids)

    def _as_generated(self, written: SoftCompletions, prompt_ids: list[list[int]]) -> Generated:
        device, rows = written.embeds.device, len(prompt_ids)
        dimension = written.embeds.size(2)
        return Generated(
            completion_ids=written.completion_ids,
            prompt_ids=prompt_ids,
            mask=written.mask,
            numbers={
                "cot_length": [float(length) for length in written.cot_lengths],
                "cot_stopped": [float(stopped) for stopped in written.stopped],
                "mixture_entropy": written.entropies,
                "noise_to_signal": [
                    written.noise_scale * math.sqrt(dimension) / norm if norm else math.nan for norm in written.norms
                ],
            },
            tensors={
                "soft_embeds": written.embeds,
                "soft_lengths": torch.tensor(written.cot_lengths, device=device),
                "soft_noise": torch.full((rows,), written.noise_scale, device=device),
            },
        )

    @contextmanager
    def scoring(self, model, tensors: dict[str, Any]) -> Iterator[Callable[[Tensor], Tensor]]:
        embeds, lengths = tensors["soft_embeds"], tensors["soft_lengths"]
        start, width = tensors["prompt_ids"].size(1), tensors["completion_ids"].size(1)
        embeds = torch.nn.functional.pad(embeds[:, :width], (0, 0, 0, max(0, width - embeds.size(1))))
        is_soft = torch.arange(width, device=embeds.device) < lengths[:, None]
        with reading(model, embeds, is_soft) as states:

            def replace(logps: Tensor) -> Tensor:
                before = states[0][:, start - 1 : start - 1 + width]  # which predicts the position
                sigma = tensors["soft_noise"][:, None].expand_as(is_soft)
                with self._autocast():
                    own = score_soft(model, before[is_soft], embeds[is_soft], sigma[is_soft], self.thinking.tau)
                return logps.masked_scatter(is_soft, own.to(logps.dtype))

            yield replace

    def observe(self, rollouts: Rollouts) -> None:
        measured = rollouts.measured[self.name]
        if not measured:  # of hard completions
            return
        self._metrics = {
            "cot_length": measured["cot_length"].mean().item(),
            "stopped_fraction": measured["cot_stopped"].mean().item(),
            "mixture_entropy": measured["mixture_entropy"].mean().item(),
            "noise_to_signal": measured["noise_to_signal"].nanmean().item(),
        }


class SoftTokensTrainer(ConciseGRPOTrainer):
    """
    Soft Tokens as a drop-in trainer: [`SoftRollout`] and [`RLOO`].

    The paper's rewards are `reward_funcs=[math_accuracy_reward, boxed_answer_reward]` with `reward_weights=[90, 10]`. The trained model is an
    ordinary checkpoint. The arguments are those of [`ConciseGRPOTrainer`].

    Args:
        args ([`SoftTokensConfig`], *optional*): A plain [`~trl.GRPOConfig`] keeps its own `loss_type` and `importance_sampling_level`.
    """

    config_class = SoftTokensConfig
    _tag_names = [*ConciseGRPOTrainer._tag_names, "soft-tokens"]
    _name = "Soft Tokens"
    _paper = SOFT_TOKENS_PAPER.as_card()

    def _own_slots(self, args):
        names = [field.name for field in dataclasses.fields(SoftThinking) if field.name != "temperature"]
        settings = {name: getattr(args, name) for name in names}
        rollout = SoftRollout(cot_temperature=args.cot_temperature, **settings)
        if rollout.in_training:
            check_on_policy(args)  # before an engine is built
        return {"rollout": rollout, "advantage": RLOO()}
