# SPDX-License-Identifier: Apache-2.0
"""Golden values: own arithmetic from the equation of the second turn; the authors' code was not found."""

from __future__ import annotations

import itertools
import json
import math
import random

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig
from transformers import AutoTokenizer

from tests import slot_rows, thinker_runs, tiny
from tests.distributed import thinker as distributed
from tests.thinker_runs import END, LIMIT, SAYS, Scripted, fast_text
from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer, demo
from trl_concise.batch.rollouts import Rollouts
from trl_concise.data.thinker_turns import next_turn, read_verdict, with_fast_instruction
from trl_concise.demo.problems import training_problems
from trl_concise.demo.thinker import INSTRUCTIONS, write_dialogue
from trl_concise.demo.tools import tokenize_transcript
from trl_concise.demo.variants import IGNORED
from trl_concise.methods.thinker import Thinker, normalize_rewards, summary_rewards, verification_rewards


# The equations

RIGHT, WRONG, YES, NO = 1.0, 0.0, 1.0, 0.0


def test_golden_values():
    fast = torch.tensor([RIGHT, RIGHT, WRONG, WRONG, RIGHT, WRONG, math.nan])
    verdicts = torch.tensor([YES, NO, NO, YES, math.nan, math.nan, YES])
    rewards = verification_rewards(fast, verdicts, p_fast=0.4)
    assert rewards[:6].tolist() == pytest.approx([0.6, 0, 0.4, 0, 0, 0]) and rewards[6].isnan()
    many = torch.tensor([RIGHT] * 4 + [WRONG] * 6)  # constant Yes and constant No earn 0.4 * 0.6
    for verdict in (YES, NO):
        assert verification_rewards(many, torch.full((10,), verdict), 0.4).mean().item() == pytest.approx(0.24)


@given(st.lists(st.booleans(), min_size=1, max_size=50))
def test_no_constant_verdict_is_better_at_the_true_accuracy(outcomes):
    fast = torch.tensor(outcomes, dtype=torch.float64)
    p_fast = fast.mean().item()
    yes, no = (verification_rewards(fast, torch.full_like(fast, verdict), p_fast) for verdict in (YES, NO))
    assert yes.mean().item() == pytest.approx(no.mean().item(), abs=1e-6)
    assert yes.mean().item() == pytest.approx(p_fast * (1 - p_fast), abs=1e-6)
    # Nor do advantages relative to right and wrong answers prefer one: a constant verdict has none.
    for rewards in (yes, no):
        assert not normalize_rewards(rewards.float(), fast.long(), "none").round(decimals=6).any()


def test_the_bonus_is_for_correct_summaries_only():
    correct, logps = torch.tensor([1.0, 0.0, math.nan]), torch.tensor([-20.0, -1.0, -1.0])
    assert summary_rewards(correct, logps, bonus=0.0)[:2].tolist() == [1, 0]
    found = summary_rewards(correct, logps, bonus=1e-3)
    assert found[:2].tolist() == pytest.approx([0.98, 0]) and found[2].isnan()


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_rewards_are_normalized_as_trl_does(scale):
    rewards = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.5, math.nan])
    found = normalize_rewards(rewards, torch.arange(8) // 4, scale)
    for start in (0, 4):
        own = rewards[start : start + 4]
        known = own[~own.isnan()]
        std = {"group": known.std(), "batch": rewards[:7].std(), "none": torch.tensor(1 - 1e-4)}[scale]
        expected = ((own - known.mean()) / (std + 1e-4)).nan_to_num()
        torch.testing.assert_close(found[start : start + 4], expected)
    assert not normalize_rewards(torch.tensor([1.0, math.nan]), torch.zeros(2).long(), scale).any()


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        (r"2+3=5 \boxed{Yes}", True),
        (r"\boxed{Yes}? No: \boxed{ no }", False),
        (r"\boxed{\text{No}}", False),
        (r"<think>\boxed{Yes}</think> \boxed{No}", False),
        (r"It is \boxed{5}." + "\n**Verdict: Yes.**", True),
        ("yes", True),
        ("Yes, all steps agree.", None),
        (r"\boxed{5}", None),
        ("", None),
    ],
)
def test_verdicts(text, verdict):
    assert read_verdict(text) is verdict


