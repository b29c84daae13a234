# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
import hashlib
import json
import shutil

import pytest
import torch
from datasets import Dataset
from transformers import AutoConfig, AutoModelForCausalLM

from trl_concise.cli.commands import main
from trl_concise.data.rows import add_prompt_suffix
from trl_concise.demo import generate_problems, model_path
from trl_concise.evaluation import Completion, evaluate, read_completions, read_summary, summarize
from trl_concise.evaluation.base import efficiency
from trl_concise.evaluation.folder import read_problems
from trl_concise.evaluation.printing import print_records
from trl_concise.evaluation.runs import read_measurements
from trl_concise.evaluation.sampling import TransformersSampler, digest_prompt


KEYS = {
    *("dataset", "problems", "completions_per_problem", "accuracy", "accuracy_interval", "pass_at_k", "tokens_mean"),
    *("tokens_interval", "tokens_correct_mean", "tokens_wrong_mean", "truncated_fraction", "empty_fraction", "budget"),
    *(
        "model",
        "seed",
        "temperature",
        "top_p",
        "max_new_tokens",
        "chunk_size",
        "keep_head",
        "system_prompt_sha256",
        "limit",
        "judge",
        "engine",
        "dtype",
        "quantization",
    ),
    *("prompt_suffix_sha256", "answer_format", "final_form", "thinking_fraction", "thinking_accuracy"),
    *("thinking_tokens_mean", "direct_accuracy", "direct_tokens_mean"),
}
DRAWN = {"num_completions": 2, "max_new_tokens": 48, "temperature": 1.0, "top_p": 1.0, "batch_size": 5}


@pytest.fixture(scope="module")
def sets() -> dict[str, Dataset]:
    rows = generate_problems(6, seed=3, split="validation")
    return {
        "six": Dataset.from_list(
            [{"prompt": [{"role": "user", "content": row["problem"]}], "solution": row["answer"]} for row in rows]
        )
    }


def run(model, tokenizer, sets, folder=None, **changes):
    return evaluate(model, sets, folder, tokenizer=tokenizer, progress=False, **{**DRAWN, **changes})


def test_records_and_files(model, tokenizer, sets, tmp_path):
    state = torch.get_rng_state()
    records = run(model, tokenizer, sets, tmp_path, budgets=[8, 16, 8])
    assert torch.equal(torch.get_rng_state(), state)
    assert [record["budget"] for record in records] == [None, 8, 16]
    assert all(record.keys() == KEYS for record in records)
    assert records == read_summary(tmp_path) == read_summary(tmp_path / "summary.json")
    whole, short, longer = records
    assert (whole["problems"], whole["completions_per_problem"], whole["model"]) == (6, 2, "model")
    assert list(whole["pass_at_k"]) == ["1", "2"]
    assert whole["pass_at_k"]["1"] == pytest.approx(whole["accuracy"])
    assert short["tokens_mean"] <= 8 and short["tokens_mean"] <= longer["tokens_mean"] <= whole["tokens_mean"]
    assert short["truncated_fraction"] >= longer["truncated_fraction"] >= whole["truncated_fraction"]

    completions = read_completions(tmp_path / "completions.jsonl")
    assert len(completions) == 12
    for item in completions:
        assert item.text == tokenizer.decode(item.completion_ids, skip_special_tokens=True)
        assert item.truncated == (item.completion_ids[-1] != tokenizer.eos_token_id)
    assert "path" not in (tmp_path / "settings.json").read_text()


@pytest.mark.parametrize(("lines_left", "characters", "drawn"), [(5, 30, [5, 2]), (7, 30, [5, 2]), (3, 0, [5, 5, 2])])
def test_an_interrupted_run_continues_to_the_same_result(
    lines_left, characters, drawn, model, tokenizer, sets, tmp_path, monkeypatch
):
    whole = run(model, tokenizer, sets, tmp_path / "whole")
    lines = (tmp_path / "whole" / "completions.jsonl").read_text()
    partial = tmp_path / "partial"
    run(model, tokenizer, sets, partial)
    left = lines.splitlines(True)[: lines_left + 1]
    (partial / "completions.jsonl").write_text("".join(left[:-1]) + left[-1][:characters])
    (partial / "summary.json").unlink()
    generated = []
    generate = model.generate
    monkeypatch.setattr(
        model, "generate", lambda **kwargs: generated.append(len(kwargs["input_ids"])) or generate(**kwargs)
    )
    assert run(model, tokenizer, sets, partial) == whole
    assert generated == drawn
    assert (partial / "completions.jsonl").read_text() == lines
    assert len(run(model, tokenizer, sets, partial, budgets=[8])) == 2
    assert generated == drawn


