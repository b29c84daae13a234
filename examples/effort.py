# SPDX-License-Identifier: Apache-2.0
# /// script
# dependencies = ["trl-concise[peft,plots]"]
# ///
"""
Train a model whose prompt asks for a level of effort: completions of a low level should stay below a number of tokens.

Without arguments: the embedded model on generated problems, on a CPU, in a few minutes. It has never seen such a prompt, so it is first
fine-tuned for a moment on its own traces: short ones for a low level, long ones for a high level (`--imitate 0`: without that). Accuracy and
tokens of each level are measured before and after:

    accelerate launch examples/effort.py

On a real model and one GPU:

    accelerate launch examples/effort.py --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --dataset_name openai/gsm8k \
        --dataset_config main --use_vllm --max_completion_length 1024 --effort_levels low=128 medium=384 high

Time and memory: 54 GiB planned for full fine-tuning on a card of 80 GiB, not measured on a GPU yet.

    trl-concise plan --method grpo --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --card_gib 80 --use_vllm
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from trl_concise import ConciseGRPOConfig, TrainingScript
from trl_concise.errors import report_input_errors


@dataclass
class EffortConfig(ConciseGRPOConfig):
    effort_levels: list[str] = field(
        default_factory=lambda: ["low=32", "high"],
        metadata={"help": "Levels of effort, each NAME=TOKENS, or NAME for a level without a limit."},
    )
    effort_bonus: float = field(default=0.1, metadata={"help": "How fast the reward changes with length."})
    effort_penalty: float = field(default=1.0, metadata={"help": "Weight of the part above the tokens of the level."})
    imitate: int = field(
        default=256,
        metadata={"help": "Number of problems on whose traces the embedded model is fine-tuned first; 0: none."},
    )


def imitate_levels(levels: Mapping[str, int | None], problems: int, folder: str, seed: int) -> None:
    """Fine-tune the embedded model on its own correct traces: the shortest of a problem for the lowest level, and so on."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from trl_concise import demo, verify_answers
    from trl_concise.data import with_effort
    from trl_concise.state.adapters import load_tokenizer

    model = str(demo.model_path())
    tokenizer, rows = load_tokenizer(model), []
    order = sorted(levels, key=lambda level: (levels[level] is None, levels[level]))
    for row in demo.sample_traces(problems, seed=seed):
        traces = row["generations"]
        verdicts = verify_answers([row["answer"]] * len(traces), traces)
        correct = sorted((text for text, verdict in zip(traces, verdicts, strict=True) if verdict), key=len)
        for place, level in enumerate(order if correct else []):
            question = Dataset.from_list([{"prompt": [{"role": "user", "content": row["problem"]}]}])
            (asked,) = with_effort(question, [level])
            prompt = tokenizer.apply_chat_template(asked["prompt"], tokenize=False, add_generation_prompt=True)
            trace = correct[round(place * (len(correct) - 1) / max(len(order) - 1, 1))]
            rows.append({"prompt": prompt, "completion": trace.removeprefix("<think>\n")})
    args = SFTConfig(
        output_dir=folder,
        learning_rate=1e-3,
        num_train_epochs=4,
        per_device_train_batch_size=32,
        warmup_steps=5,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
    )
    trainer = SFTTrainer(model, args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    trainer.train()
    trainer.save_model()


@report_input_errors()
def main():
    script = TrainingScript(EffortConfig, output_dir="outputs/effort-demo")
    args, problems = script.training_args, script.problem_args

    # After the command line: --help does not wait for them.
    from trl_concise import ConciseGRPOTrainer, demo
    from trl_concise.data import with_effort
    from trl_concise.data.effort import read_levels
    from trl_concise.evaluation import evaluate
    from trl_concise.evaluation.command import print_records
    from trl_concise.methods.effort import EffortReward

    levels = read_levels(args.effort_levels)
    rewards = [script.accuracy_reward(), EffortReward(args.effort_bonus, args.effort_penalty)]
    if args.imitate < 0:
        raise ValueError(f"--imitate must be at least 0 problems, got {args.imitate}.")
    if script.model_args.model_name_or_path == str(demo.model_path()) and args.imitate:
        script.model_args.model_name_or_path = f"{args.output_dir}/imitation"
        imitate_levels(levels, args.imitate, script.model_args.model_name_or_path, args.seed)
    arguments = script.trainer_arguments()
    for name in ("train_dataset", "eval_dataset", "watch_dataset"):
        if arguments[name] is not None:
            arguments[name] = with_effort(arguments[name], levels)
    trainer = ConciseGRPOTrainer(reward_funcs=rewards, **arguments)

    def measure(name: str) -> None:
        if problems.dataset_name is None and reported and trainer.accelerator.is_main_process:
            records = evaluate(
                trainer.accelerator.unwrap_model(trainer.model),
                {"problems": demo.problem_dataset(reported)},
                tokenizer=trainer.processing_class,
                effort=list(levels),
                model_name=name,
                progress=False,
                **demo.EVALUATION,
            )
            print_records(records)

    reported, problems.report_problems = problems.report_problems, 0  # the report of a demo asks for no level
    measure("before training")
    script.train(trainer)
    measure("after training")


if __name__ == "__main__":
    main()
