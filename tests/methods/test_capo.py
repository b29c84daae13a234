# SPDX-License-Identifier: Apache-2.0
"""Golden values: computed from the equations, independently of this package."""

from __future__ import annotations

import math
import random
import re
import time
from functools import partial

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig
from transformers import AutoTokenizer

from tests import tiny
from tests.data.endpoint import Endpoint
from trl_concise import APITeacher, BatchWhitening, ConciseGRPOConfig, ConciseGRPOTrainer, LocalTeacher, demo
from trl_concise.batch.rollouts import Rollouts
from trl_concise.data import teachers
from trl_concise.demo.problems import training_problems
from trl_concise.demo.traces import write_trace
from trl_concise.methods.capo import CAPO, token_statistics
from trl_concise.methods.capo_critiques import (
    VOTES,
    critic_request,
    problem_text,
    read_wrong_steps,
    split_steps,
    step_tokens,
    vote,
)


CRITIC = demo.ArithmeticCritic()


# Golden values and properties of the equations


def assigned(outcomes, shares, mask, num_generations=None, **settings):
    """Return what `assign` computes for completions of one reward function, `(B, T)`."""
    capo, mask = CAPO(CRITIC, **settings), torch.tensor(mask)
    shares = torch.tensor(shares, dtype=torch.float32) * mask
    rollouts = Rollouts(
        ("prompt",) * len(mask),
        mask.sum(dim=1),
        torch.tensor(outcomes, dtype=torch.float32),
        num_generations or len(mask),
        rewards={"reward": torch.tensor(outcomes, dtype=torch.float32)},
        measured={"capo": {"wrong": shares.sum(dim=1), "squares": shares.square().sum(dim=1)}},
        measured_tokens={"capo": {"shares": shares}},
    )
    values, keep = capo.assign(rollouts, {"completion_ids": mask}, torch.zeros(len(mask)))
    assert keep is None
    return values


def test_golden_advantages():
    wrong = [[0, 0, 0], [0, 1, 1], [0, 0, 1]]
    values = assigned([1.0, 1.0, 0.0], wrong, [[1] * 3] * 3)
    expected = [[0.894427] * 3, [0.894427, 0, 0], [-0.894427, -0.894427, -1.788854]]
    torch.testing.assert_close(values, torch.tensor(expected), atol=2e-6, rtol=0)


def test_golden_votes():
    critiques = [{1}, {1, 3}, {1}, {2}]
    assert [vote(critiques, 3, rule) for rule in VOTES] == [[0, 0, 0], [1, 0, 0], [1, 1, 1], [0.75, 0.25, 0.25]]
    assert vote([{1, 2}, None, {2}, None], 2, "intersection") == [0, 1]  # unreadable critiques do not vote
    assert all(vote([None, None], 2, rule) == [0, 0] for rule in VOTES)


@given(st.lists(st.one_of(st.none(), st.sets(st.integers(1, 5))), max_size=6))
def test_votes_are_ordered(critiques):
    intersection, majority, union, average = (vote(critiques, 5, rule) for rule in VOTES)
    for least, middle, most, share in zip(intersection, majority, union, average, strict=True):
        assert least <= middle <= most and least <= share <= most


@given(st.data(), st.sampled_from([0.0, 1.0, 0.5]))
def test_statistics_are_those_of_all_tokens_of_a_group(data, process_weight):
    groups, width = data.draw(st.integers(1, 2)), 4
    rows = 3 * groups
    outcomes = data.draw(st.lists(st.sampled_from([0.0, 1.0, math.nan]), min_size=rows, max_size=rows))
    lengths = data.draw(st.lists(st.integers(0, width), min_size=rows, max_size=rows))
    shares = data.draw(
        st.lists(st.lists(st.sampled_from([0, 1]), min_size=width, max_size=width), min_size=rows, max_size=rows)
    )
    mask = [[1] * length + [0] * (width - length) for length in lengths]
    values = assigned(outcomes, shares, mask, 3, process_weight=process_weight)
    assert values.isfinite().all()
    for group in range(groups):
        own = range(3 * group, 3 * group + 3)
        rewards = {  # of the tokens
            (i, t): 2 * outcomes[i] - process_weight * shares[i][t]
            for i in own
            for t in range(lengths[i])
            if not math.isnan(outcomes[i])
        }
        assert process_weight == 0.5 or set(rewards.values()) <= {2, 1, 0, -1}
        numbers = torch.tensor(list(rewards.values()), dtype=torch.float64)
        std = numbers.std() if len(numbers) > 1 else torch.zeros(())
        for i in own:
            if math.isnan(outcomes[i]):
                assert not values[i].any()
            for t in range(lengths[i]):
                if (i, t) in rewards:
                    expected = (rewards[i, t] - numbers.mean()) / (std + 1e-6)
                    assert values[i, t].item() == pytest.approx(expected.item(), abs=1e-5)
                    assert std > 1e-9 or values[i, t] == 0


