# SPDX-License-Identifier: Apache-2.0
"""Golden values: from the description of the method, computed independently of this package."""

from __future__ import annotations

import json
import math
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from transformers import AutoModelForCausalLM
from trl import SFTConfig, SFTTrainer

from tests import long_short_runs, slot_rows, tiny
from tests.distributed import long_short as on_processes
from tests.long_short_runs import LIMIT, LONG, SHORT, ScriptedPartner, build
from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer, DynamicSampling
from trl_concise.evaluation.sampling import TransformersSampler
from trl_concise.experimental.long_short import (
    Dialogue,
    DialogueSettings,
    LongShortLengthReward,
    LongShortRollout,
    Turn,
    block_scores,
    check_blocks,
    chunk_trace,
    evaluate_dialogues,
    is_well_formed,
    long_short_accuracy,
    long_short_format,
    play_dialogue,
    with_readable_answers,
)
from trl_concise.experimental.long_short.turns import check_tags, is_rethink, read_turn
from trl_concise.hub.settings import as_text
from trl_concise.methods.kimi import kimi_length_reward


ROOT = Path(__file__).parents[2]
ROLES = ("long", "short")

# Golden values


@pytest.mark.parametrize(
    ("role", "text", "expected"),
    [
        ("short", r"<answer>3+4=7 \boxed{7}</answer>", True),
        ("short", "<answer>wrong sign</rethink>", True),
        ("short", "<answer> </answer>", False),
        ("short", "<answer>a<b</answer>", False),
        ("short", "<answer>3+4=7 \\boxed{7}</answer>\n", False),
        ("short", r"<answer>\boxed{7}</answer></answer>", False),
        ("short", "<think>23+7=30</think>", False),
        ("long", "<think>23+7=30</think>", True),
        ("long", "<think> \n</think>", False),
        ("long", "<think>a<think>b</think>", False),
        ("long", "<think>x", False),
        ("long", "<answer>x</answer>", False),
    ],
)
def test_golden_formats(role, text, expected):
    assert is_well_formed(text, role) is expected


def test_golden_length_reward():
    def reward(lengths, correct):
        return kimi_length_reward(torch.tensor([lengths]), torch.tensor([correct])).flatten().tolist()

    assert reward([40, 60, 80, 100], [1.0, 1, 0, 1]) == pytest.approx([0.5, 1 / 6, -1 / 6, -0.5])
    assert reward([30, 90], [0.0, 1]) == [0, -0.5] and reward([40, 40], [1.0, 0]) == [0, 0]


def test_golden_dialogues():
    def play(*texts, max_turns=4):
        written = iter(texts)
        (dialogue,) = play_dialogue(
            1,
            lambda places, _: [Turn("<think>x</think>") for _ in places],
            lambda places, _: [Turn(next(written)) for _ in places],
            max_turns,
        )
        accuracy = long_short_accuracy([""], dialogue=[[turn.text for turn in dialogue.turns]], solution=["7"])
        return len(dialogue.of("short")), dialogue.is_answered, *accuracy

    back, answer = "<answer>That differs.</rethink>", r"<answer>\boxed{7}</answer>"
    assert play(back, answer) == (2, True, 1.0)
    assert play(back, back, back, max_turns=3) == (3, False, 0.0)
    assert play("<answer>no end", answer) == (2, True, 1.0)  # an invalid turn does not end the dialogue
    assert play(r"\boxed{7}</answer>", r"<answer>\boxed{8}</answer>") == (2, True, 0.0)


def test_golden_sum_and_advantages_of_a_trained_group(tiny_model, tmp_path):
    """Lengths 40, 60, 80, 100; the third dialogue is wrong, the fourth turn has not its format."""

    class FourLengths(ConciseGRPOTrainer):
        def _generate_single_turn(self, prompt_ids, *args, **kwargs):
            bodies = ["=3", "=3", "=4", "=3 < 4"]
            texts = [
                "<think>" + body.rjust(length - 16, "1") + "</think>"
                for body, length in zip(bodies, (40, 60, 80, 100), strict=True)
            ]
            return [self.processing_class(text + "<|im_end|>")["input_ids"] for text in texts], None

    class Copies(ScriptedPartner):
        def sample(self, prompts, settings):
            numbers = [re.findall(r"=(\d)", self.tokenizer.decode(prompt))[-1] for prompt in prompts]
            return [
                self.tokenizer(f"<answer>\\boxed{{{number}}}</answer><|im_end|>")["input_ids"] for number in numbers
            ]

    trainer = build(
        *(tiny_model, tmp_path, "long", Copies()),
        trainer_class=tiny.spy(FourLengths),
        max_steps=1,
        per_device_train_batch_size=4,
        max_completion_length=128,
    )
    trainer.train()
    ((inputs, _, _),) = trainer.seen
    expected = [1.018945, 0.679297, -0.679297, -1.018945]
    assert sorted(inputs["advantages"].tolist(), reverse=True) == pytest.approx(expected, abs=1e-5)
    (log,) = slot_rows.logged(trainer)
    assert log["reward"] == pytest.approx((2.5 + 2 + 1 / 6 + 1 - 1 / 6 + 0.5) / 4)
    assert log["long_short/format"] == 0.75 and log["accuracy"] == 0.75


