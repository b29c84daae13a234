# SPDX-License-Identifier: Apache-2.0
"""Golden values: the equations by hand, and functions of the authors' code (OpenBMB/RLPR @ 8490fca), run once."""

from __future__ import annotations

import math
import statistics
from functools import partial

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig
from transformers import AutoTokenizer, TrainerCallback

from tests import slot_rows, tiny
from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer
from trl_concise.batch.rollouts import LocalRollouts, Rollouts
from trl_concise.methods.rlpr import RewardStdFilter, RLPRReward, group_stds
from trl_concise.methods.rlpr_answer import (
    R1_TAGS,
    answer_probability,
    decode,
    find_answer,
    has_format,
    repeats_itself,
    rlpr_rewards,
    splice_answer,
)


GOLDEN = torch.tensor([[-0.1, -0.5, -2.0]])
WHOLE = torch.ones(1, 3, dtype=torch.bool)


def test_golden_values():
    for aggregate, expected in {"mean": 0.548901, "product": 0.074274, "geometric": 0.420350}.items():
        assert answer_probability(GOLDEN, WHOLE, aggregate).item() == pytest.approx(expected, abs=1e-6)
    probability, base, right = torch.tensor([0.548901]), torch.tensor([0.35]), torch.tensor([1.0])
    assert rlpr_rewards(probability, base, right, 0.0).item() == pytest.approx(0.198901, abs=1e-6)
    assert rlpr_rewards(probability, base, right).item() == pytest.approx(0.279011, abs=1e-6)
    assert rlpr_rewards(probability, base, right, -1).item() == pytest.approx(0.198901, abs=1e-6)
    assert rlpr_rewards(probability, base, 0 * right, -1).item() == -1
    for weight in (0.1, -1):
        assert rlpr_rewards(probability, base * math.nan, right, weight).isnan()
        assert rlpr_rewards(probability, base * math.nan, 0 * right, weight).isnan()


LOGPS = st.lists(st.floats(-20, 0), min_size=1, max_size=6)


@given(LOGPS, st.data(), st.floats(0, 1), st.floats(0, 1))
def test_the_mean_is_of_probabilities_and_no_gain_is_negative(logps, data, base, weight):
    mask = torch.tensor([data.draw(st.lists(st.booleans(), min_size=len(logps), max_size=len(logps)))])
    tensor = torch.tensor([logps], requires_grad=True)
    chosen = [math.exp(value) for value, is_in in zip(logps, mask[0].tolist(), strict=True) if is_in]
    probability = answer_probability(tensor, mask)
    assert not probability.requires_grad and 0 <= probability.item() <= 1
    assert probability.item() == pytest.approx(sum(chosen) / len(chosen) if chosen else 0, abs=1e-6)
    reward = rlpr_rewards(probability, torch.tensor([base]), torch.zeros(1), weight).item()
    assert 0 <= reward <= 1 and (reward == 0 or probability.item() > base)


@pytest.mark.parametrize(
    ("text", "four", "two"),
    [  # `format_reward` in its modes R1 and R1_nothink
        ("<think>a</think><answer>b</answer>", 1, 1),
        ("<think>a</think> c <answer>b</answer> d", 1, 1),
        (" <think>a</think><answer>b</answer>", 0, 1),
        ("<think>a<answer>b</answer></think>", 0, 1),
        ("<think>a</think><answer>b", 0, 0),
        ("<think>a</think><answer>b</answer><answer>c</answer>", 0, 0),
        ("<think></think><answer></answer>", 1, 1),
        ("</think><think>a<answer>b</answer>", 0, 1),
        ("a<answer>b</answer>", 0, 1),
        ("<think>a\n\nb</think>\n<answer>\n5\n</answer><|im_end|>", 1, 1),
        ("</answer>a<answer>", 0, 0),
    ],
)
def test_format_of_the_authors(text, four, two):
    assert has_format(text, R1_TAGS) == four and has_format(text, R1_TAGS[2:]) == two


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"so \frac{1}{2} </think> \boxed{3}", True),
        (r"{a} </think> \boxed{\frac{1}{\sqrt{2}}} and {b}}", True),
        (r"</think> \boxed{}", True),
        (r"</think> \boxed{\frac{1}{2}", False),  # not closed
        (r"</think> \boxed{1} or \boxed{2}", False),
        (r"\boxed{1} </think> {2}", False),
        (r"\frac{1}{2} \boxed{3}", False),
    ],
)
def test_braces_are_matched_from_the_opening_tag(text, expected):
    assert has_format(text, ("</think>", r"\boxed{", "}")) == expected
    assert has_format(f"<think>{text}", ("<think>", "</think>", r"\boxed{", "}")) == expected


