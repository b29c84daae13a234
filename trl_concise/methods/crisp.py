# SPDX-License-Identifier: Apache-2.0
"""
CRISP: compressed reasoning via iterative self-policy distillation (Sang et al., 2026, https://huggingface.co/papers/2603.05433).

The model is its own teacher. The teacher sees the problem with an instruction to be concise, the student sees the plain problem. The
student samples, and its distribution is pulled towards the teacher's on its own completions. No rewards, no reference answers, no
length term.

Differences from the authors' code (HJSang/CRISP_Reasoning_Compression @ 310cf27):
  1. (Reconstructed.) The gradient is estimated from the sampled tokens: the advantage of a token is the difference of its log-probabilities. Theirs sums
     over the vocabulary, with the same expectation and less variance. TRL's experimental SDFT trainer has both forms.
  2. The sampled token ids are trained on. Theirs are decoded, tokenized again, and end with EOS even if truncated.
  3. Student and teacher are aligned per completion. Theirs are aligned by position in a micro-batch, which one truncated row shifts.
  4. One mean over all tokens of an optimizer step. Theirs averages the means of the micro-batches.
  5. The teacher is refreshed every 50 steps by default, as in the paper. The default of their configuration is never.
  6. The default instruction is theirs without its sentences about the format of the answer, which the dataset's prompts contain. It is
     placed before the whole prompt. In their data it replaces the student's request to solve the problem step by step.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional as F
from transformers import TrainerCallback

from ..batch.rollouts import LocalRollouts, Rollouts
from ..batch.token_credit import check_selection
from ..checks import check_text_only, restricted_sampling
from ..components import Paper, TokenCredit, TrainerView


logger = logging.getLogger(__name__)

CRISP_PAPER = Paper(
    title="CRISP: Compressed Reasoning via Iterative Self-Policy Distillation",
    id="2603.05433",
    # docstyle-ignore
    citation="""\
