# SPDX-License-Identifier: Apache-2.0
"""
What every slot promises, by one battery: exact resume at every step of two epochs, with LoRA and `beta > 0`, and the same run on
two processes whose groups straddle them. The rows are in `tests/slot_rows.py`.
"""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from peft import LoraConfig
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from tests import sketches, slot_rows, tiny
from tests.distributed import contract
from tests.distributed.rows import Verify
from trl_concise import (
    ConciseGRPOConfig,
    ConciseGRPOTrainer,
)
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
        "per_device_train_batch_size": 6,
        "steps_per_generation": 2,  # three prompts per generation, which two steps train on: groups straddle micro-batches
        "max_steps": 8,  # two epochs of six prompts
        "save_strategy": "steps",
        "save_steps": 1,
    }

    if row != "reference_without_kl":
        changes["beta"] = 0.1

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
def test_dropped_completions_are_divided_by_as_stated_however_the_batch_is_split(loss_type, tiny_model, tmp_path):
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

    whole = {}
    for divisor in ("kept", "all"):
        whole[divisor], split = (gradients(divisor, rows) for rows in (12, 3))
        assert torch.allclose(whole[divisor], split, atol=1e-6) and split.abs().max() > 1e-4
    ratio = (whole["kept"] @ whole["all"] / (whole["all"] @ whole["all"])).item()
    assert torch.allclose(whole["kept"], ratio * whole["all"], atol=1e-6), (
        "another divisor changes the size only, also of the KL term"
    )
    kept_tokens, all_tokens = kept_and_all()
    expected = all_tokens / kept_tokens if loss_type in ("dapo", "cispo", "vespo") else 2.0
    assert ratio == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo"])
def test_added_rows_share_the_divisor_of_the_kept_completions(loss_type, tiny_model, tmp_path):
    """With half of the completions dropped, both terms of the loss double, for the batch and for the rows of a component."""

    def gradients(drops: str):
        args = ConciseGRPOConfig(
            **tiny.settings(
                tmp_path,
                max_steps=1,
                beta=0.1,
                loss_type=loss_type,
                per_device_train_batch_size=12,
                max_grad_norm=1e9,
            )
        )
        trainer = tiny.spy(ConciseGRPOTrainer)(
            tiny_model,
            [slot_rows.correct_if_even, Verify()],
            args,
            slot_rows.problems(),
            rollout_func=slot_rows.rollout,
            advantage=slot_rows.ShortestHalf(drops),
        )
        seen: list[torch.Tensor] = []
        trainer.add_callback(Gradients(seen))
        trainer.train()
        added = trainer.seen[0][0]["prompt_mask"].sum(dim=1) > 3  # prompts of the batch have three tokens
        advantages = trainer.seen[0][0]["advantages"][added]
        assert 0 < added.sum() < len(added) and advantages.any()
        return torch.cat([gradient.flatten() for gradient in seen])

    kept, every = gradients("kept"), gradients("all")
    assert kept.abs().max() > 1e-4 and torch.allclose(kept, 2 * every, atol=1e-6)


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


# Rollouts


