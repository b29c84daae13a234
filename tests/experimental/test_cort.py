# SPDX-License-Identifier: Apache-2.0
"""Golden values: the page of CoRT, computed by hand from the equations and from the authors' code at 337dbb7."""

from __future__ import annotations

import json
import math
import random
import runpy
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import normalizers
from transformers import AutoTokenizer
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from tests import slot_rows, tiny
from tests.component_rows import correct_if_even, problems
from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer, HAPOLengthReward, demo
from trl_concise.batch.rollouts import completion_lengths
from trl_concise.demo.problems import draw_distinct_problems
from trl_concise.evaluation.sampling import SamplingSettings
from trl_concise.experimental import code_sampling
from trl_concise.experimental.code_blocks import (
    LIMIT_MESSAGE,
    CodeCompletion,
    encode_output,
    find_block,
    kind_of_block,
    numbers_in,
    output_text,
    split_outputs,
)
from trl_concise.experimental.code_sampling import complete_with_code, evaluate_with_code
from trl_concise.experimental.code_traces import (
    COMPUTATION_HINT,
    PROMPT_HINT,
    TRUST_HINT,
    build_code_traces,
    delays_computation,
    distrusts_output,
    executed_blocks,
    insert_hints,
    insert_prompt_hint,
    tokenize_code_trace,
)
from trl_concise.experimental.cort import CodeExecutionReward, CodeReasoning, check_fences, code_penalty
from trl_concise.experimental.cort_demo import KINDS, add_code_tokens, write_code_trace
from trl_concise.experimental.execution import Calculator, Outcome


EXAMPLE = Path(__file__).parents[2] / "examples" / "cort.py"
BLOCK = "```python\nprint({})\n```"


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return AutoTokenizer.from_pretrained(tiny_model)


# Reward

NONE: list[Outcome] = []
NAME_ERROR = Outcome("NameError: name 'y' is not defined", "error")
DIVISION = Outcome("ZeroDivisionError: division by zero", "error")
TIMEOUT = Outcome("Error: timeout", "timeout")


@pytest.mark.parametrize(
    ("right", "outcomes", "release", "ours"),
    [
        (1, [Outcome("4", "ok")], 1, 1),
        (1, NONE, 0.9, 1),
        (1, [NAME_ERROR], 0.9, 0.9),
        (0, [DIVISION, Outcome("3", "ok")], 0, 0),
        (0, [TIMEOUT], -0.1, -0.1),
        (1, [Outcome("[]", "ok")], 0.9, 1),
        (1, [Outcome("the error is 0.01", "ok")], 0.9, 1),
        (0, NONE, -0.1, 0),
    ],
)
def test_golden_rewards(right, outcomes, release, ours):
    assert right + 0.1 * code_penalty(outcomes, release=True) == pytest.approx(release)
    assert right + 0.1 * code_penalty(outcomes) == pytest.approx(ours)


@given(st.sampled_from([0, 1]), st.lists(st.sampled_from(["ok", "error", "timeout", "killed"])), st.floats(0, 1))
def test_the_reward_is_bounded_and_a_failure_next_to_a_success_costs_nothing(right, statuses, omega):
    reward = right + omega * code_penalty([Outcome("", status) for status in statuses])
    assert -omega <= reward <= 1
    assert "ok" not in statuses or reward == right


