# SPDX-License-Identifier: Apache-2.0
"""Critique fine-tuning on a tiny model."""

from __future__ import annotations

import copy
import json
import logging
import runpy
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset, IterableDataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from tests import tiny
from tests.data.endpoint import Endpoint
from trl_concise import CFTConfig, CFTTrainer
from trl_concise.data.critique_tokens import IGNORED, end_of_turn, tokenize_critique
from trl_concise.methods.cft import DataCollatorForCritique, critique_example, critique_verdict


ROWS = [
    {
        "question": f"What is {i} + {i}?",
        "solution": f"{i} + {i} = {2 * i + i % 2}" + "." * i,  # every second one is wrong
        "critique": f"It is {2 * i}.{' Yes.' * i}\n\nConclusion: {'wrong' if i % 2 else 'right'} [END]",
    }
    for i in range(8)
]


def settings(output_dir, **changes):
    defaults = tiny.settings(output_dir, per_device_train_batch_size=4, per_device_eval_batch_size=4)
    grpo_only = ("num_generations", "max_completion_length")
    return {name: value for name, value in defaults.items() if name not in grpo_only} | changes


@pytest.fixture
def dataset() -> Dataset:
    return Dataset.from_list(ROWS)


@pytest.fixture
def tokenizer(tiny_model):
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture
def lengths(tokenizer) -> list[int]:
    """Tokens of each row."""
    return [len(tokenize_critique(row, tokenizer, end_of_turn(tokenizer))["input_ids"]) for row in ROWS]


def losses_of(trainer_class, *arguments, **keywords) -> list[float]:
    trainer = trainer_class(*arguments, **keywords)
    trainer.train()
    return tiny.losses(trainer)


def test_trains_every_parameter_on_raw_rows(tiny_model, tmp_path, dataset):
    args = CFTConfig(**settings(tmp_path))
    trainer = CFTTrainer(tiny_model, args, train_dataset=dataset)
    before = copy.deepcopy(trainer.model.state_dict())
    trainer.train()
    assert len(tiny.losses(trainer)) == 2
    assert all(not torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())
    assert trainer.dropped_rows == {"train": 0}


def test_only_the_critique_is_labeled(tiny_model, tmp_path, dataset, tokenizer):
    trainer = CFTTrainer(tiny_model, CFTConfig(**settings(tmp_path)), train_dataset=dataset)
    assert sorted(trainer.train_dataset.column_names) == ["input_ids", "labels"]
    for row, given in zip(trainer.train_dataset, ROWS, strict=True):
        labels = [label for label in row["labels"] if label != IGNORED]
        assert tokenizer.decode(labels) == "Critique:\n" + given["critique"] + "<|im_end|>"
        first = row["labels"].index(labels[0])
        assert row["input_ids"][first:] == labels  # nothing follows the end token
        assert tokenizer.decode(row["input_ids"][:first]).endswith("<|im_start|>assistant\n")
        assert given["solution"] in tokenizer.decode(row["input_ids"][:first])


def test_loss_is_the_mean_over_critique_tokens(tiny_model, tmp_path, dataset):
    """Against a plain cross-entropy over the batch."""
    trainer = CFTTrainer(tiny_model, CFTConfig(**settings(tmp_path)), train_dataset=dataset)
    batch = next(iter(trainer.get_train_dataloader()))
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    expected = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())
    loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=(batch["labels"] != IGNORED).sum())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_micro_batches_make_no_difference(tiny_model, tmp_path, dataset):
    weights = []
    for size, steps in ((8, 1), (2, 4)):
        args = CFTConfig(
            **settings(
                tmp_path,
                per_device_train_batch_size=size,
                gradient_accumulation_steps=steps,
                optim="sgd",
                learning_rate=1.0,
                max_steps=1,
            )
        )
        trainer = CFTTrainer(tiny_model, args, train_dataset=dataset)
        trainer.train()
        weights.append(trainer.model.state_dict())
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("form", ["messages", "tokens", "collator"])
def test_same_losses_in_every_form(tiny_model, tmp_path, dataset, tokenizer, form):
    """Raw rows, ready rows, and TRL's own trainer with our tokens or our collator: bit for bit the same run."""
    expected = losses_of(CFTTrainer, tiny_model, CFTConfig(**settings(tmp_path)), train_dataset=dataset)
    if form == "messages":
        ready = dataset.map(lambda row: critique_example(**row), remove_columns=dataset.column_names)
        found = losses_of(CFTTrainer, tiny_model, CFTConfig(**settings(tmp_path)), train_dataset=ready)
    elif form == "tokens":
        ready = Dataset.from_list([tokenize_critique(row, tokenizer, end_of_turn(tokenizer)) for row in ROWS])
        found = losses_of(SFTTrainer, tiny_model, SFTConfig(**settings(tmp_path)), train_dataset=ready)
    else:
        untouched = {"dataset_kwargs": {"skip_prepare_dataset": True}, "remove_unused_columns": False}
        args = SFTConfig(**settings(tmp_path, **untouched))
        collator = DataCollatorForCritique(tokenizer)
        found = losses_of(SFTTrainer, tiny_model, args, train_dataset=dataset, data_collator=collator)
    assert found == expected


