# SPDX-License-Identifier: Apache-2.0
"""[`LongShortRollout`]: the completions of a batch are one turn of a dialogue, which a frozen partner and the policy then complete."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from accelerate.utils import gather_object

from ...batch.generation import Generated
from ...batch.rollouts import Rollouts, prompt_key
from ...checks import describe
from ...components import Paper, Rollout, TrainerView
from ...components.base import context_of, tokenizer_of
from ...evaluation.sampling import Sampler, SamplingSettings, load_sampler
from ...methods.thinker_generation import equal_rows
from ...verification.extraction import last_boxed
from ...verification.finished import prompt_opens_reasoning
from .turns import (
    ROLES,
    Dialogue,
    Turn,
    check_max_turns,
    check_role,
    check_same_tokenizer,
    check_tags,
    is_rethink,
    is_well_formed,
    play_dialogue,
    read_turn,
)


LONG_SHORT_PAPER = Paper(
    title="Not All Thoughts are Generated Equal: Efficient LLM Reasoning via Multi-Turn Reinforcement Learning",
    id="2505.11827",
    # docstyle-ignore
    citation="""\
@article{ning2025thoughts,
    title        = {{Not All Thoughts are Generated Equal: Efficient LLM Reasoning via Multi-Turn Reinforcement Learning}},
    author       = {Yansong Ning and Wei Li and Jun Fang and Naiqiang Tan and Hao Liu},
    year         = 2025,
    eprint       = {arXiv:2505.11827}
}""",
    reconstructed="the format of a long turn, how a completion is joined with the partner's turns, the long turn that a group shares, "
    "the largest number of turns, the alternation, and the score of a block",
)


_SAMPLER = ("tokenizer", "end_token_ids", "sample")


def with_system_prompt(prompt: Any, system_prompt: str | None) -> Any:
    """Return a prompt, text or messages, after a system prompt, which replaces one that it has; the prompt itself without one."""
    if system_prompt is None:
        return prompt
    if isinstance(prompt, str):
        return f"{system_prompt}\n\n{prompt}"
    if prompt and prompt[0]["role"] == "system":
        return [{"role": "system", "content": system_prompt}, *prompt[1:]]
    return [{"role": "system", "content": system_prompt}, *prompt]


@dataclass
class _Batch:
    """The rows of a batch while their dialogues are played."""

    own: list[dict[str, Any]]  # rows with the prompt of the policy
    partner: list[list[int]]  # prompts of the partner
    keys: list[tuple[int, str]]  # of the group of each row
    seeds: np.random.SeedSequence
    prompt_ids: dict[int, list[int]] = field(default_factory=dict)  # of the turn that is trained


class LongShortRollout(Rollout):
    """
    Trains one of two policies that solve a problem in turns, while the other one, its partner, is frozen.

    The completion of a row is one turn of the policy: the first long turn for the role `"long"`, the first short turn for `"short"`. In that
    role, the partner writes one long turn for each group, which is part of the prompt of all its members. The policy and the partner then
    complete the dialogue. Only the completion is trained on. Evaluation plays the same dialogues.

    The prompt of a turn is the problem, and after it the token ids of all turns before. `max_completion_length` is the limit of a turn of the
    policy, whose chat template renders both prompts. What follows the first closing tag of a turn is left out, but counted. Reward functions receive these columns, the first
    two of them texts:

    | column | content |
    |---|---|
    | `dialogue` | the turns in order, a list of texts |
    | `role` | the role of the policy |
    | `turn_tokens` | tokens that the policy generated in the completion, with the end-of-turn token and what was left out |
    | `own_tokens`, `partner_tokens`, `joint_tokens` | tokens that the policy, the partner and both generated in the whole dialogue |
    | `turns`, `rethinks` | turns of each policy; short turns that return the problem |
    | `answered`, `well_formed`, `boxed_long`, `cut` | 1 if the dialogue ended with an answer; if the completion has the format of its role; if a long turn has a box; if something was left out of the completion |

    Args:
        role (`str`): `"long"` or `"short"`: the role of the policy that is trained.
        partner (`str` or [`Sampler`]): The frozen policy: path or Hub id of a model or an adapter, loaded next to the policy; or an object
            that samples, which may run elsewhere. It has the tokenizer of the policy.
        max_turns (`int`, *optional*, defaults to `4`): Largest number of turns of each policy.
        partner_tokens (`int`, *optional*, defaults to `2048`): Largest number of tokens of a turn of the partner.
        partner_temperature (`float`, *optional*, defaults to `0.3`): 0 decodes greedily.
        long_prompt, short_prompt (`str`, *optional*): System prompts of the two policies. Default: none.

    Raises:
        `TypeError`: If the partner cannot sample.
        `ValueError`: If a setting is out of range. When a trainer is built: if the tokenizers differ or do not reproduce the tags, the
            chat template opens the reasoning, the dialogue exceeds the context, or there is a `watch_dataset`.
    """

    name = "long_short"
    paper = LONG_SHORT_PAPER
    card_settings = ("role", "partner", "long_prompt", "short_prompt")
    needs_correctness = False
    text_only = True
    in_evaluation = True

    def __init__(
        self,
        role: str,
        partner: str | Path | Sampler,
        max_turns: int = 4,
        partner_tokens: int = 2048,
        partner_temperature: float = 0.3,
        long_prompt: str | None = None,
        short_prompt: str | None = None,
    ):
        check_role(role)
        check_max_turns(max_turns)
        if not isinstance(partner, (str, Path)) and not all(hasattr(partner, name) for name in _SAMPLER):
            raise TypeError(
                f"partner must be a path, a Hub id or an object with {', '.join(_SAMPLER)}, got {describe(partner)}. To pass a model in memory, "
                "use TransformersSampler(model, tokenizer) of trl_concise.evaluation.sampling."
            )
        if partner_tokens < 1:
            raise ValueError(f"partner_tokens must be at least 1, got {partner_tokens}.")
        if not 0 <= partner_temperature < math.inf:
            raise ValueError(f"partner_temperature must be at least 0 and finite, got {partner_temperature}.")
        self.role = role
        is_folder = isinstance(partner, str) and (Path(partner).is_dir() or Path(partner).is_absolute())
        self.partner = Path(str(partner)) if is_folder else partner  # cards show the name of a folder only
        self.max_turns = max_turns
        self.partner_tokens = partner_tokens
        self.partner_temperature = partner_temperature
        self.long_prompt = long_prompt
        self.short_prompt = short_prompt
        self._partner: Any = None  # loaded when the trainer is built
        self._step = -1
        self._calls = {True: 0, False: 0}  # of `generate` in this step, in training and in evaluation
        self._metrics: dict[str, float] = {}

    def attach(self, trainer: TrainerView) -> None:
        tokenizer = tokenizer_of(trainer.processing_class)
        check_tags(tokenizer)
        limit, context = trainer.max_completion_length, context_of(trainer)
        if limit is None:
            raise ValueError(
                "max_completion_length is None, but it is the limit of a turn. Set the largest number of tokens."
            )
        if (whole := self.max_turns * (limit + self.partner_tokens)) > context:
            raise ValueError(
                f"A dialogue of {self.max_turns} turns of each policy may have {self.max_turns} * ({limit} + {self.partner_tokens}) = {whole} "
                f"tokens, more than the context of {context}. Lower max_turns, max_completion_length or partner_tokens."
            )
        if trainer.watch_losses is not None:
            raise ValueError(
                "watch_dataset is completed by the policy alone, without its partner. Pass it as eval_dataset, whose dialogues are played."
            )
        self._check_template(trainer, tokenizer)
        self._partner = self.partner
        if isinstance(self.partner, (str, Path)):
            self._partner = load_sampler(str(self.partner))
            self._partner.model.requires_grad_(False).to(trainer.accelerator.device)
        check_same_tokenizer(tokenizer, self._partner.tokenizer)

    @staticmethod
    def _check_template(trainer: TrainerView, tokenizer: Any) -> None:
        first = next(iter(trainer.train_dataset), None)
        if first is None:
            return
        if prompt_opens_reasoning(tokenizer, trainer.tokenize_prompts([first["prompt"]])[0]):
            raise ValueError(
                "The prompts end with <think>, but a long turn begins with it, and a short turn has none. Use a chat template that does not "
                "open the reasoning."
            )

    def generate(self, trainer: TrainerView, rows: list[dict[str, Any]]) -> Generated:
        prompts = dict(zip(ROLES, (self.long_prompt, self.short_prompt), strict=True))
        own, other = (self.role, "short") if self.role == "long" else (self.role, "long")
        others = [with_system_prompt(row["prompt"], prompts[other]) for row in rows]
        training = bool(trainer.model.training)
        size = trainer.num_generations if training else trainer.args.num_generations_eval or trainer.num_generations
        first = trainer.accelerator.process_index * len(rows)
        batch = _Batch(
            own=[{**row, "prompt": with_system_prompt(row["prompt"], prompts[own])} for row in rows],
            partner=trainer.tokenize_prompts(others),
            keys=[((first + i) // size, prompt_key(row)) for i, row in enumerate(rows)],
            seeds=self._seeds(trainer, training),
        )

        def policy(places: list[int], dialogues: list[Dialogue]) -> Iterable[Turn]:
            return self._write_own(trainer, batch, places, dialogues)

        def partner(places: list[int], dialogues: list[Dialogue]) -> Iterable[Turn]:
            if self.role == "short" and not batch.prompt_ids:  # the first turn
                return self._write_shared(trainer, batch, places, size)
            return self._write_partner(batch, places, dialogues)

        writers = {self.role: policy, other: partner}
        dialogues = play_dialogue(len(rows), writers["long"], writers["short"], self.max_turns)
        trained = [dialogue.of(self.role)[0] for dialogue in dialogues]
        has_logps = trained[0].logps is not None
        return Generated(
            completion_ids=[[*turn.ids, *turn.end] for turn in trained],
            prompt_ids=[batch.prompt_ids[i] for i in range(len(rows))],
            logps=[turn.logps or [] for turn in trained] if has_logps else None,
            numbers=self._count(dialogues, trained),
            columns={
                "dialogue": [[turn.text for turn in dialogue.turns] for dialogue in dialogues],
                "role": [self.role] * len(rows),
            },
        )

    def _write_own(
        self, trainer: TrainerView, batch: _Batch, places: list[int], dialogues: list[Dialogue]
    ) -> list[Turn]:
        """Let the policy write. All processes generate together, so each generates as many turns as the one that has the most."""
        pairs = [(i, dialogue.ids) for i, dialogue in zip(places, dialogues, strict=True)]
        asked = equal_rows(pairs, (0, []), trainer.accelerator.device)
        if not asked:
            return []
        drawn = trainer.generate_rollouts(
            [batch.own[i] for i, _ in asked],
            1,
            prefix_ids=[ids for _, ids in asked],
            max_tokens=trainer.max_completion_length,
        )
        for (i, ids), prompt in zip(pairs, drawn.prompt_ids, strict=False):
            batch.prompt_ids.setdefault(i, [*prompt, *ids])
        tokenizer, ends = tokenizer_of(trainer.processing_class), trainer.end_token_ids
        return [
            read_turn(
                tokenizer,
                drawn.completion_ids[i],
                self.role,
                ends,
                drawn.logps[i] if drawn.logps is not None else None,
            )
            for i in range(len(pairs))
        ]

    def _write_partner(self, batch: _Batch, places: list[int], dialogues: list[Dialogue]) -> list[Turn]:
        if not places:
            return []
        settings = SamplingSettings(
            max_new_tokens=self.partner_tokens,
            temperature=self.partner_temperature,
            top_p=1.0,
            seed=int(batch.seeds.spawn(1)[0].generate_state(1)[0]),
        )
        prompts = [[*batch.partner[i], *dialogue.ids] for i, dialogue in zip(places, dialogues, strict=True)]
        role = "short" if self.role == "long" else "long"
        return [
            read_turn(self._partner.tokenizer, ids, role, self._partner.end_token_ids)
            for ids in self._partner.sample(prompts, settings)
        ]

    def _write_shared(self, trainer: TrainerView, batch: _Batch, places: list[int], size: int) -> list[Turn]:
        """Let the partner write one long turn for each group, that of its first process if it straddles several."""
        heads = {batch.keys[i]: i for i in reversed(places)}
        turns = self._write_partner(batch, list(heads.values()), [Dialogue()] * len(heads))
        shared = list(zip(heads, turns, strict=True))
        if trainer.accelerator.num_processes > 1 and len(places) % size:
            shared = gather_object(shared)
        of_group = dict(reversed(shared))  # the first one is kept
        return [of_group[batch.keys[i]] for i in places]

    def _seeds(self, trainer: TrainerView, training: bool) -> np.random.SeedSequence:
        """Return the seeds of the partner, which depend on the run's seed, the process, the step and the batch of the step."""
        step = trainer.state.global_step
        if step != self._step:
            self._step, self._calls = step, {True: 0, False: 0}
        self._calls[training] += 1
        entropy = [trainer.args.seed, trainer.accelerator.process_index, step, self._calls[training], int(training)]
        return np.random.SeedSequence(entropy)

    def _count(self, dialogues: list[Dialogue], trained: list[Turn]) -> dict[str, list[float]]:
        other = "short" if self.role == "long" else "long"
        pairs = list(zip(dialogues, trained, strict=True))
        found = [
            {
                "turn_tokens": turn.generated,
                "own_tokens": dialogue.tokens(self.role),
                "partner_tokens": dialogue.tokens(other),
                "joint_tokens": dialogue.tokens(),
                "turns": len(dialogue.of("short")),
                "rethinks": sum(is_rethink(one.text) for one in dialogue.of("short")),
                "answered": dialogue.is_answered,
                "well_formed": is_well_formed(turn.text, self.role),
                "boxed_long": any(last_boxed(one.text) is not None for one in dialogue.of("long")),
                "cut": turn.is_cut,
            }
            for dialogue, turn in pairs
        ]
        return {name: [float(one[name]) for one in found] for name in found[0]}

    def observe(self, rollouts: Rollouts) -> None:
        measured = {name: values.tolist() for name, values in rollouts.measured[self.name].items()}
        self._metrics = {
            "turns": fmean(measured["turns"]),
            "rethink_rate": sum(measured["rethinks"]) / sum(measured["turns"]),
            "unfinished": 1 - fmean(measured["answered"]),
            "joint_tokens": fmean(measured["joint_tokens"]),
            "format": fmean(measured["well_formed"]),
            "boxed_long": fmean(measured["boxed_long"]),
            "cut": fmean(measured["cut"]),
        }
