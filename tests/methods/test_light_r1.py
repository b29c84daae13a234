# SPDX-License-Identifier: Apache-2.0
"""Light-R1: the pairs, TRL's NCA loss at the golden values, the merge."""

from __future__ import annotations

import json
import math

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch.nn.functional import logsigmoid
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

from tests import tiny
from trl_concise import demo
from trl_concise.demo.problems import split_of
from trl_concise.evaluation import Completion
from trl_concise.methods.light_r1 import average_checkpoints, build_teacher_pairs
from trl_concise.verification import verify_answers


tensor = torch.tensor


def nca(chosen, rejected, reference_chosen, reference_rejected, beta=0.3):
    """The equation of the paper, from summed log-probabilities."""
    good, bad = beta * (chosen - reference_chosen), beta * (rejected - reference_rejected)
    return -logsigmoid(good) - 0.5 * logsigmoid(-good) - 0.5 * logsigmoid(-bad)


def test_golden_values_of_the_loss():
    losses = nca(tensor([-0.6, -2.0]), tensor([-2.0, -1.5]), tensor([-0.9, -2.4]), tensor([-1.8, -1.2]))
    assert losses.tolist() == pytest.approx([1.350538, 1.336999], abs=1e-6)
    assert losses.mean() == pytest.approx(1.343768, abs=1e-6)


@given(st.floats(-20, 20), st.floats(0.01, 5))
def test_the_rejected_side_alone_raises_the_loss(reward, more):
    zero = tensor(0.0, dtype=torch.float64)
    assert nca(zero, zero + reward + more, zero, zero) > nca(zero, zero + reward, zero, zero)


def test_the_best_reward_of_the_chosen_side_is_finite():
    chosen = torch.linspace(-10, 10, 20001, dtype=torch.float64)
    best = chosen[nca(chosen, torch.zeros(20001), torch.zeros(20001), torch.zeros(20001)).argmin()] * 0.3
    assert torch.sigmoid(best) == pytest.approx(2 / 3, abs=1e-3)


