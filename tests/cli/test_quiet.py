# SPDX-License-Identifier: Apache-2.0
"""What a training command prints."""

from __future__ import annotations

import logging
import os
import re
import runpy
import subprocess
import sys
import warnings

import pytest
from huggingface_hub.utils import are_progress_bars_disabled
from transformers.utils import logging as transformers_logging

from tests.test_examples import write_traces
from trl_concise import HAPOConfig, TrainingScript
from trl_concise.cli.commands import main
from trl_concise.cli.launch import examples_folder
from trl_concise.cli.quiet import hide_messages
from trl_concise.demo.report import DESCRIPTIONS


QUICK = (
    "--max_steps 2 --per_device_train_batch_size 8 --num_generations 4 --max_completion_length 16 --report_problems 2"
)


@pytest.fixture(autouse=True)
def restored():
    """Filters are of a process, and tests share one."""
    loggers = [logging.getLogger(name) for name in ("bitsandbytes.backends.cpu.ops", "transformers.trainer_utils")]
    filters = [list(logger.filters) for logger in loggers]
    environment = dict(os.environ)
    yield
    for logger, before in zip(loggers, filters, strict=True):
        logger.filters[:] = before
    os.environ.clear()
    os.environ.update(environment)
    transformers_logging.enable_progress_bar()


def test_a_short_run_prints_these_lines(tmp_path, monkeypatch):
    """Through the command: this process prints as well, and the script in one that it launches."""
    monkeypatch.delenv("TRL_EXPERIMENTAL_SILENCE", raising=False)
    command = [sys.executable, "-m", "trl_concise", "hapo", *QUICK.split(), "--output_dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    evaluation = "".join(rf"{name} +━+ 2/2 [\d: ]+ accuracy [\d.]+%, \d+ tokens *\n" for name in DESCRIPTIONS)
    table = r" *2 problems of \d operations, [\w ]+\n([┏┃┡│└].*\n)+"
    expected = (
        evaluation
        + r"step 1/2: accuracy \d+%, \d+ tokens, history \d+%, \S+ left\n"
        + r"step 2/2: accuracy \d+%, \d+ tokens, history \d+%, \S+ left\n"
        + evaluation
        + rf"({table}){{3}}"
        + r"None of these problems was trained on\.[^┃]*Tokens generated in training: this run \d+\.\n(.*\n)*"
    )
    assert re.fullmatch(expected, done.stdout), done.stdout


@pytest.mark.parametrize("name", ["cft", "redi"])
def test_a_script_without_rollouts_prints_these_lines(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_traces("traces.jsonl")
    flags = "--max_steps 2 --logging_steps 1 --per_device_train_batch_size 2 --report_problems 0 --output_dir out"
    flags += " --dataset_name traces.jsonl" if name == "redi" else ""
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *flags.split()])
    runpy.run_path(str(examples_folder() / f"{name}.py"), run_name="__main__")
    lines = [re.sub(r"-?\d+(\.\d+)?", "N", line) for line in capsys.readouterr().out.splitlines()]
    lines = [re.sub(r"  +", " ", re.sub(r", \S+ left$", "", line)) for line in lines]
    step = "step N/N: token accuracy N%"
    pair = f"{step}, correct N, incorrect N nats per token"
    read = ["rows read N", "examples written N"]
    assert lines == ([step] * 2 if name == "cft" else ["positives", *read, step, step, "pairs", *read, pair, pair])


def test_verbose_shows_what_libraries_print(tmp_path, capfd):
    flags = f"{QUICK} --max_steps 1 --report_problems 0 --verbose --output_dir".split()
    assert main(["hapo", *flags, str(tmp_path)]) == 0
    said = capfd.readouterr().err
    assert "`gradient_checkpointing` is deprecated" in said and "Loading weights" in said


def test_only_the_listed_messages_are_hidden(caplog):
    hide_messages()
    hide_messages()
    assert len(logging.getLogger("bitsandbytes.backends.cpu.ops").filters) == 1
    for name, hidden, shown in [
        (
            "bitsandbytes.backends.cpu.ops",
            "Failed to load CPU gemm_4bit_forward from kernels-community: %s. Please make sure ...",
            "Failed to load something else: %s",
        ),
        (
            "transformers.trainer_utils",
            "The tokenizer has new PAD/BOS/EOS tokens that differ from the model config and generation config. %s",
            "The tokenizer has no padding token. %s",
        ),
    ]:
        logging.getLogger(name).warning(hidden, "")
        logging.getLogger(name).warning(shown, "it is said")
    assert [
        record.getMessage() for record in caplog.records if "PAD" in record.message or "gemm" in record.message
    ] == []
    assert len(caplog.records) == 2
    with warnings.catch_warnings(record=True) as caught:
        warnings.resetwarnings()
        hide_messages()
        for name in ("gradient_checkpointing", "is_gradient_checkpointing", "gradient_checkpointing_enable"):
            warnings.warn(f"`{name}` is deprecated and will be removed in v6. Use `...` instead.", FutureWarning, 2)
        warnings.warn("`another` is deprecated and will be removed in v6.", FutureWarning, 2)
    assert [str(one.message) for one in caught] == ["`another` is deprecated and will be removed in v6."]


def test_downloads_keep_their_progress_bars():
    assert not are_progress_bars_disabled()
    TrainingScript(HAPOConfig, [])
    assert not transformers_logging.is_progress_bar_enabled() and not are_progress_bars_disabled()


def test_help_lists_the_options_of_the_method_first(capsys):
    with pytest.raises(SystemExit):
        main(["hapo", "--help"])
    said = capsys.readouterr().out
    headings = ["\noptions:\n", "\noptions of this script and its method:\n", "\noptions of TRL:\n"]
    places = [said.index(heading) for heading in headings]
    assert places == sorted(places)
    _, general, own, rest = re.split("|".join(headings), said)
    assert re.findall(r"^  (?:-h, )?(--\w+)", general, flags=re.MULTILINE) == ["--help", "--config"]
    listed = re.findall(r"^  (--\w+)", own, flags=re.MULTILINE)
    assert {"--dry_run", "--dataset_name", "--length_reward_weight", "--history_aggregate"} <= set(listed)
    assert not {"--learning_rate", "--num_generations", "--lora_r"} & set(listed)
    others = re.findall(r"^  (--\w+)", rest, flags=re.MULTILINE)
    assert {"--learning_rate", "--num_generations", "--lora_r"} <= set(others) and not set(others) & set(listed)