def test_without_a_process_weight_every_token_has_its_outcome_weighted_by_tokens():
    mask = [[1, 1, 1], [1, 0, 0]]
    values = assigned([1.0, 0.0], [[1, 1, 1], [1, 1, 1]], mask, process_weight=0.0)
    assert values[0].tolist() == pytest.approx([0.5] * 3, abs=1e-5)  # of 2, 2, 2, 0: mean 1.5, deviation 1
    assert values[1, 0].item() == pytest.approx(-1.5, abs=1e-5)


def test_truncated_completions_that_the_loss_leaves_out_count_nowhere():
    wrong = torch.tensor([0.0, 2.0])
    mean, std = token_statistics(torch.tensor([2.0, 0.0]), torch.tensor([3, 0]), wrong, wrong, 1.0, 2)
    assert (mean == 2).all() and (std == 0).all()


# Steps and critiques


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("a\n\nb", ["a\n\n", "b"]),
        ("\n\na b\nc\n \n\nd\n\n", ["\n\na b\nc\n \n\n", "d\n\n"]),
        ("a", ["a"]),
        ("", []),
        (" \n\n ", []),
    ],
)
def test_steps_are_divided_by_blank_lines(text, steps):
    assert [text[start:end] for start, end in split_steps(text)] == steps


@pytest.fixture(scope="module")
def tokenizers(tiny_model):
    return [AutoTokenizer.from_pretrained(path) for path in (tiny_model, demo.model_path())]


@given(st.lists(st.sampled_from(["12", "√", "\n", "\n\n", " ", "∑é", "🙂", ".", "=", "<|im_end|>"]), max_size=12))
def test_every_token_belongs_to_one_step(tokenizers, pieces):
    for tokenizer in tokenizers:
        ids = tokenizer("".join(pieces)).input_ids

        def decode(ids, tokenizer=tokenizer):
            return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

        text = decode(ids)
        steps = split_steps(text)
        tokens = [step_tokens(ids, decode, start, end) for start, end in steps]
        assert [position for own in tokens for position in own] == (list(range(len(ids))) if steps else [])
        for (start, end), own in zip(steps, tokens, strict=True):  # a token that straddles belongs to the step before
            assert decode([ids[i] for i in own]).strip() in text[start : end + 2]
            assert text[start:end].strip().endswith(decode([ids[i] for i in own]).strip()[1:])


@pytest.mark.parametrize(
    ("critique", "wrong"),
    [
        ("Wrong steps: 2, 3", {2, 3}),
        ("I first thought Wrong steps: 1.\nBut no.\n**Wrong steps:** Step 4.", {4}),
        ("wrong steps: none.", set()),
        ('{"wrong_steps": [1, 2]}', {1, 2}),
        ('{"wrong_steps": []}', set()),
        (r"Wrong steps: \boxed{2}", {2}),
        ("Wrong steps: 0", None),
        ("Wrong steps: 1, 6", None),  # there are five
        ("Wrong steps: 2-4", None),
        ("Wrong steps: none but 3", None),
        ("Wrong steps:", None),
        ("Step 2 is wrong.", None),
        ("", None),
    ],
)
def test_reading_critiques(critique, wrong):
    assert read_wrong_steps(critique, steps=5) == wrong