def test_plain_text_without_a_chat_template(tiny_model, tmp_path, tokenizer):
    tokenizer.chat_template = None
    rows = [{"prompt": f"{row['solution']}\n", "completion": row["critique"]} for row in ROWS]
    args = CFTConfig(**settings(tmp_path))
    trainer = CFTTrainer(tiny_model, args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    trainer.train()
    for row, given in zip(trainer.train_dataset, rows, strict=True):
        assert tokenizer.decode(row["input_ids"]) == given["prompt"] + given["completion"] + tokenizer.eos_token
        assert sum(label != IGNORED for label in row["labels"]) == len(tokenizer(given["completion"]).input_ids) + 1


def test_template_and_system_prompt(tiny_model, tmp_path, dataset, tokenizer):
    args = CFTConfig(**settings(tmp_path, critique_template="one_shot", critique_system_prompt="Be brief."))
    trainer = CFTTrainer(tiny_model, args, train_dataset=dataset)
    text = tokenizer.decode(trainer.train_dataset[0]["input_ids"])
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nPlease critique")
    assert "is correct.\n\nQuestion:\nWhat is 0 + 0?\nSolution:\n0 + 0 = 0<|im_end|>" in text


def test_overlong_rows_are_dropped_and_counted(tiny_model, tmp_path, dataset, lengths, caplog):
    limit = sorted(lengths)[4]
    args = CFTConfig(**settings(tmp_path, max_length=limit))
    with caplog.at_level(logging.WARNING):
        trainer = CFTTrainer(tiny_model, args, train_dataset=dataset)
    fitting = [length for length in lengths if length <= limit]
    assert trainer.dropped_rows == {"train": 8 - len(fitting)}
    assert [len(row["input_ids"]) for row in trainer.train_dataset] == fitting
    assert all(row["labels"][-1] == 2 for row in trainer.train_dataset)  # each still has its end token
    assert f"{8 - len(fitting)} of 8 rows of the train dataset" in caplog.text
    assert f"max_length={max(lengths)} would keep them all" in caplog.text


def test_overlong_rows_can_be_an_error(tiny_model, tmp_path, dataset, lengths):
    args = CFTConfig(**settings(tmp_path, max_length=max(lengths) - 1, overlong="error"))
    with pytest.raises(ValueError, match=f"A row has {max(lengths)} tokens, and max_length is {max(lengths) - 1}"):
        CFTTrainer(tiny_model, args, train_dataset=dataset)


def test_an_empty_result_is_an_error(tiny_model, tmp_path, dataset, lengths):
    args = CFTConfig(**settings(tmp_path, max_length=8))
    with pytest.raises(ValueError, match=f"All rows are too long: 8 of 8 .* the longest {max(lengths)}"):
        CFTTrainer(tiny_model, args, train_dataset=dataset)


def test_a_stream_without_usable_rows_is_an_error(tiny_model, tmp_path, lengths):
    stream = IterableDataset.from_generator(lambda: iter(ROWS))
    args = CFTConfig(**settings(tmp_path, max_length=8))
    with pytest.raises(ValueError, match=f"All rows are too long: 8 of 8 .* the longest {max(lengths)}"):
        CFTTrainer(tiny_model, args, train_dataset=stream)


@pytest.mark.parametrize("empty", [Dataset.from_list([]), IterableDataset.from_generator(lambda: iter(()))])
def test_an_empty_dataset_is_an_error(empty, tiny_model, tmp_path, dataset):
    args = CFTConfig(**settings(tmp_path))
    with pytest.raises(ValueError, match="The train dataset is empty"):
        CFTTrainer(tiny_model, args, train_dataset=empty)
    for evaluated in (empty, {"hard": empty}):
        with pytest.raises(ValueError, match="The eval dataset is empty"):
            CFTTrainer(tiny_model, args, train_dataset=dataset, eval_dataset=evaluated)


def test_the_users_tokens_are_not_truncated_either(tiny_model, tmp_path, tokenizer, lengths):
    rows = Dataset.from_list([tokenize_critique(row, tokenizer, end_of_turn(tokenizer)) for row in ROWS])
    args = CFTConfig(**settings(tmp_path, max_length=max(lengths) - 1))
    trainer = CFTTrainer(tiny_model, args, train_dataset=rows)
    assert trainer.dropped_rows == {"train": lengths.count(max(lengths))}


def test_streams_are_counted_as_they_are_read(tiny_model, tmp_path, lengths):
    stream = IterableDataset.from_generator(lambda: iter(ROWS))
    limit = sorted(lengths)[4]
    args = CFTConfig(**settings(tmp_path, max_length=limit, max_steps=2))
    trainer = CFTTrainer(tiny_model, args, train_dataset=stream)
    seen = list(trainer.train_dataset)
    assert [len(row["input_ids"]) for row in seen] == [length for length in lengths if length <= limit]
    assert trainer.dropped_rows["train"] >= 8 - len(seen) > 0
    trainer.train()
    assert len(tiny.losses(trainer)) == 2


def test_packing_keeps_whole_critiques(tiny_model, tmp_path, dataset, lengths):
    args = CFTConfig(**settings(tmp_path, packing=True, max_length=2 * max(lengths)))
    trainer = CFTTrainer(tiny_model, args, train_dataset=dataset)
    assert len(trainer.train_dataset) < 8
    assert sum(len(row["input_ids"]) for row in trainer.train_dataset) == sum(lengths)
    assert sum(row["labels"].count(2) for row in trainer.train_dataset) == 8  # one end token each


def test_evaluation(tiny_model, tmp_path, dataset, lengths):
    args = CFTConfig(**settings(tmp_path, max_length=max(lengths) - 1))
    trainer = CFTTrainer(tiny_model, args, train_dataset=dataset, eval_dataset=dataset)
    metrics = trainer.evaluate()
    assert metrics["eval_loss"] > 0
    assert trainer.dropped_rows == {"train": 1, "eval": 1}
    assert trainer.evaluate(dataset)["eval_loss"] == pytest.approx(metrics["eval_loss"])


def test_lora(tiny_model, tmp_path, dataset):
    peft_config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    args = CFTConfig(**settings(tmp_path))
    trainer = CFTTrainer(tiny_model, args, train_dataset=dataset, peft_config=peft_config)
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    changed = {name for name, value in trainer.model.named_parameters() if not torch.equal(value, before[name])}
    assert changed and all("lora_" in name for name in changed)


def test_a_resumed_run_equals_an_uninterrupted_one(tiny_model, tmp_path, dataset):
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole = CFTTrainer(tiny_model, CFTConfig(**settings(tmp_path, **options)), train_dataset=dataset)
    whole.train()
    resumed = CFTTrainer(tiny_model, CFTConfig(**settings(tmp_path, **options)), train_dataset=dataset)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert tiny.losses(resumed) == tiny.losses(whole)


def test_a_plain_config_is_accepted_and_not_changed(tiny_model, tmp_path, dataset):
    args = SFTConfig(**settings(tmp_path))
    before = copy.deepcopy(vars(args))
    trainer = CFTTrainer(tiny_model, args, train_dataset=dataset)
    assert isinstance(trainer.args, CFTConfig) and trainer.args.overlong == "drop"
    assert {name: vars(args)[name] for name in before if name != "distributed_state"} == {
        name: value for name, value in before.items() if name != "distributed_state"
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"completion_only_loss": False}, "on the critique alone"),
        ({"assistant_only_loss": True}, "on the critique alone"),
        ({"packing": True, "packing_strategy": "wrapped"}, "splits critiques"),
        ({"critique_template": "plain"}, "critique_template must be one of"),
        ({"overlong": "cut"}, "overlong must be one of"),
    ],
)
def test_settings_that_do_not_fit(tiny_model, tmp_path, dataset, changes, message):
    with pytest.raises(ValueError, match=message):
        CFTTrainer(tiny_model, CFTConfig(**settings(tmp_path, **changes)), train_dataset=dataset)