@pytest.mark.parametrize(
    "changes", [{}, {"steps_per_generation": 2}], ids=["old policy is current", "old policy is scored"]
)
def test_forced_tokens_have_the_probability_that_they_were_drawn_with(changes, tiny_model, tmp_path):
    """The loss of each micro-batch, against one computed from all logits of an untouched model."""
    trainer = slot_rows.build(
        tiny.spy(ConciseGRPOTrainer),
        ConciseGRPOConfig,
        tiny_model,
        tmp_path,
        "rollout_forced",
        max_steps=1,
        **changes,
    )
    model = tiny.load(tiny_model)
    trainer.train()
    assert trainer.seen
    for inputs, loss, _ in trainer.seen:
        logps = tiny.whole_logps(model, inputs)
        mask = inputs["completion_mask"].bool()
        forced = inputs["is_forced"]
        assert 0 < forced.sum() < mask.sum() and not (forced & ~mask).any()
        ratio = torch.where(forced, (logps - torch.tensor(0.5).log()).exp(), 1.0)
        advantages = inputs["advantages"][:, None]
        per_token = -torch.min(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
        steps = changes.get("steps_per_generation", 1)
        expected = (per_token * mask).sum() / (inputs["num_items_in_batch"] / steps)
        assert loss.item() == pytest.approx(expected.item(), abs=1e-5) and loss.abs() > 1e-3
        assert set(inputs["row_weight"].tolist()) <= {1.0, 2.0, 3.0}  # for the `_compute_loss` of a subclass


def test_copied_tokens_carry_no_loss_and_evaluation_samples_as_trl_does(tiny_model, tmp_path):
    trainer = slot_rows.build(
        tiny.spy(ConciseGRPOTrainer), ConciseGRPOConfig, tiny_model, tmp_path, "rollout_copied", max_steps=1
    )
    trainer.eval_dataset = slot_rows.problems().select(range(2))
    trainer.evaluate()
    assert trainer._batch is None and not hasattr(trainer, "seen")
    trainer.train()
    for inputs, _, _ in trainer.seen:
        thinks = (inputs["completion_ids"][:, 1] == 30) & (inputs["completion_ids"][:, 0] < 27)
        assert thinks.any() and not thinks.all()
        assert not inputs["tool_mask"][thinks, :2].any() and inputs["tool_mask"][~thinks, 0].all()


class Careless(slot_rows.Forced):
    def __init__(self, **changes):
        super().__init__()
        self.changes = changes

    def generate(self, trainer, rows):
        return dataclasses.replace(super().generate(trainer, rows), **self.changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"completion_ids": [[1], []]}, "returned 2 completions, of at least 0 tokens, for 8 rows"),
        ({"mask": [[1]] * 8}, "mask that do not match"),
        ({"old_logps": [[0.5]] * 8}, "old_logps that do not match"),
        ({"numbers": {"solution": [1.0] * 8}}, "under a name that is not a column"),
        ({"numbers": {"x": [1.0]}}, "returned 1 numbers as 'x' for 8 rows"),
        ({"columns": {"solution": ["?"] * 8}}, "under a name that is not a column"),
        ({"columns": {"x": ["?"]}}, "returned 1 values as 'x' for 8 rows"),
        ({"tensors": {"x": torch.ones(3)}}, "first dimension is 8"),
        ({"tensors": {"advantages": torch.ones(8)}}, r"has the names \['advantages'\]"),
    ],
)
def test_a_rollout_that_returns_something_else_is_named(changes, message, tiny_model, tmp_path):
    args = ConciseGRPOConfig(**tiny.settings(tmp_path))
    trainer = ConciseGRPOTrainer(
        tiny_model, [tiny.even_reward], args, slot_rows.problems(), rollout=Careless(**changes)
    )
    with pytest.raises(ValueError, match=message):
        trainer.train()


def test_one_component_generates(tiny_model, tmp_path):
    args = ConciseGRPOConfig(**tiny.settings(tmp_path))
    with pytest.raises(ValueError, match=r"rollout=Forced\(\) generates the completions, but rollout_func"):
        ConciseGRPOTrainer(
            tiny_model,
            [tiny.even_reward],
            args,
            slot_rows.problems(),
            rollout=slot_rows.Forced(),
            rollout_func=slot_rows.rollout,
        )


@pytest.mark.parametrize("name", sketches.SKETCHES)
def test_methods_are_sketched_in_a_few_lines(name, tiny_model, tmp_path):
    given = {"reward_funcs": [slot_rows.correct_if_even], "trainer": ConciseGRPOTrainer, **sketches.SKETCHES[name]()}
    if "rollout" not in given:
        given["rollout_func"] = slot_rows.rollout
    args = ConciseGRPOConfig(**tiny.settings(tmp_path, **given.pop("args", {})))
    trainer = given.pop("trainer")(tiny_model, args=args, train_dataset=slot_rows.problems(), **given)
    trainer.train()
    assert trainer.state.global_step == 2
    assert any(entry["grad_norm"] > 0 for entry in slot_rows.logged(trainer))
