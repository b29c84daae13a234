# SPDX-License-Identifier: Apache-2.0
# /// script
# dependencies = ["trl-concise[peft,plots]"]
# ///
"""
Train a model with HAPO, so that it reasons in fewer tokens.

Without arguments: the embedded model on generated problems, on a CPU, in a few minutes, with a report before and after:

    accelerate launch examples/hapo.py

The embedded model on your own problems, a few steps:

    accelerate launch examples/hapo.py --dataset_name problems.jsonl --max_steps 4

A real model on one GPU (a recipe for 40 GB; every value can be overridden on the command line):

    accelerate launch examples/hapo.py --config examples/configs/hapo_1.5b_40gb.yaml \
        --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --dataset_name openai/gsm8k --dataset_config main \
        --answer_column answer

Time and memory: 19.7 GiB planned; docs/memory.md compares plans with training steps on an H100.
"""

from __future__ import annotations

from functools import partial

from trl_concise import HAPOConfig, TrainingScript, demo
from trl_concise.errors import report_input_errors


@report_input_errors()
def main():
    script = TrainingScript(HAPOConfig)

    from trl_concise import HAPOTrainer  # after the command line: --help does not wait for it

    trainer = HAPOTrainer(reward_funcs=script.accuracy_reward(), **script.trainer_arguments())
    script.train(trainer, report=partial(demo.Report, limits=demo.LIMITS))  # of the run without arguments


if __name__ == "__main__":
    main()
