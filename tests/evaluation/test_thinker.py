# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from types import MethodType

import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer

from tests import tiny
from trl_concise.data.thinker_turns import FAST_INSTRUCTION
from trl_concise.evaluation import Vote, read_summary
from trl_concise.evaluation.chunks import Chunking
from trl_concise.evaluation.thinker import ThinkerTurns, evaluate_thinker


END = "<|im_end|>"
TURNS = ThinkerTurns(20, 30, 40, "Fast.", "Sure?", "Slow.")
# The fast answer of each problem, what the verification says, and the slow answer. The reference answer is 3.
SCRIPT = {
    "right, Yes": (r"\boxed{3}", r"\boxed{Yes}", None),
    "right, No": (r"\boxed{3}", r"\boxed{No}", r"so \boxed{4}"),
    "wrong, Yes": (r"\boxed{4}", r"\boxed{Yes}", None),
    "wrong, No": (r"\boxed{4}", r"\boxed{No}", r"so \boxed{3}"),
    "wrong, no verdict": (r"\boxed{4}", "Hm.", r"so \boxed{3}"),
    "right, too long to be verified": (r"\boxed{3}", "\\boxed{Yes}" + "." * 40, r"so \boxed{3}"),
    "too long": (r"\boxed{3}" + "." * 20, r"\boxed{No}", r"so \boxed{3}"),
    "unreadable": (r"\boxed{3}", None, None),
}


@pytest.fixture
def scripted(tiny_model):
    """Return the tiny model, whose `generate` answers a dialogue by the script and keeps it in `asked`."""
    model, tokenizer = tiny.load(tiny_model), AutoTokenizer.from_pretrained(tiny_model)
    model.asked = []

    def generate(self, input_ids, max_new_tokens, **kwargs):
        rows = []
        for ids in input_ids:
            text = tokenizer.decode(ids).replace("<|pad|>", "")
            place = next(row for row in SCRIPT if f"{row}?" in text)
            turn = 2 if "Slow." in text else 1 if "Sure?" in text else 0
            self.asked.append((turn, place, text))
            rows.append(tokenizer(SCRIPT[place][turn] + END)["input_ids"][:max_new_tokens])
        width = max(map(len, rows))
        filled = [[*row, *[tokenizer.pad_token_id] * (width - len(row))] for row in rows]
        return torch.cat([input_ids, torch.tensor(filled)], dim=1)

    model.generate = MethodType(generate, model)
    return model, tokenizer


def problems(count: int = len(SCRIPT)) -> Dataset:
    names = list(SCRIPT)[:count]
    return Dataset.from_list(
        [
            {"prompt": [{"role": "user", "content": f"{name}?"}], "solution": "3" if name != "unreadable" else ""}
            for name in names
        ]
    )


def evaluate(scripted, folder, dataset=None, **options):
    model, tokenizer = scripted
    options = {"turns": TURNS, "tokenizer": tokenizer, "model_name": "tiny", "progress": False, **options}
    return evaluate_thinker(model, {"set": dataset or problems()}, folder, **options)