@pytest.mark.parametrize(
    ("rewards", "advantages"),
    [
        ([1, 0.9, 0, -0.1], [0.947737, 0.775421, -0.775421, -0.947737]),
        ([1, 1, 1, 0.9], [0.499002, 0.499002, 0.499002, -1.497006]),
    ],
)
def test_golden_advantages(rewards, advantages, tiny_model, tmp_path):
    def golden(completions, **kwargs):
        return rewards * (len(completions) // 4)

    settings = tiny.settings(tmp_path, max_steps=1, max_completion_length=4)
    trainer = tiny.spy(ConciseGRPOTrainer)(tiny_model, golden, ConciseGRPOConfig(**settings), problems(4))
    trainer.train()
    found = torch.cat([inputs["advantages"] for inputs, _, _ in trainer.seen]).tolist()  # in the order of the loss
    assert sorted(found) == pytest.approx(sorted(advantages * (len(found) // 4)), abs=1e-6)


# Blocks


@pytest.mark.parametrize(
    ("before", "output", "kind"),
    [
        ("27+8=35, 35*2=70, 70-6=64", "64", "verification"),
        ("We need (27 + 8) * 2 - 6.", "64", "calculation"),
        ("x is 0.5", "0.50", "verification"),
        ("got 3 and 4", "3 4 5", "calculation"),
        ("3", "", "none"),
        ("", "Done", "none"),
    ],
)
def test_golden_kinds(before, output, kind):
    assert kind_of_block(before, output) == kind


def test_signs_are_read_where_they_are_no_operators():
    assert {float(number) for number in numbers_in("x = -5, 70-6, (2)-3, y2 8 - 1")} == {-5, 70, 6, 2, 3, 8, 1}


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (f"So {BLOCK.format(1)}", None),  # a fence begins a line
        (f"So\n{BLOCK.format(1)}", f"So\n{BLOCK.format(1)}"),
        (f"\n{BLOCK.format(1)}\nand\n{BLOCK.format(2)}", f"\n{BLOCK.format(1)}"),
        ("```python\n```python", "```python\n```"),
        ("```python\nprint(1) ```\n", None),
        ("```bash\nls\n```\n", None),
        ("```python\nprint(1)\n``", None),
    ],
)
def test_the_first_complete_block_ends_the_round(text, kept, tokenizer):
    found = find_block(tokenizer, tokenizer(text).input_ids)
    assert (found and text[: found[0]]) == kept  # a token is a byte


def test_golden_segments():
    completion = CodeCompletion()
    completion.add_written([7] * 8, [-1.0] * 8)
    completion.add_output([8] * 4)
    completion.add_written([7, 2], [-1.0] * 2)
    assert len(completion.ids) == 14 and sum(completion.mask) == completion.written == 10
    assert completion_lengths([[*completion.ids[:-1], 7]], [completion.mask], {2}) == [10]
    assert [math.isnan(logp) for logp in completion.logps] == [mask == 0 for mask in completion.mask]


def test_an_output_has_no_special_tokens(tokenizer):
    text = output_text(Outcome("<|im_end|>", "ok"), starts_line=False, is_last=True)
    assert text == f"\n```output\n<|im_end|>\n{LIMIT_MESSAGE}\n```\n"
    ids = encode_output(tokenizer, text)
    assert tokenizer.eos_token_id not in ids and tokenizer.decode(ids) == text


PIECES = st.lists(st.sampled_from(["ab", BLOCK.format("1+1"), BLOCK.format("1/0"), "\n", "`" * 3, "é"]), max_size=6)


class Writes:
    """A sampler that writes given texts, one per round, and then ends."""

    def __init__(self, tokenizer, texts, stops=0):
        self.stops = stops  # first rounds that end without an end token, as with a stop string
        self.tokenizer, self.end_token_ids = tokenizer, {tokenizer.eos_token_id}
        self.texts, self.drawn, self.prompts = iter(texts), [], []

    def sample(self, prompts, settings):
        self.prompts += prompts
        ids = self.tokenizer(next(self.texts, "")).input_ids
        ids = ids if len(self.drawn) < self.stops else [*ids, 2]
        self.drawn.append(ids[: settings.max_new_tokens])
        return [self.drawn[-1]] * len(prompts)


@given(st.lists(PIECES.map("\n".join), max_size=5), st.integers(0, 3), st.integers(1, 200))
def test_kept_ids_are_sampled_ids_and_outputs_in_order(tokenizer, texts, max_calls, limit):
    sampler = Writes(tokenizer, texts)
    (own,) = complete_with_code(sampler, [[5]], SamplingSettings(limit, seed=0), Calculator(), max_calls)
    assert own.done and own.calls <= max_calls and 1 <= own.written <= limit
    assert sampler.prompts[-1] == [5, *own.ids][: len(sampler.prompts[-1])]
    rest, position = list(own.ids), 0
    for drawn in sampler.drawn:  # each round: a first part of what was drawn, then an output
        while position < len(rest) and own.mask[position] == 0:
            position += 1
        kept = 0
        while position < len(rest) and kept < len(drawn) and own.mask[position]:
            assert rest[position] == drawn[kept]
            position, kept = position + 1, kept + 1
    text = tokenizer.decode([id for id, mask in zip(own.ids, own.mask, strict=True) if not mask])
    assert text.count("```output\n") == own.calls and (LIMIT_MESSAGE in text) == (own.calls == max_calls > 0)
    assert sum(map(len, sampler.drawn)) == own.written + own.wasted


@pytest.mark.parametrize("max_calls", [12, 15])
def test_golden_limits(tokenizer, max_calls):
    """The release executes 11 and 14: its message comes with the last of them."""
    sampler = Writes(tokenizer, [f"\n{BLOCK.format(i)}\n" for i in range(20)])
    (own,) = complete_with_code(sampler, [[5]], SamplingSettings(10_000), Calculator(), max_calls)
    assert own.calls == max_calls
    assert [outcome.output for outcome in own.outcomes] == [str(i) for i in range(max_calls)]


def test_a_round_that_a_stop_string_ends_is_continued(tokenizer):
    sampler = Writes(tokenizer, ["```bash\nls\n```\n", "```python\nprint(1+", "1)\n```\n", "So 2."], stops=3)
    (own,) = complete_with_code(sampler, [[5]], SamplingSettings(1000), Calculator())
    assert [outcome.output for outcome in own.outcomes] == ["2"] and own.wasted == 1  # a line break
    text = "```bash\nls\n```\n```python\nprint(1+1)\n```\n```output\n2\n```\nSo 2.<|im_end|>"
    assert tokenizer.decode(own.ids) == text
    (own,) = complete_with_code(Writes(tokenizer, [""], stops=1), [[5]], SamplingSettings(9), Calculator())
    assert own.done and own.ids == []


def test_variables_persist_and_failed_blocks_are_forgotten(tokenizer):
    texts = [f"```python\n{code}\n```" for code in ("x = 3\nprint(x)", "x = 9\nprint(y)", "print(x + 1)")]
    sampler = Writes(tokenizer, texts)
    (own,) = complete_with_code(sampler, [[5]], SamplingSettings(1000), Calculator())
    assert [outcome.output for outcome in own.outcomes] == ["3", "NameError: name 'y' is not defined", "4"]
    assert (own.calls, own.failures, own.kinds) == (3, 1, ["calculation", "none", "calculation"])


# Training


def make(model, folder, *, rollout=None, rewards=(), trainer_class=slot_rows.WritesCode, **more):
    slots = {
        name: more.pop(name)
        for name in ("eval_dataset", "rollout_func", "tools", "processing_class", "watch_dataset")
        if name in more
    }
    settings = {"max_completion_length": 64, "max_steps": 1, "learning_rate": 1e-2, **more}
    return trainer_class(
        model,
        [correct_if_even, *rewards],
        ConciseGRPOConfig(**tiny.settings(folder, **settings)),
        problems(4),
        rollout=rollout,
        **slots,
    )


def test_outputs_carry_no_loss_and_have_no_length(tiny_model, tmp_path):
    rollout, hapo = CodeReasoning(slot_rows.run_code, 2), HAPOLengthReward()
    rewards = [hapo, CodeExecutionReward(0.5)]
    trainer = make(
        tiny_model, tmp_path, rollout=rollout, rewards=rewards, trainer_class=tiny.spy(slot_rows.WritesCode)
    )
    trainer.train()
    ((inputs, _, gradients),) = trainer.seen
    decode = trainer.processing_class.decode
    outputs = []
    columns = (inputs[name].tolist() for name in ("completion_ids", "completion_mask", "tool_mask"))
    for ids, mask, tools in zip(*columns, strict=True):
        outputs.append(decode([id for id, kept, own in zip(ids, mask, tools, strict=True) if kept and not own]))
    assert any(outputs) and all(text.count("```output") == text.count("\n```\n") for text in outputs)
    weights = inputs["completion_mask"] * inputs["tool_mask"]
    logs = trainer.state.log_history[0]
    assert logs["completions/mean_length"] * len(outputs) == pytest.approx(weights.sum().item())
    assert any(gradient.abs().sum() for gradient in gradients)
    assert logs["cort/calls"] > 0 and 0 < logs["cort/used_share"] <= 1 and 0 < logs["cort/failed_share"] < 1
    assert {f"cort/{name}" for name in ("calculation_share", "limit_reached", "wasted_tokens")} <= logs.keys()
    assert logs["code_execution/penalized"] == pytest.approx(-2 * logs["rewards/CodeExecutionReward/mean"])


def test_without_calls_it_is_plain_grpo(tiny_model, tmp_path):
    changes = {"max_completion_length": 12, "max_steps": 2, "learning_rate": 1e-2}
    rollout = CodeReasoning(max_calls=0)
    ours = make(tiny_model, tmp_path, rollout=rollout, trainer_class=ConciseGRPOTrainer, **changes)
    ours.train()
    settings = tiny.settings(tmp_path / "plain", **changes)
    plain = GRPOTrainer(tiny_model, [correct_if_even], GRPOConfig(**settings), problems(4))
    plain.train()
    assert tiny.losses(ours) == tiny.losses(plain)
    assert all(torch.equal(a, b) for a, b in zip(ours.model.parameters(), plain.model.parameters(), strict=True))


def test_a_model_that_samples_trains_and_is_evaluated(tiny_model, tmp_path):
    trainer = make(
        tiny_model,
        tmp_path,
        rollout=CodeReasoning(),
        trainer_class=ConciseGRPOTrainer,
        max_completion_length=8,
        eval_dataset=problems(3),
        per_device_eval_batch_size=4,
    )
    trainer.train()
    assert trainer.state.log_history[0]["cort/used_share"] == 0
    assert "eval_accuracy" in trainer.evaluate()


def test_an_executor_with_a_fault_is_named(tiny_model, tmp_path):
    trainer = make(tiny_model, tmp_path, rollout=CodeReasoning(lambda blocks: "4", 1))
    with pytest.raises(TypeError, match="The executor function returned '4'"):
        trainer.train()


def test_the_context_of_the_model_holds_outputs_too(tiny_model, tmp_path):
    rollout = CodeReasoning(lambda blocks: ("1" * 700, "ok"), 9)
    model = tiny.load(tiny_model)
    model.config.max_position_embeddings = 600
    trainer = make(model, tmp_path, rollout=rollout, processing_class=AutoTokenizer.from_pretrained(tiny_model))
    trainer.train()
    assert trainer.state.log_history[0]["cort/calls"] > 0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"max_calls": -1}, ValueError, "max_calls must be at least 0, got -1"),
        ({"executor": Calculator}, TypeError, "Create an object of the class"),
        ({"executor": "python"}, TypeError, "executor must be an object"),
    ],
)
def test_bad_settings(arguments, error, message):
    with pytest.raises(error, match=message):
        CodeReasoning(**arguments)