def test_p_fast_stays_between_0_and_1_and_only_such_a_state_is_loaded():
    thinker = Thinker(decay=0.5)
    assert thinker.p_fast == 0.5

    def see(correct, truncated=False):
        values = torch.tensor(correct)
        seen = Rollouts(("a",) * len(values), torch.ones(len(values)), values, len(values))
        seen = Rollouts(
            *(seen.prompt_keys, seen.lengths, values, len(values)),
            truncated=torch.full((len(values),), truncated),
            rewards={"correct": values},
        )
        return thinker.compute(seen, values - 0.5)

    see([1.0, 1.0])
    assert thinker.p_fast == 0.75
    see([math.nan, math.nan])
    assert thinker.p_fast == 0.75 and math.isnan(thinker.metrics()["fast_accuracy"])
    assert see([1.0, 0.0]).tolist() == [0.5, -0.5]  # TRL's advantages
    assert see([1.0, 0.0], truncated=True).tolist() == [0, 0]  # too long: the reward is 0
    assert thinker.p_fast == pytest.approx((0.75 + 0.5) / 4)
    assert see([0.0, -1.0], truncated=True).tolist() == [-0.5, -1.5]  # penalties of other reward functions stay
    for _ in range(60):
        see([1.0])
    assert 0.999 < thinker.p_fast <= 1
    for state in ({}, {"p_fast": 1.5}, {"p_fast": math.nan}, {"p_fast": "0.5"}):
        with pytest.raises(ValueError, match=r"a number `p_fast` in \[0, 1\], got"):
            thinker.load_state_dict(state)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"slow_tokens": 0}, "slow_tokens must be at least 1, got 0"),
        ({"bonus": -1.0}, "bonus must be at least 0 and finite, got -1.0"),
        ({"decay": 1.0}, r"decay must be in \[0, 1\), got 1.0"),
    ],
)
def test_settings_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Thinker(**arguments)


# Training


class Rewarded(Scripted):
    """Keeps the batch with the added rows, before TRL shuffles it, and p_fast from before it."""

    def _generate_and_score_completions(self, inputs):
        p_fast = self.components[0].p_fast
        batch = super()._generate_and_score_completions(inputs)
        if self._rows_to_score is None:  # not the inner call that scores the rows
            self.__dict__.setdefault("batches", []).append((p_fast, batch))
        return batch


def careless_reward(completions, **kwargs):
    r"""Reward every \boxed{3}, also of a completion that is too long."""
    return [float("\\boxed{3}" in completion[0]["content"]) for completion in completions]