def test_the_verdict_alone_decides(scripted, tmp_path):
    fast, full = evaluate(scripted, tmp_path, batch_size=3, system_prompt="You think.", limit=len(SCRIPT))
    model, tokenizer = scripted
    asked = [[place for turn, place, _ in model.asked if turn == number] for number in range(3)]
    assert sorted(asked[0]) == sorted(SCRIPT) and sorted(asked[1]) == sorted(set(SCRIPT) - {"unreadable"})
    assert sorted(asked[2]) == sorted(name for name, script in SCRIPT.items() if script[2] is not None)
    (dialogue,) = [text for turn, place, text in model.asked if (turn, place) == (2, "right, No")]
    said = ["system\nYou think.", "user\nright, No? Fast.", "assistant\n\\boxed{3}", "user\nSure?"]
    said += ["assistant\n\\boxed{No}", "user\nSlow."]
    assert dialogue == "".join(f"<|im_start|>{text}{END}\n" for text in said) + "<|im_start|>assistant\n"

    assert (fast["dataset"], full["dataset"]) == ("set, fast", "set, full")
    assert fast["problems"] == full["problems"] == 7
    assert fast["accuracy"] == pytest.approx(3 / 7) and full["accuracy"] == pytest.approx(5 / 7)
    assert full["yes_fraction"] == pytest.approx(2 / 7) and full["verification_accuracy"] == pytest.approx(3 / 7)
    assert full["slow_fraction"] == pytest.approx(5 / 7) and full["slow_accuracy"] == pytest.approx(4 / 5)
    tokens = [
        [
            len(tokenizer(text + END)["input_ids"][:limit])
            for text, limit in zip(script, (20, 30, 40), strict=True)
            if text
        ]
        for name, script in SCRIPT.items()
        if name != "unreadable"
    ]
    assert fast["tokens_mean"] == pytest.approx(sum(own[0] for own in tokens) / 7)
    assert full["tokens_mean"] == pytest.approx(sum(map(sum, tokens)) / 7)
    assert (fast["max_new_tokens"], full["max_new_tokens"], full["slow_tokens"]) == (20, 90, 40)
    assert full["truncated_fraction"] == 0 and fast["truncated_fraction"] == pytest.approx(1 / 7)
    assert len(full["system_prompt_sha256"]) == len(full["verification_instruction_sha256"]) == 64
    assert read_summary(tmp_path) == [fast, full]
    weights = {
        json.loads((tmp_path / turn / "settings.json").read_text())["weights"]
        for turn in ("fast", "verification", "slow")
    }
    assert len(weights) == 1 and weights != {None}


def test_a_second_call_generates_only_what_is_missing(scripted, tmp_path):
    first = evaluate(scripted, tmp_path, problems(4))
    model, _ = scripted
    count = len(model.asked)
    assert evaluate(scripted, tmp_path, problems(4)) == first and len(model.asked) == count
    fast, full = evaluate(scripted, tmp_path, problems(4), num_completions=2)
    assert len(model.asked) == 2 * count
    assert (fast["accuracy"], full["accuracy"]) == (first[0]["accuracy"], first[1]["accuracy"])
    assert fast["completions_per_problem"] == full["completions_per_problem"] == 2
    with pytest.raises(ValueError, match="contains an evaluation with other settings: {'seed': 0}"):
        evaluate(scripted, tmp_path, problems(4), num_completions=2, seed=1)
    other = ThinkerTurns(20, 30, 40, "Fast.", "Sure? Really.", "Slow.")
    with pytest.raises(
        ValueError, match="contains completions of other problems, or of the same ones with other wording"
    ):
        evaluate(scripted, tmp_path, problems(4), turns=other, num_completions=2)


def test_without_a_doubt_there_is_no_slow_turn_and_without_a_folder_nothing_is_kept(scripted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fast, full = evaluate(
        scripted, None, problems(1), turns=ThinkerTurns(20, 30, 40, verification_instruction="Sure?")
    )
    assert FAST_INSTRUCTION in scripted[0].asked[0][2]
    assert full["slow_fraction"] == 0 and full["slow_accuracy"] is full["slow_tokens_mean"] is None
    assert fast["accuracy"] == full["accuracy"] == 1 and not list(tmp_path.iterdir())


def test_options_that_the_turns_decide_are_refused(scripted):
    with pytest.raises(ValueError, match="does not take max_new_tokens: the turns have budgets .* turns=ThinkerTurns"):
        evaluate(scripted, None, max_new_tokens=10)
    for option in ({"vote": Vote()}, {"chunking": Chunking(8, 1)}):  # before anything is generated
        with pytest.raises(ValueError, match=f"does not take {next(iter(option))}: the turns"):
            evaluate(scripted, None, num_completions=2, **option)
    assert not scripted[0].asked
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        evaluate(scripted, None, limit=0)