@pytest.mark.parametrize("omega", [-0.1, math.nan, math.inf])
def test_bad_omega(omega):
    with pytest.raises(ValueError, match="omega must be at least 0"):
        CodeExecutionReward(omega)


@pytest.mark.parametrize("other", [{"tools": [demo.calculate]}, {"rollout_func": slot_rows.rollout}])
def test_tools_are_refused(other, tiny_model, tmp_path):
    with pytest.raises(ValueError, match=r"rollout=CodeReasoning\(\) generates the completions"):
        make(tiny_model, tmp_path, rollout=CodeReasoning(), **other)


def test_a_watch_set_is_warned_of(tiny_model, tmp_path, caplog):
    make(tiny_model, tmp_path, rollout=CodeReasoning(), watch_dataset=problems(2), watch_every=1)
    assert "watch_dataset is completed without executing code" in caplog.text


def test_a_tokenizer_that_cannot_write_fences_is_refused(tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("\n", " ")
    with pytest.raises(ValueError, match="cannot be found in what the model writes"):
        check_fences(tokenizer)


# Data

TRACE = "We need (27 + 8) * 2 - 6.\n27+8=35\n35*2=70\n70-6=64\nWait, let me check.\n27+8=35\n35*2=70\n70-6=64\nThat agrees.\n</think>\n\\boxed{64}"


def test_golden_hints():
    assert insert_hints(TRACE, Calculator()) == (
        f"We need (27 + 8) * 2 - 6.\n{COMPUTATION_HINT}\n```python\nprint((27+8)*2-6)\n```\n```output\n64\n```\n{TRUST_HINT}\n"
        "</think>\n\\boxed{64}"
    )
    assert insert_prompt_hint(TRACE) == f"{PROMPT_HINT}\n{TRACE}"


@pytest.mark.parametrize(
    "text",
    ["", "</think>", "27+8=35\n</think>\n35", "no numbers\n", "1/0=1\n1+1=2\n", TRACE.partition("</think>")[2]],
)
def test_a_trace_without_a_long_calculation_stays(text):
    assert insert_hints(text, Calculator()) == text


def test_calculations_that_do_not_continue_are_printed_apart():
    text = insert_hints("First, 2 + 3 = 5.\nThen, 5 * 4 = 20.\nThen, 7 - 1 = 6.\nDone\n1+1=2\n2/4=0.5\n", Calculator())
    assert "print((2 + 3) * 4)\nprint(7 - 1)\n" in text and "20\n6\n" in text and "print((1+1)/4)" in text


def test_hints_have_no_numbers_and_code_no_result():
    assert not any(numbers_in(hint) for hint in (PROMPT_HINT, COMPUTATION_HINT, TRUST_HINT))
    rng = random.Random(0)
    for problem in draw_distinct_problems(40, 0, "train", (2, 3)):
        for kind in KINDS:
            trace = write_code_trace(kind, problem, rng)
            ((before, code, output),) = executed_blocks(trace)
            assert output.strip() == str(problem.results[-1])
            operands = {problem.start, *(number for _, number in problem.operations)}
            assert {int(number) for number in numbers_in(code)} <= operands
            if kind == "both hints":
                assert not distrusts_output(trace) and numbers_in(before) <= operands


@pytest.mark.parametrize(
    ("outputs", "delayed"), [(["64"], True), (["65"], False), (["64", "65"], False), (["64", "64", "65"], True)]
)
def test_delayed_computation(outputs, delayed):
    text = "70-6=64\n" + "".join(f"{BLOCK.format('x')}\n```output\n{output}\n```\n" for output in outputs)
    assert delays_computation(text) == delayed
    assert not delays_computation("no code")


@pytest.mark.parametrize(
    ("after", "distrusts"),
    [
        ("Wait, 70-6=64\n</think>", True),
        ("Let me double-check.\nWell.\n70-6=64\n</think>", True),
        ("Wait, is the code right? Yes.\n</think>", False),
        ("70-6=64\n</think>", False),
        (f"Let me verify.\n{BLOCK.format('1')}\n```output\n1\n```\n1=1\n</think>", False),
        ("</think>\nWait, 70-6=64", False),
    ],
)
def test_distrust(after, distrusts):
    assert distrusts_output(f"{BLOCK.format('70-6')}\n```output\n64\n```\n{after}") == distrusts


def test_outputs_are_not_learned(tiny_model, tokenizer, tmp_path):
    text = insert_hints(TRACE, Calculator())
    row = tokenize_code_trace(tokenizer, [{"role": "user", "content": "?"}], text)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "?"}], add_generation_prompt=True, tokenize=False
    )
    assert tokenizer.decode(row["input_ids"]) == prompt + text + tokenizer.eos_token
    masked = [id for id, learned in zip(row["input_ids"], row["completion_mask"], strict=True) if not learned]
    assert tokenizer.decode(masked) == prompt + "\n```output\n64\n```\n"
    assert "".join(piece for piece, _ in split_outputs(text)) == text

    settings = tiny.settings(tmp_path, max_steps=1)
    settings = {
        name: value for name, value in settings.items() if name not in ("num_generations", "max_completion_length")
    }
    trainer = SFTTrainer(
        tiny_model, SFTConfig(**settings, completion_only_loss=True), train_dataset=Dataset.from_list([row])
    )
    batch = next(iter(trainer.get_train_dataloader()))
    learned = batch["labels"][0] != -100
    assert batch["input_ids"][0][learned].tolist() == [
        id for id, own in zip(row["input_ids"], row["completion_mask"], strict=True) if own
    ]