@pytest.mark.parametrize("name", ["/home/me/sums.jsonl", "~/sums", "C:\\data\\sums.parquet"])
def test_a_path_as_name_of_a_set_stays_private(name, model, tokenizer, sets, tmp_path):
    problems, short = sets["six"].select(range(2)), {"max_new_tokens": 4, "num_completions": 1}
    records = run(model, tokenizer, {name: problems}, tmp_path, **short)
    assert [record["dataset"] for record in records] == ["sums"]
    for path in tmp_path.iterdir():
        text = path.read_text()
        assert not any(private in text for private in ("/home/me", "~/", "C:"))
    assert run(model, tokenizer, {"sums": problems}, tmp_path, **short) == records  # the same folder
    with pytest.raises(ValueError, match="Two problem sets have the name 'sums'"):
        run(model, tokenizer, {name: problems, "sums": problems}, **short)


def test_another_evaluation_is_not_merged(model, tokenizer, sets, tmp_path):
    run(model, tokenizer, sets, tmp_path, num_completions=1)
    with pytest.raises(ValueError, match=r"other settings: \{'seed': 0\}, now \{'seed': 1\}"):
        run(model, tokenizer, sets, tmp_path, seed=1)
    other = {"six": sets["six"].select([1, 0])}
    with pytest.raises(ValueError, match="completions of other problems, .* under the name 'six' \\(first: row 0\\)"):
        run(model, tokenizer, other, tmp_path)
    (tmp_path / "completions.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match="line 1, is not a completion"):
        run(model, tokenizer, sets, tmp_path)


def test_completions_of_other_prompts_are_not_merged(model, tokenizer, sets, tmp_path):
    once = {"num_completions": 1, "max_new_tokens": 4}
    records = run(model, tokenizer, sets, tmp_path, **once)
    reworded = [[{"role": "user", "content": "Work out " + prompt[0]["content"]}] for prompt in sets["six"]["prompt"]]
    other = {"six": Dataset.from_dict({"prompt": reworded, "solution": sets["six"]["solution"]})}
    with pytest.raises(ValueError, match="with other wording or another chat template, under the name 'six'"):
        run(model, tokenizer, other, tmp_path, **once)
    talkative = copy.deepcopy(tokenizer)
    talkative.chat_template += "Well, "
    with pytest.raises(ValueError, match="with other wording or another chat template"):
        run(model, talkative, sets, tmp_path, **once)

    path = tmp_path / "completions.jsonl"
    known = [json.loads(line) for line in path.read_text().splitlines()]
    for item in known:  # as an earlier version wrote it
        del item["prompt_sha256"], item["batch_size"]
    path.write_text("".join(json.dumps(item) + "\n" for item in known))
    assert run(model, tokenizer, sets, tmp_path, **once) == records


def test_a_system_prompt_is_put_before_datasets_too(model, tokenizer, sets, tmp_path):
    once = {"num_completions": 1, "max_new_tokens": 8, "system_prompt": "Be brief."}
    brief = [{"role": "system", "content": "Be brief."}]
    said = {"six": sets["six"].map(lambda row: {"prompt": brief + row["prompt"]})}
    texts = {"six": sets["six"].map(lambda row: {"prompt": row["prompt"][0]["content"]})}
    (record,) = run(model, tokenizer, sets, tmp_path, **once)
    for same in (said, texts):
        assert run(model, tokenizer, same, tmp_path, **once) == [record]  # of the prompts on file
    settings = tmp_path / "settings.json"
    settings.write_text(settings.read_text().replace('"Be brief."', "null"))
    with pytest.raises(ValueError, match="with other wording"):
        run(model, tokenizer, sets, tmp_path, **{**once, "system_prompt": None})


def test_a_suffix_is_put_after_every_problem(model, tokenizer, sets, tmp_path):
    once = {"num_completions": 1, "max_new_tokens": 8, "prompt_suffix": "Use a box."}
    said = {"six": sets["six"].map(add_prompt_suffix, fn_kwargs={"suffix": "Use a box."})}
    (record,) = run(model, tokenizer, sets, tmp_path, **once)
    digests = [item.prompt_sha256 for item in read_completions(tmp_path / "completions.jsonl")]
    assert digests == [digest_prompt(tokenizer, prompt) for prompt in said["six"]["prompt"]]
    assert record["prompt_suffix_sha256"] == hashlib.sha256(b"Use a box.").hexdigest()
    assert json.loads((tmp_path / "settings.json").read_text())["prompt_suffix"] == "Use a box."
    with pytest.raises(
        ValueError, match="other settings: {'prompt_suffix': 'Use a box.'}, now {'prompt_suffix': None}"
    ):
        run(model, tokenizer, said, tmp_path, **{**once, "prompt_suffix": None})


def test_each_set_is_evaluated_at_each_level_of_effort(model, tokenizer, sets, tmp_path):
    once = {"num_completions": 1, "max_new_tokens": 8, "prompt_suffix": "Use a box."}
    records = run(model, tokenizer, sets, tmp_path, effort=["low", "high"], **once)
    assert [record["dataset"] for record in records] == ["six, low effort", "six, high effort"]
    assert all(record.keys() == KEYS for record in records)
    asked = {
        "six, low effort": sets["six"].map(
            add_prompt_suffix, fn_kwargs={"suffix": "Use a box. Reasoning effort: low."}
        )
    }
    (same,) = run(model, tokenizer, asked, **{**once, "prompt_suffix": None})
    assert same["tokens_mean"] == records[0]["tokens_mean"] and same["problems"] == 6
    with pytest.raises(ValueError, match="with other wording"):
        run(model, tokenizer, sets, tmp_path, effort=["low"], effort_instruction="[{level}]", **once)
    with pytest.raises(ValueError, match=r"instruction must contain \{level\}"):
        run(model, tokenizer, sets, effort=["low"], effort_instruction="low", **once)
    titles = [item.dataset for item in read_measurements(tmp_path)]
    assert titles == ["six, low effort", "six, high effort"]  # what the report and the card have


def test_the_command_evaluates_and_shows_each_level_of_effort(tmp_path, capsys):
    words = ["eval", "demo", "demo", "--limit", "2", "--max_new_tokens", "8", "--effort", "low,high"]
    assert main([*words, "--output_dir", str(tmp_path)]) == 0
    assert [record["dataset"] for record in read_summary(tmp_path)] == ["demo, low effort", "demo, high effort"]
    capsys.readouterr()
    assert main([*words, "--show", "1", "--effort_instruction", "[{level}]"]) == 0
    shown = capsys.readouterr().out
    assert "? [low]" in shown and "? [high]" in shown


def test_the_answer_format_is_that_of_every_verdict(model, tokenizer, sets, tmp_path):
    once = {"num_completions": 4, "max_new_tokens": 96}
    (record,) = run(model, tokenizer, sets, tmp_path, **once)
    assert record["accuracy"] > 0
    (tagged,) = run(model, tokenizer, sets, **once, answer_format="answer_tag")
    assert tagged["accuracy"] == 0 and tagged["tokens_mean"] == record["tokens_mean"]  # the model writes no tags
    settings = tmp_path / "settings.json"
    older = json.loads(settings.read_text())
    assert (older.pop("prompt_suffix"), older.pop("answer_format"), older.pop("final_form")) == (None, "auto", True)
    settings.write_text(json.dumps(older))
    assert run(model, tokenizer, sets, tmp_path, **once) == [record]  # an older folder goes on with the defaults only
    settings.write_text(json.dumps(older))
    for changes in ({"answer_format": "boxed"}, {"final_form": False}, {"prompt_suffix": "Use a box."}):
        with pytest.raises(ValueError, match="other settings"):
            run(model, tokenizer, sets, tmp_path, **once, **changes)
    with pytest.raises(ValueError, match="answer_format must be one of 'auto', 'boxed', .*; got 'box'"):
        run(model, tokenizer, sets, answer_format="box")


@pytest.mark.parametrize("command", ["eval", "filter"])
def test_the_commands_take_the_options_of_the_answer(command, tmp_path, capsys):
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps({"question": f"{i}+1=?", "answer": str(i + 1)}) + "\n" for i in range(2)))
    words = [command, "demo", str(path)] if command == "eval" else [command, str(path), "--model", "demo"]
    words += ["--prompt_suffix", "Go.", "--answer_format", "boxed", "--final_form", "false"]
    words += ["--max_new_tokens", "8", "-n", "1"]
    split = [] if command == "eval" else ["--keep", "0", "1"]
    output = (
        ["--output_dir", str(tmp_path / "run")] if command == "eval" else ["--output", str(tmp_path / "run.jsonl")]
    )
    assert main([*words, "--show", "1"]) == 0
    assert "[user] 0+1=? Go." in capsys.readouterr().out
    assert main([*words, *output, *split]) == 0
    folder = tmp_path / ("run" if command == "eval" else "run_completions")
    settings = json.loads((folder / "settings.json").read_text())
    assert (settings["prompt_suffix"], settings["answer_format"], settings["final_form"]) == ("Go.", "boxed", False)
    with pytest.raises(SystemExit):
        main([*words, "--final_form", "maybe"])
    assert "must be true or false, got 'maybe'" in capsys.readouterr().err


