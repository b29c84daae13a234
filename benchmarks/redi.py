# SPDX-License-Identifier: Apache-2.0
"""
REDI against more SFT, DPO and SimPO, from the same start and on the same traces.

    python benchmarks/redi.py

The embedded model answers each training problem several times. Stage 1 is SFT on the first correct trace of each
problem. From there every method takes as many steps, of as many pairs and at the same learning rate of Adam, on the first
correct and first incorrect trace of each problem that has both (more SFT: on the correct ones of these pairs), and then
answers held-out problems. One learning rate for all; nothing is tuned.
"""

from __future__ import annotations

import argparse
import tempfile
from statistics import fmean, stdev

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer

from trl_concise import REDIConfig, REDITrainer, build_redi_pairs, demo


SIMPO = {"loss_type": "simpo", "cpo_alpha": 0.0, "beta": 2.0, "simpo_gamma": 1.0}  # TRL's experimental CPO
METHODS = {
    "more SFT": (SFTTrainer, SFTConfig, {}),
    "DPO": (DPOTrainer, DPOConfig, {"beta": 0.1}),
    "SimPO": (CPOTrainer, CPOConfig, SIMPO),
    "REDI": (REDITrainer, REDIConfig, {"alpha": 0.8}),
}


def train(trainer_class, config_class, model: str, dataset: Dataset, seed: int, **settings):
    with tempfile.TemporaryDirectory() as output_dir:
        args = config_class(
            output_dir=output_dir,
            per_device_train_batch_size=8,
            lr_scheduler_type="linear",
            warmup_steps=0.1,
            seed=seed,
            max_length=512,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **settings,
        )
        tokenizer = AutoTokenizer.from_pretrained(demo.model_path())
        trainer = trainer_class(model=model, args=args, train_dataset=dataset, processing_class=tokenizer)
        trainer.remove_callback(PrinterCallback)  # prints every log entry
        trainer.train()
    return trainer.model


def run(options, seed: int) -> dict[str, dict[str, float]]:
    """All methods with one seed: name -> figures on held-out problems."""
    traces = demo.sample_traces(options.problems, generations=options.generations, seed=seed)
    positives, pairs = (build_redi_pairs(traces, output=output) for output in ("positives", "pairs"))
    stage_1 = Dataset.from_list(list(positives))
    stage_2 = Dataset.from_list(list(pairs))
    correct = stage_2.rename_column("chosen", "completion").remove_columns("rejected")
    print(f"\nseed {seed}\n{pairs.report}", flush=True)

    tokenizer = AutoTokenizer.from_pretrained(demo.model_path())
    held_out = demo.problem_dataset(options.evaluation_problems, operations=demo.OPERATIONS)
    results = {}

    def report(name: str, model) -> None:
        results[name] = figures = demo.evaluate_model(model, tokenizer, held_out, seed=seed)
        print(f"{name:<24}{figures['accuracy']:8.1%}{figures['tokens_mean']:8.1f} tokens", flush=True)

    with tempfile.TemporaryDirectory() as start:
        report("embedded model", AutoModelForCausalLM.from_pretrained(demo.model_path()))
        model = train(
            SFTTrainer, SFTConfig, str(demo.model_path()), stage_1, seed, num_train_epochs=1, learning_rate=1e-4
        )
        model.save_pretrained(start)
        report("start: SFT", model)
        for name, (trainer_class, config_class, settings) in METHODS.items():
            dataset = correct if trainer_class is SFTTrainer else stage_2
            settings = settings | {"max_steps": options.steps, "learning_rate": options.learning_rate}
            report(name, train(trainer_class, config_class, start, dataset, seed, **settings))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--problems", type=int, default=256, help="training problems")
    parser.add_argument("--generations", type=int, default=6, help="traces per problem")
    parser.add_argument("--steps", type=int, default=24, help="steps of 8 pairs after the start")
    parser.add_argument("--learning_rate", type=float, default=1e-4, help="of every method after the start")
    parser.add_argument("--evaluation_problems", type=int, default=256, help="problems of the test split")
    options = parser.parse_args()
    torch.set_num_threads(1)  # a second thread waits more than it works in a model this small

    runs = [run(options, seed) for seed in options.seeds]
    if len(runs) > 1:
        print(f"\n{'mean of ' + str(len(runs)) + ' seeds':<24}{'accuracy':>10}{'sd':>7}{'tokens':>9}{'sd':>7}")
        for name in runs[0]:
            accuracy, tokens = ([r[name][key] for r in runs] for key in ("accuracy", "tokens_mean"))
            print(
                f"{name:<24}{fmean(accuracy):>10.1%}{100 * stdev(accuracy):>7.1f}{fmean(tokens):>9.1f}{stdev(tokens):>7.1f}"
            )


if __name__ == "__main__":
    main()