@pytest.mark.parametrize(("rewards", "expected"), [([2.5, 0.5], 0.7070568), ([1.0, 0.9], 0.7061082)])
def test_golden_group_of_two(rewards, expected, tiny_model, tmp_path):
    def given_rewards(completions, **kwargs):
        return rewards

    trainer = build(
        *(tiny_model, tmp_path, "long"),
        trainer_class=tiny.spy(long_short_runs.Scripted),
        rewards=[given_rewards],
        correctness=None,
        max_steps=1,
        num_generations=2,
        per_device_train_batch_size=2,
    )
    trainer.train()
    ((inputs, _, _),) = trainer.seen
    assert sorted(inputs["advantages"].tolist()) == pytest.approx([-expected, expected], abs=2e-6)


def blocks(*spans):
    return [{"start": start, "end": end, "type": "calculation"} for start, end in spans]


def test_golden_blocks():
    check_blocks(blocks((1, 2), (3, 5)), 5)
    with pytest.raises(ValueError, match="Block 2 has the steps 4 to 5, but it must begin at step 3"):
        check_blocks(blocks((1, 2), (4, 5)), 5)
    with pytest.raises(ValueError, match="The blocks end at step 4 of 5"):
        check_blocks(blocks((1, 2), (3, 4)), 5)
    with pytest.raises(ValueError, match="Block 2 has the steps 3 to 2"):
        check_blocks(blocks((1, 2), (3, 2)), 5)
    scores = block_scores([0.25, 0.5, 0.75, 0.75], [40, 40, 120])
    assert scores == pytest.approx([0.23, 0.23, -0.06]) and [score > 0 for score in scores] == [True, True, False]
    with pytest.raises(ValueError, match="need 4 accuracies"):
        block_scores([0.25, 0.5, 0.75], [40, 40, 120])


TRACE = "3+4=7\n\n7*2=14\n\nSo it is 14.\n\n14-1=13\n\n\\boxed{13}"


def test_a_trace_becomes_turns_that_supervised_fine_tuning_takes(tiny_model, tmp_path):
    spans = blocks((1, 1), (2, 2), (3, 3), (4, 5))
    long, short = chunk_trace(TRACE, spans, [0.2, 0.1, -0.1, 0.3], "Q. ", "Short. Q. ")
    joint = "<think>3+4=7\n\n7*2=14</think><answer>So it is 14.</rethink>"
    last = "<think>14-1=13\n\n\\boxed{13}</think>"
    assert long == [
        {"prompt": "Q. ", "completion": "<think>3+4=7\n\n7*2=14</think>"},
        {"prompt": f"Q. {joint}", "completion": last},
    ]
    assert short == [
        {"prompt": "Short. Q. <think>3+4=7\n\n7*2=14</think>", "completion": "<answer>So it is 14.</rethink>"},
        {"prompt": f"Short. Q. {joint}{last}", "completion": "<answer>\\boxed{13}</answer>"},
    ]
    # The first block is a long turn whatever its score; the rest of the trace is one short turn.
    long, short = chunk_trace(TRACE, spans, [-1.0] * 4, "Q. ")
    assert [row["completion"] for row in long] == ["<think>3+4=7</think>"]
    assert [row["completion"] for row in short] == [
        "<answer>7*2=14\n\nSo it is 14.\n\n14-1=13\n\n\\boxed{13}</answer>"
    ]
    for rows in chunk_trace(TRACE, spans, [0.2, 0.1, -0.1, 0.3], "Q. "):
        settings = tiny.settings(tmp_path, max_steps=1, per_device_train_batch_size=2)
        names = ("num_generations", "max_completion_length")
        config = SFTConfig(**{name: value for name, value in settings.items() if name not in names})
        trainer = SFTTrainer(tiny_model, config, train_dataset=Dataset.from_list(rows))
        trainer.train()
        assert math.isfinite(tiny.losses(trainer)[0])