def test_a_problem_with_an_unreadable_reference_answer_is_not_counted(model, tokenizer, sets, tmp_path, caplog):
    golds = [*sets["six"]["solution"][:5], "$"]  # its verdict on an answer "$" is right, on none wrong
    spoilt = {"six": Dataset.from_dict({"prompt": sets["six"]["prompt"], "solution": golds})}
    settings = {"max_new_tokens": 4, "num_completions": 2, "budgets": [2]}
    records = run(model, tokenizer, spoilt, tmp_path, **settings)
    assert "six: left out 1 problems" in caplog.text
    assert [(record["problems"], record["completions_per_problem"]) for record in records] == [(5, 2), (5, 2)]

    path = tmp_path / "completions.jsonl"
    known = [json.loads(line) for line in path.read_text().splitlines()]
    assert {item["problem"] for item in known if item["correct"] is None} == {5}
    for item in known[:6]:  # as an earlier version judged it
        item["correct"] = bool(item["correct"])
    path.write_text("".join(json.dumps(item) + "\n" for item in known))
    assert run(model, tokenizer, spoilt, tmp_path, **settings) == records

    with pytest.raises(ValueError, match="'six' has no problem with a readable reference answer: \\['\\$'\\]"):
        run(model, tokenizer, {"six": spoilt["six"].select([5])}, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_mismatched_base_omits_only_the_score(caplog):
    record = {"dataset": "six", "problems": 6, "accuracy": 0.5, "tokens_mean": 10.0}
    base = [{**record, "model": "base", "budget": None}]
    assert efficiency(record, base)["accuracy_efficiency_score"] == 0.0
    scored = efficiency({**record, "problems": 5}, base)
    assert (scored["accuracy_efficiency_score"], scored["base_model"]) == (None, "base")
    assert "problems is 5, for the base 6. The score is left out." in caplog.text


def test_other_weights_of_the_same_name_are_not_merged(model, tokenizer, sets, tmp_path):
    folder = tmp_path / "run" / "final"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    once = {"num_completions": 1, "max_new_tokens": 4}
    records = run(str(folder), None, sets, tmp_path / "eval", **once)
    assert run(str(folder), None, sets, tmp_path / "eval", **once) == records
    shutil.copytree(folder, tmp_path / "copy" / "final")
    assert run(str(tmp_path / "copy" / "final"), None, sets, tmp_path / "eval", **once) == records

    trained = copy.deepcopy(model)
    with torch.no_grad():
        trained.model.norm.weight += 0.01
    trained.save_pretrained(folder)
    with pytest.raises(
        ValueError, match="other weights than 'final' has now.*Choose another output, or delete this folder"
    ):
        run(str(folder), None, sets, tmp_path / "eval", **once)
    with pytest.raises(ValueError, match=r"other settings: \{'seed': 0\}, now"):
        run(str(folder), None, sets, tmp_path / "eval", seed=1, **once)

    settings = tmp_path / "eval" / "settings.json"
    known = json.loads(settings.read_text())
    del known["weights"]  # as an earlier version wrote it
    settings.write_text(json.dumps(known))
    assert run(str(folder), None, sets, tmp_path / "eval", **once) == records

    run(model, tokenizer, sets, tmp_path / "memory", **once)
    run(model, tokenizer, sets, tmp_path / "memory", **once)
    with pytest.raises(ValueError, match="other weights than 'model' has now"):
        run(trained, tokenizer, sets, tmp_path / "memory", **once)


def test_a_model_without_a_name_is_an_error_that_asks_for_one(model, tokenizer, sets):
    unnamed = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model_path()))
    unnamed.config._name_or_path = ""  # as of a configuration that was written, not loaded
    with pytest.raises(ValueError, match="pass model_name="):
        run(unnamed, tokenizer, sets)
    (record,) = run(unnamed, tokenizer, sets, model_name="new", max_new_tokens=4)
    assert record["model"] == "new"