def test_the_tokens_of_the_demo_leave_other_traces_as_they_are():
    tokenizer, extended = (AutoTokenizer.from_pretrained(demo.model_path()) for _ in range(2))
    add_code_tokens(extended)
    assert extended(TRACE).input_ids == tokenizer(TRACE).input_ids
    trace = insert_hints(TRACE, Calculator())
    assert extended.decode(extended(trace).input_ids) == trace


# Evaluation and rejection fine-tuning


def written(monkeypatch, texts):
    """Let the model write texts."""
    monkeypatch.setattr(code_sampling, "TransformersSampler", lambda model, tokenizer: Writes(tokenizer, texts))


ROWS = Dataset.from_list([{"prompt": "2 * 3?\n", "solution": "6"}])


def test_traces_are_filtered(tokenizer, monkeypatch):
    block = f"{BLOCK.format('2*3')}"
    answer = "</think>\n\\boxed{6}"
    texts = [
        block,
        answer,
        "\\boxed{6}",
        f"2*3=6\n{block}",
        answer,
        block,
        f"Wait.\n2*3=6\n{answer}",
        block,
        "\\boxed{7}",
    ]
    written(monkeypatch, texts)
    rows, counts = build_code_traces(None, tokenizer, ROWS, Calculator(), num_completions=5, batch_size=1)
    assert counts == {"wrong": 1, "without code": 1, "delayed computation": 1, "distrust": 1, "kept": 1}
    assert rows["text"] == [f"{block}\n```output\n6\n```\n{answer}"]
    written(monkeypatch, ["7"] * 2)
    with pytest.raises(ValueError, match="None of 2 traces can be kept"):
        build_code_traces(None, tokenizer, ROWS, Calculator(), num_completions=2, batch_size=1)


