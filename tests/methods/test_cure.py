# SPDX-License-Identifier: Apache-2.0
"""Golden values: computed by hand from the description of the method, independently of this package."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from tests import slot_rows, tiny
from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer, DynamicSampling, ShorterBetterReward
from trl_concise.methods.cure import CURE, has_text, rank_critical_tokens, source_of


TEXTS = ["So", " ", "Wait", ",", "let", "<end>", " I ", "we"]
ENTROPIES = [2.0, 0.1, 1.5, 1.4, 0.2]


def attached(**settings) -> CURE:
    """Return a component with a tokenizer whose token ids are positions in TEXTS."""
    backend = Tokenizer(models.WordLevel({text: id for id, text in enumerate(TEXTS)}, unk_token="So"))
    backend.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")
    cure = CURE(**settings)
    size = cure.sources * (1 + cure.forks)
    cure.attach(SimpleNamespace(num_generations=size, group_rewards={}, processing_class=tokenizer, end_token_ids={5}))
    return cure


def test_golden_order_and_prefix():
    valid = [has_text(text) for text in TEXTS[:5]]
    assert rank_critical_tokens(ENTROPIES, valid) == [2, 4]
    assert rank_critical_tokens(ENTROPIES, valid, top_k=1) == [2]
    cure = attached(top_k=1)
    prefix = cure.choose_prefix([9, 9], [0, 1, 2, 3, 4], ENTROPIES, np.random.default_rng(0))
    assert prefix.token_ids == [0, 1] and prefix.entropy == 1.5  # "So" and " "
    # Both candidates are drawn, equally often.
    wide = attached()
    drawn = [
        len(wide.choose_prefix([9], [0, 1, 2, 3, 4], ENTROPIES, np.random.default_rng(i)).token_ids)
        for i in range(400)
    ]
    assert set(drawn) == {2, 4} and 160 < drawn.count(2) < 240


def test_golden_group():
    assert [source_of(row, 4, 3) for row in range(16)] == [0, 1, 2, 3, 0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert source_of(16, 4, 3) == 16 and source_of(20, 4, 3) == 16  # the next group


@given(st.integers(1, 6), st.integers(0, 5), st.integers(0, 3))
def test_every_source_of_a_group_has_as_many_forks(sources, forks, group):
    size = sources * (1 + forks)
    origins = [source_of(group * size + member, sources, forks) - group * size for member in range(size)]
    assert origins[:sources] == list(range(sources)) and origins == origins[:sources] + sorted(origins[sources:])
    assert all(origins.count(source) == 1 + forks for source in range(sources))


IDS = st.lists(st.integers(0, len(TEXTS) - 1), min_size=1, max_size=12)


@given(IDS, st.data(), st.sampled_from(["entropy", "random"]), st.integers(1, 4), st.integers(0, 9))
def test_the_critical_token_is_valid_and_not_copied(ids, data, ordering, top_k, seed):
    entropies = data.draw(st.lists(st.floats(0, 5), min_size=len(ids), max_size=len(ids)))
    cure = attached(ordering=ordering, top_k=top_k, max_prompt_length=8)
    prefix = cure.choose_prefix([9, 9], ids, entropies, np.random.default_rng(seed))
    again = cure.choose_prefix([9, 9], ids, entropies, np.random.default_rng(seed))
    assert repr(prefix) == repr(again)  # NaN included
    valid = [t for t in range(1, len(ids)) if TEXTS[ids[t]] in ("So", "Wait", "let", "we")]
    if prefix.has_no_token or prefix.is_too_long:
        assert prefix.token_ids == [] and math.isnan(prefix.entropy)
        assert prefix.has_no_token == (not valid) and (valid or not prefix.is_too_long)
        assert not prefix.is_too_long or any(2 + t > 8 for t in valid)
        return
    chosen = len(prefix.token_ids)
    assert chosen in valid and prefix.token_ids == ids[:chosen] and prefix.entropy == entropies[chosen]
    assert 2 + chosen <= 8
    if ordering == "entropy":
        assert sum(entropies[t] > prefix.entropy for t in valid) < top_k


class Noted(CURE):
    """Keeps what it has generated."""

    def generate(self, trainer, rows):
        generated = super().generate(trainer, rows)
        self.__dict__.setdefault("seen", []).append(
            (trainer.state.global_step, [dict(row) for row in rows], generated)
        )
        return generated


SMALL = {"sources": 2, "forks": 3, "min_characters": 1}  # the tokens of the tiny model are bytes


def build(model, problems, folder, rollout, reward=tiny.even_reward, slots=None, peft_config=None, **changes):
    settings = {"num_generations": 8, "per_device_train_batch_size": 16, "learning_rate": 1e-2, **changes}
    args = ConciseGRPOConfig(**tiny.settings(folder, **settings))
    return tiny.spy(ConciseGRPOTrainer)(
        model, reward, args, problems, rollout=rollout, peft_config=peft_config, **(slots or {})
    )


@pytest.mark.parametrize("kind", ["plain", "lora"])
def test_a_group_shares_one_baseline_and_prefixes_have_no_loss(kind, tiny_model, problems, tmp_path):
    judged = []

    def graded(completions, completion_ids, is_fork=None, **kwargs):
        judged.append((completions, completion_ids, is_fork))
        return [sum(ids) % 7 for ids in completion_ids]

    lora = LoraConfig(r=4, init_lora_weights=False) if kind == "lora" else None
    cure = Noted(**SMALL)
    trainer = build(
        *(tiny_model, problems, tmp_path, cure, graded),
        peft_config=lora,
        max_steps=1,
        epsilon_high=0.28,
        shuffle_dataset=False,
    )
    start = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    trainer.train()
    ((_, rows, generated),) = cure.seen
    ids, masks = generated.completion_ids, generated.mask
    for row, (own, mask) in enumerate(zip(ids, masks, strict=True)):
        copied = mask.count(0)
        assert mask == [0] * copied + [1] * (len(own) - copied) and 1 in mask
        source = source_of(row, 2, 3)
        assert rows[row]["row"] == rows[source]["row"] and own[:copied] == ids[source][:copied]
        assert copied == generated.numbers["prefix_tokens"][row] < len(ids[source]) and (source != row or not copied)
    assert sum(mask.count(0) > 0 for mask in masks) >= 6
    # Rewards see the prefix and the fork as one completion.
    ((texts, seen_ids, is_fork),) = judged
    assert seen_ids == ids and is_fork == [0.0, 0.0, *[1.0] * 6] * 2
    assert texts == [
        [{"role": "assistant", "content": trainer.processing_class.decode(own, skip_special_tokens=True)}]
        for own in ids
    ]
    # One baseline per group, and the loss is that of the tokens that the model wrote.
    ((inputs, loss, gradients),) = trainer.seen
    rewards = torch.tensor([float(sum(own) % 7) for own in ids]).view(2, 8)
    expected = ((rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)).flatten()
    assert sorted(inputs["advantages"].tolist()) == pytest.approx(sorted(expected.tolist()), abs=1e-4)
    weight = inputs["completion_mask"] * inputs["tool_mask"]
    assert weight.sum() == sum(map(sum, masks))
    for parameter, before in zip(trainer.model.parameters(), start, strict=True):
        parameter.data = before
    model = trainer.accelerator.unwrap_model(trainer.model)
    logps = tiny.whole_logps(model.eval(), inputs)
    own_loss = -((logps - logps.detach()).exp() * inputs["advantages"][:, None] * weight).sum() / weight.sum()
    assert loss.item() == pytest.approx(own_loss.item(), abs=1e-5)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for own_gradient, gradient in zip(torch.autograd.grad(own_loss, trained), gradients, strict=True):
        torch.testing.assert_close(own_gradient, gradient, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(
    ("settings", "metric"),
    [
        ({"max_prompt_length": 3}, "prefix_too_long_fraction"),  # no prompt is that short
        ({"min_characters": 9}, "no_critical_token_fraction"),
    ],
)
def test_without_a_prefix_the_forks_begin_at_the_prompt_and_are_counted(
    settings, metric, tiny_model, problems, tmp_path
):
    cure = Noted(**{**SMALL, **settings})
    trainer = build(tiny_model, problems, tmp_path, cure, max_steps=1)
    trainer.train()
    ((_, _, generated),) = cure.seen
    assert all(all(mask) for mask in generated.mask)
    (log,) = slot_rows.logged(trainer)
    counted = {name: log[f"cure/{name}"] for name in ("prefix_too_long_fraction", "no_critical_token_fraction")}
    assert counted.pop(metric) == 1 and list(counted.values()) == [0]
    assert "cure/prefix_tokens" not in log and 0 <= log["cure/fork_accuracy"] <= 1


def test_it_trains_with_everything_at_once_and_resumes(tiny_model, problems, tmp_path):
    """A KL term, several updates per generation, accumulation, replaced groups, truncated completions without loss, evaluation."""

    def run(folder, **changes):
        cure = Noted(**SMALL)
        trainer = build(
            *(tiny_model, problems, tmp_path / folder, cure),
            slots={"group_filter": DynamicSampling(1, score="reward")},
            beta=0.1,
            num_iterations=2,
            per_device_train_batch_size=8,
            gradient_accumulation_steps=2,
            mask_truncated_completions=True,
            loss_type="dr_grpo",
            max_steps=4,
            **changes,
        )
        return trainer, cure

    trainer, cure = run("whole", save_strategy="steps", save_steps=1)
    trainer.train()
    expected = slot_rows.logged(trainer)
    assert len(expected) == 4 and all(math.isfinite(entry["loss"]) and "kl" in entry for entry in expected)
    assert {step for step, _, _ in cure.seen} == {0, 2}
    trainer.evaluate(problems.select(range(4)))
    assert len({step for step, _, _ in cure.seen}) == 2  # evaluation samples from the prompts
    resumed, again = run("resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-1"))  # within a block
    assert slot_rows.logged(resumed) == expected
    last = [(generated.completion_ids, generated.mask) for step, _, generated in cure.seen if step == 2]
    assert [(generated.completion_ids, generated.mask) for _, _, generated in again.seen] == last


def test_the_critical_token_depends_on_seed_step_prompt_and_completion_alone(tiny_model, problems, tmp_path):
    class OneCompletion(ConciseGRPOTrainer):
        def _generate_single_turn(self, prompt_ids, images, multimodal_fields, num_generations):
            return [list(range(40, 60)) for _ in prompt_ids], [[-1.0] * 20 for _ in prompt_ids]  # as vLLM does

    def prefixes(step=0, **changes):
        settings = {"num_generations": 8, "max_completion_length": 24, **changes}
        args = ConciseGRPOConfig(**tiny.settings(tmp_path, **settings))
        cure = CURE(**SMALL)
        trainer = OneCompletion(tiny_model, tiny.even_reward, args, problems, rollout=cure)
        trainer.state.global_step = step
        generated = cure.generate(trainer, [problems[row // 8] for row in range(16)])
        # The sampler has no log-probability of a copied token.
        known = [[int(logp == -1) for logp in row] for row in generated.logps]
        assert known == generated.mask
        return [int(tokens) for tokens in generated.numbers["prefix_tokens"]]

    first = prefixes()
    assert first == prefixes() and first[:2] == [0, 0] and all(first[2:8])
    assert first[2] == first[3] == first[4] != first[5] == first[6] == first[7]  # two completions
    assert len({tuple(first[:8]), tuple(first[8:])}) == 2  # two prompts
    assert first != prefixes(step=1) and first != prefixes(seed=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sources": 0}, "sources must be at least 1, got 0"),
        ({"forks": -1}, "forks must be at least 0, got -1"),
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"min_characters": -1}, "min_characters must be at least 0, got -1"),
        ({"max_prompt_length": 0}, "max_prompt_length must be at least 1, got 0"),
        ({"ordering": "surprise"}, r"ordering must be one of \('entropy', 'random'\), got 'surprise'"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        CURE(**settings)


@pytest.mark.parametrize("forks", [3, 0])
def test_a_group_of_another_size_is_refused(forks, tiny_model, problems, tmp_path):
    message = rf"groups of 4 \* \(1 \+ {forks}\) = {4 + 4 * forks} completions, but num_generations = 8. Set num_generations="
    with pytest.raises(ValueError, match=message):
        build(tiny_model, problems, tmp_path, CURE(forks=forks))


def test_it_warns_of_a_reward_that_may_compare_lengths(tiny_model, problems, tmp_path, caplog):
    def warnings(forks: int) -> list[str]:
        caplog.clear()
        rewards = [tiny.even_reward, ShorterBetterReward()]
        build(tiny_model, problems, tmp_path, CURE(8 // (1 + forks), forks), rewards)
        return [record.message for record in caplog.records if "CURE" in record.message]

    (warning,) = warnings(forks=3)
    assert "['shorter_better']" in warning and "prefers forks" in warning
    assert not warnings(forks=0)
