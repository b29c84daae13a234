# SPDX-License-Identifier: Apache-2.0
"""
`trl-concise plan` against the tensors of a training step of a pretrained model, on the CPU.

The growth of the process (RSS) contains freed memory that the allocator keeps, buffers of libraries and pages of the weights'
file. The plan adds up tensors, so the bytes of all tensors that are alive are counted here.

TRL's LM head differs on a CPU. On a GPU, a Triton kernel works on one bf16 tile of logits in place, for the tokens in
the loss. Without Triton, the same is done with PyTorch operations: the backward pass holds seven float32 copies and a boolean
one of the tile in addition, and all tokens are scored, those of the prompt too. The plan describes the GPU. So the test counts
what these functions allocate separately.
"""

from __future__ import annotations

import sys

import pytest
from peft import LoraConfig
from transformers import AutoConfig
from trl.kernels import chunked_logprob

import trl_concise as tc
from tests.memory.test_formulas import PeakBytes
from tests.real.test_training import mostly_short, problems
from trl_concise.memory import Architecture, PlanSettings, plan
from trl_concise.memory.formulas import LM_HEAD_TILE, lm_head_bytes


PROMPT, COMPLETION, ROWS, RANK = 64, 448, 4, 16
# What TRL runs where there is no Triton. `_addmm_fp32` converts its inputs to float32, which cuBLAS does not need.
ONLY_WITHOUT_TRITON = {
    function.__code__
    for function in (chunked_logprob._forward_tile, chunked_logprob._backward_tile, chunked_logprob._addmm_fp32)
}


class PeakBytesAsOnGPU(PeakBytes):
    """`PeakBytes`, without the tensors that only exist where there is no Triton."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        frame = sys._getframe(1)
        while frame is not None:
            if frame.f_code in ONLY_WITHOUT_TRITON:
                return func(*args, **(kwargs or {}))
            frame = frame.f_back
        return super().__torch_dispatch__(func, types, args, kwargs)


class Measured(tc.HAPOTrainer):
    """Counts the tensors that the loss and the backward pass create."""

    def training_step(self, *args, **kwargs):
        with PeakBytes() as memory, PeakBytesAsOnGPU() as comparable:
            loss = super().training_step(*args, **kwargs)
        self.peak, self.comparable = memory.peak, comparable.peak
        return loss


def random_tokens(prompts, trainer):
    """Completions of different lengths, so that attention needs a mask."""
    return {
        "prompt_ids": [list(range(100, 100 + PROMPT))] * len(prompts),
        "completion_ids": [[1000 + 7 * row + n for n in range(COMPLETION - 5 * row)] for row in range(len(prompts))],
        "logprobs": None,
    }


@pytest.mark.parametrize("checkpointing", [True, False])
def test_the_plan_is_the_peak_of_a_step(checkpointing, smollm2, tmp_path):
    trainer = Measured(
        smollm2,
        [mostly_short],
        args=tc.HAPOConfig(
            output_dir=str(tmp_path),
            use_cpu=True,
            bf16=True,
            report_to="none",
            disable_tqdm=True,
            per_device_train_batch_size=ROWS,
            num_generations=ROWS,
            max_completion_length=COMPLETION,
            max_steps=1,
            save_strategy="no",
            gradient_checkpointing=checkpointing,
            model_init_kwargs={"dtype": "bfloat16"},
        ),
        train_dataset=problems(8),
        peft_config=LoraConfig(r=RANK, target_modules="all-linear", lora_dropout=0.0, task_type="CAUSAL_LM"),
        rollout_func=random_tokens,
    )
    trainer.train()
    settings = PlanSettings(
        "hapo",
        max_prompt_length=PROMPT,
        max_completion_length=COMPLETION,
        per_device_train_batch_size=ROWS,
        num_generations=ROWS,
        dtype="bfloat16",
        gradient_checkpointing=checkpointing,
        use_peft=True,
        lora_r=RANK,
        lora_target_modules=["all-linear"],
    )
    shape = Architecture.from_config(AutoConfig.from_pretrained(smollm2))
    made = plan(settings, shape)
    planned = made.parts["backward"]
    parameters = list(trainer.model.parameters())
    assert sum(value.nbytes for value in parameters) == planned["weights"] + planned["adapter"]
    moments = [value for state in trainer.optimizer.state.values() for value in state.values() if value.ndim]
    assert sum(value.nbytes for value in moments) == planned["optimizer"]

    # What remains is what a step creates. Its first micro-batch begins without gradients.
    before = ("weights", "adapter", "optimizer", "gradients")
    loss, backward = (
        made.allocated(phase) - sum(made.parts[phase].get(part, 0.0) for part in before)
        for phase in ("loss", "backward")
    )
    scored, all_tokens = ROWS * COMPLETION, ROWS * (PROMPT + COMPLETION - 1)
    loss += lm_head_bytes(shape, all_tokens) - lm_head_bytes(shape, scored)
    print(f"{checkpointing=} {trainer.peak=:,} {trainer.comparable=:,} {loss=:,.0f} {backward=:,.0f}")
    assert trainer.comparable == pytest.approx(max(loss, backward), rel=0.05)
    # Seven float32 copies of a tile and a boolean one, where the peak is in the LM head.
    assert trainer.peak - trainer.comparable == pytest.approx(29 * all_tokens * LM_HEAD_TILE[1], rel=0.05)
