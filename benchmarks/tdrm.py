# SPDX-License-Identifier: Apache-2.0
"""
A process reward model (TDRM) of the embedded task: best-of-n against majority vote, its smoothness, and as a reward.

    python benchmarks/tdrm.py --output_dir outputs/benchmarks/tdrm

The embedded model solves problems of three operations at temperature 1.6, at which about half of its completions are correct. Its
completions of training problems become step-labeled data, on which two process reward models are trained from the same start: TDRM, and a
classifier of every state by the label of the completion, without bootstrapping (`gamma=0`, and the label as the reward of each step). Both
choose among completions of held-out problems, and so does the likelihood of the completion under the policy. Then the model is trained with GRPO, by the rule reward alone, and with 0.2 of TDRM.

Each stage has a folder, and a stage that is done is not repeated, so the command can be interrupted. `--stages` selects some.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, set_seed

from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer, demo, math_accuracy_reward
from trl_concise.data import build_steps
from trl_concise.evaluation import best_of_n, evaluate
from trl_concise.evaluation.sampling import tokenize_prompts
from trl_concise.methods.tdrm import ProcessReward, TDRMConfig, TDRMTrainer, smoothness
from trl_concise.state.checkpoint import write_atomically


TEMPERATURE = 1.6
OPERATIONS = (3,)
SEPARATOR = "\n"  # the embedded model writes one step per line
STAGES = ("rollouts", "models", "best_of_n", "grpo")
MODELS = {"TDRM": {}, "labels": {"gamma": 0.0}}
TRAINING: dict[str, Any] = {
    "step_separator": SEPARATOR,
    "learning_rate": 5e-4,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 20,
    "per_device_train_batch_size": 16,
    "num_train_epochs": 1,
    "logging_steps": 20,
    "save_strategy": "steps",
    "save_steps": 50,
    "save_total_limit": 1,
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
}


def problems(options: argparse.Namespace) -> dict[str, Dataset]:
    return {
        "train": demo.problem_dataset(options.train, split="train", operations=OPERATIONS),
        "test": demo.problem_dataset(options.test, split="test", operations=OPERATIONS),
    }


def sample(options: argparse.Namespace) -> None:
    """Sample the completions to learn from and those to choose among."""
    sampling = {**demo.EVALUATION, "temperature": TEMPERATURE}
    for name, count in {"train": options.train_completions, "test": max(options.sizes)}.items():
        evaluate(
            "demo",
            {name: problems(options)[name]},
            options.output_dir / name,
            num_completions=count,
            progress=False,
            **sampling,
        )


def train_model(name: str, options: argparse.Namespace) -> None:
    folder = options.output_dir / name
    if (folder / "model.safetensors").is_file():
        return
    ends: dict[str, Any] = {}
    if name == "labels":
        ends = {"correct_rewards": (1.0, 1.0), "wrong_rewards": (0.0, 0.0)}
    rows = build_steps(
        options.output_dir / "train", {"train": problems(options)["train"]}, separator=SEPARATOR, **ends
    )
    args = TDRMConfig(output_dir=str(folder), n_steps=options.n_steps, seed=options.seed, **MODELS[name], **TRAINING)
    trainer = TDRMTrainer(str(demo.model_path()), args, train_dataset=rows)
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint="auto")
    trainer.save_model()


def load_model(name: str, options: argparse.Namespace, **changes: Any) -> ProcessReward:
    return ProcessReward(options.output_dir / name, separator=SEPARATOR, batch_size=64, **changes)


@torch.inference_mode()
def likelihood(prompts: list[Any], completions: list[Any], **kwargs: Any) -> list[float]:
    """Score completions by their mean log-probability under the policy, at temperature 1: a verifier that needs no training."""
    tokenizer = AutoTokenizer.from_pretrained(demo.model_path())
    model = AutoModelForCausalLM.from_pretrained(demo.model_path()).eval()
    scores = []
    for begin, completion in zip(tokenize_prompts(tokenizer, prompts), completions, strict=True):
        ids = torch.tensor([begin + tokenizer(completion[-1]["content"]).input_ids])
        logps = model(ids).logits[0, :-1].log_softmax(dim=-1).gather(1, ids[0, 1:, None])
        scores.append(logps[len(begin) - 1 :].mean().item())
    return scores


def choose(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure best-of-n on the held-out problems, and the smoothness of a process reward model."""
    path = options.output_dir / f"best_of_n_{name}.json"
    if path.is_file():
        return json.loads(path.read_text())
    test = {"test": problems(options)["test"]}
    model = load_model(name, options, before_answer=False) if name in MODELS else likelihood
    measured: dict[str, Any] = {"records": best_of_n(options.output_dir / "test", test, model, options.sizes)}
    if isinstance(model, ProcessReward):
        rows = build_steps(options.output_dir / "test", test, separator=SEPARATOR)
        rows = rows.select(range(min(options.smoothness, len(rows))))
        measured["smoothness"] = smoothness(model.values(rows["prompt"], rows["completions"]))
    write_atomically(path, json.dumps(measured, indent=2).encode())
    return measured