def test_datasets_that_do_not_fit(tiny_model, tmp_path, dataset, tokenizer):
    args = CFTConfig(**settings(tmp_path))
    with pytest.raises(ValueError, match=r"needs the columns .* it has \['question', 'solution'\]"):
        CFTTrainer(tiny_model, args, train_dataset=dataset.remove_columns("critique"))
    with pytest.raises(ValueError, match="formatting_func"):
        CFTTrainer(tiny_model, args, train_dataset=dataset, formatting_func=str)
    with pytest.raises(ValueError, match="The critique must be a text that is not empty"):
        CFTTrainer(tiny_model, args, train_dataset=Dataset.from_list([ROWS[0] | {"critique": ""}]))
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="no chat template"):
        CFTTrainer(tiny_model, args, train_dataset=dataset, processing_class=tokenizer)


def test_collator_pads_and_refuses_what_is_too_long(tokenizer, lengths):
    batch = DataCollatorForCritique(tokenizer, pad_to_multiple_of=8)(ROWS[:3])
    width = -(-max(lengths[:3]) // 8) * 8
    assert {name: tuple(value.shape) for name, value in batch.items()} == dict.fromkeys(
        ("input_ids", "attention_mask", "labels"), (3, width)
    )
    assert batch["attention_mask"].sum(1).tolist() == lengths[:3]
    with pytest.raises(ValueError, match="A row has"):
        DataCollatorForCritique(tokenizer, max_length=lengths[0])(ROWS)


def test_a_dropped_row_does_not_change_the_loss(tokenizer, lengths):
    collator = DataCollatorForCritique(tokenizer, max_length=lengths[0], overlong="drop")
    batch = collator([ROWS[0], ROWS[7]])
    assert collator.length_limit.dropped == 1
    assert batch["attention_mask"].sum(1).tolist() == [lengths[0], 1]
    assert (batch["labels"][1] == IGNORED).all()


def test_the_evaluation_prompt_asks_for_no_critique(tokenizer):
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": ROWS[0]["question"]}], tokenize=False)
    assert "critique" not in prompt.lower()
    assert critique_verdict(ROWS[1]["critique"]) is False


def test_the_example_asks_a_teacher_and_trains(tiny_model, tmp_path, monkeypatch, capsys):
    rows = [{"question": f"{i}+{i}=?", "answer": str(2 * i), "solution": rf"\boxed{{{2 * i}}}"} for i in range(4)]
    (tmp_path / "candidates.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = {"model_name_or_path": tiny_model, "candidates": tmp_path / "candidates.jsonl", "teacher": "teacher"}
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    with Endpoint(lambda request: "All of it holds. Conclusion: right [END]") as endpoint:
        flags |= {"teacher_base_url": endpoint.url} | settings(tmp_path / "out", max_steps=1)
        command = ["cft.py", *(part for name, value in flags.items() for part in (f"--{name}", str(value)))]
        monkeypatch.setattr(sys, "argv", command)
        runpy.run_path(str(Path(__file__).parents[2] / "examples" / "cft.py"), run_name="__main__")
    assert "4 critiques kept of 4 candidates (4 right)" in capsys.readouterr().out
    assert (tmp_path / "out" / "model.safetensors").is_file() and "CFT" in (tmp_path / "out" / "README.md").read_text()
