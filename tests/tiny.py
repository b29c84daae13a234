# SPDX-License-Identifier: Apache-2.0
"""A random tiny model, cheap reward functions and a config: what tests that call `trainer.train()` share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast


CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def make_tokenizer(more_tokens: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer. `more_tokens` are special tokens."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    bpe.train_from_iterator(
        [],
        trainer=trainers.BpeTrainer(
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=["<|pad|>", "<|im_start|>", "<|im_end|>", *more_tokens],
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<|pad|>", eos_token="<|im_end|>", padding_side="left"
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make_model(path, seed: int = 0, architecture: str = "qwen2", more_tokens: Sequence[str] = ()) -> str:
    """Save a random model with a byte-level tokenizer into a folder, and return the folder. `more_tokens` are special tokens."""
    tokenizer = make_tokenizer(more_tokens)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(
            architecture,
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=4096,
            tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
        )
    )
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def settings(output_dir, **changes: Any) -> dict[str, Any]:
    """Arguments of a config for a few quick steps on the CPU: groups of 4, two prompts a step."""
    return {
        "output_dir": str(output_dir),
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "disable_tqdm": True,
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 8,
        "max_steps": 2,
        "logging_steps": 1,
        "save_strategy": "no",
        "gradient_checkpointing": False,
        "learning_rate": 1e-3,
        "seed": 0,
        **changes,
    }


def even_reward(completion_ids, **kwargs):
    """1 if most of the generated tokens have even ids: true of about half of what a random model writes."""
    return [float(sum(token % 2 == 0 for token in ids) > len(ids) / 2) for ids in completion_ids]


def losses(trainer) -> list[float]:
    """The logged training losses."""
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def rollouts_of(lengths: list[list[int]], eos: int = 2):
    """A TRL `rollout_func` that answers with completions of the given lengths, EOS not counted, in the order of rows.

    One inner list per call; the call after the last begins again.
    """
    calls = iter(range(10**9))

    def rollout(prompts, trainer):
        wanted = lengths[next(calls) % len(lengths)]
        assert len(wanted) == len(prompts), (len(wanted), len(prompts))
        return {
            "prompt_ids": [[5, 6, 7]] * len(prompts),
            "completion_ids": [[10 + i % 7] * length + [eos] for i, length in enumerate(wanted)],
            "logprobs": None,
        }

    return rollout


def load(model: str):
    """The model as it was saved, untouched by TRL."""
    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)


def spy(trainer_class):
    """A trainer that keeps, in `seen`, each micro-batch, its loss and the gradients of its trainable parameters."""

    class Spy(trainer_class):
        def _compute_loss(self, model, inputs):
            loss = super()._compute_loss(model, inputs)
            if self.model.training:
                parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
                gradients = torch.autograd.grad(loss, parameters, retain_graph=True)
                self.__dict__.setdefault("seen", []).append((inputs, loss.detach(), gradients))
            return loss

    return Spy


def whole_logps(model, inputs) -> torch.Tensor:
    """`(b, T)` log-probabilities of a batch's completion tokens, from all logits of an untouched model."""
    input_ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    attention_mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
    logits = model(input_ids=input_ids, attention_mask=attention_mask).logits[:, inputs["prompt_ids"].size(1) - 1 : -1]
    return logits.log_softmax(-1).gather(2, inputs["completion_ids"][..., None])[..., 0]