def test_the_closing_tag_may_go_on_after_its_brace():
    assert has_format(r"\frac{1}{2} $\boxed{3^{4}}$", (r"$\boxed{", "}$"))
    assert not has_format(r"$\boxed{3^{4}} or {5}$", (r"$\boxed{", "}$"))


def test_repetition_of_the_authors():
    ten = "one two three four five six seven eight nine ten"
    assert not repeats_itself(" ".join([ten] * 9)) and repeats_itself(" ".join([ten] * 10))
    assert not repeats_itself("a_" * 17 + "a") and repeats_itself("a_" * 18 + "a")
    assert not repeats_itself("x " * 10, limit=1) and repeats_itself("x " * 11, limit=2)


def test_the_answer_is_found_after_the_tags_in_order():
    assert find_answer("<think>a</think> <answer>b", R1_TAGS) == 17  # not closed
    assert find_answer("a <think>a</think><answer>b", R1_TAGS) == 18  # does not begin with the first tag
    for text in (
        "<think>a</think><answer>",
        "<think>a</think><answer> \n",
        "<answer>b</answer>",
        "a</think><answer>b",
    ):
        assert find_answer(text, R1_TAGS) is None
    assert find_answer("<think>a</think><answer>b<answer>c", R1_TAGS) is None
    assert find_answer(r"a</think>\boxed{1}", ("</think>", r"\boxed{", "}")) == 9


@pytest.fixture(scope="module")
def own_tokenizer(tiny_model):
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.mark.parametrize(
    ("text", "tags", "pad", "kept", "expected", "answer"),
    [
        (r"6*7=42</think>\boxed{41}", ("</think>", r"\boxed{", "}"), False, "6*7=42</think>", r"\boxed{é2}", "é2"),
        ("ñ <answer>41</answer> x", R1_TAGS[2:], True, "ñ ", "<answer> é2 </answer>", "é2"),
        ("ñ <answer>\n 41", R1_TAGS[2:], True, "ñ ", "<answer>\n é2 </answer>", "é2"),
        ("ñ <answer>41</answer>", R1_TAGS[2:], False, "ñ ", "<answer>é2</answer>", "é2"),
    ],
)
@pytest.mark.parametrize("which", ["own_tokenizer", "tokenizer"])
def test_the_answer_is_replaced_and_the_sampled_tokens_are_kept(
    text, tags, pad, kept, expected, answer, which, request
):
    tokenizer = request.getfixturevalue(which)
    ids = tokenizer(text)["input_ids"]
    count, continuation, mask = splice_answer(tokenizer, ids, answer, tags, pad)
    prefix = decode(tokenizer, ids[:count])
    assert kept.startswith(prefix) and prefix + decode(tokenizer, continuation) == kept + expected
    masked = decode(tokenizer, [token for token, is_answer in zip(continuation, mask, strict=True) if is_answer])
    assert answer in masked and len(masked) <= len(answer) + 1  # a token may contain the character before
    assert splice_answer(tokenizer, ids[: count + 1], answer, tags, pad) is None


def test_a_token_that_contains_more_than_the_reasoning_is_not_kept(tokenizer):
    (end,) = tokenizer("</think>")["input_ids"]
    ids = [*tokenizer("1+1=2")["input_ids"], end, *tokenizer("<answer>2")["input_ids"]]
    count, continuation, _ = splice_answer(tokenizer, ids, "3", ("=2</th", "ink><answer>", "</answer>"), False)
    assert decode(tokenizer, ids[:count]) == "1+1=2" and decode(tokenizer, continuation).startswith("</think>")