@pytest.mark.parametrize(
    ("text", "scores", "message"),
    [
        (TRACE, [0.1], "got 1 scores for 2 blocks"),
        (TRACE.replace("\\boxed{13}", "13"), [0.1, 0.1], "no .*boxed"),
        (TRACE.replace("it is", "3 < it is"), [0.1, -0.1], "Turn 2 of the trace contains '<'"),
    ],
)
def test_a_trace_that_cannot_be_divided_is_refused(text, scores, message):
    with pytest.raises(ValueError, match=message):
        chunk_trace(text, blocks((1, 2), (3, 5)), scores, "Q. ")


# Properties of a dialogue

TOKENIZER = tiny.make_tokenizer()


@settings(max_examples=25)
@given(st.lists(st.lists(st.sampled_from(SHORT), min_size=4, max_size=4), min_size=1, max_size=4), st.integers(1, 4))
def test_a_dialogue_ends_and_counts_the_tokens_of_both(scripts, max_turns):
    tokenizer, calls = TOKENIZER, []

    def long(places, dialogues):
        calls.append(len(places))
        return [read_turn(tokenizer, tokenizer(LONG[i])["input_ids"], "long", {0, 2}) for i in places]

    def short(places, dialogues):
        texts = [scripts[i][len(dialogue.of("short"))] for i, dialogue in zip(places, dialogues, strict=True)]
        return [read_turn(tokenizer, tokenizer(text)["input_ids"], "short", {0, 2}) for text in texts]

    dialogues = play_dialogue(len(scripts), long, short, max_turns)
    assert len(calls) == max_turns  # also with no open dialogue, so that processes stay together
    for dialogue in dialogues:
        rounds = len(dialogue.of("short"))
        assert len(dialogue.of("long")) == rounds <= max_turns
        assert dialogue.tokens() == dialogue.tokens("long") + dialogue.tokens("short")
        assert dialogue.is_answered or rounds == max_turns
        assert not any(Dialogue(dialogue.turns[: 2 * i]).is_answered for i in range(rounds))


def test_what_follows_the_closing_tag_is_left_out_but_counted():
    tokenizer = TOKENIZER
    ids = tokenizer(f"<think>3</think> and{long_short_runs.END}")["input_ids"]
    turn = read_turn(tokenizer, ids, "long", {2}, [-1.0] * len(ids))
    assert turn.text == "<think>3</think>" and tokenizer.decode(turn.ids) == turn.text
    assert turn.generated == len(ids) and turn.end == [] and turn.is_cut and len(turn.logps) == len(turn.ids)
    ids = tokenizer(LONG[0])["input_ids"]
    turn = read_turn(tokenizer, ids, "long", {2}, [-1.0] * len(ids))
    assert [*turn.ids, *turn.end] == ids and not turn.is_cut and len(turn.logps) == turn.generated == len(ids)
    assert read_turn(tokenizer, [2], "long", {2}) == Turn("", [], 1, [2])


# Training


