# SPDX-License-Identifier: Apache-2.0
"""
What every slot promises, by one battery: exact resume at every step of two epochs, with LoRA and `beta > 0`, and the same run on
two processes whose groups straddle them. The rows are in `tests/slot_rows.py`.
"""

from __future__ import annotations

import json

import pytest
import torch
from peft import LoraConfig
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from tests import slot_rows, tiny
from tests.distributed import contract
from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer
from trl_concise.components import TrainerView


class StopAt(TrainerCallback):
    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = control.should_training_stop or state.global_step >= self.step


@pytest.mark.parametrize("row", slot_rows.ROWS)
def test_resumes_at_every_step_of_two_epochs_with_an_adapter_and_a_kl_term(row, tiny_model, tmp_path):
    changes = {
        "peft_config": LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights="gaussian"),
        "beta": 0.1,
        "per_device_train_batch_size": 6,
        "steps_per_generation": 2,  # three prompts per generation, which two steps train on: groups straddle micro-batches
        "max_steps": 8,  # two epochs of six prompts
        "save_strategy": "steps",
        "save_steps": 1,
    }

    def build(folder):
        return slot_rows.build(ConciseGRPOTrainer, ConciseGRPOConfig, tiny_model, folder, row, **changes)

    whole = build(tmp_path / "whole")
    whole.train()
    expected = slot_rows.logged(whole)
    assert len(expected) == 8 and any(entry["grad_norm"] for entry in expected)
    for step in range(1, 8):
        resumed = build(tmp_path / "resumed")
        resumed.add_callback(StopAt(step + 2))  # the rest of its generation, and the next one
        resumed.args.save_strategy = "no"
        resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
        assert slot_rows.logged(resumed) == expected[: step + 2], step


@pytest.mark.parametrize("row", slot_rows.ROWS)
def test_two_processes_train_as_one(row, tiny_model, tmp_path, two_processes):
    ranks = [json.loads((two_processes / "contract" / f"{row}{rank}.json").read_text()) for rank in (0, 1)]
    one = json.loads(json.dumps(contract.report(contract.train(tiny_model, tmp_path, row, rows_per_process=12))))
    assert [rank.pop("world_size") for rank in ranks] == [2, 2] and one.pop("world_size") == 1
    assert ranks[0]["state"] == ranks[1]["state"] == one["state"]
    for two, single in zip(ranks[0]["logged"], one["logged"], strict=True):
        assert two.keys() == single.keys() and single["grad_norm"] > 0
        for key in contract.COMPARED & single.keys():
            assert two[key] == pytest.approx(single[key], abs=1e-5, rel=1e-3), key


def test_empty_slots_are_neutral(tiny_model, tmp_path):
    def run(trainer_class, config_class, **slots):
        args = config_class(**tiny.settings(tmp_path, beta=0.1, max_steps=3))
        trainer = trainer_class(tiny_model, [tiny.even_reward], args, slot_rows.problems(), **slots)
        trainer.train()
        return tiny.losses(trainer), [parameter.detach() for parameter in trainer.model.parameters()]

    losses, weights = run(GRPOTrainer, GRPOConfig)
    empty = {slot: [] if several else None for slot, several in slot_rows.slots().items()}
    own_losses, own_weights = run(ConciseGRPOTrainer, ConciseGRPOConfig, **empty)
    assert own_losses == losses and any(losses)
    assert all(torch.equal(a, b) for a, b in zip(own_weights, weights, strict=True))


def test_the_trainer_has_what_components_may_use(tiny_model, tmp_path):
    trainer = slot_rows.build(ConciseGRPOTrainer, ConciseGRPOConfig, tiny_model, tmp_path, "measures")
    documented = {name for name in [*TrainerView.__annotations__, *vars(TrainerView)] if not name.startswith("_")}
    assert len(documented) > 20 and all(hasattr(trainer, name) for name in documented)


# What a dropped completion leaves in the loss


@pytest.mark.parametrize("loss_type", ["dapo", "cispo", "vespo", "grpo", "sapo", "luspo", "dr_grpo"])
@pytest.mark.parametrize("divisor", ["kept", "all"])
def test_dropped_completions_are_divided_by_as_stated_however_the_batch_is_split(
    divisor, loss_type, tiny_model, tmp_path
):
    """One optimizer step on twelve completions, half of them dropped: in one micro-batch, and in four."""

    def gradients(drops: str, rows: int, **changes):
        args = ConciseGRPOConfig(
            **tiny.settings(
                tmp_path,
                max_steps=1,
                beta=0.1,
                loss_type=loss_type,
                per_device_train_batch_size=rows,
                gradient_accumulation_steps=12 // rows,
                max_grad_norm=1e9,
                **changes,
            )
        )
        trainer = ConciseGRPOTrainer(
            tiny_model,
            [slot_rows.correct_if_even],
            args,
            slot_rows.problems(),
            rollout_func=slot_rows.rollout,
            advantage=None if drops == "none" else slot_rows.ShortestHalf(drops),
        )
        start = [parameter.detach().clone() for parameter in trainer.ref_model.parameters()]
        seen: list[torch.Tensor] = []
        trainer.add_callback(Gradients(seen))
        trainer.train()
        assert len(start) == len(seen)
        return torch.cat([gradient.flatten() for gradient in seen])

    whole, split = (gradients(divisor, rows) for rows in (12, 3))
    assert torch.allclose(whole, split, atol=1e-6) and whole.abs().max() > 1e-4
    other = gradients({"kept": "all", "all": "kept"}[divisor], 12)
    ratio = (whole @ other / (other @ other)).item()
    assert torch.allclose(whole, ratio * other, atol=1e-6), (
        "another divisor changes the size only, also of the KL term"
    )
    kept_tokens, all_tokens = kept_and_all()
    expected = all_tokens / kept_tokens if loss_type in ("dapo", "cispo", "vespo") else 2.0
    assert ratio == pytest.approx(expected if divisor == "kept" else 1 / expected, rel=1e-3)


def kept_and_all() -> tuple[int, int]:
    """Tokens, EOS included, of the shorter half of each group at step 0, and of all completions."""
    lengths = [len(slot_rows.token_ids(0, row)) for row in range(12)]
    kept = [sorted(lengths[start : start + 4])[:2] for start in (0, 4, 8)]
    return sum(map(sum, kept)), sum(lengths)


class Gradients(TrainerCallback):
    def __init__(self, seen: list[torch.Tensor]):
        self.seen = seen

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        self.seen.extend(parameter.grad.detach().clone() for parameter in model.parameters())


def test_a_loss_that_divides_by_micro_batches_cannot_drop(tiny_model, tmp_path):
    trainer = slot_rows.build(
        ConciseGRPOTrainer, ConciseGRPOConfig, tiny_model, tmp_path, "advantage", loss_type="bnpo"
    )
    with pytest.raises(ValueError, match='ShortestHalf drops completions, but loss_type="bnpo"'):
        trainer.train()