def test_blocks_that_are_not_executed_are_warned_of(tokenizer, monkeypatch, caplog):
    written(monkeypatch, [f"{BLOCK.format('2*3')}\n\\boxed{{6}}"])
    (item,) = evaluate_with_code(None, tokenizer, ROWS, None)
    assert item.correct and not item.completion.calls and not item.truncated
    assert "1 of 1 completions have Python blocks, which were not executed" in caplog.text


@pytest.mark.parametrize(
    ("options", "dataset", "message"),
    [
        ({"num_completions": 0}, ROWS, "must be at least 1"),
        ({"max_calls": -1}, ROWS, "max_calls at least 0"),
        ({}, ROWS.select([]), "has 0 rows"),
        ({}, ROWS.remove_columns("solution"), r"columns \['prompt'\]"),
    ],
)
def test_bad_evaluations(options, dataset, message, tokenizer):
    with pytest.raises(ValueError, match=message):
        evaluate_with_code(None, tokenizer, dataset, Calculator(), **options)


@pytest.mark.slow
def test_the_example_compares_the_models(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = "--max_steps 1 --demo_steps 1 --report_problems 2 --per_device_train_batch_size 8 --learning_rate 0.5"
    monkeypatch.setattr(sys, "argv", ["cort.py", *flags.split()])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    results = json.loads((tmp_path / "outputs/cort-demo/results.json").read_text())
    assert results["settings"]["learning_rate"] == 0.5
    assert len(results["models"]) == 6 and "| both hints, SFT and GRPO |" in capsys.readouterr().out


def test_the_example_trains_a_given_model(tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = "--max_steps 1 --report_problems 0 --per_device_train_batch_size 8 --num_generations 4 --max_completion_length 8 --use_cpu --output_dir outputs/it"
    monkeypatch.setattr(
        sys, "argv", ["cort.py", "--model_name_or_path", tiny_model, *flags.split(), "--bf16", "False"]
    )
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    (card,) = tmp_path.glob("outputs/**/README.md")
    assert (card.parent / "model.safetensors").is_file()