# The filter of groups


def batch_of(rewards: list[list[float]]) -> Rollouts:
    scores = torch.tensor(rewards).flatten()
    return Rollouts(
        tuple("ab"[i % 2] * 32 for i in range(len(scores))),
        torch.ones(len(scores), dtype=torch.long),
        torch.full((len(scores),), torch.nan),
        len(rewards[0]),
        rewards={"rlpr": scores},
    )


def pair(std: float) -> list[float]:
    return [0.0, std * math.sqrt(2)]


def test_the_deviation_is_unbiased():
    assert group_stds(torch.tensor([1.0, 0, 1, 0, 0.5, math.nan, 1, 0]), 4).tolist() == pytest.approx(
        [0.577350, math.nan], abs=1e-6, nan_ok=True
    )


def test_the_threshold_is_the_authors():
    """Nothing is filtered before batch 11; the first average is that of batches 6 to 10; later ones move it."""
    component = RewardStdFilter()
    for batch in range(1, 11):
        assert component.keep(batch_of([pair(0), [math.nan, 1.0]])).all() and math.isnan(component.threshold)
        component.observe(batch_of([pair(9.0 if batch < 6 else 0.11), pair(9.0 if batch < 6 else 0.13)]))
    assert component.average == pytest.approx(0.12) and component.threshold == pytest.approx(0.06)
    kept = component.keep(batch_of([pair(0.0601), pair(0.0599), [math.nan, 1.0]]))
    assert kept.tolist() == [True] * 2 + [False] * 4
    component.observe(batch_of([pair(0.2), pair(0.0)]))  # a group that was replaced counts
    assert component.average == pytest.approx(0.1198) and component.threshold == pytest.approx(0.0599)
    component.observe(batch_of([[math.nan, 1.0]]))  # nothing is known of this batch
    assert component.average == pytest.approx(0.1198)


def test_the_threshold_goes_on_from_a_saved_state():
    first, second = (RewardStdFilter(collect_from=2, filter_from=4) for _ in range(2))
    for batch in range(8):
        second.load_state_dict(first.state_dict())
        for component in (first, second):
            component.observe(batch_of([pair(1.0 + batch), pair(2.0)]))
        assert str(first.state_dict()) == str(second.state_dict())
    assert first.average > 0


# Training

LORA = {"r": 2, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": "gaussian"}
TEXTS = (
    "<think>{i}+{i}</think> <answer> {i} </answer>",
    "<think>it is {i}</think><answer>{i}",
    "<think> " + "{i} " * 19,  # ten times the same ten words
    "no <answer> {i} </answer>",
)


@pytest.fixture
def answered() -> Dataset:
    return Dataset.from_list([{"prompt": f"{i} + {i} = ?", "solution": f"{2 * i}"} for i in range(8)])


def write(prompts, trainer):
    """Completions in the required format and not, different in every step."""
    encode, step = trainer.processing_class, trainer.state.global_step
    texts = [TEXTS[row % 4].format(i=row + step) for row in range(len(prompts))]
    return {
        "prompt_ids": [encode(prompt)["input_ids"] for prompt in prompts],
        "completion_ids": [[*encode(text)["input_ids"], encode.eos_token_id] for text in texts],
        "logprobs": None,
    }


def make_trainer(model, folder, rewards, dataset, adapter=False, eval_dataset=None, **changes):
    settings = {"learning_rate": 1e-2, "max_completion_length": 96, "log_completions": False, **changes}
    return tiny.spy(ConciseGRPOTrainer)(
        model,
        rewards,
        ConciseGRPOConfig(**tiny.settings(folder, **settings)),
        dataset,
        eval_dataset=eval_dataset,
        rollout_func=write,
        peft_config=LoraConfig(**LORA) if adapter else None,
    )


AGGREGATED = {"mean": torch.mean, "product": torch.prod, "geometric": lambda values: values.log().mean().exp()}


def probability_of(model, tokenizer, before: str, answer: str, aggregate: str) -> float:
    """The probability of an answer after a text, by all logits of a model; each byte is a token here."""
    given, ids = (tokenizer(text)["input_ids"] for text in (before, answer))
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([given + ids])).logits[0, len(given) - 1 : -1]
    return AGGREGATED[aggregate](logits.softmax(-1)[torch.arange(len(ids)), ids]).item()


