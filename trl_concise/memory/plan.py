# SPDX-License-Identifier: Apache-2.0
"""The plan of a run's GPU memory, which the command `trl-concise plan` prints."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from . import formulas
from .formulas import BFLOAT16, FLOAT32, Architecture
from .settings import CROPPED_METHODS, REFERENCE_METHODS, PlanSettings


GIB = 1024**3

# Assumptions, not formulas; `docs/memory.md` describes how to measure them.
CUDA_CONTEXT = 0.6 * GIB  # driver context, cuBLAS and kernels
VLLM_ASLEEP = 1.0 * GIB  # CUDA graphs and context that sleep mode does not free
VLLM_WORKSPACE = 1.5 * GIB  # activations and CUDA graphs inside vLLM's share
FRAGMENTATION = 0.05  # of what PyTorch's allocator holds
EXPECTED_BRANCH_TOKENS = 64  # T-SPMO; measured, see `docs/memory.md`

PARTS = (
    "CUDA context",
    "weights",
    "merged weights",
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
class MemoryPlan:
    """
    Memory of a run by component, in each phase.

    Attributes:
        settings ([`PlanSettings`]): What was planned.
        parts (`dict[str, dict[str, float]]`): Phase -> component -> bytes.
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
        return not self.problem and self.peak <= self.settings.card_gib * GIB

    def total(self, phase: str) -> float:
        """Bytes of a phase."""
        return sum(self.parts[phase].values())

    def allocated(self, phase: str) -> float:
        """Bytes that PyTorch allocates in a phase, in `torch.cuda.max_memory_allocated`'s sense."""
        outside = ("CUDA context", "vLLM", "fragmentation")
        return sum(size for part, size in self.parts[phase].items() if part not in outside)


def plan(settings: PlanSettings, shape: Architecture) -> MemoryPlan:
    """
    Add up the components of each phase.

    Args:
        settings ([`PlanSettings`]): The run.
        shape ([`Architecture`]): The model.

    Returns:
        [`MemoryPlan`]: Generation (online methods only), log-probabilities of the old policy and the reference (where
        TRL computes them), the forward pass of the loss with its LM head, and the peak of the backward pass.
            For T-SPMO without `branch_tokens` this is a bound, see [`expected`].
    """
    s = settings
    dtype = FLOAT32 if s.dtype == "float32" else BFLOAT16
    targets = _targets(s, shape)
    trained, trained_dtype = shape.parameters, dtype
    if s.use_peft:
        trained = formulas.lora_parameters(shape, s.lora_r, targets)
        trained_dtype = BFLOAT16 if s.load_in_4bit else FLOAT32  # TRL's choice, and PEFT's
    weights = formulas.weight_bytes(shape, dtype, nf4=s.load_in_4bit, double_quantization=s.use_bnb_nested_quant)
    has_reference = s.method in REFERENCE_METHODS or (s.online and s.beta > 0)
    frozen = weights if has_reference and not s.use_peft else 0.0
    if s.method == "realignment":  # two models, and a copy of their output embeddings
        frozen = 2 * (formulas.weight_bytes(shape, dtype) + shape.vocab_size * shape.hidden_size * dtype)
    vllm = s.online and s.use_vllm and s.vllm_mode == "colocate"
    vllm_share = s.vllm_gpu_memory_utilization * s.card_gib * GIB if vllm else 0.0

    held = {
        "CUDA context": CUDA_CONTEXT,
        "weights": weights,
        "adapter": trained * trained_dtype if s.use_peft else 0.0,
        "optimizer": formulas.adamw_bytes(trained, trained_dtype),
        "reference model": frozen,
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
        if s.use_peft and s.merge_adapter_for_generation and not vllm:
            parts["generation"]["merged weights"] = formulas.merged_bytes(shape, targets, dtype)
    inference = formulas.inference_bytes(shape, s.rows, s.length, dtype_bytes=dtype, flash_attention=s.flash_attention)
    # TRL scores the old policy where the sampler is another one (vLLM), or one of an earlier optimizer step.
    off_policy = s.use_vllm or s.gradient_accumulation_steps % s.generation_interval != 0
    if s.online and (off_policy or has_reference):
        head = formulas.lm_head_bytes(shape, s.rows * s.completion_length, dtype_bytes=dtype, backward=False)
        parts["log-probs"] = held | {"forward pass": inference, "LM head": head}

    # Loss and backward pass, on what the crop leaves
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
    activations: dict[bool, float] = {
        True: formulas.checkpoint_bytes(shape, s.rows, length, dtype) + mask,
        False: shape.num_layers * layer + mask + casts,
    }
    saved = activations[s.recomputes]
    learning = held | {"gradients": gradients, "activations": saved}
    head = formulas.lm_head_bytes(shape, scored, dtype_bytes=dtype, trained=not s.use_peft)
    final_norm = s.rows * length * (FLOAT32 + dtype) * shape.hidden_size
    kept_casts = casts * s.recomputes
    scoring: dict[str, float] = {"activations": saved + kept_casts + final_norm, "LM head": head}
    # The reference is scored while the policy's graph is alive.
    if s.method == "realignment" or (s.method == "dpo" and not s.use_peft):
        scoring["forward pass"] = inference
    # With checkpointing, the last layer of the forward pass may hold more than the LM head after it.
    last_layer = formulas.inference_bytes(shape, s.rows, length, dtype_bytes=dtype, flash_attention=True)
    in_layer: dict[str, float] = {"activations": saved + kept_casts, "forward pass": last_layer * s.recomputes}
    parts["loss"] = learning | (scoring if sum(scoring.values()) >= sum(in_layer.values()) else in_layer)
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


def expected(settings: PlanSettings, shape: Architecture) -> MemoryPlan | None:
    """
    Return the plan of what is expected where [`plan`] gives a bound, else `None`.

    That is T-SPMO without `branch_tokens` and without a KL term. Nothing is computed after the last position at which the
    completions of a group diverge. The bound assumes the last token, the expected value the
    first `EXPECTED_BRANCH_TOKENS`.
    """
    if settings.method != "tspmo" or settings.branch_tokens is not None or settings.beta > 0:
        return None
    return plan(dataclasses.replace(settings, branch_tokens=EXPECTED_BRANCH_TOKENS), shape)


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
    """Return why vLLM cannot generate such completions in its share of the card, and what to set."""
    problems: list[str] = []
    remedy: dict[str, Any] = {}
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
