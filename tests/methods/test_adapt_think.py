# SPDX-License-Identifier: Apache-2.0
"""Golden values: the advantages from the authors' rule, the ratios from exp of the mean log-ratio, both computed by hand."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from trl import GRPOConfig

from tests import tiny
from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer, demo, load_problems, math_accuracy_reward
from trl_concise.evaluation import filter_problems
from trl_concise.methods.adapt_think import (
    AdaptThink,
    AdaptThinkConfig,
    AdaptThinkTrainer,
    ForcedModes,
    adapt_think_advantage,
    count_direct,
)


LIMIT = 40  # tokens: some direct answers end within them


def problems(count: int = 8, reference: float | None = 0.5625) -> Dataset:
    rows = demo.train_dataset(count)
    return rows.add_column("pass_rate", [reference] * count)


def make(folder, *, trainer_class=AdaptThinkTrainer, dataset=None, **changes):
    settings = {"max_completion_length": LIMIT, "thinking_start": "We", **changes}
    return trainer_class(
        str(demo.model_path()),
        math_accuracy_reward,
        AdaptThinkConfig(**tiny.settings(folder, **settings)),
        problems() if dataset is None else dataset,
    )


def test_golden_advantages():
    reward, is_direct = torch.tensor([1.0, 0, 1, 0]), torch.tensor([True, True, False, False])
    advantages = adapt_think_advantage(reward, torch.full((4,), 0.5625), is_direct)
    assert advantages.tolist() == pytest.approx([0.4875, -0.5125, 0.4375, -0.5625])


ROWS = st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.floats(0, 1), st.booleans()), min_size=1, max_size=8)


@given(ROWS, st.floats(0, 1))
def test_advantages_depend_on_no_other_completion(rows, delta):
    reward, reference, is_direct = (torch.tensor(values) for values in zip(*rows, strict=True))
    advantages = adapt_think_advantage(reward, reference, is_direct, delta=delta)
    changed = torch.cat([1 - reward[:1], reward[1:]])
    assert torch.equal(adapt_think_advantage(changed, reference, is_direct, delta=delta)[1:], advantages[1:])
    other = adapt_think_advantage(reward, reference, ~is_direct, delta=delta)
    assert torch.where(is_direct, advantages - other, other - advantages).tolist() == pytest.approx(
        [delta] * len(rows), abs=1e-6
    )


@pytest.mark.parametrize(
    ("group", "share", "direct"), [(16, 0.5, 8), (8, 0.25, 2), (4, 0.0, 0), (4, 1.0, 4), (6, 0.6, 4)]
)
def test_share_of_a_group(group, share, direct):
    assert count_direct(group, share) == direct


# Training


@pytest.fixture(scope="module", params=["sequence", "token"])
def trained(request, tmp_path_factory):
    """Two steps of the embedded model with each reading of the importance correction, and what the advantage saw."""
    seen = []

    class Noted(AdaptThinkTrainer):
        def _own_slots(self, args):
            slots = super()._own_slots(args)
            compute = slots["advantage"].compute
            slots["advantage"].compute = lambda *given: seen.append((given[0], compute(*given))) or seen[-1][1]
            return slots

    trainer = make(
        tmp_path_factory.mktemp("adapt"),
        trainer_class=tiny.spy(Noted),
        learning_rate=1e-5,
        importance_sampling_level=request.param,
    )
    trainer.train()
    return trainer, seen


def test_each_half_of_a_group_is_forced_into_a_mode(trained):
    trainer, seen = trained
    for (rollouts, advantages), (inputs, _, _) in zip(seen, trainer.seen, strict=True):
        is_direct = rollouts.measured["forced_modes"]["direct"] == 1
        assert is_direct.tolist() == [True, True, False, False] * 2
        firsts = trainer.processing_class.batch_decode(inputs["completion_ids"][:, :1])
        assert sorted(firsts) == ["</think>"] * 4 + ["We"] * 4
        # The forced token is trained on, with the probability of its mode, and no other token has one.
        assert inputs["completion_mask"][:, 0].all() and "tool_mask" not in inputs
        assert inputs["is_forced"][:, 0].all() and not inputs["is_forced"][:, 1:].any()
        assert inputs["forced_logps"][:, 0].tolist() == pytest.approx([math.log(0.5)] * 8)
        reward = torch.where(rollouts.truncated, 0.0, rollouts.correct)
        expected = 0.05 * is_direct + reward - 0.5625
        assert advantages.tolist() == pytest.approx(expected.tolist())
        assert sorted(inputs["advantages"].tolist()) == pytest.approx(sorted(expected.tolist()))
    assert any(not rollouts.truncated.all() for rollouts, _ in seen)


def test_the_loss_of_both_readings(trained):
    """
    The mean over completions of max(-A s, -A clip(s, 0.8, 1.2)); no dual clip, no KL. The released reading has the ratio s of whole
    completions, the other one that of each token, and the mean over tokens.
    """
    trainer, _ = trained
    inputs, loss, gradients = trainer.seen[0]
    model = AutoModelForCausalLM.from_pretrained(demo.model_path())  # before the first step
    mask = inputs["completion_mask"]
    logps = tiny.whole_logps(model, inputs)
    old = torch.cat([torch.full_like(logps[:, :1], math.log(0.5)), logps[:, 1:].detach()], dim=1)
    ratio, advantages = (logps - old).exp(), inputs["advantages"][:, None]
    if trainer.importance_sampling_level == "sequence":
        ratio = (((logps - old) * mask).sum(dim=1) / mask.sum(dim=1)).exp()[:, None]
    losses = torch.max(-advantages * ratio, -advantages * ratio.clamp(0.8, 1.2)) * mask
    by_hand = (losses.sum(dim=1) / mask.sum(dim=1)).mean()
    assert loss.item() == pytest.approx(by_hand.item(), abs=1e-5)
    expected = torch.autograd.grad(by_hand, [p for p in model.parameters() if p.requires_grad])
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-2)


def test_the_card_names_the_method_once(trained):
    """Although the trainer adds two components of the paper."""
    trainer, _ = trained
    trainer.create_model_card()
    card = Path(trainer.args.output_dir, "README.md").read_text()
    assert card.count("| AdaptThink |") == 1 and "| `AdaptThink(thinking_start)` | We |" in card


@pytest.fixture(scope="module")
def uniform_model():
    """A model that writes each of 50 tokens with probability 0.02, whatever precedes them."""
    words = ["<pad>", "<eos>", "<unk>", "<think>", "</think>", "We", *map(str, range(44))]
    of_words = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
    of_words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=of_words, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    tokenizer.chat_template = "{{ messages[0]['content'] }}{{ ' <think>' if add_generation_prompt }}"
    config = AutoConfig.for_model(
        "qwen2",
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    model = AutoModelForCausalLM.from_config(config)
    model.model.norm.weight.data.zero_()
    model.config._name_or_path = "uniform"  # of the card
    return model, tokenizer


# By the number of tokens: of the sequence, 0.04 ** (1 / length); of tokens, the mean of 0.04 and ones.
RATIOS = {("sequence", 2): 0.2, ("sequence", 300): 0.989327770604733, ("token", 2): 0.52, ("token", 300): 0.9968}


@pytest.mark.parametrize(("level", "length"), RATIOS)
def test_golden_ratios_of_both_readings_in_training(level, length, uniform_model, tmp_path):
    """A first token that the policy writes with probability 0.02, and that is forced with 0.5."""
    model, tokenizer = uniform_model
    row = {"prompt": [{"role": "user", "content": "3 4"}], "solution": "12", "pass_rate": 0.0}
    settings = tiny.settings(
        tmp_path,
        max_steps=1,
        per_device_train_batch_size=4,
        max_completion_length=length,
        generation_kwargs={"min_new_tokens": length - 1},
        importance_sampling_level=level,
        thinking_start="We",
        direct_bonus=1.0,  # the advantage of a direct answer that is wrong; 0 with thinking
    )
    trainer = tiny.spy(AdaptThinkTrainer)(
        copy.deepcopy(model),
        math_accuracy_reward,
        AdaptThinkConfig(**settings),
        Dataset.from_list([row] * 4),
        processing_class=tokenizer,
    )
    trainer.train()
    ((inputs, loss, _),) = trainer.seen
    assert inputs["completion_mask"].sum(dim=1).tolist() == [length] * 4
    assert sorted(inputs["advantages"].tolist()) == [0, 0, 1, 1]
    assert -2 * loss.item() == pytest.approx(RATIOS[level, length], abs=1e-5)


@pytest.mark.parametrize(("share", "corrects"), [(0.0, True), (1.0, True), (0.5, False)])
def test_extreme_shares_and_no_correction(share, corrects, tmp_path):
    trainer = make(
        tmp_path,
        trainer_class=tiny.spy(AdaptThinkTrainer),
        direct_share=share,
        corrects_importance=corrects,
        max_steps=1,
    )
    trainer.train()
    ((inputs, loss, gradients),) = trainer.seen
    assert loss.isfinite() and all(gradient.isfinite().all() for gradient in gradients)
    firsts = trainer.processing_class.batch_decode(inputs["completion_ids"][:, :1])
    assert firsts.count("</think>") == 8 * share
    if corrects:
        assert inputs["forced_logps"][:, 0].tolist() == [0.0] * 8  # the other mode has the probability 0
    else:
        assert not inputs["is_forced"].any()
        assert any(gradient.abs().max() > 0 for gradient in gradients)


def test_direct_answers_may_have_a_limit_of_their_own(tmp_path):
    trainer = make(tmp_path, trainer_class=tiny.spy(AdaptThinkTrainer), max_direct_length=5, max_steps=1)
    trainer.train()
    ((inputs, _, _),) = trainer.seen
    lengths, direct = inputs["completion_mask"].sum(dim=1), inputs["completion_ids"][:, 0] == trainer.rollout._end
    assert lengths[direct].max() == 5 < lengths[~direct].min()
    (log,) = [entry for entry in trainer.state.log_history if "forced_modes/direct_tokens" in entry]
    assert log["forced_modes/direct_tokens"] == 5 and log["forced_modes/direct_accuracy"] == 0
    assert 0 <= log["forced_modes/direct_probability"] < 0.1  # the embedded model always thinks
    assert log["adapt_think/reference_accuracy"] == pytest.approx(0.5625)


def test_evaluation_forces_nothing(tmp_path):
    firsts = []

    def noted(completion_ids, **kwargs):
        firsts.extend(ids[0] for ids in completion_ids)
        return math_accuracy_reward(**kwargs)

    args = AdaptThinkConfig(**tiny.settings(tmp_path, max_completion_length=16, thinking_start="We"))
    untabled = demo.train_dataset(4)  # the accuracy of the reference is for training only
    trainer = AdaptThinkTrainer(str(demo.model_path()), noted, args, problems(), eval_dataset=untabled)
    metrics = trainer.evaluate()
    tokenizer = trainer.processing_class
    assert "</think>" not in tokenizer.batch_decode([[token] for token in firsts]) and len(set(firsts)) > 1
    assert metrics["eval_thinking_fraction"] == 1


def test_without_forced_modes_the_text_says_the_mode_and_form_counts(tiny_model, tmp_path):
    """Zero or two end markers, a start marker, or no end of the completion earn nothing."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = tiny.CHAT_TEMPLATE.replace("assistant\n", "assistant\n<think>\n")
    texts = [
        r"</think>\boxed{12}|",
        r"3*4</think>\boxed{12}|",
        r"3*4</think>\boxed{7}|",
        r"3*4</think></think>\boxed{12}|",
        r"\boxed{12}|",
        r"<think></think>\boxed{12}|",
        r"</think>\boxed{12}........",
        r"</think>\boxed{7}|",
    ]

    def rollout(prompts, trainer):
        ids = [[*tokenizer(text.rstrip("|")).input_ids, *[2] * text.endswith("|")] for text in texts]
        start = tokenizer.apply_chat_template(prompts[0], add_generation_prompt=True, tokenize=False)
        return {"prompt_ids": [tokenizer(start).input_ids] * 8, "completion_ids": ids, "logprobs": None}

    seen = []

    class Noted(AdaptThink):
        def compute(self, rollouts, advantages):
            seen.append(super().compute(rollouts, advantages))
            return seen[-1]

    row = {"prompt": [{"role": "user", "content": "3 * 4?"}], "solution": "12", "pass_rate": 0.25}
    trainer = ConciseGRPOTrainer(
        tiny_model,
        math_accuracy_reward,
        ConciseGRPOConfig(**tiny.settings(tmp_path, num_generations=8, max_completion_length=30, max_steps=1)),
        Dataset.from_list([row] * 8),
        processing_class=tokenizer,
        rollout_func=rollout,
        advantage=Noted(delta=0.1),
    )
    trainer.train()
    assert seen[0].tolist() == pytest.approx([0.85, 0.75, -0.25, -0.25, -0.25, -0.15, -0.15, -0.15])
    (log,) = [entry for entry in trainer.state.log_history if "adapt_think/malformed_fraction" in entry]
    assert log["adapt_think/malformed_fraction"] == pytest.approx(3 / 8)