def test_any_sampler_is_evaluated(model, tokenizer, sets, tmp_path):
    sampler, options = TransformersSampler(model, tokenizer), {**DRAWN, "progress": False}
    records = evaluate(sampler, sets, tmp_path, model_name="model", **options)
    in_memory = run(model, tokenizer, sets, model_name="model")
    assert records == [record | {"dtype": None} for record in in_memory]
    assert evaluate(sampler, sets, tmp_path, model_name="model", **options) == records  # read from the folder
    assert json.loads((tmp_path / "settings.json").read_text())["weights"] is None
    with pytest.raises(ValueError, match="pass model_name="):
        evaluate(sampler, sets, **options)


@pytest.mark.parametrize("batch_size", [4, 6, 64])
def test_completions_that_are_added_are_new_draws(batch_size, model, tokenizer, sets, tmp_path):
    drawn = []
    for n in (1, 2, 3):
        run(model, tokenizer, sets, tmp_path, num_completions=n, batch_size=batch_size, temperature=2.0)
        completions = read_completions(tmp_path / "completions.jsonl")
        assert completions[: len(drawn)] == drawn and len(completions) == 6 * n
        drawn = completions
    assert len({(item.problem, item.text) for item in drawn}) == 18


def test_a_tokenizer_without_a_padding_token(model, tokenizer, sets):
    bare = copy.deepcopy(tokenizer)
    bare.pad_token = None
    bare.padding_side = "right"
    assert run(model, bare, sets) == run(model, tokenizer, sets)
    assert bare.pad_token is None