def test_trl_trains_with_this_loss_from_sums(tiny_model, tmp_path):
    """At the start it is 2 ln 2; after a step it is the equation on summed log-probabilities."""
    rows = [{"prompt": "1 + 1 =", "chosen": " 2, of course", "rejected": " 3"}] * 4
    seen = []

    class Watching(DPOTrainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            with torch.no_grad():
                chosen, rejected = (summed_logps(model, inputs, half) for half in (0, 1))
            loss = super().compute_loss(model, inputs, *args, **kwargs)
            seen.append((loss.item(), chosen, rejected))
            return loss

    def summed_logps(model, inputs, half):
        ids, mask = inputs["input_ids"], inputs["completion_mask"]
        logps = model(input_ids=ids, attention_mask=inputs["attention_mask"]).logits.log_softmax(-1)
        taken = logps[:, :-1].gather(-1, ids[:, 1:, None])[..., 0] * mask[:, 1:]
        return taken.sum(1).chunk(2)[half]

    settings = {"loss_type": ["nca_pair"], "beta": 0.3, "max_steps": 2, "per_device_train_batch_size": 4}
    changes = {name: value for name, value in tiny.settings(tmp_path).items() if name not in _ONLY_GRPO}
    args = DPOConfig(**changes | settings | {"learning_rate": 1e-3, "lr_scheduler_type": "constant"})
    trainer = Watching(tiny_model, args=args, train_dataset=Dataset.from_list(rows))
    trainer.train()
    (first, *start), (second, *now) = seen
    assert first == pytest.approx(2 * math.log(2), abs=1e-5)
    assert second == pytest.approx(nca(now[0], now[1], start[0], start[1]).mean().item(), abs=1e-4)
    assert second < first


_ONLY_GRPO = ("num_generations", "max_completion_length", "per_device_eval_batch_size")


# Pairs

PROBLEMS = Dataset.from_list(
    [
        {"prompt": [{"role": "user", "content": f"{i}?"}], "solution": str(i), "generations": replies}
        for i, replies in enumerate(
            [
                ["<think>\n7</think>\n\\boxed{7}", "<think>\n0</think>\n\\boxed{0}"],
                [None, "<think>\n1</think>\n\\boxed{1}"],
                ["<think>\n3</think>\n\\boxed{3}"],
                None,
                ["<think>\n4</think>\n\\boxed{4}"],
            ]
        )
    ]
)
COMPLETIONS = {  # by problem: text, verdict, truncated
    0: [("0</think>\n\\boxed{0}", True, False), ("a</think>\n\\boxed{9}", False, False), ("b", False, False)],
    1: [("cut off", False, True), ("c</think>\n\\boxed{2}", False, False)],
    2: [("d", False, False)],  # the teacher is wrong
    3: [("e", False, False)],  # no teacher
    4: [("f", False, True), ("unknown", None, False)],
}


def write(folder, completions=COMPLETIONS) -> None:
    items = [
        Completion("set", problem, k, str(problem), text, [1, 2], truncated=truncated, correct=verdict)
        for problem, samples in completions.items()
        for k, (text, verdict, truncated) in enumerate(samples)
    ]
    (folder / "completions.jsonl").write_text("".join(item.line() for item in items))


@pytest.mark.parametrize("opens", [True, False])
def test_every_pair_is_of_the_teacher_and_of_the_model(opens, tiny_model, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(demo.model_path() if opens else tiny_model)
    write(tmp_path)
    pairs, dropped = build_teacher_pairs(tmp_path, {"set": PROBLEMS}, tokenizer)
    start = "<think>\n" if opens else ""
    assert [(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in pairs] == [
        ("<think>\n0</think>\n\\boxed{0}", start + "a</think>\n\\boxed{9}"),
        ("<think>\n1</think>\n\\boxed{1}", start + "c</think>\n\\boxed{2}"),
    ]
    assert pairs["prompt"][1] == PROBLEMS["prompt"][1]
    assert dropped == {"no correct solution of the teacher": 2, "no finished wrong completion": 1}


def test_input_without_pairs_is_refused(tiny_model, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    write(tmp_path, {4: COMPLETIONS[4]})
    with pytest.raises(ValueError, match=r"No pair can be built .*'no finished wrong completion': 5"):
        build_teacher_pairs(tmp_path, {"set": PROBLEMS}, tokenizer)
    with pytest.raises(ValueError, match=r"no column 'replies' .* it has \['prompt', 'solution', 'generations'\]"):
        build_teacher_pairs(tmp_path, {"set": PROBLEMS}, tokenizer, teacher_column="replies")


def test_the_teacher_of_the_demo_is_right():
    rows = demo.teacher_dataset(60, seed=3)
    assert all(verify_answers(rows["solution"][:], [replies[0] for replies in rows["generations"]]))
    assert rows["prompt_id"][:] == [row["prompt_id"] for row in demo.generate_problems(60, 3, operations=(2, 3, 4))]
    assert all(split_of(row[0]["content"]) == "train" for row in rows["prompt"])
    assert {sum(row[0]["content"].count(sign) for sign in "+-*") for row in rows["prompt"]} == {2, 3, 4}


# The merge


@pytest.fixture(scope="module")
def checkpoints(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("merge")
    return [tiny.make_model(folder / str(seed), seed=seed) for seed in range(3)]


@pytest.mark.parametrize("weights", [None, [1, 2, 1]])
def test_the_weights_are_averaged(weights, checkpoints, tmp_path):
    merged = average_checkpoints(checkpoints, tmp_path / "merged", weights=weights)
    states = [AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in checkpoints]
    shares = [1 / 3] * 3 if weights is None else [0.25, 0.5, 0.25]
    for name, value in AutoModelForCausalLM.from_pretrained(merged).state_dict().items():
        expected = sum(share * state[name] for share, state in zip(shares, states, strict=True))
        torch.testing.assert_close(value, expected)
    assert AutoTokenizer.from_pretrained(merged).chat_template == tiny.CHAT_TEMPLATE
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]


def test_the_mean_of_equal_models_is_the_model(checkpoints, tmp_path):
    merged = average_checkpoints([checkpoints[0]] * 4, tmp_path / "merged")
    one, other = (load_file(f"{folder}/model.safetensors") for folder in (checkpoints[0], merged))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_models_that_cannot_be_merged_are_refused(checkpoints, tmp_path):
    with pytest.raises(ValueError, match="at least two checkpoints, got 1"):
        average_checkpoints(checkpoints[:1], tmp_path / "a")
    for weights in ([1], [1, -1], [1, math.inf], [1, math.nan]):
        with pytest.raises(ValueError, match="one number for each of 2 checkpoints, with a positive finite sum"):
            average_checkpoints(checkpoints[:2], tmp_path / "a", weights=weights)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(ValueError, match="already exists and is not an empty folder"):
        average_checkpoints(checkpoints[:2], tmp_path / "full")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="has an adapter. Merge it into its base model first: trl-concise merge"):
        average_checkpoints([checkpoints[0], tmp_path / "adapter"], tmp_path / "a")
    other = tmp_path / "other"
    tiny.make_model(other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1, "layer_types": None}))
    state = load_file(other / "model.safetensors")
    save_file({name: value for name, value in state.items() if ".1." not in name}, other / "model.safetensors")
    with pytest.raises(
        ValueError, match="have different parameters. Merge models that were trained from the same start"
    ):
        average_checkpoints([checkpoints[0], other], tmp_path / "a")
    assert not (tmp_path / "a").exists()