def train_policy(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train with GRPO, by the rule alone or with the process reward, and evaluate on the held-out problems."""
    path = options.output_dir / f"grpo_{name}.json"
    if path.is_file():
        return json.loads(path.read_text())
    set_seed(options.seed)
    rewards: list[Any] = [math_accuracy_reward]
    changes: dict[str, Any] = {"temperature": TEMPERATURE, "max_steps": options.steps, "seed": options.seed}
    if name != "rule":
        rewards.append(load_model("TDRM", options, output=name))
        changes["reward_weights"] = [0.8, 0.2]
    settings = {key: value for key, value in demo.SETTINGS.items() if key != "model_name_or_path"}
    settings |= {"output_dir": str(options.output_dir / f"grpo_{name}"), "save_strategy": "no", "disable_tqdm": True}
    trainer = ConciseGRPOTrainer(
        str(demo.model_path()),
        rewards,
        ConciseGRPOConfig(**{**settings, **changes}),
        demo.train_dataset(seed=options.seed, operations=OPERATIONS),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    record = demo.evaluate_model(
        trainer.model, trainer.processing_class, problems(options)["test"], temperature=TEMPERATURE, num_completions=2
    )
    write_atomically(path, json.dumps(record, indent=2).encode())
    return record


def percent(value: float, interval: list[float]) -> str:
    return f"{value:.1%} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/benchmarks/tdrm"))
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--train", type=int, default=256, help="problems to learn from (%(default)s)")
    parser.add_argument("--train_completions", type=int, default=2, help="completions of each (%(default)s)")
    parser.add_argument("--test", type=int, default=128, help="held-out problems (%(default)s)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 4, 8], help="values of n")
    parser.add_argument("--n_steps", type=int, default=2, help="rewards in a target (%(default)s)")
    parser.add_argument("--smoothness", type=int, default=256, help="completions for the smoothness (%(default)s)")
    parser.add_argument("--steps", type=int, default=24, help="steps of GRPO (%(default)s)")
    parser.add_argument("--rewards", nargs="+", choices=("rule", "logit", "sigmoid"), default=["rule", "logit"])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if "rollouts" in options.stages:
        sample(options)
    if "models" in options.stages:
        for name in MODELS:
            train_model(name, options)
    if "best_of_n" in options.stages:
        found = {name: choose(name, options) for name in (*MODELS, "likelihood")}
        print("| n | Tokens | Majority vote | TDRM | TDRM against the vote, points | Labels | Likelihood | Any |")
        print("|---|---|---|---|---|---|---|---|")
        for tdrm, *others in zip(*(own["records"] for own in found.values()), strict=True):
            low, high = tdrm["difference_interval"]
            gain = tdrm["best_accuracy"] - tdrm["majority_accuracy"]
            cells = [
                str(tdrm["n"]),
                f"{tdrm['tokens_mean']:.0f}",
                percent(tdrm["majority_accuracy"], tdrm["majority_interval"]),
                percent(tdrm["best_accuracy"], tdrm["best_interval"]),
                f"{100 * gain:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]",
                *(percent(other["best_accuracy"], other["best_interval"]) for other in others),
                f"{tdrm['any_accuracy']:.1%}",
            ]
            print(f"| {' | '.join(cells)} |")
        for name in MODELS:
            print(f"smoothness of {name}: {found[name]['smoothness']:.4f}")
    if "grpo" in options.stages:
        for name in options.rewards:
            record = train_policy(name, options)
            accuracy = percent(record["accuracy"], record["accuracy_interval"])
            print(f"GRPO, {name}: {accuracy}, {record['tokens_mean']:.1f} tokens")


if __name__ == "__main__":
    main()