def test_comparison_with_a_base(model, tokenizer, sets):
    base = run(model, tokenizer, sets, num_completions=1, seed=7)
    base[0]["accuracy"] = 0.5
    base[0]["tokens_mean"] = 100.0
    record, cut = run(model, tokenizer, sets, base=base, budgets=[4])
    assert record["base_model"] == "model"
    assert record["accuracy_efficiency_weights"] == {"alpha": 1.0, "beta": 3.0, "gamma": 5.0}
    gain = (record["accuracy"] - 0.5) / 0.5
    score = 1 - record["tokens_mean"] / 100 + (3 if gain >= 0 else 5) * gain
    assert record["accuracy_efficiency_score"] == pytest.approx(score)
    assert cut["accuracy_efficiency_score"] < record["accuracy_efficiency_score"]
    base[0]["accuracy"] = 0.0
    assert run(model, tokenizer, sets, base=base)[0]["accuracy_efficiency_score"] is None


def test_greedy_completions_do_not_depend_on_the_batch(model, tokenizer, sets):
    greedy = {"temperature": 0.0, "num_completions": 1}
    assert run(model, tokenizer, sets, **greedy) == run(model, tokenizer, sets, **greedy, batch_size=6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_new_tokens": 8}, "max_new_tokens is 8, for the base 4"),
        ({"limit": 2}, "limit is 2, for the base None, problems is 2, for the base 6"),
        ({"temperature": 0.5, "top_p": 0.9}, "temperature is 0.5, for the base 1.0, top_p is 0.9, for the base 1.0"),
        ({"system_prompt": "Be brief."}, "system_prompt_sha256 is [0-9a-f]{64}, for the base None"),
        ({"prompt_suffix": "Be brief."}, "prompt_suffix_sha256 is [0-9a-f]{64}, for the base None"),
        ({"answer_format": "boxed"}, "answer_format is boxed, for the base auto"),
        ({"final_form": False}, "final_form is False, for the base True"),
    ],
)
def test_a_base_of_other_settings_is_refused(changes, message, model, tokenizer, sets, tmp_path):
    base = run(model, tokenizer, sets, max_new_tokens=4)
    with pytest.raises(ValueError, match=f"base cannot be compared with on 'six': {message}. Evaluate both"):
        run(model, tokenizer, sets, tmp_path / "run", base=base, **{"max_new_tokens": 4, **changes})
    assert not (tmp_path / "run").exists()  # refused before anything is generated
    name = next(iter(changes))
    unknown = [{key: value for key, value in base[0].items() if not key.startswith((*changes, "problems", "judge"))}]
    (record,) = run(model, tokenizer, sets, base=unknown, **{"max_new_tokens": 4, **changes})
    assert record["base_model"] == "model" and name not in unknown[0]