@article{sang2026crisp,
    title        = {{CRISP: Compressed Reasoning via Iterative Self-Policy Distillation}},
    author       = {Hejian Sang and Yuanda Xu and Zhengze Zhou and Ran He and Zhipeng Wang and Jiachen Sun},
    year         = 2026,
    eprint       = {arXiv:2603.05433}
}""",
    reconstructed="The divergence is estimated from the sampled tokens.",
)

# `length_prune_teacher` in the authors' workspace/config/prompts.json, without the format of the answer.
CONCISE_INSTRUCTION = (
    "Solve the following math problem concisely and correctly. Be direct — avoid unnecessary elaboration, redundant steps, or "
    "restating the problem. Focus only on the key reasoning steps needed to reach the answer.\n\n"
)


def teacher_prompt(prompt: Any, instruction: str | Callable[[Any], Any]) -> Any:
    """
    Return the prompt that the teacher sees.

    Args:
        prompt (`str` or `list[dict]`): The student's prompt: a string or a list of messages. It is not changed.
        instruction (`str` or `Callable`): A text that is placed before the problem: before the prompt, or before the content of the
            last user message. Or a function that returns the teacher's prompt for a prompt.

    Returns:
        `str` or `list[dict]`: The teacher's prompt.

    Raises:
        `ValueError`: If a list of messages has no message of the user.

    Examples:
        >>> teacher_prompt([{"role": "user", "content": "What is 2 + 3?"}], "Be concise. ")
        [{'role': 'user', 'content': 'Be concise. What is 2 + 3?'}]
    """
    if not isinstance(instruction, str):
        return instruction(copy.deepcopy(prompt))
    if isinstance(prompt, str):
        return instruction + prompt
    last = max((i for i, message in enumerate(prompt) if message["role"] == "user"), default=None)
    if last is None:
        roles = [message["role"] for message in prompt]
        raise ValueError(
            f"CRISP places its instruction before the last message of the user, but a prompt has the roles {roles}. Add a message of the "
            "user, or pass a function as `instruction` that returns the teacher's prompt."
        )
    content = prompt[last]["content"]
    if not isinstance(content, str):  # a list of texts and images
        content = [{"type": "text", "text": instruction}, *content]
    else:
        content = instruction + content
    return [*prompt[:last], {**prompt[last], "content": content}, *prompt[last + 1 :]]


def log_ratio(student: Tensor, teacher: Tensor) -> Tensor:
    r"""
    Return the advantage of each sampled token: $A_t = \log q(y_t) - \log p(y_t)$.

    Its mean over $y_t \sim p$ is minus the divergence, and $A_t \nabla \log p(y_t)$ has the mean $-\nabla \operatorname{KL}(p \| q)$.

    Args:
        student (`torch.Tensor`): $\log p(y_t)$, under the prompt of the student.
        teacher (`torch.Tensor`): $\log q(y_t)$, under the prompt with the instruction.

    Returns:
        `torch.Tensor`: Of the same shape, without a gradient.

    Examples:
        >>> import torch
        >>> log_ratio(torch.tensor([0.5, 0.3, 0.2]).log(), torch.tensor([0.2, 0.3, 0.5]).log())
        tensor([-0.9163,  0.0000,  0.9163])
    """
    return (teacher - student).detach()


class CRISP(TokenCredit):
    """
    Distills the model with a concise instruction into the model without it.

    The advantage of each token is [`log_ratio`]. Rewards and TRL's advantages are ignored, so no reference answers are needed, and no
    group needs more completions than TRL asks for, two. Each batch is scored twice without a gradient: by the teacher, and by the
    policy.

    The teacher is the reference model of the run: a copy of the policy, or of its adapter, which is refreshed every few steps and saved
    with each checkpoint. With `beta` above 0, TRL's KL term is measured from the same model.

    Args:
        instruction (`str` or `Callable`, *optional*):
            A text that is placed before the problem, with the space or line break that follows it, or a function that returns the
            teacher's prompt for a prompt. Default: the authors' instruction.
        refresh_every (`int`, *optional*, defaults to `50`):
            Optimizer steps after which the teacher becomes a copy of the policy; 0 never refreshes it. The authors report the same
            results from 40 to 60, worse ones at 10, and a collapse at 1.

    Raises:
        `ValueError`: If `refresh_every` is negative. When the trainer is built, if the loss has one ratio per completion, or the dataset
            has images. In training, if a prompt has no place for the instruction.
    """

    name = "crisp"
    paper = CRISP_PAPER
    needs_correctness = False
    text_only = True
    needs_reference = True
    card_settings = ("instruction",)

    def __init__(self, instruction: str | Callable[[Any], Any] = CONCISE_INSTRUCTION, refresh_every: int = 50) -> None:
        if refresh_every < 0:
            raise ValueError(
                f"refresh_every must be at least 0 steps, got {refresh_every}. 0 never refreshes the teacher."
            )
        self.instruction = instruction
        self.refresh_every = refresh_every
        self.moves_reference = refresh_every > 0
        self._refreshed_at = 0  # step
        self._trainer: TrainerView | None = None

    def attach(self, trainer: TrainerView) -> None:
        args = trainer.args
        check_selection(self, args)
        if changed := restricted_sampling(args):
            logger.warning(
                "CRISP estimates its gradient from tokens that are drawn from the policy, but %s changes which are drawn. Leave these "
                "settings out.",
                changed,
            )
        if args.steps_per_generation * args.num_iterations > args.gradient_accumulation_steps:
            logger.warning(
                "Each generation serves several optimizer steps: CRISP's advantages are those of the policy that generated. Set "
                "steps_per_generation to gradient_accumulation_steps and num_iterations to 1 for the gradient of the paper."
            )
        self._trainer = trainer

    def callbacks(self) -> list[TrainerCallback]:
        return [_RefreshTeacher(self)] if self.moves_reference else []

    def refresh(self, step: int) -> None:
        """Make the teacher a copy of the policy. Every process calls this."""
        assert self._trainer is not None  # attached
        self._trainer.update_reference()
        self._refreshed_at = step

    def measure(self, local: LocalRollouts) -> dict[str, Tensor]:
        assert self._trainer is not None  # attached
        check_text_only([self], local.columns)  # of a stream whose columns were not known before
        prompts = [teacher_prompt(prompt, self.instruction) for prompt in local.prompts]
        teacher_ids = self._trainer.tokenize_prompts(prompts)
        teacher = self._trainer.score_logps(teacher_ids, local.completion_ids, model="reference")
        student = self._trainer.score_logps(local.prompt_ids, local.completion_ids)
        return {"log_ratio": log_ratio(student, teacher)}

    def assign(
        self, rollouts: Rollouts, batch: dict[str, Any], advantages: Tensor, selected: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        mask = batch["completion_mask"]
        own = rollouts.measured_tokens[self.name]["log_ratio"].to(mask.device)
        own = F.pad(own, (0, mask.size(1) - own.size(1)))
        in_loss = (mask * batch["tool_mask"] if "tool_mask" in batch else mask).bool()
        self._metrics = {
            "divergence": -own[in_loss].mean().item(),
            "teacher_age": float(rollouts.step - self._refreshed_at),
        }
        return own, None

    def state_dict(self) -> dict[str, Any]:
        return {"refreshed_at": self._refreshed_at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._refreshed_at = state["refreshed_at"]


class _RefreshTeacher(TrainerCallback):
    """Refreshes the teacher before the checkpoint of the same step is saved."""

    def __init__(self, component: CRISP):
        self.component = component

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % self.component.refresh_every == 0:
            self.component.refresh(state.global_step)
