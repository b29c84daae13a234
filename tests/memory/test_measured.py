# SPDX-License-Identifier: Apache-2.0
"""
The plan against peaks measured on a GPU: `benchmarks/gpu/memory.py` on an H100 80GB HBM3, 2026-11-28, capped at 40 GiB.

torch 2.11.0 (CUDA 13.0), transformers 5.23.0, TRL 1.16.0. The figures are `torch.cuda.max_memory_allocated` in bytes; docs/memory.md
publishes them.
"""

from __future__ import annotations

import pytest

from tests.memory.test_plan import LORA, QWEN
from trl_concise.memory import PlanSettings, expected, plan
from trl_concise.memory.plan import EXPECTED_BRANCH_TOKENS


# (method, completion tokens): peaks of the loss and of the backward pass
MEASURED = {
    ("grpo", 1024): (4_375_212_544, 4_866_062_336),
    ("hapo", 1024): (4_375_212_544, 4_866_062_336),
    ("sgrpo", 1024): (3_773_097_984, 3_904_109_568),
    ("tspmo", 1024): (3_669_726_208, 3_738_694_144),
    ("redi", 1024): (4_345_890_816, 4_783_903_744),
    ("dpo", 1024): (4_345_889_792, 4_783_902_720),
    ("grpo", 4096): (6_535_336_448, 8_396_150_784),
    ("hapo", 4096): (6_536_647_168, 8_397_461_504),
    ("sgrpo", 4096): (3_774_007_296, 3_904_699_392),
    ("tspmo", 4096): (3_670_733_824, 3_739_382_272),
    ("redi", 4096): (6_438_396_928, 8_044_320_768),
    ("dpo", 4096): (6_438_395_904, 8_044_319_744),
}


def run(method: str, tokens: int, **changes) -> PlanSettings:
    return PlanSettings(
        method,
        max_prompt_length=256,
        max_completion_length=tokens,
        max_length=256 + tokens,
        num_generations=4,
        per_device_train_batch_size=2 if method in ("redi", "dpo") else 4,  # of pairs
        gradient_accumulation_steps=2,
        **{**LORA, **changes},
    )


@pytest.mark.parametrize(("method", "tokens"), MEASURED)
def test_the_plan_is_within_four_percent_of_the_peak(method, tokens):
    # The completions were random tokens, whose groups diverge at the first one.
    made = plan(run(method, tokens, branch_tokens=1), QWEN)
    for phase, peak in zip(("loss", "backward"), MEASURED[method, tokens], strict=True):
        assert made.allocated(phase) == pytest.approx(peak, rel=0.04), phase


@pytest.mark.parametrize("tokens", [1024, 4096])
def test_prefix_matching_has_an_expected_value_and_a_bound(tokens):
    settings = run("tspmo", tokens)
    bound, likely = plan(settings, QWEN), expected(settings, QWEN)
    assert likely.settings.branch_tokens == EXPECTED_BRANCH_TOKENS
    assert bound.parts == plan(run("grpo", tokens), QWEN).parts
    for phase, peak in zip(("loss", "backward"), MEASURED["tspmo", tokens], strict=True):
        assert likely.allocated(phase) == pytest.approx(peak, rel=0.04) and peak < bound.allocated(phase)


def test_plans_without_a_separate_expected_value():
    assert expected(run("grpo", 1024), QWEN) is None
    assert expected(run("tspmo", 1024, branch_tokens=300), QWEN) is None
    assert expected(run("tspmo", 1024, beta=0.04), QWEN) is None  # a KL term keeps every edge
    kept = plan(run("tspmo", 1024, beta=0.04, branch_tokens=1), QWEN)
    assert kept.parts == plan(run("grpo", 1024, beta=0.04), QWEN).parts
    with pytest.raises(ValueError, match="branch_tokens must be at least 1 or None, got 0"):
        run("tspmo", 1024, branch_tokens=0)
