# SPDX-License-Identifier: Apache-2.0
"""
Settings that determine the memory of a run. They have TRL's names, so a recipe of the example scripts can be planned as it is:

    trl-concise plan --method hapo --config examples/configs/hapo_1.5b_40gb.yaml --card_gib 40
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field


# The names of the training commands, and the TRL trainers. Methods that generate use as much as GRPO, except for the crop.
ONLINE_METHODS = (
    "grpo",
    "hapo",
    "sgrpo",
    "tspmo",
    "adapt_think",
    "auto_think",
    "campo",
    "combined",
    "cost_constraints",
    "crisp",
    "capo",
    "cure",
    "curriculum",
    "delethink",
    "dler",
    "dynamic_sampling",
    "effort",
    "gfpo",
    "greso",
    "ktae",
    "laser",
    "laser_d",
    "length_rewards",
    "mgpo",
    "mr_rlvr",
    "noisy_rewards",
    "on_policy_sft",
    "one_shot_rlvr",
    "otc",
    "pcl",
    "prorl",
    "rlpr",
    "saturn",
    "self_verify",
    "shorter_better",
    "siri",
    "t1",
    "thinker",
)
OFFLINE_METHODS = (
    "redi",
    "dpo",
    "light_r1",
    "cft",
    "sft",
    "tdrm",
    "realignment",
)  # tdrm as sft, which has an LM head in addition
PAIR_METHODS = ("redi", "dpo", "light_r1")  # a row of the dataset is two sequences
TRL_METHODS = ("grpo", "dpo", "sft")  # TRL's own methods and commands
REFERENCE_METHODS = (
    "dpo",
    "light_r1",
    "crisp",
    "prorl",
    "t1",
)  # methods that score a reference model without a KL term
CROPPED_METHODS = ("sgrpo", "combined")  # methods with S-GRPO's token selection


@dataclass(frozen=True)
class PlanSettings:
    """
    Settings that determine the memory of a run. All but `method`, `max_prompt_length` and `card_gib` are settings of TRL with
    TRL's defaults; methods that train on completions of a dataset read `max_length`, the others `max_completion_length`.

    Args:
        method (`str`): One of `ONLINE_METHODS` and `OFFLINE_METHODS`.
        card_gib (`float`, *optional*, defaults to `40`): Memory of the card, in GiB.
        max_prompt_length (`int`, *optional*, defaults to `512`): Longest prompt, in tokens. An offline method's is
            planned with half of `max_length` at most, so that something is left for the completion.
        activation_checkpointing, gradient_checkpointing (`bool`, *optional*, defaults to `True`): Two names of one
            setting. As in transformers, the first and newer one wins where both are given.
        vllm_max_model_length (`int`, *optional*): Must hold prompt and completion where vLLM shares the card. `None`, for
            which vLLM takes the model's whole context, is planned as the two.
        cutoff, max_tokens, probability, count_forced (*optional*): S-GRPO's, see [`SGRPOConfig`].
        branch_tokens (`int`, *optional*): Completion tokens up to the last position at which the completions of a group
            diverge, at least 1. T-SPMO computes nothing after it. `None` plans the bound, where they diverge at their last token.

    Raises:
        `ValueError`: If the settings contradict each other, or the formulas do not describe one of them.
    """

    method: str = field(metadata={"help": "Method to plan.", "choices": [*ONLINE_METHODS, *OFFLINE_METHODS]})
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Model id, folder, or config.json. Its weights are not read."}
    )
    card_gib: float = field(default=40.0, metadata={"help": "Memory of the card, in GiB."})
    max_prompt_length: int = field(default=512, metadata={"help": "Longest prompt, in tokens."})
    max_completion_length: int = field(default=512, metadata={"help": "Longest completion, in tokens."})
    max_length: int = field(
        default=1024, metadata={"help": "Prompt and completion together, of methods that do not generate."}
    )
    num_generations: int = field(default=8, metadata={"help": "Completions per prompt."})
    per_device_train_batch_size: int = field(
        default=8, metadata={"help": "Completions, rows or pairs per micro-batch."}
    )
    gradient_accumulation_steps: int = field(default=1, metadata={"help": "Micro-batches per optimizer step."})
    steps_per_generation: int | None = field(
        default=None, metadata={"help": "Micro-batches generated at once. Default: gradient_accumulation_steps."}
    )
    num_iterations: int = field(
        default=1, metadata={"help": "How often the completions of a generation are trained on."}
    )
    dtype: str = field(
        default="float32", metadata={"help": "Data type of the weights.", "choices": ["float32", "bfloat16"]}
    )
    attn_implementation: str | None = field(
        default=None, metadata={"help": "sdpa, or a flash attention. Default: sdpa."}
    )
    activation_checkpointing: bool | None = field(
        default=None,
        metadata={
            "help": "Recompute activations in the backward pass. Default: gradient_checkpointing.",
            "nargs": "?",
            "const": True,
        },
    )
    gradient_checkpointing: bool = field(
        default=True, metadata={"help": "The older name of activation_checkpointing, which takes precedence."}
    )
    beta: float = field(default=0.0, metadata={"help": "KL coefficient; above 0 a reference is scored."})
    use_peft: bool = field(default=False, metadata={"help": "Train a LoRA adapter."})
    lora_r: int = field(default=16, metadata={"help": "Rank."})
    lora_target_modules: list[str] | None = field(
        default=None, metadata={"help": "Modules with an adapter; all-linear for all. Default: q_proj v_proj."}
    )
    load_in_4bit: bool = field(default=False, metadata={"help": "QLoRA: NF4 base weights (with use_peft)."})
    use_bnb_nested_quant: bool = field(default=False, metadata={"help": "Double quantization."})
    merge_adapter_for_generation: bool = field(
        default=False, metadata={"help": "Generate with the adapter merged into copies of the weights; not with vLLM."}
    )
    use_vllm: bool = field(default=False, metadata={"help": "Generate with vLLM."})
    vllm_mode: str = field(
        default="colocate", metadata={"help": "Same card, or a server.", "choices": ["colocate", "server"]}
    )
    vllm_gpu_memory_utilization: float = field(default=0.3, metadata={"help": "vLLM's share of the card."})
    vllm_max_model_length: int | None = field(
        default=None, metadata={"help": "vLLM's context. Default: prompt and completion."}
    )
    vllm_enable_sleep_mode: bool = field(
        default=False, metadata={"help": "vLLM frees its share while the policy is trained."}
    )
    cutoff: int = field(default=50, metadata={"help": "S-GRPO: tokens that are always in the loss."})
    max_tokens: int = field(default=100, metadata={"help": "S-GRPO: most tokens in the loss."})
    probability: float = field(default=0.5, metadata={"help": "S-GRPO: probability of a token after the cutoff."})
    count_forced: bool = field(
        default=True, metadata={"help": "S-GRPO: whether max_tokens counts those of the cutoff."}
    )
    branch_tokens: int | None = field(
        default=None,
        metadata={
            "help": "T-SPMO: completion tokens up to the last one at which a group diverges. Default: all, the bound."
        },
    )

    def __post_init__(self):
        if self.method not in (*ONLINE_METHODS, *OFFLINE_METHODS):
            raise ValueError(f"method must be one of {[*ONLINE_METHODS, *OFFLINE_METHODS]}, got {self.method!r}.")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype must be float32 or bfloat16, got {self.dtype!r}.")
        if self.attn_implementation not in (None, "sdpa") and not self.flash_attention:
            raise ValueError(
                "attn_implementation must be sdpa or one with flash in its name, such as flash_attention_2, got "
                f"{self.attn_implementation!r}, whose memory the formulas do not describe."
            )
        if self.load_in_4bit and not self.use_peft:
            raise ValueError("load_in_4bit=True needs use_peft=True: NF4 weights cannot be trained, an adapter can.")
        if not self.limits_completions and self.max_length is None:
            raise ValueError("max_length is None: a plan needs the longest sequence. Set --max_length.")
        if self.branch_tokens is not None and self.branch_tokens < 1:
            raise ValueError(f"branch_tokens must be at least 1 or None, got {self.branch_tokens}.")
        if self.online and self.generated % self.num_generations:
            raise ValueError(
                f"{self.generated} completions per generation (per_device_train_batch_size x steps_per_generation) are "
                f"not a multiple of num_generations = {self.num_generations}."
            )

    @property
    def online(self) -> bool:
        """Whether the method generates."""
        return self.method in ONLINE_METHODS

    @property
    def limits_completions(self) -> bool:
        """Whether `max_completion_length` limits the sequences, and not `max_length`."""
        return self.online or self.method == "realignment"

    @property
    def recomputes(self) -> bool:
        """Whether the backward pass recomputes activations."""
        return (
            self.activation_checkpointing if self.activation_checkpointing is not None else self.gradient_checkpointing
        )

    @property
    def generated(self) -> int:
        """Completions generated at once on this card."""
        return self.per_device_train_batch_size * (self.steps_per_generation or self.gradient_accumulation_steps)

    @property
    def generation_interval(self) -> int:
        """Micro-batches from one generation to the next."""
        return (self.steps_per_generation or self.gradient_accumulation_steps) * self.num_iterations

    @property
    def rows(self) -> int:
        """Sequences in a micro-batch."""
        return self.per_device_train_batch_size * (2 if self.method in PAIR_METHODS else 1)

    @property
    def length(self) -> int:
        """Tokens of a whole sequence."""
        return self.max_prompt_length + self.max_completion_length if self.limits_completions else self.max_length

    @property
    def prompt_length(self) -> int:
        return self.max_prompt_length if self.limits_completions else min(self.max_prompt_length, self.max_length // 2)

    @property
    def completion_length(self) -> int:
        return self.length - self.prompt_length

    @property
    def last_trained_token(self) -> int:
        """Completion tokens up to the last one in the loss, after which a micro-batch is cropped."""
        if self.method == "tspmo" and self.branch_tokens is not None and self.beta == 0:  # a KL term keeps every edge
            return min(self.completion_length, self.branch_tokens)
        if self.method not in CROPPED_METHODS:
            return self.completion_length
        wanted = max(0, self.max_tokens - self.cutoff * self.count_forced)
        if wanted and not self.probability:
            return self.completion_length
        # Waiting for the n-th success takes n / P draws, with a variance of n (1 - P) / P^2: here with three deviations.
        behind = (wanted + 3 * math.sqrt(wanted * (1 - self.probability))) / self.probability if wanted else 0
        return min(self.completion_length, self.cutoff + math.ceil(behind))

    @property
    def flash_attention(self) -> bool:
        return "flash" in (self.attn_implementation or "sdpa")