def test_the_request_has_the_problem_the_numbered_steps_and_the_answer():
    (message,) = critic_request("2 + {x}?", ["a\n\n", "b"], answer="3")
    assert "Problem:\n2 + {x}?\n\nReference answer: 3\n\nSolution:\nStep 1: a\n\nStep 2: b\n" in message["content"]
    assert "Reference" not in critic_request("2 + {x}?", ["a"])[0]["content"]
    assert problem_text([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]) == "a"
    assert problem_text([{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a"}]}]) == "a"


def test_the_critic_of_the_demo_finds_the_slips_of_its_traces():
    rng, found = random.Random(0), 0
    for problem, _ in zip(training_problems(0), range(200), strict=False):
        trace = write_trace(problem, rng)
        steps = [trace[start:end] for start, end in split_steps(trace, "\n")]
        ((_, reply),) = CRITIC.replies([critic_request(problem.text, steps)])
        wrong = read_wrong_steps(reply.text, len(steps))
        assert len(wrong) == ("That differs" in trace)
        found += len(wrong)
    assert found > 5


# Training


TEXTS = ["7.\n\n8!x\n\n9", "7.\n\n8\n\n9", "7x.\n\n8\n\n9x", "7x"]  # a step with an x is wrong
WRONG = [{2}, set(), {1, 3}, {1}]


def find_x(request: str) -> str:
    steps = re.split(r"^Step \d+: ", request.partition("Solution:\n")[2].partition("\n\nCheck")[0], flags=re.M)[1:]
    return f"Wrong steps: {', '.join(str(i) for i, step in enumerate(steps, start=1) if 'x' in step) or 'none'}"


def rollout(prompts, trainer):
    tokenizer = trainer.processing_class
    ids = [tokenizer(TEXTS[i % 4]).input_ids + [tokenizer.eos_token_id] for i in range(len(prompts))]
    return {"prompt_ids": [[5, 6]] * len(prompts), "completion_ids": ids, "logprobs": None}


def outcome(completions, **kwargs):
    return [float(completion in TEXTS[:2]) for completion in completions]


def build(model, folder, capo, **arguments):
    args = ConciseGRPOConfig(
        **tiny.settings(
            folder, max_completion_length=16, per_device_train_batch_size=4, **arguments.pop("settings", {})
        )
    )
    dataset = Dataset.from_list([{"prompt": f"{i}?", "prompt_id": str(i)} for i in range(4)])
    trainer_class = tiny.spy(ConciseGRPOTrainer)
    arguments = {"rollout_func": rollout, **arguments}
    return trainer_class(model, outcome, args, dataset, token_credit=capo, **arguments)


@pytest.fixture(scope="module")
def trainer(tiny_model, tmp_path_factory):
    return build(tiny_model, tmp_path_factory.mktemp("capo"), CAPO(CRITIC))


@pytest.fixture
def critic_at(monkeypatch):
    monkeypatch.setattr(teachers, "FIRST_PAUSE", 0.001)

    def make(url, max_retries=0, concurrency=4):
        return APITeacher(
            "critic",
            base_url=url,
            api_key="none",
            max_retries=max_retries,
            concurrency=concurrency,
            prices=(1.0, 10.0),
        )

    return make


@pytest.fixture
def train(trainer):
    """Train the same trainer again with another CAPO."""

    def run(critic, *, steps=1, **settings):
        capo = CAPO(critic, **{"critiques": 2, "answer_column": None, **settings})
        capo.attach(trainer)
        vars(trainer.components[0]).update(vars(capo))
        trainer.seen, trainer.args.max_steps = [], steps
        trainer.train()
        return trainer

    return run


def trained_advantages(trainer, step=0) -> dict[str, list[float]]:
    """Return the advantages of the tokens of each text in a step."""
    inputs, tokenizer = trainer.seen[step][0], trainer.processing_class
    masks = inputs["completion_mask"].bool()
    advantages = inputs["advantages"]
    if advantages.ndim == 1:
        advantages = advantages[:, None].expand_as(masks)
    return {
        tokenizer.decode(ids[mask], skip_special_tokens=True): own[mask].tolist()
        for ids, own, mask in zip(inputs["completion_ids"], advantages, masks, strict=True)
    }


def expected_advantages(wrong=WRONG) -> dict[str, list[float]]:
    rewards = []
    for i, text in enumerate(TEXTS):
        steps = [[2.0 * (i < 2) - (number in wrong[i])] * (end - start)
                 for number, (start, end) in enumerate(split_steps(text), start=1)]  # fmt: skip
        rewards.append([*sum(steps, []), 2.0 * (i < 2)])  # one token per character, then EOS, which is in no step
    numbers = torch.tensor(sum(rewards, []), dtype=torch.float64)
    mean, std = numbers.mean().item(), numbers.std().item()
    return {text: [(r - mean) / (std + 1e-6) for r in own] for text, own in zip(TEXTS, rewards, strict=True)}


def assert_trained_with(trainer, expected, step=0):
    trained = trained_advantages(trainer, step)
    assert trained.keys() == expected.keys()
    for text, own in expected.items():
        assert trained[text] == pytest.approx(own, abs=1e-5), text


def logged(trainer, step=0) -> dict[str, float]:
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    return {key.removeprefix("capo/"): value for key, value in entries[step].items() if key.startswith("capo/")}


def test_wrong_steps_lose_reward_once_with_an_adapter_too(critic_at, tiny_model, tmp_path):
    faults = ["429", "500", "cut", "garbage", "empty", "503"]
    with Endpoint(find_x, faults) as endpoint:
        capo = CAPO(critic_at(endpoint.url, max_retries=8), critiques=2, answer_column=None)
        adapter = LoraConfig(r=2, target_modules="all-linear")
        trainer = build(tiny_model, tmp_path, capo, peft_config=adapter, settings={"max_steps": 1})
        trainer.train()
    assert len(endpoint.requests) == 8 + len(faults)
    assert_trained_with(trainer, expected_advantages())
    metrics = logged(trainer)
    assert metrics.pop("time") > 0
    expected = {
        "requests": 8,
        "failed": 0,
        "unreadable": 0,
        "input_tokens": 800,
        "output_tokens": 80,
        "cost": 0.0016,
        "without_vote": 0,
        "wrong_steps": 1.0,
        "wrong_tokens": 14 / 34,
        "correct_with_wrong_steps": 0.5,
    }
    assert metrics == pytest.approx(expected, abs=1e-6)
    assert trainer.components[0].report() == (
        "8 critiques requested, 0 failed, 0 unreadable; 800 input and 80 output tokens, price 0.0016"
    )


def test_critiques_that_fail_or_cannot_be_read_do_not_vote(train, critic_at):
    said = iter(["Wrong steps: 1", "I see nothing wrong."])
    with Endpoint(lambda request: next(said, find_x(request)), ["500", "length", "reasoning"]) as endpoint:
        trainer = train(critic_at(endpoint.url, concurrency=1))  # the first critiques of four completions are lost
    assert_trained_with(trainer, expected_advantages())  # of the other critique of the same completion
    metrics = logged(trainer)
    assert (metrics["requests"], metrics["failed"], metrics["without_vote"]) == (8, 1, 0)
    assert metrics["unreadable"] == 3


def test_a_critic_that_dies_leaves_the_outcome_rewards_and_is_asked_again(train, critic_at, caplog):
    faults = [None] * 8 + ["500"] * 8 + ["503"]
    with Endpoint(find_x, faults) as endpoint:
        trainer = train(critic_at(endpoint.url), steps=4)
    no_votes = expected_advantages([set()] * 4)
    for step, expected in enumerate([expected_advantages(), no_votes, no_votes, expected_advantages()]):
        assert_trained_with(trainer, expected, step)
    assert [logged(trainer, step)["failed"] for step in range(4)] == [0, 8, 8, 0]
    assert [logged(trainer, step)["without_vote"] for step in range(4)] == [0, 1, 1, 0]
    assert len(endpoint.requests) == 8 + 8 + 1 + 8  # a single request to a critic that is down
    assert "has answered none of 8 requests: InternalServerError" in caplog.text and "answers again" in caplog.text


def test_no_critic_at_all_and_a_process_weight_of_0_are_the_same(train, critic_at):
    with Endpoint(find_x) as endpoint:
        pass  # nothing listens there any more
    trainer = train(critic_at(endpoint.url))
    assert (logged(trainer)["requests"], logged(trainer)["failed"]) == (8, 8)
    assert_trained_with(trainer, expected_advantages([set()] * 4))
    with Endpoint(find_x) as endpoint:
        train(critic_at(endpoint.url), process_weight=0.0)
    assert endpoint.requests == [] and logged(trainer)["requests"] == 0
    assert_trained_with(trainer, expected_advantages([set()] * 4))


def test_a_batch_without_a_request_says_nothing_about_the_critic(critic_at, caplog):
    with Endpoint(find_x, ["500"] * 2) as endpoint:
        capo = CAPO(critic_at(endpoint.url))
        capo._has_answered = True
        request = critic_request("2 + 2?", ["4x"])
        for asked, is_down in (([request] * 2, True), ([], True), ([request], False), ([], False)):
            assert len(capo._ask(asked)) == len(asked) and capo._is_down == is_down
    assert caplog.text.count("critic answers again") == 1


def test_truncated_completions_that_the_loss_leaves_out_are_not_sent(tiny_model, tmp_path, critic_at):
    def cut_first(prompts, trainer):  # no end-of-sequence token
        rolled = rollout(prompts, trainer)
        rolled["completion_ids"][0] = rolled["completion_ids"][0][:-1]
        return rolled

    with Endpoint(find_x) as endpoint:
        capo = CAPO(critic_at(endpoint.url), critiques=1, answer_column=None)
        settings = {"max_steps": 1, "mask_truncated_completions": True}
        trainer = build(tiny_model, tmp_path, capo, settings=settings, rollout_func=cut_first)
        trainer.train()
    assert len(endpoint.requests) == 3
    steps = [split_steps(text) for text in TEXTS[1:]]
    wrong = sum(
        own[number - 1][1] - own[number - 1][0]
        for own, named in zip(steps, WRONG[1:], strict=True)
        for number in named
    )
    assert logged(trainer)["wrong_tokens"] == pytest.approx(wrong / sum(len(text) + 1 for text in TEXTS[1:]))


def test_a_critic_that_hangs_does_not_stop_the_training(train, critic_at):
    with Endpoint(find_x, seconds=30) as endpoint:
        start = time.monotonic()
        trainer = train(critic_at(endpoint.url, 6), timeout=0.3, steps=2)
        assert time.monotonic() - start < 15
    assert [logged(trainer, step)["failed"] for step in range(2)] == [8, 8]
    assert_trained_with(trainer, expected_advantages([set()] * 4), step=1)


def test_a_refused_key_stops_at_once_but_not_once_it_has_worked(train, critic_at):
    with Endpoint(find_x, ["401"] * 50) as endpoint, pytest.raises(ValueError, match="refuses every request"):
        train(critic_at(endpoint.url))
    with Endpoint(find_x, [None] * 8 + ["401"] * 50) as endpoint:
        trainer = train(critic_at(endpoint.url), steps=2)
    assert [logged(trainer, step)["failed"] for step in range(2)] == [0, 8]


def test_a_local_model_can_be_the_critic(train):
    """The embedded model cannot criticize, but it reads and writes."""
    critic = LocalTeacher(str(demo.model_path()), max_new_tokens=4, batch_size=4)
    trainer = train(critic, critiques=1)
    metrics = logged(trainer)
    assert (metrics["requests"], metrics["failed"], metrics["unreadable"]) == (4, 0, 4)
    assert metrics["input_tokens"] > 400 and "cost" not in metrics


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"critiques": 0}, "critiques must be at least 1"),
        ({"vote": "greedy"}, "vote must be one of"),
        ({"outcome_weight": 0}, "outcome_weight must be above 0"),
        ({"process_weight": -1}, "process_weight at least 0"),
        ({"timeout": 0}, "timeout must be above 0"),
        ({"separator": " *"}, "must not match an empty text"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        CAPO(CRITIC, **settings)


def test_trainers_that_do_not_suit_it_are_refused(tiny_model, tmp_path, train):
    refuse = partial(build, tiny_model, tmp_path, CAPO(CRITIC))
    with pytest.raises(ValueError, match="CAPO gives each token a separate credit"):
        refuse(settings={"importance_sampling_level": "sequence"})
    with pytest.raises(ValueError, match="those of BatchWhitening would have no effect"):
        refuse(settings={"scale_rewards": "none"}, advantage=BatchWhitening())
    with pytest.raises(ValueError, match="Set it to 'sum_then_normalize'"):
        refuse(settings={"multi_objective_aggregation": "normalize_then_sum"})
    with pytest.raises(ValueError, match="CAPO shows the critic the column 'solution', but the dataset has"):
        train(CRITIC, answer_column="solution")
    with pytest.raises(ValueError, match="Place CAPO first"):
        CAPO(CRITIC).assign(None, {}, torch.zeros(2, 3))
