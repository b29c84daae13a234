# SPDX-License-Identifier: Apache-2.0
"""[`GeneratesExtra`], the mixin of the GRPO trainers for completions and scores outside the training batch."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather
from trl.chat_template_utils import parse_response

from ..verification.finished import completions_open_reasoning
from .generation import ForkedRandomState, GeneratedRollouts, GenerationRequest, pad_pairs
from .limits import generation_limit
from .limits import greedy as greedily
from .merging import generation_weights
from .reference import move_reference, reference_tensors, scoring_model
from .rollouts import completion_lengths
from .scoring import mark_finished, verdicts


if TYPE_CHECKING:
    from trl import GRPOTrainer as _Mixed  # attributes of the class that this mixin is used with

    from ..components import Component, GroupReward
    from .batch import GenerationBatch
else:
    _Mixed = object


class GeneratesExtra(_Mixed):
    """
    Mixin for [`~trl.GRPOTrainer`]: generates, rewards and scores completions that are not in the training batch. Comes before the
    trainer among the bases.
    """

    components: Sequence[Component]
    group_rewards: dict[int, GroupReward]
    correctness_column: int | None
    _scores_all_tokens: Callable[[], AbstractContextManager]  # whatever the loss selects
    _batch: GenerationBatch | None
    _fork: ForkedRandomState  # for the draws, so that those of training stay as they are
    # Attributes of GRPOTrainer that the methods below replace.
    _pending_metrics: dict[str, list[float]]
    _pending_extra_logs: dict[str, list[Any]]

    @property
    def end_token_ids(self) -> set[int]:
        """Tokens that end a completion; one that ends otherwise is truncated."""
        return {*self.eos_token_ids, self._tokenizer.pad_token_id}

    @property
    def _shortest_limit(self) -> float:
        """The smallest generation limit: `max_completion_length`, or one in `generation_kwargs`."""
        user = self.args.generation_kwargs or {}
        limits = [self.max_completion_length, user.get("max_tokens"), user.get("max_new_tokens")]
        return min((tokens for tokens in limits if tokens is not None), default=math.inf)

    def _generate_single_turn(self, *args, **kwargs):
        with generation_weights(
            self.accelerator.unwrap_model(self.model),
            merge=self.args.merge_adapter_for_generation and not self.use_vllm,
            restore_dtypes=self.use_transformers_continuous_batching and not self._dist.is_fsdp,
        ):
            return super()._generate_single_turn(*args, **kwargs)

    def _fork_state(self) -> AbstractContextManager[None]:
        """Draw from a random state of its own; in evaluation from another than in training."""
        in_evaluation = self._batch is not None and not self._batch.training
        return self._fork.at(self.state.global_step, training=not in_evaluation)

    def generate_rollouts(
        self,
        rows: Sequence[Mapping[str, Any]],
        n: int,
        *,
        prefix_ids: Sequence[Sequence[int]] | None = None,
        max_tokens: int | None = None,
        greedy: bool = False,
    ) -> GeneratedRollouts:
        """
        Generate completions in addition to the training batch, with the current policy and the trainer's sampling settings.

        The random state of the run, its metrics and its token counts stay as they are (a vLLM server draws from a
        separate state). Tools are not called, and a `rollout_func` is not asked. Every process calls this for its own rows, at
        least one.

        Args:
            rows (`Sequence[Mapping[str, Any]]`):
                Dataset rows with a `prompt`: a string or a list of messages, without images.
            n (`int`):
                Completions per row.
            prefix_ids (`Sequence[Sequence[int]]`, *optional*):
                Per row, token ids that its completions begin with; generation continues after them.
            max_tokens (`int`, *optional*):
                Tokens that may follow the prefix. Defaults to `max_completion_length` less the prefix.
            greedy (`bool`, *optional*, defaults to `False`):
                Whether to take the most likely token at each position, without dropout, instead of sampling. Needs `n = 1`.

        Returns:
            [`GeneratedRollouts`]: `len(rows) * n` completions.

        Raises:
            `ValueError`: If there is nothing to generate, or a prefix leaves no room.
        """
        request = GenerationRequest.of(rows, n, prefix_ids, max_tokens, self.max_completion_length)
        if self.environment_factories is not None:
            raise ValueError("generate_rollouts cannot render an environment's prompts. Train without environments.")
        if greedy and n != 1:
            raise ValueError(f"greedy=True gives the same completion every time, but n = {n}. Set n = 1.")
        prompt_ids, _, _ = self._tokenize_prompts(copy.deepcopy(request.prompts))
        starts = [[*prompt, *prefix] for prompt, prefix in zip(prompt_ids, request.prefix_ids, strict=True)]
        # The same everywhere: processes that share a vLLM engine, or a server, generate together.
        own = torch.tensor([[max(request.limits), len(starts)]], device=self.accelerator.device)
        longest, most = gather(own).amax(dim=0).tolist()
        count = len(starts)
        if self.use_vllm:  # what a shared engine returns is divided equally
            starts += [starts[-1]] * (most - count)
        drawing = greedily(self) if greedy else self._fork_state()
        with drawing, generation_limit(self, longest):
            completion_ids, logps = self._generate_single_turn(starts, None, {}, n)
        completion_ids = [ids[:limit] for ids, limit in zip(completion_ids[:count], request.limits, strict=True)]
        ends, device = self.end_token_ids, self.accelerator.device
        return GeneratedRollouts(
            prompt_ids=prompt_ids,
            prefix_ids=request.prefix_ids,
            completion_ids=completion_ids,
            completions=[
                self._decode(prompt, start, [*prefix, *ids])
                for prompt, start, prefix, ids in zip(
                    request.prompts, prompt_ids, request.prefix_ids, completion_ids, strict=True
                )
            ],
            lengths=torch.tensor(completion_lengths(completion_ids, None, ends), device=device),
            truncated=torch.tensor([ids[-1] not in ends for ids in completion_ids], device=device),
            logps=[row[: len(ids)] for row, ids in zip(logps[:count], completion_ids, strict=True)]
            if logps is not None
            else None,
        )

    def reward_rollouts(self, rows: Sequence[Mapping[str, Any]], rollouts: GeneratedRollouts) -> torch.Tensor:
        """
        Ask the reward functions about extra completions; group rewards abstain, and nothing is logged.

        Every process calls this, with any number of rows: where a process has fewer than another, its last row is judged
        again. All reward functions are called, as in a training step.

        Args:
            rows (`Sequence[Mapping[str, Any]]`): The rows given to [`~ConciseGRPOTrainer.generate_rollouts`].
            rollouts ([`GeneratedRollouts`]): The completions that it returned for them.

        Returns:
            `torch.Tensor`: `(len(rollouts), functions)` float32 of this process's completions, NaN where a function
            abstained.
        """
        rewards = self._reward_rollouts(rows, rollouts)
        rewards[:, list(self.group_rewards)] = torch.nan
        return rewards

    def judge_rollouts(self, rows: Sequence[Mapping[str, Any]], rollouts: GeneratedRollouts) -> torch.Tensor:
        """
        Ask the reward function that says what is correct about extra completions; no other function is called.

        Args:
            rows, rollouts: As for [`~ConciseGRPOTrainer.reward_rollouts`].

        Returns:
            `torch.Tensor`: `(len(rollouts),)` float32 of this process's completions: 1 correct, 0 wrong, NaN unknown, also if
            no function says what is correct.
        """
        if self.correctness_column is None:
            return torch.full((len(rollouts),), torch.nan, device=self.accelerator.device)
        with self._only_reward_function(self.correctness_column):
            return verdicts(self._reward_rollouts(rows, rollouts)[:, 0])

    def _reward_rollouts(self, rows, rollouts: GeneratedRollouts) -> torch.Tensor:
        inputs = [dict(row) for row in rows for _ in range(len(rollouts) // len(rows))]
        prompts = [row["prompt"] for row in inputs]
        completion_ids = [
            [*prefix, *ids] for prefix, ids in zip(rollouts.prefix_ids, rollouts.completion_ids, strict=True)
        ]
        # What reward functions log waits here for the next training batch, which does not contain these completions.
        waiting = copy.deepcopy((self._pending_metrics, self._pending_extra_logs))
        opened = completions_open_reasoning(self._tokenizer, prompts, rollouts.prompt_ids)
        marked = mark_finished(
            inputs,
            rollouts.completions,
            completion_ids,
            opened,
            limit=self._shortest_limit,
            end_ids=self.end_token_ids,
        )
        longest = int(gather(torch.tensor([len(marked)], device=self.accelerator.device)).max())
        filled = [
            [*values, *[values[-1]] * (longest - len(values))]
            for values in (marked, prompts, rollouts.completions, completion_ids)
        ]
        rewards = super()._calculate_rewards(*filled)
        self._pending_metrics, self._pending_extra_logs = waiting
        start = self.accelerator.process_index * longest
        return rewards[start : start + len(rollouts)]

    @contextmanager
    def _only_reward_function(self, column: int):
        """Let TRL call one reward function only; its rewards have one column then."""
        names = ("reward_funcs", "reward_processing_classes", "reward_func_names")
        before = {name: getattr(self, name) for name in names}
        self.__dict__.update({name: [values[column]] for name, values in before.items()})
        try:
            yield
        finally:
            self.__dict__.update(before)

    def _decode(self, prompt, prompt_ids: list[int], completion_ids: list[int]):
        """Return a completion as TRL hands it to reward functions."""
        if isinstance(prompt, str):
            return self._tokenizer.decode(completion_ids, skip_special_tokens=True)
        if getattr(self._tokenizer, "response_template", None) or getattr(self._tokenizer, "response_schema", None):
            return [parse_response(self._tokenizer, completion_ids, prefix=prompt_ids, tools=self.tools)]
        content = self._tokenizer.decode(completion_ids, skip_special_tokens=True)
        return [{"role": "assistant", "content": content}]

    def tokenize_prompts(self, prompts: Sequence[Any]) -> list[list[int]]:
        """
        Return the token ids of prompts, rendered as those of the training batch: chat template, its arguments and tools included.

        Args:
            prompts (`Sequence`): Strings or lists of messages, without images.

        Raises:
            `ValueError`: If an environment renders the prompts.
        """
        if self.environment_factories is not None:
            raise ValueError("tokenize_prompts cannot render an environment's prompts. Train without environments.")
        return self._tokenize_prompts(copy.deepcopy(list(prompts)))[0]

    @torch.no_grad()
    def score_logps(
        self, prompt_ids: list[list[int]], completion_ids: list[list[int]], *, model: str = "policy"
    ) -> torch.Tensor:
        """
        Score completions under the current policy or the reference, in evaluation mode, in chunks of
        `per_device_train_batch_size`.

        The log-probabilities are at the sampling temperature, as in the loss. Every process calls this for rows of
        its own; the random state of the run stays as it is.

        Args:
            prompt_ids (`list[list[int]]`): What precedes each completion, at least one token. It may be another prompt than
                the one that the completion was generated for.
            completion_ids (`list[list[int]]`): The tokens to score.
            model (`str`, *optional*, defaults to `"policy"`): `"policy"`, or `"reference"`: the model of the KL term,
                the one that a component with `needs_reference` asks for, or the base model of the adapter that is trained.

        Returns:
            `torch.Tensor`: `(b, T)`, the log-probability of each completion token; T is the longest completion, and
            shorter ones are followed by zeros.

        Raises:
            `ValueError`: If the lists differ in length or are empty, a prompt is empty, or the run has no reference.
        """
        return self._score_completion_tokens(prompt_ids, completion_ids, model)[0]

    @torch.no_grad()
    def score_entropies(self, prompt_ids: list[list[int]], completion_ids: list[list[int]]) -> torch.Tensor:
        """
        Return the entropy of the distribution from which the current policy draws each completion token.

        Scores as [`~ConciseGRPOTrainer.score_logps`] does, at the sampling temperature.

        Args:
            prompt_ids, completion_ids: As for [`~ConciseGRPOTrainer.score_logps`].

        Returns:
            `torch.Tensor`: `(b, T)`, in nats: column t is the entropy of the distribution of token t, before it is known.
            Shorter completions are followed by zeros.

        Raises:
            `ValueError`: If the lists differ in length or are empty, or a prompt is empty.
        """
        entropies = self._score_completion_tokens(prompt_ids, completion_ids, "policy", compute_entropy=True)[1]
        assert entropies is not None
        return entropies

    def _score_completion_tokens(self, prompt_ids, completion_ids, model: str, **options: bool):
        """Return the log-probabilities `(b, T)` of completion tokens, and their entropies with `compute_entropy=True`."""
        input_ids, attention_mask, width = pad_pairs(prompt_ids, completion_ids, self._tokenizer.pad_token_id)
        with (
            self._fork_state(),
            self._scores_all_tokens(),
            scoring_model(self, model) as scored,
        ):
            logps, entropies, _ = self._get_per_token_logps_and_entropies(
                scored,
                input_ids.to(self.accelerator.device),
                attention_mask.to(self.accelerator.device),
                width,
                batch_size=self.args.per_device_train_batch_size,
                **options,
            )
        return logps, entropies

    def update_reference(self, weight: float = 1.0) -> None:
        """
        Move the reference model towards the policy. For components that set `moves_reference`; every process calls this, between
        two optimizer steps.

        Args:
            weight (`float`, *optional*, defaults to `1.0`): Share of the policy in the new reference, in `[0, 1]`; 1 copies it.
        """
        if not any(component.moves_reference for component in self.components):
            raise ValueError(
                "No component of this trainer declares that it moves the reference model, so checkpoints would not contain it. Set "
                "`moves_reference = True` in the component's class."
            )
        move_reference(self, weight)

    def _reference_tensors(self) -> dict[str, torch.Tensor]:
        return reference_tensors(self)