@pytest.mark.parametrize("role", ROLES)
def test_only_the_turn_of_the_policy_is_trained_and_the_group_shares_its_prompt(role, tiny_model, tmp_path):
    trainer = build(tiny_model, tmp_path, role, trainer_class=tiny.spy(long_short_runs.Scripted))
    trainer.train()
    tokenizer, other = trainer.processing_class, "short" if role == "long" else "long"
    foreign = {"long": ("<answer>", "</answer>", "</rethink>"), "short": ("<think>", "</think>")}[role]
    several = 0
    for (rows, generated), (inputs, _, _) in zip(trainer.rollout.seen, trainer.seen, strict=True):
        assert generated.mask is None
        for ids, texts in zip(generated.completion_ids, generated.columns["dialogue"], strict=True):
            text = tokenizer.decode(ids, skip_special_tokens=True)
            assert text == texts[ROLES.index(role)] and not any(tag in text for tag in foreign)
        # TRL's tensors contain these tokens, and no other is in the mask of the loss.
        trained = [
            [token for token, kept in zip(ids, mask, strict=True) if kept]
            for ids, mask in zip(inputs["completion_ids"].tolist(), inputs["completion_mask"].tolist(), strict=True)
        ]
        assert sorted(trained) == sorted(generated.completion_ids) and "tool_mask" not in inputs
        # Groups share the token ids of their prompt, which end with the long turn for the short policy.
        for start in (0, 4):
            (prompt,) = {tuple(ids) for ids in generated.prompt_ids[start : start + 4]}
            beginning = trainer.tokenize_prompts([rows[start]["prompt"]])[0]
            first = generated.columns["dialogue"][start][0] if role == "short" else ""
            assert tokenizer.decode(prompt[len(beginning) :]) == first and list(prompt[: len(beginning)]) == beginning
            assert len({texts[0] for texts in generated.columns["dialogue"][start : start + 4]}) == 1 or role == "long"
        numbers = generated.numbers
        for i, texts in enumerate(generated.columns["dialogue"]):
            assert len(texts) == 2 * numbers["turns"][i] <= 2 * 3
            assert numbers["joint_tokens"][i] == numbers["own_tokens"][i] + numbers["partner_tokens"][i]
            assert numbers["own_tokens"][i] >= numbers["turn_tokens"][i] >= len(generated.completion_ids[i])
            assert numbers["rethinks"][i] == sum(map(is_rethink, texts[1::2]))
            several += numbers["turns"][i] > 1
    assert several
    logged = slot_rows.logged(trainer)
    assert all(entry["grad_norm"] for entry in logged) and any(entry["long_short/cut"] for entry in logged)
    for entry, (_, generated) in zip(logged, trainer.rollout.seen, strict=True):
        numbers = {name: torch.tensor(values) for name, values in generated.numbers.items()}
        assert entry["long_short/joint_tokens"] == pytest.approx(numbers["joint_tokens"].mean().item())
        assert entry["long_short/turns"] == numbers["turns"].mean().item()
        assert entry["long_short/unfinished"] == pytest.approx(1 - numbers["answered"].mean().item())
        assert entry["long_short/rethink_rate"] == pytest.approx(
            (numbers["rethinks"].sum() / numbers["turns"].sum()).item()
        )
        assert entry["long_short/format"] == entry["rewards/long_short_format/mean"]
    assert other not in {role}


@pytest.mark.parametrize("role", ROLES)
def test_the_prompts_of_a_dialogue_are_those_of_both_policies_and_all_turns_before(role, tiny_model, tmp_path):
    partner = ScriptedPartner(SHORT if role == "long" else LONG)
    prompts = {"long_prompt": "Think.", "short_prompt": "Finish."}
    trainer = build(tiny_model, tmp_path, role, partner, rollout=prompts, max_steps=1)
    trainer.train()
    ((rows, generated),) = trainer.rollout.seen
    tokenizer = trainer.processing_class
    systems = {"long": "Think.", "short": "Finish."}
    other = "short" if role == "long" else "long"

    def rendered(row, of):
        messages = [{"role": "system", "content": systems[of]}, *row["prompt"]]
        return tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)

    asked = [tokenizer.decode(prompt) for call in partner.asked for prompt in call]
    own = [tokenizer.decode(prompt) for prompt in generated.prompt_ids]
    expected = []
    for row, texts, prompt in zip(rows, generated.columns["dialogue"], own, strict=True):
        expected += [rendered(row, other) + "".join(texts[:i]) for i in range(ROLES.index(other), len(texts), 2)]
        assert prompt == rendered(row, role) + "".join(texts[: ROLES.index(role)])
    assert set(asked) == set(expected)
    assert len(asked) == len(expected) - (6 if role == "short" else 0)  # one first turn for each of the two groups


class NotesState(TransformersSampler):
    """A real partner that checks the random state of the trainer."""

    calls = 0

    def sample(self, prompts, settings):
        before = torch.get_rng_state()
        drawn = super().sample(prompts, settings)
        assert torch.equal(torch.get_rng_state(), before)
        self.calls += 1
        return drawn


def without_seconds(trainer):
    return [
        {key: value for key, value in entry.items() if key != "verification/seconds"}
        for entry in slot_rows.logged(trainer)
    ]