# The table of the reference


def test_filter_writes_the_table(tmp_path):
    table = tmp_path / "table.jsonl"
    options = {"keep": (0, 1), "limit": 4, "num_completions": 2, "max_new_tokens": 160, "progress": False}
    assert filter_problems("demo", "demo", table, **options)["kept"] == 4
    dataset = load_problems(str(table))
    assert len(dataset) == 4 and all(rate in (0, 0.5, 1) for rate in dataset["pass_rate"])
    trainer = make(tmp_path, dataset=dataset, max_steps=1)
    before = dataset["pass_rate"][:]
    trainer.train()
    assert trainer.train_dataset["pass_rate"][:] == before


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        (
            None,
            r"8 of 8 rows have no accuracy of the reference in the column 'pass_rate', the first is row 0 \(None\)",
        ),
        ([0.5, 1.0, None, 0.0, 0.5, 0.5, None, 1.0], r"2 of 8 rows .* the first is row 2 \(None\)"),
        ([0.5, 1.5, 0.1, 0.0, 0.5, 0.5, 0.2, 1.0], r"1 of 8 rows .* row 1 \(1\.5\).*number in \[0, 1\].*--keep 0 1"),
        ([math.nan] * 8, "8 of 8 rows"),
    ],
)
def test_a_table_with_gaps_is_refused_before_training(rates, message, tmp_path):
    dataset = demo.train_dataset(8)
    with pytest.raises(ValueError, match=message):
        make(tmp_path, dataset=dataset if rates is None else dataset.add_column("pass_rate", rates))


