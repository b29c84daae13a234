# SPDX-License-Identifier: Apache-2.0
"""RLoT: golden values of the specification, the learning rule, the environment, and a resumed training."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from trl_concise import demo
from trl_concise.evaluation.sampling import TransformersSampler
from trl_concise.experimental.rlot import (
    FrozenModel,
    Navigator,
    NavigatorConfig,
    ReasoningEnvironment,
    make_policy,
    run_policy,
    train_navigator,
)
from trl_concise.experimental.rlot.calls import Generate, Score
from trl_concise.experimental.rlot.demo import LineBlocks, LineReader, operators_of, weakened_model
from trl_concise.experimental.rlot.environment import Context, Episode
from trl_concise.experimental.rlot.instructions import InstructionBlocks, RatingReader, parse_ratings
from trl_concise.experimental.rlot.navigator import (
    ACTIONS,
    ANSWER,
    DoubleDQN,
    double_dqn_target,
    dueling,
    network_input,
)
from trl_concise.experimental.rlot.prompts import Prompts
from trl_concise.experimental.rlot.training import judge_episodes, summarize_episodes
from trl_concise.experimental.step_scores import RuleScorer, score_steps


EXAMPLE = Path(__file__).parents[2] / "examples" / "rlot.py"
QUICK = NavigatorConfig(replay_size=6, batch_size=4, max_depth=2, target_every=2)


@pytest.fixture(scope="module")
def frozen(model, tokenizer) -> FrozenModel:
    return FrozenModel(TransformersSampler(model, tokenizer))


def environment(frozen: FrozenModel, max_depth: int = 2, **options) -> ReasoningEnvironment:
    tokenizer = frozen.tokenizer
    return ReasoningEnvironment(frozen, LineBlocks(tokenizer), LineReader(tokenizer), max_depth=max_depth, **options)


# The network


@pytest.mark.parametrize(("sizes", "parameters"), [((7, 5), 2566), ((8, 5), 2598), ((7, 4), 2533)])
def test_parameters(sizes, parameters):
    assert sum(weights.numel() for weights in Navigator(*sizes).parameters()) == parameters


def test_network_input():
    assert network_input([0, 1, 2, 3]).tolist() == pytest.approx([-1, -1 / 3, 1 / 3, 1])


def test_dueling():
    found = dueling(torch.tensor([0.5]), torch.tensor([1, 0, -1, 2, 0.5]))
    assert found.tolist() == pytest.approx([1, 0, -1, 2, 0.5])


@given(st.floats(-5, 5), st.lists(st.floats(-5, 5), min_size=5, max_size=5), st.floats(-5, 5))
def test_a_constant_added_to_all_advantages_changes_nothing(value, advantages, constant):
    state, own = torch.tensor([value], dtype=torch.float64), torch.tensor(advantages, dtype=torch.float64)
    found = dueling(state, own)
    assert (found - state).mean().item() == pytest.approx(0, abs=1e-9)
    assert torch.allclose(found, dueling(state, own + constant))


def test_the_whole_network():
    navigator = Navigator()
    with torch.no_grad():
        for name, weights in navigator.named_parameters():
            weights.fill_(0.0 if name.endswith("bias") else 0.1)
        navigator.advantage[2].weight.copy_(torch.tensor([[0.2], [0.1], [0.0], [-0.1], [-0.2]]).expand(5, 32))
        navigator.value[2].weight.fill_(0.05)
        found = navigator(network_input([[3] * 7, [3, 3, 3, 1, 2, 3, 3]]))
        assert found[0].tolist() == pytest.approx([17.92, 10.752, 3.584, -3.584, -10.752], abs=1e-4)
        third = navigator(network_input([[3, 3, 3, 1, 2, 3, 3]]))[0]
        assert torch.allclose(found[1], third)
        assert navigator(network_input([[3, 3, 3, 1, 2, 3, 3]])).shape == (1, 5)


# The learning rule


def test_target():
    online, target = torch.tensor([[0.2, 0.9, 0.4, 0.1, 0.3]]), torch.tensor([[0.5, 0.25, 0.8, 0.1, 0.0]])
    reward, going = torch.tensor([0.6]), torch.tensor([0.0])
    assert double_dqn_target(reward, online, target, going, 0.9).item() == pytest.approx(0.825)
    assert double_dqn_target(reward, online, target, going, 0.9, double=False).item() == pytest.approx(1.32)
    assert double_dqn_target(torch.tensor([1.0]), online, target, torch.tensor([1.0]), 0.9).item() == 1
    assert torch.nn.functional.mse_loss(torch.tensor(0.7), torch.tensor(0.825)).item() == pytest.approx(0.015625)


def test_schedules():
    config = NavigatorConfig()
    assert config.epsilon_after(1000) == pytest.approx(0.6064548, abs=1e-7)
    assert config.epsilon_after(5000) == pytest.approx(0.0820337, abs=1e-7)
    assert [config.learning_rate_at(episode) for episode in (0, 1000, 2999)] == [0.01, 0.005, 0.0025]


def test_discounted_rewards():
    assert sum(reward * 0.9**t for t, reward in enumerate((0.8, 0.9, 1.0))) == pytest.approx(2.42)


def test_nothing_is_learned_before_the_replay_is_full_and_the_target_follows():
    learner = DoubleDQN(QUICK)
    before = {name: weights.clone() for name, weights in learner.navigator.state_dict().items()}
    losses = [learner.learn((3,) * 7, 0, 1.0, None) for _ in range(5)]
    assert losses == [None] * 5
    assert all(torch.equal(weights, before[name]) for name, weights in learner.navigator.state_dict().items())
    assert learner.learn((3,) * 7, 0, 1.0, None) is not None
    assert not torch.equal(learner.navigator.input.weight, before["input.weight"])
    assert torch.equal(learner.target.input.weight, before["input.weight"])
    learner.learn((3,) * 7, 0, 1.0, None)
    assert torch.equal(learner.target.input.weight, learner.navigator.input.weight)


def test_it_learns_which_action_is_rewarded():
    learner = DoubleDQN(NavigatorConfig(replay_size=64, batch_size=32))
    for step in range(400):
        learner.learn((3,) * 7, step % 5, float(step % 5 == 2), None)
    assert learner.navigator.best_actions([(3,) * 7]) == [2]
    learner.actions = 10**6  # epsilon 0
    assert learner.choose([(3,) * 7]) == [2]


def test_epsilon_decays_before_each_action():
    learner = DoubleDQN(QUICK)
    learner.choose([(3,) * 7] * 4)
    assert learner.epsilon == pytest.approx(0.9995**4)


# Ratings and calls


def test_ratings_are_parsed():
    text = "A1: **3**\nA2 score=(2)\nA3 3/3\nB1 score=4\nC2 score=2"
    assert parse_ratings(text) == ([3, 2, 3, 0, 0, 0, 2], 3)
    assert parse_ratings("A1: 12\nA2: -1\nA3: 2.5\nB1:\n3\nB2: 2\nC1: 0") == ([0, 0, 0, 0, 2, 0, 0], 5)
    assert parse_ratings("A1" + "." * 25 + "3", ["A1"]) == ([0], 1)
    assert parse_ratings("A1" + "." * 24 + "3", ["A1"]) == ([3], 0)


class Scripted:
    """A sampler that writes what a prompt asks for."""

    end_token_ids = {2}

    def __init__(self, tokenizer, *, ends_at: int = 0):
        self.tokenizer, self.ends_at, self.prompts, self.checks = tokenizer, ends_at, [], 0

    def sample(self, prompts, settings):
        texts = []
        for prompt in self.tokenizer.batch_decode(prompts):
            self.prompts.append(prompt)
            if "List the subtasks" in prompt:
                text = "1. add\n2. multiply\n3. subtract"
            elif "Does the reasoning" in prompt:
                self.checks += 1
                text = f"Is the answer correct (Yes/No)? {'Yes' if self.checks == self.ends_at else 'No'}"
            elif "final answer" in prompt and "boxed" in prompt:
                text = "\\boxed{64}"
            elif "Rate the reasoning" in prompt:
                text = "A1: 3\nA2: 3\nA3: 3\nB1: 1\nB2: 1\nC1: 3"
            else:
                text = "a step"
            texts.append([*self.tokenizer(text).input_ids, 2])
        return texts


def scripted_episode(tokenizer, actions: list[str], **options) -> Episode:
    sampler = Scripted(tokenizer, **options)
    system = {"role": "system", "content": "Be brief."}
    model = FrozenModel(sampler)
    own = ReasoningEnvironment(model, InstructionBlocks(tokenizer), RatingReader(tokenizer))
    (episode,) = own.start([[system, {"role": "user", "content": "What is {reasoning} + 2?"}]])
    for action in actions:
        own.step([episode], [ACTIONS.index(action)])
    assert all("Be brief." in prompt and "What is {reasoning} + 2?" in prompt for prompt in sampler.prompts)
    assert episode.cost.prompt_tokens == sum(len(tokenizer(prompt).input_ids) for prompt in sampler.prompts)
    return episode


@pytest.fixture(scope="module")
def bytes_tokenizer(tiny_model):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.mark.parametrize(
    ("actions", "calls", "blocks"),
    [
        # one call less than the release, which rates the state after the answer
        (["R", "Rf", "Ga"], 9 - 1, ["R", "Rf", "Ga"]),
        (["R"] * 6, 18 - 1, ["R"] * 5 + ["Ga"]),
    ],
)
def test_calls(bytes_tokenizer, actions, calls, blocks):
    episode = scripted_episode(bytes_tokenizer, actions)
    assert (episode.cost.calls, episode.blocks, episode.done) == (calls, blocks, True)
    assert episode.context.text.endswith("\\boxed{64}")
    assert episode.unreadable == len(episode.states)  # C2 is missing in every rating
    assert episode.states[-1] == (3, 3, 3, 1, 1, 3, 0)


def test_calls_of_an_episode_that_the_check_ends(bytes_tokenizer):
    """Two calls less than the release, which also rates the state before the answer, although the episode has ended."""
    episode = scripted_episode(bytes_tokenizer, ["D", "Db"], ends_at=2)
    assert (episode.cost.calls, episode.blocks) == (15 - 2, ["D", "Db", "Ga"])
    assert episode.actions == [1, 2] and len(episode.states) == 2


def test_the_actions_that_are_stored(bytes_tokenizer):
    assert scripted_episode(bytes_tokenizer, ["Rf", "Ga"]).actions == [0, ANSWER]
    assert scripted_episode(bytes_tokenizer, ["R"] * 6).actions == [0] * 5 + [ANSWER]


def test_a_forced_answer_may_be_stored_as_chosen(frozen):
    own = environment(frozen, 1, store_forced="chosen")
    (episode,) = own.start(["What is 27 + 8 - 6?"])
    own.step([episode], [0])
    own.step([episode], [1])
    assert (episode.actions, episode.blocks) == ([0, 1], ["R", "Ga"])
    with pytest.raises(ValueError, match="takes no further block"):
        own.step([episode], [0])


def test_a_text_without_instructions_runs_with_a_real_model(tiny_model):
    """The random model writes nothing readable: blocks up to the limit, then the answer, and every rating is 0."""
    from trl_concise.evaluation.sampling import load_sampler

    sampler = load_sampler(tiny_model)
    parts = [
        kind(sampler.tokenizer, Prompts(context="{problem}", rate="Rate."), max_new_tokens=2)
        for kind in (InstructionBlocks, RatingReader)
    ]
    rows = Dataset.from_list([{"prompt": "What is 2 + 2?", "solution": "4"}])
    own = ReasoningEnvironment(FrozenModel(sampler), *parts, max_depth=2)
    summary, (record,) = run_policy(own, rows, make_policy("always:D"))
    assert record["blocks"] == ["D", "D", "Ga"] and not record["correct"]
    assert record["states"] == [[0] * 7] * 3 and summary["unreadable"] == 21


# The demo's blocks and ratings


def read(frozen, text: str) -> list[int]:
    own = environment(frozen)
    episode = Episode(Context("What is (27 + 8) * 2 - 6?", [text]))
    own._rate([episode])
    return list(episode.states[0])


def test_ratings_of_the_demo(frozen):
    assert operators_of("What is (27 + 8) * 2 - 6?") == ["+", "*", "-"]
    start = read(frozen, "")
    assert (start[:4], start[5:]) == ([3, 3, 0, 3], [1, 1])
    done = read(frozen, "We need (27 + 8) * 2 - 6.\n27+8=35\nThen, 35 * 2 = 70.\n70-6=64\n")
    assert (done[:2], done[3], done[5:]) == ([3, 3], 1, [3, 1])
    wrong = read(frozen, "27*8=35\n35 times\nWait, let me check.\n27*8=31\n31+2=33\n")
    assert (wrong[:4], wrong[5:]) == ([1, 1, 1, 2], [2, 2])


def test_blocks_of_the_demo(frozen):
    prompt = [{"role": "user", "content": "What is 27 + 8 - 6?"}]
    own = environment(frozen, 5)
    episodes = own.start([prompt] * 4)
    own.step(episodes, [ACTIONS.index(name) for name in ("R", "D", "Db", "Ga")])
    one, whole, drafted, answered = (episode.context.text for episode in episodes)
    assert one.count("\n") == 1 and one.endswith("\n") and drafted.count("\n") == 1
    assert whole.startswith(one) and operators_of(whole.replace("+", " + ").replace("-", " - ").replace("=", " "))
    assert answered.startswith("</think>\n") and "\\boxed{" in answered and episodes[3].done
    own.step(episodes[:2], [ACTIONS.index("Rf")] * 2)
    assert "Wait, let me check.\n" in episodes[1].context.text and "That " in episodes[1].context.text
    own.step([episodes[1]], [ACTIONS.index("Rf")])
    assert "Let me check again.\n" in episodes[1].context.text


def test_an_episode_does_not_depend_on_the_batch(frozen):
    """Plain and conversational prompts of other lengths share a batch; each is also run alone."""
    prompts = ["What is 27 + 8 - 6?", [{"role": "user", "content": "What is (27 + 8) * 2 - 6?"}], "What is 9 * 3 + 1?"]
    single = FrozenModel(frozen.sampler, batch_size=1)
    texts = []
    for model, groups in ((frozen, [prompts]), (single, [[prompt] for prompt in prompts])):
        texts.append([])
        for group in groups:
            own = environment(model, 3)
            episodes = own.start(group)
            for action in ("R", "Rf", "Ga"):
                own.step(episodes, [ACTIONS.index(action)] * len(group))
            texts[-1] += [(episode.context.text, vars(episode.cost)) for episode in episodes]
    assert texts[0] == texts[1]
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        FrozenModel(frozen.sampler, batch_size=0)


def test_scores_agree_with_the_model(frozen, model, tokenizer):
    ids = tokenizer("What is 27 + 8?").input_ids
    replies = frozen.call([Score(ids[:2], ids[2:]), Score(ids[:1], []), Generate(ids, 3)], seed=0)
    logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    expected = [logprobs[place - 1, ids[place]].item() for place in range(2, len(ids))]
    assert replies[0].logprobs == pytest.approx(expected, abs=1e-4)
    assert replies[0].entropy == pytest.approx(-(logprobs[-1].exp() * logprobs[-1]).sum().item(), abs=1e-4)
    assert replies[1].logprobs == () and len(replies[2].ids) <= 3


# Training and evaluation


def test_an_interrupted_training_gives_the_same_navigator(frozen, tmp_path):
    weights = {name: tensor.clone() for name, tensor in frozen.sampler.model.state_dict().items()}
    rows = demo.train_dataset(8, operations=(2,))
    options = {"scorer": RuleScorer(), "config": QUICK, "episodes": 6, "parallel": 2, "save_every": 1}
    whole = train_navigator(environment(frozen), rows, output_dir=tmp_path / "whole", **options)
    train_navigator(environment(frozen), rows, output_dir=tmp_path / "halves", stop_after=3, **options)
    assert len((tmp_path / "halves" / "episodes.jsonl").read_text().splitlines()) == 4
    halves = train_navigator(environment(frozen), rows, output_dir=tmp_path / "halves", **options)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, halves.state_dict()[name]), name
    states = [load_file(tmp_path / name / "training_state.safetensors") for name in ("whole", "halves")]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    for file in ("episodes.jsonl", "navigator.json", "navigator.safetensors"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "halves" / file).read_bytes(), file
    assert all(torch.equal(tensor, weights[name]) for name, tensor in frozen.sampler.model.state_dict().items())
    assert torch.equal(Navigator.load(tmp_path / "whole").input.weight, whole.input.weight)
    for line in (tmp_path / "whole" / "episodes.jsonl").read_text().splitlines():
        record = json.loads(line)
        assert len(record["states"]) == len(record["actions"]) == len(record["rewards"])
        assert record["blocks"].count("Ga") == 1 and record["blocks"][-1] == "Ga" and len(record["blocks"]) <= 3
        assert record["blocks"][0] != "Rf" and record["rewards"][-1] in (0, 1)
    for changes in ({"config": NavigatorConfig(max_depth=2)}, {"problems": rows.select([0])}, {"parallel": 3}):
        with pytest.raises(ValueError, match="other settings or problems, .* Choose an empty folder"):
            train_navigator(
                environment(frozen), output_dir=tmp_path / "whole", **{"problems": rows, **options, **changes}
            )


def test_an_evaluation_uses_no_reference_answer_and_sums_all_costs(frozen, tmp_path):
    rows = demo.problem_dataset(5, operations=(2,))
    navigator = Navigator()
    runs = []
    for number, solutions in enumerate((rows["solution"], ["0"] * 5)):
        own = rows.remove_columns("solution").add_column("solution", list(solutions))
        runs.append(
            run_policy(
                environment(frozen), own, make_policy("navigator", navigator), tmp_path / str(number), parallel=3
            )
        )
    (summary, records), (_, others) = runs
    assert [record | {"correct": None} for record in records] == [record | {"correct": None} for record in others]
    saved = [json.loads(line) for line in (tmp_path / "0" / "episodes.jsonl").read_text().splitlines()]
    assert saved == records and json.loads((tmp_path / "0" / "summary.json").read_text()) == summary
    for name in ("generated_tokens", "prompt_tokens", "calls"):
        assert summary[name] == sum(record[name] for record in records) > 0
    assert sum(summary["sequences"].values()) == 5


def test_the_random_policy_does_not_depend_on_the_other_episodes():
    policy = make_policy("random", seed=3)
    episodes = [Episode(Context(f"problem {number}")) for number in range(8)]
    assert policy(episodes) == [policy([episode])[0] for episode in episodes]
    assert len(set(policy(episodes))) > 1


def test_a_truncated_or_missing_answer_is_wrong():
    right = Episode(Context("1 + 1?", ["\\boxed{2}"]))
    truncated = Episode(Context("1 + 1?", ["\\boxed{2}"], truncated=True))
    unfinished = Episode(Context("6 * 7?", ["\\boxed{6 \\times 7}"]))
    episodes = [right, truncated, Episode(Context("1 + 1?")), unfinished, right]
    verdicts = judge_episodes(episodes, ["2", "2", "2", "42", ""])
    assert verdicts == [True, False, False, False, None]
    records = [episode.record() | {"correct": verdict} for episode, verdict in zip(episodes, verdicts, strict=True)]
    summary = summarize_episodes(records)
    assert (summary["problems"], summary["judged"], summary["accuracy"]) == (5, 4, 0.25)
    assert summarize_episodes(records[-1:])["accuracy"] is None


def test_the_weakened_model(tmp_path):
    folder = weakened_model(tmp_path / "weak", 0.1)
    from transformers import AutoModelForCausalLM

    found, own = (AutoModelForCausalLM.from_pretrained(path) for path in (folder, demo.model_path()))
    name = "model.layers.0.mlp.up_proj.weight"
    change = found.state_dict()[name] - own.state_dict()[name]
    assert change.std().item() == pytest.approx(0.1 * own.state_dict()[name].std().item(), rel=0.05)
    assert weakened_model(folder) == folder
    with pytest.raises(ValueError, match="noise must be at least 0"):
        weakened_model(tmp_path / "other", -1.0)


# Invalid input


@pytest.mark.parametrize("state", [[3] * 6, [3] * 8, [3] * 6 + [4], [-1] + [3] * 6, [1.5] + [3] * 6])
def test_states_are_checked(state):
    with pytest.raises(ValueError, match="7 ratings, whole numbers between 0 and 3"):
        DoubleDQN(QUICK).learn(state, 0, 1.0, None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"replay_size": 63}, "replay_size 63 is smaller than batch_size 64"),
        ({"gamma": 1.1}, "gamma must be between 0 and 1, got 1.1"),
        ({"gamma": float("nan")}, "gamma must be between 0 and 1"),
        ({"max_depth": 0}, "max_depth must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"store_forced": "both"}, "store_forced must be 'answer' or 'chosen'"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        NavigatorConfig(**settings)


def test_scores_of_steps_are_checked():
    for scores, message in (
        ([1.0], "1 scores for 2 steps"),
        ([1.0, 1.1], "1.1 for step 1"),
        ([float("nan")] * 2, "nan"),
    ):
        with pytest.raises(ValueError, match=message):
            score_steps(lambda problem, steps, scores=scores: scores, "2 + 2?", ["a", "b"])


def test_policies_are_checked():
    with pytest.raises(ValueError, match="Did you mean 'always:Rf'"):
        make_policy("always:Rff")
    with pytest.raises(ValueError, match="needs a navigator"):
        make_policy("navigator")


def test_blocks_and_problems_are_checked(frozen, tmp_path):
    own = environment(frozen)
    episodes = own.start(["What is 27 + 8?"])
    with pytest.raises(ValueError, match="Unknown block 5: blocks are 0 to 4, R, D, Db, Rf, Ga"):
        own.step(episodes, [5])
    assert not episodes[0].actions
    empty = demo.problem_dataset(1).select([])
    with pytest.raises(ValueError, match="has 0 problems"):
        train_navigator(own, empty, RuleScorer(), tmp_path, QUICK)
    with pytest.raises(ValueError, match="At least one problem"):
        run_policy(own, empty, make_policy("random"))
    with pytest.raises(ValueError, match="max_depth 2 and store_forced 'answer', the config 5"):
        train_navigator(own, demo.train_dataset(1), RuleScorer(), tmp_path)
    with pytest.raises(ValueError, match="A prompt has 0 tokens"):
        own.start([""])
    with pytest.raises(ValueError, match="need a TransformersSampler, but the sampler is Scripted"):
        FrozenModel(Scripted(frozen.tokenizer)).call([Score([1], [])], seed=0)


def test_a_navigator_of_other_sizes_is_refused(tmp_path):
    Navigator(8, 5).save(tmp_path)
    with pytest.raises(ValueError, match=r"its first layer has the shape \(32, 8\), and \(32, 7\) is needed"):
        Navigator.load(tmp_path)
    with pytest.raises(FileNotFoundError):
        Navigator.load(tmp_path / "missing")


def test_example(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = "--episodes 2 --parallel 2 --problems 2 --report_problems 1 --replay_size 2 --votes 1 --max_new_tokens 8"
    monkeypatch.setattr(sys, "argv", [EXAMPLE.name, *flags.split()])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert "| 4 operations | majority vote |" in capsys.readouterr().out
    results = json.loads((tmp_path / "outputs" / "rlot-demo" / "results.json").read_text())
    assert [row["name"] for row in results["3 operations"]] == [
        *("navigator", "always:R", "random", "plain decoding", "majority vote")
    ]


@pytest.mark.parametrize("flag", ["--report_problems", "--votes", "--max_new_tokens"])
def test_the_example_reports_a_wrong_number_before_the_training(flag, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [EXAMPLE.name, flag, "0"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert f"{flag} must be at least 1, got 0" in capsys.readouterr().err and not list(tmp_path.iterdir())