@pytest.mark.parametrize("role", ROLES)
def test_a_real_partner_is_frozen_and_does_not_touch_the_random_state(role, tiny_model, problems, tmp_path):
    partner = NotesState(AutoModelForCausalLM.from_pretrained(tiny_model), ScriptedPartner().tokenizer)
    before = {name: value.clone() for name, value in partner.model.state_dict().items()}
    settings = {"max_turns": 2, "partner_tokens": 6, "partner_temperature": 1.0}
    even = [tiny.even_reward, long_short_accuracy, long_short_format, LongShortLengthReward("joint")]

    def run(folder, partner, **changes):
        trainer = build(
            *(tiny_model, tmp_path / folder, role, partner),
            rollout=settings,
            trainer_class=ConciseGRPOTrainer,
            dataset=problems,
            rewards=even,
            correctness="even_reward",
            max_completion_length=8,
            max_steps=2,
            **changes,
        )
        return trainer

    trainer = run("whole", partner, save_strategy="steps", save_steps=1)
    trainer.train()
    logged = without_seconds(trainer)
    assert partner.calls == 2 * 2 and any(entry["grad_norm"] for entry in logged)
    assert all(torch.equal(value, before[name]) for name, value in partner.model.state_dict().items())
    assert all(entry["long_short/turns"] == 2 and entry["long_short/unfinished"] == 1 for entry in logged)
    # A run that is resumed draws the same turns, also with a partner that it loads itself.
    resumed = run("resumed", tiny_model)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-1"))
    assert without_seconds(resumed) == logged
    assert not any(parameter.requires_grad for parameter in resumed.rollout._partner.model.parameters())


def test_accuracy_depends_on_the_dialogue_and_format_on_the_own_turn():
    answered = ["<think>3", r"<answer>\boxed{3}</answer>"]
    wrong = ["<think>3</think>", r"<answer>\boxed{4}</answer>"]
    options = {"dialogue": [answered, wrong, wrong[:1], [*wrong[:1], "<answer>a</rethink>"]], "solution": ["3"] * 4}
    for completions in (["a"] * 4, [[{"role": "assistant", "content": "b"}]] * 4):
        assert long_short_accuracy(completions, **options) == [1, 0, 0, 0]
        assert long_short_format(completions, role=["long"] * 4, **options) == [0, 1, 1, 1]
    assert long_short_format(["a"] * 2, dialogue=[answered, wrong], role=["short"] * 2) == [1, 1]
    assert long_short_accuracy([""], dialogue=[answered], solution=[""]) == [None]
    assert long_short_accuracy([""], dialogue=[[r"<answer>\boxed{3}</answer>", "no"]], solution=["3"]) == [0]


def test_a_partner_that_always_answers_leaves_one_long_turn(tiny_model, tmp_path):
    trainer = build(tiny_model, tmp_path, "long", ScriptedPartner())
    trainer.train()
    assert all(set(generated.numbers["turns"]) == {1.0} for _, generated in trainer.rollout.seen)
    assert all(entry["long_short/turns"] == 1 for entry in slot_rows.logged(trainer))


def test_the_length_reward_counts_the_own_turn_or_the_dialogue(tiny_model, tmp_path):
    found = {}
    for length, name in (("own", "turn_tokens"), ("joint", "joint_tokens")):
        trainer = build(tiny_model, tmp_path / length, "long", length=length, max_steps=1)
        trainer.train()
        ((_, generated),) = trainer.rollout.seen
        dialogues = generated.columns["dialogue"]
        correct = long_short_accuracy([""] * 8, dialogue=dialogues, solution=["3"] * 8)
        tokens = torch.tensor(generated.numbers[name]).view(2, 4)
        expected = kimi_length_reward(tokens, torch.tensor(correct).view(2, 4)).flatten()
        found[length] = slot_rows.logged(trainer)[0]["rewards/LongShortLengthReward/mean"]
        assert found[length] == pytest.approx(expected.mean().item(), abs=1e-6)
    assert found["own"] != found["joint"]
    reward = LongShortLengthReward("joint", warmup_steps=2)
    assert reward.config() == {"length": "joint", "warmup_steps": 2}


