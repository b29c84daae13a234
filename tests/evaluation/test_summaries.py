# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from trl_concise.evaluation.summaries import differing_settings, read_summary


RECORD = {
    "dataset": "gsm8k",
    "model": "base",
    "accuracy": 0.5,
    "accuracy_interval": [0.4, 0.6],
    "tokens_mean": 100.0,
    "tokens_interval": [90.0, 110.0],
}
FOREIGN = ["no JSON", "3", "[1, 2]", '{"accuracy": 1}', '[{"dataset": "gsm8k", "accuracy": 0.5}]']


def test_no_summary(tmp_path):
    with pytest.raises(FileNotFoundError, match="trl-concise eval --output_dir"):
        read_summary(tmp_path)


@pytest.mark.parametrize("content", FOREIGN)
def test_a_file_of_another_program_is_refused(content, tmp_path):
    (tmp_path / "summary.json").write_text(content)
    with pytest.raises(ValueError, match="not a summary of an evaluation"):
        read_summary(tmp_path)


def test_settings_that_keep_records_apart():
    record = {**RECORD, "max_new_tokens": 512, "problems": 10, "seed": 0, "completions_per_problem": 1}
    assert differing_settings(record, {**record, "seed": 1, "completions_per_problem": 4, "accuracy": 0.1}) == ""
    assert differing_settings(record, {**record, "problems": 9}) == "problems is 10, for the base 9"
    assert differing_settings(record, RECORD) == ""  # unknown
    train, test = ({**record, "dataset_split": split} for split in ("train", "test"))
    assert differing_settings(train, test) == "dataset_split is train, for the base test"