class Rewards(TrainerCallback):
    """Notes the rewards of the first batch, and the base scores after each step."""

    def __init__(self, component):
        self.component, self.bases = component, []

    def on_step_end(self, args, state, control, **kwargs):
        self.bases.append(dict(self.component._base))


@pytest.mark.parametrize(
    ("aggregate", "weight", "pad"), [("mean", 0.1, True), ("product", -1, True), ("geometric", 0.5, False)]
)
def test_rewards_and_base_scores_are_those_of_the_policy(aggregate, weight, pad, answered, tiny_model, tmp_path):
    component = RLPRReward(aggregate=aggregate, format_weight=weight, pad_answer=pad)
    seen = []

    class Spy(ConciseGRPOTrainer):
        def _calculate_rewards(self, inputs, *args):
            seen.append((inputs, super()._calculate_rewards(inputs, *args)[:, 0].tolist()))
            return torch.tensor(seen[-1][1])[:, None]

    args = ConciseGRPOConfig(**tiny.settings(tmp_path, max_completion_length=96, learning_rate=1e-2))
    trainer = Spy(tiny_model, component, args, answered, rollout_func=write)
    watch = Rewards(component)
    trainer.add_callback(watch)
    trainer.train()
    model, tokenizer = tiny.load(tiny_model), AutoTokenizer.from_pretrained(tiny_model)
    model.eval()
    assert len(component._base) == 8 and watch.bases == [component._base] * 2  # never changes
    probability_after = partial(probability_of, model, tokenizer, aggregate=aggregate)
    bases = {row["prompt"]: probability_after(row["prompt"] + " " * pad, row["solution"]) for row in answered}
    assert sorted(component._base.values()) == pytest.approx(sorted(bases.values()), abs=1e-6)
    rows, rewards = seen[0]
    probabilities, gains = [], []
    for index, (row, reward) in enumerate(zip(rows, rewards, strict=True)):
        kind = index % 4
        probability = 0.0
        if kind < 2:
            before = TEXTS[kind].format(i=index).split("<answer>")[0] + "<answer>" + " " * (pad or kind == 0)
            probability = probability_after(row["prompt"] + before, row["solution"])
        probabilities.append(probability)
        gains.append(probability - bases[row["prompt"]])
        expected, well_formed = max(0.0, gains[-1]), kind == 0
        if weight == -1:
            expected = expected if well_formed else -1
        else:
            expected = (1 - weight) * expected + weight * well_formed
        assert reward == pytest.approx(expected - (kind == 2), abs=1e-6), index
    logged = slot_rows.logged(trainer)[0]
    figures = {
        "probability": sum(probabilities) / 8,
        "base": sum(bases[row["prompt"]] for row in rows) / 8,
        "gain": sum(gain for gain in gains if gain > 0) / 8,
        "below_base": sum(gain < 0 for gain in gains) / 8,
        "well_formed": 0.25,
        "repeats": 0.25,
    }
    assert {name: logged[f"rlpr/{name}"] for name in figures} == pytest.approx(figures, abs=1e-6)
    assert figures["gain"] > 0 and logged["reward"] == pytest.approx(sum(rewards) / 8, abs=1e-6)
    assert not [key for key in logged if "accuracy" in key]  # nothing is judged


