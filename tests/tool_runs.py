# SPDX-License-Identifier: Apache-2.0
"""Runs through TRL's own tool loop: the model's turns are scripted, everything else is real."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from datasets import Dataset
from transformers import AutoTokenizer
from trl.chat_template_utils import add_response_schema, qwen3_chat_template

from tests import tiny
from trl_concise import ConciseGRPOTrainer


END = "<|im_end|>"  # the tiny model's EOS
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] }}"
    "{% for c in m['tool_calls'] or [] %}{{ '<tool_call>\n' + c['function'] | tojson + '\n</tool_call>' }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def add(a: int, b: int) -> int:
    """
    Add two numbers.

    Args:
        a: One number.
        b: Another number.
    """
    return a + b


def call(name: str = "add", **arguments: Any) -> str:
    """Return the text of a call, as models of Qwen3 write it."""
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments or {'a': 1, 'b': 2}})}\n</tool_call>"


def answer(number: int) -> str:
    return f"It is \\boxed{{{number}}}.{END}"


def turns(step: int, row: int) -> list[str]:
    """Return the turns of a completion: more calls in later groups of four, and an answer that is right in about half of the rows."""
    return [call() + END] * (row // 4 + (row + 2 * step) % 3) + [answer(3 + (row // 2 + step) % 2)]


def problems(count: int = 6) -> Dataset:
    return Dataset.from_list(
        [
            {"prompt": [{"role": "user", "content": f"{i}?"}], "prompt_id": f"p{i}", "solution": "3"}
            for i in range(count)
        ]
    )


def tool_tokenizer(model: str):
    """Return the tokenizer of the tiny model with the calls of Qwen3, which TRL parses, in a template without its long prompt."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = qwen3_chat_template
    add_response_schema(tokenizer)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def scripted(trainer_class, script: Callable[[int, int], list[str]] = turns):
    """
    Return a trainer whose model writes the turns of `script(step, row)`, with the row in the gathered batch. A script has only the turns
    that are generated: the last one either calls nothing, or is not answered.
    """

    class Scripted(trainer_class):
        def _generate(self, prompts):
            first = self.accelerator.process_index * len(prompts)
            self.scripts = [script(self.state.global_step, first + i) for i in range(len(prompts))]
            self.turn = 0
            return super()._generate(prompts)

        def _generate_single_turn(self, prompt_ids, *args, **kwargs):
            texts = [own[self.turn] for own in self.scripts if len(own) > self.turn]
            assert len(texts) == len(prompt_ids), (self.turn, len(texts), len(prompt_ids))
            self.turn += 1
            return [self.processing_class(text)["input_ids"] for text in texts], None

    return Scripted


def train(
    model: str,
    folder,
    reward_funcs: list,
    trainer_class=ConciseGRPOTrainer,
    *,
    config_class=None,
    script: Callable[[int, int], list[str]] = turns,
    tools: list | None = None,
    resume: str | None = None,
    dataset: Dataset | None = None,
    slots: dict[str, Any] | None = None,
    **changes: Any,
):
    """Train for some steps, and return the trainer."""
    settings = {"max_completion_length": 512, "max_steps": 4, **changes}
    config_class = config_class or trainer_class.config_class
    trainer = scripted(trainer_class, script)(
        model,
        reward_funcs,
        config_class(**tiny.settings(folder, **settings)),
        dataset or problems(),
        processing_class=tool_tokenizer(model),
        tools=[add] if tools is None else tools,
        **(slots or {}),
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer
