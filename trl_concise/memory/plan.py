# SPDX-License-Identifier: Apache-2.0
"""
Will this run fit on this card? [`plan`] and the command `trl-concise plan`.

The settings have TRL's names, so a recipe of the example scripts is planned as it is:

    trl-concise plan --method hapo --config examples/configs/hapo_1.5b_40gb.yaml --card_gib 40
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from . import formulas
from .formulas import BFLOAT16, FLOAT32, Architecture


GIB = 1024**3

# Assumptions, not formulas; `docs/memory.md` says how to measure yours.
CUDA_CONTEXT = 0.6 * GIB  # driver context, cuBLAS and kernels
VLLM_ASLEEP = 1.0 * GIB  # CUDA graphs and context that sleep mode does not hand back
VLLM_WORKSPACE = 1.5 * GIB  # activations and CUDA graphs inside vLLM's share
FRAGMENTATION = 0.05  # of what PyTorch's allocator holds

# The names of the training commands, and of TRL's trainers. What generates takes what GRPO takes, but for the crop.
ONLINE_METHODS = (
    "grpo",
    "hapo",
    "sgrpo",
    "tspmo",
    "combined",
    "curriculum",
    "greso",
    "laser",
    "laser_d",
    "length_rewards",
    "one_shot_rlvr",
    "shorter_better",
    "siri",
)
OFFLINE_METHODS = ("redi", "dpo", "cft", "sft")
PAIR_METHODS = ("redi", "dpo")  # a row of the dataset is two sequences
TRL_METHODS = ("grpo", "dpo", "sft")  # TRL's own, with commands of TRL's
CROPPED_METHODS = ("sgrpo", "combined")  # those with S-GRPO's choice of tokens
PARTS = (
    "CUDA context",
    "weights",
    "adapter",
    "optimizer",
    "gradients",
    "reference model",
    "vLLM",
    "KV cache",
    "activations",
    "forward pass",
    "LM head",
    "backward pass",
    "fragmentation",
)
PEFT_TARGETS = ("q_proj", "v_proj")  # PEFT's own choice for these models where `lora_target_modules` is not set


@dataclass(frozen=True)
class PlanSettings:
    """
    What decides over the memory of a run. All but `method`, `max_prompt_length` and `card_gib` are settings of TRL with
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
    dtype: str = field(default="float32", metadata={"help": "Of the weights.", "choices": ["float32", "bfloat16"]})
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
    use_vllm: bool = field(default=False, metadata={"help": "Generate with vLLM."})
    vllm_mode: str = field(
        default="colocate", metadata={"help": "Same card, or a server.", "choices": ["colocate", "server"]}
    )
    vllm_gpu_memory_utilization: float = field(default=0.3, metadata={"help": "vLLM's share of the card."})
    vllm_max_model_length: int | None = field(
        default=None, metadata={"help": "vLLM's context. Default: prompt and completion."}
    )
    vllm_enable_sleep_mode: bool = field(
        default=False, metadata={"help": "vLLM frees its share while the policy learns."}
    )
    cutoff: int = field(default=50, metadata={"help": "S-GRPO: tokens that are always in the loss."})
    max_tokens: int = field(default=100, metadata={"help": "S-GRPO: most tokens in the loss."})
    probability: float = field(default=0.5, metadata={"help": "S-GRPO: of a token behind the cutoff."})
    count_forced: bool = field(
        default=True, metadata={"help": "S-GRPO: whether max_tokens counts those of the cutoff."}
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
        if not self.online and self.max_length is None:
            raise ValueError("max_length is None: a plan needs the longest sequence. Set --max_length.")
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
    def recomputes(self) -> bool:
        """Whether the backward pass recomputes activations."""
        return self.gradient_checkpointing if self.activation_checkpointing is None else self.activation_checkpointing

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
        return self.max_prompt_length + self.max_completion_length if self.online else self.max_length

    @property
    def prompt_length(self) -> int:
        return self.max_prompt_length if self.online else min(self.max_prompt_length, self.max_length // 2)

    @property
    def completion_length(self) -> int:
        return self.length - self.prompt_length

    @property
    def last_trained_token(self) -> int:
        """Completion tokens up to the last one in the loss, behind which a micro-batch is cropped."""
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


@dataclass(frozen=True)
class MemoryPlan:
    """
    Memory of a run, part by part, in each phase.

    Attributes:
        settings ([`PlanSettings`]): What was planned.
        parts (`dict[str, dict[str, float]]`): Phase -> part -> bytes.
        activations (`dict[bool, float]`): Saved activations in bytes, with (`True`) and without gradient checkpointing.
        problem (`str`, *optional*): Why the run cannot be the planned one whatever the sums.
        remedy (`dict[str, Any]`, *optional*): Settings that solve the problem, if any do.
    """

    settings: PlanSettings
    parts: dict[str, dict[str, float]]
    activations: dict[bool, float]
    problem: str | None = None
    remedy: dict[str, Any] = field(default_factory=dict)

    @property
    def peak(self) -> float:
        """Bytes of the fullest phase."""
        return max(self.total(phase) for phase in self.parts)

    @property
    def fits(self) -> bool:
        return self.problem is None and self.peak <= self.settings.card_gib * GIB

    def total(self, phase: str) -> float:
        """Bytes of a phase."""
        return sum(self.parts[phase].values())

    def allocated(self, phase: str) -> float:
        """Bytes that PyTorch allocates in a phase, in `torch.cuda.max_memory_allocated`'s sense."""
        outside = ("CUDA context", "vLLM", "fragmentation")
        return sum(size for part, size in self.parts[phase].items() if part not in outside)


def plan(settings: PlanSettings, shape: Architecture) -> MemoryPlan:
    """
    Add the parts up, phase by phase.

    Args:
        settings ([`PlanSettings`]): The run.
        shape ([`Architecture`]): The model.

    Returns:
        [`MemoryPlan`]: Generation (online methods only), log-probabilities of the old policy and the reference (where
        TRL computes them), the loss with its LM head, and the widest moment of the backward pass behind it.
    """
    s = settings
    dtype = FLOAT32 if s.dtype == "float32" else BFLOAT16
    targets = _targets(s, shape)
    trained, trained_dtype = shape.parameters, dtype
    if s.use_peft:
        trained = formulas.lora_parameters(shape, s.lora_r, targets)
        trained_dtype = BFLOAT16 if s.load_in_4bit else FLOAT32  # TRL's choice, and PEFT's
    weights = formulas.weight_bytes(shape, dtype, nf4=s.load_in_4bit, double_quantization=s.use_bnb_nested_quant)
    has_reference = s.method == "dpo" or (s.online and s.beta > 0)
    vllm = s.online and s.use_vllm and s.vllm_mode == "colocate"
    vllm_share = s.vllm_gpu_memory_utilization * s.card_gib * GIB if vllm else 0.0

    held = {
        "CUDA context": CUDA_CONTEXT,
        "weights": weights,
        "adapter": trained * trained_dtype if s.use_peft else 0.0,
        "optimizer": formulas.adamw_bytes(trained, trained_dtype),
        "reference model": weights if has_reference and not s.use_peft else 0.0,
        "vLLM": min(VLLM_ASLEEP, vllm_share) if s.vllm_enable_sleep_mode else vllm_share,
    }
    parts: dict[str, dict[str, float]] = {}
    gradients = trained * trained_dtype
    if s.generation_interval % s.gradient_accumulation_steps:  # TRL generates between the micro-batches of a step too
        held["gradients"] = gradients
    if s.online and (not s.use_vllm or vllm):
        cache = 0 if vllm else formulas.kv_cache_bytes(shape, s.generated, s.length, dtype)
        forward = (
            0 if vllm else formulas.generation_bytes(shape, s.generated, s.prompt_length, s.completion_length, dtype)
        )
        parts["generation"] = held | {"vLLM": vllm_share, "KV cache": cache, "forward pass": forward}
    inference = formulas.inference_bytes(shape, s.rows, s.length, dtype_bytes=dtype, flash_attention=s.flash_attention)
    # TRL scores the old policy where the sampler is another one (vLLM), or one of an earlier optimizer step.
    off_policy = s.use_vllm or s.gradient_accumulation_steps % s.generation_interval != 0
    if s.online and (off_policy or has_reference):
        head = formulas.lm_head_bytes(shape, s.rows * s.completion_length, dtype_bytes=dtype, backward=False)
        parts["log-probs"] = held | {"forward pass": inference, "LM head": head}

    # Loss and backward pass, on what is left behind the crop
    length = min(s.length, s.prompt_length + s.last_trained_token)
    most = length
    if s.method in CROPPED_METHODS:
        most = max(s.max_tokens + s.cutoff * (not s.count_forced), s.cutoff)
    scored = s.rows * min(length - s.prompt_length, most)
    layer = formulas.layer_activation_bytes(
        shape,
        s.rows,
        length,
        dtype_bytes=dtype,
        lora_rank=s.lora_r,
        lora_targets=targets,
        quantized=s.load_in_4bit,
        flash_attention=s.flash_attention,
    )
    mask = 0 if s.flash_attention else s.rows * length**2
    casts = BFLOAT16 * shape.linear_parameters * (dtype == FLOAT32)  # autocast's, kept for the backward pass
    activations = {
        True: formulas.checkpoint_bytes(shape, s.rows, length, dtype) + mask,
        False: shape.num_layers * layer + mask + casts,
    }
    saved = activations[s.recomputes]
    learning = held | {"gradients": gradients, "activations": saved}
    head = formulas.lm_head_bytes(shape, scored, dtype_bytes=dtype, trained=not s.use_peft)
    final_norm = s.rows * length * (FLOAT32 + dtype) * shape.hidden_size
    parts["loss"] = learning | {
        "activations": saved + final_norm + casts * s.recomputes,
        "LM head": head,
        "forward pass": inference
        if s.method == "dpo"
        else 0,  # the reference is scored while the policy's graph stands
    }
    parts["backward"] = learning | {
        "activations": saved + layer * s.recomputes,
        "backward pass": formulas.layer_backward_bytes(
            shape, s.rows, length, dtype_bytes=dtype, lora=s.use_peft, quantized=s.load_in_4bit
        )
        # A tied LM head's gradient waits for the embedding's.
        + (shape.vocab_size * shape.hidden_size * dtype if shape.tied and not s.use_peft else 0),
    }
    for column in parts.values():
        pytorch = sum(size for part, size in column.items() if part not in ("CUDA context", "vLLM"))
        column["fragmentation"] = FRAGMENTATION * pytorch
    problem, remedy = _vllm_problem(s, shape, vllm_share) if vllm else (None, {})
    return MemoryPlan(s, parts, activations, problem, remedy)


def _targets(settings: PlanSettings, shape: Architecture) -> tuple[str, ...]:
    if not settings.use_peft:
        return ()
    targets = settings.lora_target_modules or PEFT_TARGETS
    if list(targets) == ["all-linear"]:
        return tuple(shape.linears)
    if unknown := set(targets) - set(shape.linears):
        raise ValueError(
            f"lora_target_modules names {sorted(unknown)}; the formulas know the linear modules of the layers, "
            f"{list(shape.linears)}, and 'all-linear'."
        )
    return tuple(targets)


def _vllm_problem(settings: PlanSettings, shape: Architecture, share: float) -> tuple[str | None, dict[str, Any]]:
    """Return what keeps vLLM from generating such completions in its share of the card, and what to set."""
    problems, remedy = [], {}
    context = settings.vllm_max_model_length or settings.length
    if context < settings.length:
        remedy["vllm_max_model_length"] = settings.length
        problems += [
            f"prompt and completion may have {settings.length:,} tokens, more than vllm_max_model_length = {context:,}"
        ]
    weights = formulas.weight_bytes(shape, BFLOAT16, nf4=settings.load_in_4bit)
    needed = weights + VLLM_WORKSPACE + formulas.kv_cache_bytes(shape, 1, max(context, settings.length))
    if share < needed:
        least = math.ceil(100 * needed / GIB / settings.card_gib) / 100
        if least < 1:
            remedy["vllm_gpu_memory_utilization"] = least
        problems += [
            f"vLLM's share of {share / GIB:.1f} GiB does not hold its weights and one completion, {needed / GIB:.1f} GiB: "
            + (f"vllm_gpu_memory_utilization must be at least {least:.2f}" if least < 1 else "take a larger card")
        ]
    return "; ".join(problems) or None, remedy