def test_it_trains_with_everything_at_once(tiny_model, tmp_path):
    """LoRA, a KL term, replaced groups, several updates, truncated completions without loss, a smaller last batch, evaluation."""
    trainer = build(
        *(tiny_model, tmp_path, "short"),
        slots={"group_filter": DynamicSampling(1, score="reward")},
        peft_config=LoraConfig(r=4, init_lora_weights=False),
        beta=0.1,
        num_iterations=2,
        mask_truncated_completions=True,
        max_steps=4,
        log_completions=True,
    )
    trainer.train()
    assert all(math.isfinite(entry["loss"]) and "kl" in entry for entry in slot_rows.logged(trainer))
    count = len(trainer.rollout.seen)
    metrics = trainer.evaluate(long_short_runs.problems(3))
    rows = [row["prompt_id"] for rows, _ in trainer.rollout.seen[count:] for row in rows]
    assert sorted(set(rows)) == ["p0", "p1", "p2"] and 0 <= metrics["eval_accuracy"] <= 1


def test_prompts_of_text_and_log_probabilities_of_the_sampler(tiny_model, tmp_path):
    dataset = Dataset.from_list([{"prompt": f"{i}?", "solution": "3"} for i in range(4)])
    trainer = build(tiny_model, tmp_path, "short", dataset=dataset, rollout={"short_prompt": "Finish."}, max_steps=1)
    trainer.train()
    ((rows, generated),) = trainer.rollout.seen
    prompt = trainer.processing_class.decode(generated.prompt_ids[0])
    assert prompt == f"Finish.\n\n{rows[0]['prompt']}{generated.columns['dialogue'][0][0]}"
    assert [len(logps) for logps in generated.logps] == [len(ids) for ids in generated.completion_ids]
    assert all(logps == [-1.0 - place for place in range(len(logps))] for logps in generated.logps)