def test_no_gradient_flows_through_the_reward(answered, tiny_model, tmp_path):
    """A plain function that returns the same numbers trains to the same weights."""
    component, noted = RLPRReward(), []

    class Noting(RLPRReward):
        def score(self, rollouts):
            noted.append(super().score(rollouts))
            assert not noted[-1].requires_grad
            return noted[-1]

    first = make_trainer(tiny_model, tmp_path, [Noting()], answered)
    first.train()
    numbers = iter([rewards.tolist() for rewards in noted])

    def replay(completions, **kwargs):
        return next(numbers)

    second = make_trainer(tiny_model, tmp_path, [replay], answered)
    second.train()
    assert any(noted[0]) and component.needs_correctness is False
    for own, other in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(own, other)


@pytest.mark.parametrize("adapter", [False, True])
def test_a_resumed_run_keeps_the_base_scores_of_the_first_model(adapter, answered, tiny_model, tmp_path):
    def build(folder, **changes):
        component = RLPRReward()
        return component, make_trainer(
            tiny_model, folder, [component], answered, adapter=adapter, max_steps=3, **changes
        )

    first, whole = build(tmp_path, save_strategy="steps", save_steps=1)
    whole.train()
    second, resumed = build(tmp_path / "resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert second._base == first._base and len(first._base) == 8
    assert slot_rows.logged(resumed) == slot_rows.logged(whole)
    for own, other in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(own, other)


def is_unknown(logged: float | None) -> bool:
    """Whether a logged reward is NaN, which may be logged as `None`."""
    return logged is None or math.isnan(logged)


def test_a_resumed_run_needs_the_base_scores_of_its_training_problems(answered, tiny_model, tmp_path, caplog):
    few, more, checkpoint = answered.select(range(6)), answered.select([6, 7]), str(tmp_path / "checkpoint-1")
    make_trainer(tiny_model, tmp_path, [RLPRReward()], few, save_strategy="steps", save_steps=1, max_steps=1).train()
    trainer = make_trainer(tiny_model, tmp_path, [RLPRReward()], answered)
    with pytest.raises(ValueError, match="2 of 8 problems have no base score.* has done 1 steps"):
        trainer.train(resume_from_checkpoint=checkpoint)
    component = RLPRReward()
    trainer = make_trainer(tiny_model, tmp_path, [component], few, eval_dataset=more)
    with caplog.at_level("WARNING"):
        trainer.train(resume_from_checkpoint=checkpoint)
    assert "2 evaluation problems get no RLPR reward" in caplog.text
    assert trainer.state.global_step == 2 and len(component._base) == 6
    assert is_unknown(trainer.evaluate()["eval_reward"])


def test_evaluation_problems_have_base_scores_and_others_no_reward(answered, tiny_model, tmp_path):
    component = RLPRReward()
    sets = {
        "held_out": answered.select([6, 7]),
        "unanswered": answered.select([6, 7]).remove_columns("solution"),
        "partly": Dataset.from_list([{"prompt": "x = ?", "solution": None}, answered[7]]),
    }
    trainer = make_trainer(
        tiny_model,
        tmp_path,
        [component],
        answered.select(range(6)),
        eval_dataset=sets,
        max_steps=1,
        eval_strategy="steps",
        eval_steps=1,
    )
    trainer.train()
    logged = [entry["eval_reward"] for entry in trainer.state.log_history if "eval_reward" in entry]
    assert [is_unknown(reward) for reward in logged] == [False, True, False]  # in the order of the sets
    state = component.state_dict()
    assert len(component._base) == 8
    other = Dataset.from_list([{"prompt": "x = ?", "solution": "1"}] * 2)
    assert is_unknown(trainer.evaluate(other)["eval_reward"])
    assert all(torch.equal(state[name], value) for name, value in component.state_dict().items())


def test_replaced_groups_count_in_the_average(answered, tiny_model, tmp_path):
    """Rewards differ in each group by the number in its prompt, so its deviation is known."""
    seen = []

    class Noting(RewardStdFilter):
        def observe(self, rollouts):
            groups = rollouts.by_group(rollouts.rewards["spread"]).tolist()
            seen.append(([statistics.stdev(group) for group in groups], rollouts.by_group(rollouts.kept).tolist()))
            super().observe(rollouts)

    def spread(prompts, **kwargs):
        return [float(prompt.split()[0]) * (row % 2) for row, prompt in enumerate(prompts)]

    component = Noting(max_refills=1, ratio=1.0, decay=0.75, collect_from=1, filter_from=2)
    args = ConciseGRPOConfig(**tiny.settings(tmp_path, max_completion_length=96, max_steps=3))
    trainer = ConciseGRPOTrainer(tiny_model, spread, args, answered, rollout_func=write, group_filter=component)
    trainer.train()
    average = math.nan
    for (stds, kept), logged in zip(seen, slot_rows.logged(trainer), strict=True):
        assert kept == [[math.isnan(average) or std >= average] * 4 for std in stds]
        assert logged["reward_std_filter/std"] == pytest.approx(statistics.mean(stds))
        assert logged.get("reward_std_filter/threshold", math.nan) == pytest.approx(average, nan_ok=True)
        assert logged["refill/replaced_fraction"] == pytest.approx((len(stds) - 2) / 2)
        average = statistics.mean(stds) if math.isnan(average) else 0.75 * average + 0.25 * statistics.mean(stds)
    assert component.average == pytest.approx(average) and max(len(stds) for stds, _ in seen) > 2


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (Dataset.from_list([{"prompt": "a", "answer": "1"}] * 8), r"column 'solution', but .*\['prompt', 'answer'\]"),
        (Dataset.from_list([{"prompt": "a", "solution": "1"}] * 8).to_iterable_dataset(), "is a stream"),
    ],
)
def test_datasets_that_cannot_be_scored_are_refused(dataset, message, tiny_model, tmp_path):
    with pytest.raises(ValueError, match=message):
        make_trainer(tiny_model, tmp_path, [RLPRReward()], dataset)