@pytest.fixture(scope="module")
def whole(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("thinker")
    trainer = thinker_runs.train(
        tiny_model,
        folder,
        reward=careless_reward,
        trainer_class=Rewarded,
        scale_rewards="none",
        save_strategy="steps",
        save_steps=2,
    )
    return trainer, folder


def test_transitions_rewards_and_credit_in_training(whole):
    """The truth decides what follows, and each row of the batch has the reward of its turn, relative to others like it."""
    trainer, _ = whole
    tokenizer, turns, p_fast = trainer.processing_class, iter(trainer.asked), 0.5
    counts = {"right, No": 0, "wrong, Yes": 0, "long": 0, "summary": 0}
    for step, (p_before, batch) in enumerate(trainer.batches):
        assert p_before == pytest.approx(p_fast)
        texts = [fast_text(step, row) for row in range(8)]
        fast = [float("\\boxed{3}" in text and ".." not in text) for text in texts]
        p_fast = 0.9 * p_fast + 0.1 * sum(fast) / 8
        expected: list[tuple[str, str, float]] = []  # dialogue, text, advantage

        def add(asked, rewards, expected=expected):
            """Rewards are by kind of answer: lists of (place in `asked`, reward)."""
            by_place = {place: reward - sum(r for _, r in own) / len(own) for own in rewards for place, reward in own}
            expected += [(*asked[i], by_place[i]) for i in range(len(asked))]

        asked = next(turns)
        assert len(asked) == 8  # every fast answer is verified
        rewards = {RIGHT: [], WRONG: []}
        for row, (dialogue, text) in enumerate(asked):
            assert dialogue.endswith(f"{SAYS['verification']}{END}\n<|im_start|>assistant\n")
            verdict = None if "Yes" not in text and "No" not in text else "Yes" in text
            agrees = verdict is not None and verdict == bool(fast[row])
            rewards[fast[row]].append((row, agrees * (1 - p_before if fast[row] else p_before)))
            counts["right, No"] += fast[row] == 1 and verdict is False
            counts["wrong, Yes"] += fast[row] == 0 and verdict is True
        add(asked, [own for own in rewards.values() if own])

        wrong = [row for row in range(8) if not fast[row]]
        verified, asked = asked, next(turns)
        assert [f"{step} {row}: " in dialogue for row, (dialogue, _) in zip(wrong, asked, strict=True)] == [
            True
        ] * len(wrong)
        assert all(verified[row][0] in dialogue for row, (dialogue, _) in zip(wrong, asked, strict=True))
        solved = ["\\boxed{3}" in text for _, text in asked]
        add(asked, [list(enumerate(map(float, solved)))])

        if any(solved):
            tried, asked = asked, next(turns)
            starts = [dialogue for (dialogue, _), is_solved in zip(tried, solved, strict=True) if is_solved]
            assert all(start in dialogue for start, (dialogue, _) in zip(starts, asked, strict=True))
            add(asked, [[(i, float("\\boxed{3}" in text)) for i, (_, text) in enumerate(asked)]])  # 0 or 1
            counts["summary"] += len(asked)

        ids, mask, advantages = batch["completion_ids"], batch["completion_mask"].bool(), batch["advantages"]
        prompts, prompt_mask = batch["prompt_ids"], batch["prompt_mask"].bool()
        assert len(advantages) >= 8 + len(expected)
        # A fast answer that is too long has the reward 0, whatever the reward function says.
        groups = [fast[:4], fast[4:]]
        own = [reward - sum(group) / 4 for group in groups for reward in group]
        assert advantages[:8].tolist() == pytest.approx(own, abs=1e-6)
        for row, (dialogue, text, advantage) in enumerate(expected, start=8):
            counts["long"] += len(text) > LIMIT
            assert tokenizer.decode(prompts[row][prompt_mask[row]]) == dialogue
            assert tokenizer.decode(ids[row][mask[row]]) == tokenizer.decode(tokenizer(text)["input_ids"][:LIMIT])
            assert advantages[row].item() == pytest.approx(advantage, abs=1e-6)
        assert not batch["tool_mask"][8 + len(expected) :].any()  # rows that only fill the batch
    assert next(turns, None) is None and all(counts.values())
    assert trainer.components[0].p_fast == pytest.approx(p_fast)
    (logged, *_) = slot_rows.logged(trainer)
    assert logged["thinker/p_fast"] == pytest.approx(0.45 + 0.1 * logged["thinker/fast_accuracy"])
    assert 0 < logged["thinker/slow_accuracy"] < 1 and logged["thinker/later_tokens"] > LIMIT / 2


def test_a_run_that_is_resumed_in_the_middle_ends_as_the_whole_one(whole, tiny_model, tmp_path):
    trainer, folder = whole
    state = json.loads((folder / "checkpoint-2" / "concise_state" / "state.json").read_text())
    assert f'"p_fast": {trainer.batches[2][0]}' in json.dumps(state)
    resumed = thinker_runs.train(
        tiny_model, tmp_path, reward=careless_reward, scale_rewards="none", resume=str(folder / "checkpoint-2")
    )
    assert slot_rows.logged(resumed) == slot_rows.logged(trainer)
    assert resumed.components[0].p_fast == trainer.components[0].p_fast != 0.5
    assert all(torch.equal(a, b) for a, b in zip(resumed.model.parameters(), trainer.model.parameters(), strict=True))


def test_an_adapter_with_a_kl_term_and_what_the_model_itself_writes(tiny_model, tmp_path):
    """A bonus, two passes over each batch, two micro-batches, unknown answers, and dialogues that are truncated and left out."""

    def reward(completion_ids, **kwargs):
        return [None if ids[0] % 5 == 0 else float(ids[0] % 2) for ids in completion_ids]

    trainer = thinker_runs.train(
        tiny_model,
        tmp_path,
        thinker=thinker_runs.component(bonus=0.1, bonus_per_token=False),
        reward=reward,
        trainer_class=ConciseGRPOTrainer,
        more={"peft_config": LoraConfig(r=2, target_modules=["q_proj", "v_proj"])},
        max_steps=2,
        beta=0.1,
        num_iterations=2,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        mask_truncated_completions=True,
        max_completion_length=6,
    )
    assert all(math.isfinite(loss) for loss in tiny.losses(trainer)) and len(tiny.losses(trainer)) == 2
    assert 0 <= trainer.components[0].p_fast < 0.5


def test_the_bonus_is_the_log_probability_after_the_fast_prompt(tiny_model, tmp_path):
    def summaries(**changes):
        trainer = thinker_runs.train(
            tiny_model,
            tmp_path,
            thinker=thinker_runs.component(**changes),
            trainer_class=Rewarded,
            scale_rewards="none",
            max_steps=1,
        )
        texts = trainer.asked[2]
        first = 8 + len(trainer.asked[0][:8]) + len(trainer.asked[1])
        return trainer, texts, trainer.batches[0][1]["advantages"][first : first + len(texts)]

    trainer, texts, plain = summaries()
    model, tokenizer = tiny.load(tiny_model), AutoTokenizer.from_pretrained(tiny_model)
    logps, lengths = [], []
    for dialogue, text in texts:
        prompt = dialogue[: dialogue.index(END)] + f"{END}\n<|im_start|>assistant\n"
        given, ids = tokenizer(prompt)["input_ids"], tokenizer(text)["input_ids"]
        scores = model(input_ids=torch.tensor([given + ids])).logits[0, len(given) - 1 : -1].log_softmax(-1)
        logps.append(scores.gather(1, torch.tensor(ids)[:, None]).sum().item())
        lengths.append(len(ids))
    correct = torch.tensor([float("\\boxed{3}" in text) for _, text in texts])
    assert 0 < correct.sum() < len(correct)
    torch.testing.assert_close(plain, correct - correct.mean())
    for per_token in (True, False):
        bonus = torch.tensor(logps) / (torch.tensor(lengths) if per_token else 1)
        expected = correct * (1 + 0.1 * bonus)
        _, _, found = summaries(bonus=0.1, bonus_per_token=per_token)
        torch.testing.assert_close(found, expected - expected.mean(), atol=1e-4, rtol=1e-4)


def test_two_processes_train_as_one(tiny_model, tmp_path, two_processes):
    ranks = [json.loads((two_processes / "thinker" / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    one = distributed.report(distributed.train(tiny_model, tmp_path, rows_per_process=12))
    assert [rank["world_size"] for rank in ranks] == [2, 2]
    assert ranks[0]["state"] == ranks[1]["state"] == one["state"]
    assert ranks[0]["turns"] == ranks[1]["turns"]  # processes that share a vLLM engine generate as many rows
    assert ranks[0]["logged"] == ranks[1]["logged"]
    for two, single in zip(ranks[0]["logged"], one["logged"], strict=True):
        for key in single:
            assert two[key] == pytest.approx(single[key], abs=1e-5, rel=1e-3), key


def test_what_cannot_be_continued_is_refused(tiny_model, problems, tmp_path):
    def build(thinker, dataset=problems, **changes):
        more = {"tools": changes.pop("tools", None)}
        if more["tools"]:
            from tests import tool_runs

            more["processing_class"] = tool_runs.tool_tokenizer(tiny_model)
        args = ConciseGRPOConfig(**tiny.settings(tmp_path, **changes))
        return ConciseGRPOTrainer(tiny_model, [careless_reward], args, dataset, advantage=thinker, **more)

    with pytest.raises(ValueError, match="may have 8, 6000, 6000, 1000 tokens, more than the context of 4096 tokens"):
        build(Thinker())
    from tests.tool_runs import add

    with pytest.raises(ValueError, match="Thinker continues dialogues without tools, but the trainer has tools"):
        build(thinker_runs.component(), tools=[add])
    with pytest.raises(ValueError, match="Thinker uses the sum of the rewards"):
        build(thinker_runs.component(), multi_objective_aggregation="normalize_then_sum")
    with_images = problems.add_column("images", [[]] * len(problems))
    with pytest.raises(ValueError, match="Thinker reads text only"):
        build(thinker_runs.component(), with_images)


# Prompts and the embedded model


def test_prompts_of_text_and_of_messages():
    dataset = with_fast_instruction(Dataset.from_list([{"prompt": "2 + 3?"}]), "Fast.")
    assert dataset["prompt"][0] == "2 + 3? Fast."
    messages = [{"role": "user", "content": "2 + 3?"}]
    answer = [{"role": "assistant", "content": "5"}]
    dialogue = next_turn(next_turn(messages, answer, "Sure?"), answer, "Again.")
    assert [message["role"] for message in dialogue] == ["user", "assistant"] * 2 + ["user"] and len(messages) == 1
    begun = next_turn([*messages, {"role": "assistant", "content": "It is "}], answer, "Sure?")
    assert [message["content"] for message in begun] == ["2 + 3?", "It is 5", "Sure?"] and answer[0]["content"] == "5"
    assert "boxed" in with_fast_instruction(Dataset.from_list([{"prompt": messages}]))["prompt"][0][0]["content"]


def test_the_embedded_model_learns_dialogues_of_four_turns(tmp_path):
    rng, found = random.Random(0), []
    for problem in itertools.islice(training_problems(0), 60):
        answer = f"\\boxed{{{problem.results[-1]}}}"
        messages = write_dialogue(problem, rng)
        texts = [message["content"] for message in messages if message["role"] == "assistant"]
        is_right = answer in texts[0]
        verdict = read_verdict(texts[1])
        assert len(texts) == (2 if is_right and verdict else 4)
        assert all(answer in text for text in texts[2:]) and "think" not in "".join(texts)
        found.append((is_right, verdict, messages[1]["weight"]))
    assert len(set(found)) >= 5 and (False, False, 0) in found
    folder = demo.thinker_model(tmp_path / "model", steps=1)
    assert demo.thinker_model(folder, steps=1) == folder
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert [len(tokenizer(text)["input_ids"]) for text in (*INSTRUCTIONS.values(), "Yes", "No")] == [1] * 6
    messages[1]["weight"] = 0
    ids, labels = tokenize_transcript(tokenizer, messages)
    learned = tokenizer.decode([token for token, label in zip(ids, labels, strict=True) if label != IGNORED])
    assert learned == "".join(f"{text}{tokenizer.eos_token}" for text in texts[1:])
    assert demo.thinker_dataset(1)["prompt"][0][0]["content"].endswith("? Be brief.")