def test_two_processes_share_the_long_turn_of_a_group_that_straddles_them(tiny_model, tmp_path, two_processes):
    ranks = [json.loads((two_processes / "long_short" / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert [rank["world_size"] for rank in ranks] == [2, 2]
    one = on_processes.report(on_processes.train(tiny_model, tmp_path, rows_per_process=12))
    for first, second, single in zip(ranks[0]["prompts"], ranks[1]["prompts"], one["prompts"], strict=True):
        prompts = [*first, *second]
        assert len(prompts) == 12 and all(len({tuple(ids) for ids in prompts[i : i + 4]}) == 1 for i in (0, 4, 8))
        assert prompts[:8] == single[:8]  # those that the first process has begun
    assert ranks[0]["turns"] != ranks[1]["turns"]  # processes play on for different numbers of turns


# Bad input


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"role": "medium"}, "role must be 'long' or 'short', got 'medium'"),
        ({"max_turns": 0}, "max_turns must be at least 1, got 0"),
        ({"partner_tokens": 0}, "partner_tokens must be at least 1, got 0"),
        ({"partner_temperature": -1.0}, "partner_temperature must be at least 0 and finite, got -1.0"),
        ({"partner_temperature": math.nan}, "partner_temperature must be"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        LongShortRollout(**{"role": "long", "partner": "partner", **settings})


def test_a_partner_that_cannot_sample_is_refused_and_a_folder_is_published_by_its_name(tmp_path):
    with pytest.raises(TypeError, match="partner must be a path, a Hub id or an object with tokenizer, .*, got .*int"):
        LongShortRollout("long", 3)
    assert as_text(LongShortRollout("long", str(tmp_path / "outputs" / "short")).config())["partner"] == "short"
    assert LongShortRollout("long", "user/short").config()["partner"] == "user/short"


def test_what_does_not_fit_together_is_refused_when_the_trainer_is_built(tiny_model, tmp_path):
    def refused(message, role="long", partner=None, **changes):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            build(tiny_model, tmp_path, role, partner, **changes)

    other = ScriptedPartner()
    other.tokenizer.add_tokens(["<answer>"])
    other.tokenizer.name_or_path = "other"
    refused(r"tokenizers of the two policies differ: .*tiny.* has \d+ tokens, other has", partner=other)
    refused("more than the context of 4096", rollout={"max_turns": 100})
    refused("max_completion_length is None", max_completion_length=None)
    refused("watch_dataset is completed by the policy alone", slots={"watch_dataset": long_short_runs.problems(2)})
    refused("The prompts end with <think>", dataset=Dataset.from_list([{"prompt": "3?<think>\n", "solution": "3"}]))
    (tmp_path / "empty").mkdir()
    refused("empty contains no model", partner=str(tmp_path / "empty"))
    special = ScriptedPartner().tokenizer
    special.add_special_tokens({"additional_special_tokens": ["<think>"]})
    with pytest.raises(ValueError, match="turns the tag '<think>' into ''"):
        check_tags(special)
    with pytest.raises(ValueError, match="length must be 'own' or 'joint', got 'both'"):
        LongShortLengthReward("both")
    with pytest.raises(ValueError, match=r"length='joint'.* nothing counts them"):
        ConciseGRPOTrainer(
            tiny_model,
            [tiny.even_reward, LongShortLengthReward("joint")],
            ConciseGRPOConfig(**tiny.settings(tmp_path)),
            long_short_runs.problems(),
        )


def test_rewards_without_dialogues_and_rows_without_answers_are_refused(caplog):
    for reward in (long_short_accuracy, long_short_format):
        with pytest.raises(ValueError, match=rf"{reward.__name__} reads the columns .*LongShortRollout"):
            reward(["a"], solution=["3"])
    rows = Dataset.from_dict({"prompt": ["1?", "2?", "3?"], "solution": ["1", "", None]})
    assert with_readable_answers(rows)["prompt"] == ["1?"] and "2 of 3 rows" in caplog.text
    with pytest.raises(ValueError, match="None of the 2 rows has a reference answer in the column 'solution'"):
        with_readable_answers(rows.select([1, 2]))


# Evaluation and example


def test_the_evaluator_counts_the_tokens_of_both():
    long, short = ScriptedPartner(LONG), ScriptedPartner(SHORT)
    sets = {"easy": long_short_runs.problems(24)}
    settings = DialogueSettings(max_turns=2, long_tokens=LIMIT, short_tokens=LIMIT, batch_size=10)
    whole, alone = evaluate_dialogues(long, short, sets, settings)
    assert (whole["dataset"], alone["dataset"]) == ("easy, dialogue", "easy, long alone")

    def written(policy):
        prompts = [prompt for call in policy.asked for prompt in call]
        texts = [long_short_runs.later_text(policy.tokenizer.decode(prompt), policy.texts) for prompt in prompts]
        return [len(policy.tokenizer(text)["input_ids"][:LIMIT]) for text in texts]

    counts = {"long": written(long), "short": written(short)}
    assert whole["problems"] == alone["problems"] == len(whole["tokens"]) == 24
    assert sum(whole["tokens"]) == sum(map(sum, counts.values()))
    assert whole["long_tokens_mean"] == pytest.approx(sum(counts["long"]) / 24)
    assert whole["tokens_mean"] == pytest.approx(whole["long_tokens_mean"] + whole["short_tokens_mean"])
    assert whole["turns_mean"] == len(counts["short"]) / 24 > 1
    assert alone["tokens_mean"] < whole["long_tokens_mean"] and 0 < whole["unfinished_fraction"] < 1
    assert 0 < sum(whole["correct"]) < 24 and 0 < sum(alone["correct"]) < 24
    assert 0 < whole["returned_wrong"] < 1 and 0 < whole["returned_right"] < 1
    again, _ = evaluate_dialogues(long, short, sets, settings)
    assert again == whole
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        DialogueSettings(batch_size=0)
    with pytest.raises(ValueError, match="max_new_tokens >= 1"):
        DialogueSettings(short_tokens=0)


def test_example(tmp_path, monkeypatch, capsys):
    flags = "--max_steps 1 --report_problems 1 --demo_steps 1 --per_device_train_batch_size 4 --num_generations 4 --max_turns 1"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["long_short.py", *flags.split(), "--max_completion_length", "24", "--beta", "0"])
    runpy.run_path(str(ROOT / "examples" / "long_short.py"), run_name="__main__")
    results = json.loads((tmp_path / "outputs" / "long_short-demo" / "results.json").read_text())
    assert len(results["results"]) == 14 and set(results["generated_tokens"]) == {"long", "short", "single"}
    printed = capsys.readouterr().out
    assert all(f"| {record['system']} |" in printed for record in results["results"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--max_turns", "0"], "max_turns must be at least 1, got 0"),
        (["--partner", "outputs/short"], "--partner has no effect without --model_name_or_path"),
    ],
)
def test_the_example_reports_a_wrong_setting_before_the_cold_start(flags, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["long_short.py", *flags])
    with pytest.raises(SystemExit):
        runpy.run_path(str(ROOT / "examples" / "long_short.py"), run_name="__main__")
    assert message in capsys.readouterr().err and not (tmp_path / "outputs").exists()