def test_a_streamed_table_is_checked_in_training(tmp_path):
    trainer = make(tmp_path, dataset=demo.train_dataset(8).to_iterable_dataset())
    with pytest.raises(ValueError, match="8 of 8 rows have no accuracy of the reference"):
        trainer.train()


# Settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"direct_share": 1.5}, r"direct_share must lie in \[0, 1\], got 1\.5"),
        ({"direct_share": 0.1}, "direct_share = 0.1 of num_generations = 4 is 0 completions"),
        ({"direct_bonus": -0.1}, "delta must be at least 0 and finite, got -0.1"),
        ({"max_direct_length": 0}, "max_direct_length must be at least 1 token, got 0"),
        ({"max_direct_length": LIMIT + 1}, "max_direct_length = 41 has no effect.*max_completion_length = 40"),
        ({"thinking_start": "Alright"}, r"'Alright' is \d tokens of this tokenizer"),
    ],
)
def test_settings_are_checked(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        make(tmp_path, **changes)


@pytest.mark.parametrize("case", ["template", "markers", "text"])
def test_a_prompt_outside_the_thinking_is_refused(case, tmp_path):
    """Before training; in a stream, in the first batch."""
    tokenizer = AutoTokenizer.from_pretrained(demo.model_path())
    dataset, markers = problems(), {}
    if case == "template":
        tokenizer.chat_template = tiny.CHAT_TEMPLATE
    elif case == "markers":
        markers = {"start_marker": "[THINK]"}
    else:
        dataset = dataset.map(lambda row: {"prompt": row["prompt"][0]["content"]})

    def build(rows):
        return ConciseGRPOTrainer(
            str(demo.model_path()),
            math_accuracy_reward,
            ConciseGRPOConfig(**tiny.settings(tmp_path)),
            rows,
            processing_class=tokenizer,
            rollout=ForcedModes(thinking_start="We", **markers),
            advantage=AdaptThink(),
        )

    message = r"The prompt ends with '.*', not with '(<think>|\[THINK\])'"
    with pytest.raises(ValueError, match=message):
        build(dataset)
    if case == "template":
        trainer = build(dataset.to_iterable_dataset())
        with pytest.raises(ValueError, match=message):
            trainer.train()


def test_a_plain_config_keeps_its_loss(tmp_path):
    args = GRPOConfig(**tiny.settings(tmp_path, loss_type="dapo", delta=4.0))
    with pytest.raises(ValueError, match="'Alright' is"):  # the default; a plain config has no other
        AdaptThinkTrainer(str(demo.model_path()), math_accuracy_reward, args, problems())
    trainer = make(tmp_path)
    assert (trainer.loss_type, trainer.importance_sampling_level) == ("grpo", "sequence")
    assert trainer.args.delta is None  # of TRL, the upper bound of the ratio