def test_a_base_of_other_problems_is_refused(model, tokenizer, sets, tmp_path):
    fewer = {"six": sets["six"].select(range(2))}  # a set that has grown since
    base = run(model, tokenizer, fewer, max_new_tokens=4)
    with pytest.raises(ValueError, match="problems is 6, for the base 2"):
        run(model, tokenizer, sets, tmp_path / "run", base=base, max_new_tokens=4)
    assert not (tmp_path / "run").exists()  # refused before anything is generated
    (record,) = run(model, tokenizer, sets, limit=6, max_new_tokens=4)
    assert record["limit"] is None  # all there are


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_completions": 0}, "must be at least 1"),
        ({"budgets": [0]}, "must be at least 1"),
        ({"temperature": -1.0}, "temperature >= 0"),
        ({"top_p": 0.0}, "0 < top_p <= 1"),
        ({"tokenizer": None}, "needs its tokenizer"),
    ],
)
def test_bad_arguments(model, tokenizer, sets, changes, message):
    with pytest.raises(ValueError, match=message):
        run(model, changes.pop("tokenizer", tokenizer), sets, **changes)


def test_an_adapter(tiny_model, tmp_path):
    from peft import LoraConfig, get_peft_model

    adapter = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), LoraConfig(target_modules=["q_proj"]))
    adapter.save_pretrained(tmp_path / "adapter")
    sets = {"one": Dataset.from_list([{"prompt": "1 + 1", "solution": "2"}])}
    settings = {"max_new_tokens": 4, "temperature": 0.0, "progress": False}
    record, base = (evaluate(str(path), sets, **settings) for path in (tmp_path / "adapter", tiny_model))
    assert record[0]["model"] == "adapter"
    assert record[0]["tokens_mean"] == base[0]["tokens_mean"]  # a new adapter changes nothing