def test_a_problem_without_an_answer_is_named_before_the_first_step(tiny_model, tmp_path):
    rows = [{"prompt": f"{i}?", "solution": "1" if i else " "} for i in range(8)]
    trainer = make_trainer(tiny_model, tmp_path, [RLPRReward()], Dataset.from_list(rows))
    with pytest.raises(ValueError, match=r"has ' ' as the reference answer of '0\?'"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_images_are_refused(answered, tiny_model, tmp_path):
    component = RLPRReward()
    make_trainer(tiny_model, tmp_path, [component], answered)
    local = LocalRollouts(["p"], ["c"], [[5]], None, torch.tensor([1]), {"image": [None]}, 1, 0, True, [[5]])
    with pytest.raises(ValueError, match="RLPRReward reads text only, but the dataset"):
        component.measure(local)
    with_images = answered.add_column("image", [None] * 8)
    for train, held_out, name in ((with_images, None, "train"), (answered, {"known": with_images}, "known")):
        with pytest.raises(ValueError, match=rf"RLPRReward reads text only, but the {name} dataset has .*\['image'\]"):
            make_trainer(tiny_model, tmp_path, [RLPRReward()], train, eval_dataset=held_out)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tags": "<answer>"}, "tags must be two to four texts"),
        ({"tags": ["<answer>", ""]}, "tags must be two to four texts"),
        ({"aggregate": "mean_log"}, r"aggregate must be one of .*, got 'mean_log'"),
        ({"format_weight": 1.5}, r"format_weight must lie in \[0, 1\] or be -1, got 1.5"),
        ({"repetition_limit": -1}, "repetition_limit must be at least 0"),
    ],
)
def test_settings_of_the_reward_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        RLPRReward(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_refills": -1}, "max_refills must be at least 0"),
        ({"ratio": math.nan}, "ratio must be at least 0 and finite, got nan"),
        ({"decay": 1.1}, r"decay must lie in \[0, 1\], got 1.1"),
        ({"collect_from": 11}, "collect_from must be at least 1 and below filter_from, got 11 and 11"),
    ],
)
def test_settings_of_the_filter_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        RewardStdFilter(**settings)