def test_command(tmp_path, capsys):
    rows = generate_problems(3, seed=5, split="validation")
    problems = tmp_path / "problems.jsonl"
    problems.write_text("".join(json.dumps({"question": r["problem"], "answer": r["answer"]}) + "\n" for r in rows))
    arguments = ["demo", str(problems), "--max_new_tokens", "24", "--budgets", "8,16", "--temperature", "1"]
    assert main(["eval", *arguments, "--output_dir", str(tmp_path / "base")]) == 0
    output = capsys.readouterr().out
    assert "truncated at 16" in output and "Every completion and the summary are in" in output
    records = read_summary(tmp_path / "base")
    assert [(record["dataset"], record["budget"]) for record in records] == [
        ("problems", None),
        ("problems", 8),
        ("problems", 16),
    ]
    assert main(["eval", *arguments, "--output_dir", str(tmp_path / "other"), "--base", str(tmp_path / "base")]) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "alpha = 1" in output and "gamma = 5" in output
    assert str(tmp_path) not in (tmp_path / "base" / "summary.json").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "missing.jsonl"], "No file missing.jsonl"),
        (["demo", "gsm"], "Did you mean 'gsm8k'?"),
        (["outputs/nope", "demo"], "The model 'outputs/nope' was not found: it is not a local folder"),
        (["demo", "demo", "--num_completions", "0"], "must be at least 1"),
        (["demo", "demo", "--batch_size", "0"], "must be at least 1; got 1, 0"),
        (["demo", "demo", "--seed", "-1"], "seed >= 0; got"),
        (["demo", "demo", "--use_vllm"], "pip install 'trl-concise[vllm,peft]'"),
    ],
)
def test_the_command_reports_invalid_input(arguments, message, tmp_path, capsys):
    if "--use_vllm" in arguments:
        pytest.importorskip("peft")
        if __import__("importlib.util").util.find_spec("vllm"):
            pytest.skip("vLLM is installed")
    with pytest.raises(SystemExit) as exit:
        main(["eval", *arguments, "--output_dir", str(tmp_path / "out")])
    assert exit.value.code == 2 and not (tmp_path / "out").exists()
    assert message in " ".join(capsys.readouterr().err.split())


def test_the_command_reports_an_unusable_output_folder(tmp_path, capsys):
    taken = tmp_path / "taken"
    taken.write_text("")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "settings.json").write_text("null")
    for folder, message in [
        (taken, "is a file"),
        (taken / "deeper", "is a file"),
        ("other", "does not contain the settings of an"),
    ]:
        with pytest.raises(SystemExit):
            main(
                ["eval", "outputs/nope", "demo", "--output_dir", str(tmp_path / folder)]
            )  # before a model is looked for
        assert message in " ".join(capsys.readouterr().err.split())


def test_the_table_names_what_is_compared(capsys):
    known = {**summarize([Completion("old", 0, 0, "1", "1", [5, 2], False, True)]), "budget": None, "model": "run"}
    known["accuracy_efficiency_weights"] = {"alpha": 1.0}
    new = {**known, "dataset": "set[a]", "base_model": None, "accuracy_efficiency_score": None}
    print_records([new, {**new, "dataset": "old", "base_model": "first", "accuracy_efficiency_score": 0.25}])
    output = " ".join(capsys.readouterr().out.split())
    assert "score against first, alpha = 1" in output and "set[a] (1)" in output
    print_records([new])
    assert "None" not in capsys.readouterr().out


def test_refused_problems_do_not_replace_those_of_the_folder(model, tokenizer, tmp_path):
    sets = {"one": Dataset.from_list([{"prompt": "2\u2028+ 3\x85=", "solution": "5"}])}
    run(model, tokenizer, sets, tmp_path, max_new_tokens=2)
    assert read_problems(tmp_path) == {("one", 0): "2\u2028+ 3\x85="}  # JSON Lines do not end there
    before = (tmp_path / "problems.jsonl").read_bytes()
    with pytest.raises(ValueError, match="completions of other problems"):
        run(
            model,
            tokenizer,
            {"one": Dataset.from_list([{"prompt": "2 + 4 =", "solution": "6"}])},
            tmp_path,
            max_new_tokens=2,
        )
    assert (tmp_path / "problems.jsonl").read_bytes() == before


def test_vllm_has_room_to_score_the_longest_completion(monkeypatch):
    """vLLM refuses a text of `max_model_len` tokens, because it always generates one more."""
    lengths = []

    def load(model, *, max_model_len, **options):
        lengths.append(max_model_len)
        raise ImportError("no vLLM here")

    monkeypatch.setattr("trl_concise.evaluation.evaluator.load_sampler", load)
    for uncertainty in (False, True):
        with pytest.raises(ImportError, match="no vLLM here"):
            evaluate("demo", "demo", limit=1, max_new_tokens=8, use_vllm=True, uncertainty=uncertainty)
    assert lengths[1] == lengths[0] + 1
