# SPDX-License-Identifier: Apache-2.0
# /// script
# dependencies = ["trl-concise[peft,quantization]"]
# ///
"""
Distill a teacher's correct and incorrect traces into a model: SFT on the correct ones, then REDI on the pairs.

Without arguments: the embedded model and traces sampled from it, on a CPU, in a few minutes:

    accelerate launch examples/redi.py

One stage of your own, from rows with `problem`, `answer` and `generations` (verified here) or as in OpenR1-Math-Raw, or
from pairs with `prompt`, `chosen` and `rejected`, which are used as they are:

    accelerate launch examples/redi.py --stage redi --dataset_name traces.jsonl --model_name_or_path path/of/stage/1

The authors' run, on 8 GPUs:

    accelerate launch --num_processes 8 --mixed_precision bf16 --use_deepspeed --zero_stage 2 \
        examples/redi.py --config examples/configs/redi_1.5b.yaml

Time and memory: examples/configs/redi_1.5b_40gb.yaml takes 14.5 GiB on one card, as planned; docs/memory.md compares plans
with training steps on an H100.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from accelerate import PartialState
from trl import ModelConfig, SFTConfig

from trl_concise import REDIConfig, demo
from trl_concise.cli.arguments import RunArguments, parse_arguments
from trl_concise.cli.script import model_arguments
from trl_concise.errors import report_input_errors


if TYPE_CHECKING:
    from datasets import Dataset


# Settings of REDIConfig that hold in both stages.
SHARED = """
    max_steps use_cpu bf16 fp16 seed data_seed optim adam_beta1 adam_beta2 adam_epsilon weight_decay max_grad_norm
    warmup_steps lr_scheduler_type gradient_checkpointing gradient_checkpointing_kwargs logging_steps save_strategy
    save_steps save_total_limit report_to disable_tqdm dataset_num_proc pad_to_multiple_of model_init_kwargs
    hub_model_id hub_token hub_private_repo hub_strategy
""".split()

DEMO = {
    "model_name_or_path": str(demo.model_path()),
    "output_dir": "outputs/redi-demo",
    "report_problems": 512,
    "sft_learning_rate": 2e-4,  # a model of a million parameters takes more than a large one
    "sft_num_train_epochs": 2,
    "sft_per_device_train_batch_size": 16,
    "sft_gradient_accumulation_steps": 1,
    "learning_rate": 1e-4,
    "num_train_epochs": 4,
    "per_device_train_batch_size": 16,
    "logging_steps": 5,
    "save_strategy": "no",
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
}


@dataclass
class REDIArguments(RunArguments):
    """What to run, on which traces; the first stage's own settings."""

    stage: str = field(default="both", metadata={"help": "Stage to run.", "choices": ["sft", "redi", "both"]})
    dataset_name: str | None = field(
        default=None,
        metadata={
            "help": "Traces, or pairs of them: a dataset id on the Hub or a local .jsonl file. Default: sampled from the "
            "embedded model."
        },
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of the Hub dataset."})
    dataset_train_split: str = field(default="train", metadata={"help": "Split to train on."})
    system_prompt: str | None = field(default=None, metadata={"help": "System message before every problem."})
    max_prompt_length: int = field(default=800, metadata={"help": "Longest prompt of a pair, in tokens."})
    max_completion_length: int = field(default=19_000, metadata={"help": "Longest trace of a pair, in tokens."})
    sft_learning_rate: float = field(default=5e-5, metadata={"help": "Learning rate of the first stage."})
    sft_num_train_epochs: float = field(default=5, metadata={"help": "Epochs of the first stage."})
    sft_per_device_train_batch_size: int = field(default=8, metadata={"help": "Traces per process and pass."})
    sft_gradient_accumulation_steps: int = field(default=2, metadata={"help": "Passes per step of the first stage."})
    sft_max_length: int = field(default=32_768, metadata={"help": "Longest sequence of the first stage, in tokens."})


def load_traces(script_args: REDIArguments, seed: int) -> Dataset:
    """
    Rows of traces (`problem`, `generations`, and `answer` or verdicts), or of examples (`prompt`, `chosen` and `rejected`, or
    `prompt`, `completion` and `label`).
    """
    from datasets import Dataset

    from trl_concise.data.problems import load_rows

    if script_args.dataset_name is None:
        return Dataset.from_list(demo.sample_traces(seed=seed))
    traces = load_rows(script_args.dataset_name, script_args.dataset_config, script_args.dataset_train_split)
    columns = set(traces.column_names)
    if "prompt" in columns and {"chosen", "rejected", "completion"} & columns:
        needed = {"chosen", "rejected"} if {"chosen", "rejected"} & columns else {"completion", "label"}
        needed -= {"rejected", "label"} if script_args.stage == "sft" else set()
        if script_args.system_prompt is not None:
            raise ValueError(
                "--system_prompt has no effect on rows with a `prompt`, which are taken as they are. Leave it out, or put "
                "the system message into the prompts."
            )
    else:
        needed = {"problem", "generations"} | ({"answer"} if "correctness" not in columns else set())
    if missing := sorted(needed - columns):
        raise ValueError(
            f"{script_args.dataset_name} lacks the columns {missing}; it has {sorted(columns)}. Give traces (`problem`, "
            "`generations` and `answer`), pairs (`prompt`, `chosen` and `rejected`) or single examples (`prompt`, "
            "`completion` and `label`)."
        )
    return traces


def build(traces: Dataset, output: str, script_args: REDIArguments, tokenizer=None) -> Dataset:
    """The `"positives"` of the first stage or the `"pairs"` of the second one; examples are taken as they are."""
    from datasets import Dataset

    from trl_concise import build_redi_pairs

    columns = traces.column_names
    if "prompt" in columns:
        if output == "positives":
            if "label" in columns:
                traces = traces.filter(lambda row: row["label"])
            traces = traces.rename_column("chosen", "completion") if "chosen" in columns else traces
            traces = traces.select_columns(["prompt", "completion"])
        return traces
    examples = build_redi_pairs(
        traces,
        output=output,
        tokenizer=tokenizer,
        max_prompt_length=script_args.max_prompt_length,
        max_completion_length=script_args.max_completion_length,
        system_prompt=script_args.system_prompt,
    )
    dataset = Dataset.from_list(list(examples))
    if not len(dataset):
        dropped = ", ".join(f"{rule} ({count})" for rule, count in examples.report.dropped.most_common())
        needed = "a correct trace" if output == "positives" else "a correct and an incorrect trace of one problem"
        raise ValueError(
            f"None of the {len(traces)} rows of {script_args.dataset_name} can be used: {dropped}. Each example takes "
            f"{needed}." + (" --stage sft trains on the correct traces only." if output == "pairs" else "")
        )
    if PartialState().is_main_process:
        print(f"{output}\n{examples.report}", flush=True)
    return dataset


def keep_traces(tokenizer, examples: Dataset):
    """The tokenizer; where its chat template drops the reasoning of a reply, with TRL's variant for training."""
    from trl.chat_template_utils import get_training_chat_template

    from trl_concise.methods.redi_rows import check_template_keeps_traces

    try:
        for index, row in enumerate(examples):
            check_template_keeps_traces(tokenizer, row, index)
    except ValueError:
        tokenizer.chat_template = get_training_chat_template(tokenizer)
    return tokenizer


@report_input_errors()
def main(arguments: list[str] | None = None):
    script_args, training_args, model_args = parse_arguments((REDIArguments, REDIConfig, ModelConfig), arguments, DEMO)
    if training_args.resume_from_checkpoint not in (None, "auto") and script_args.stage == "both":
        raise ValueError(
            "With --resume_from_checkpoint, --stage both takes 'auto' only. Give auto, or name the stage that was "
            "interrupted: --stage sft, or --stage redi."
        )

    # After the command line: --help does not wait for them.
    from trl import SFTTrainer

    from trl_concise import REDITrainer
    from trl_concise.callbacks import show_progress
    from trl_concise.state.adapters import load_tokenizer
    from trl_concise.state.resume import ResumesTraining

    class FirstStageTrainer(ResumesTraining, SFTTrainer):
        """TRL's, which a job that is started again resumes as it does the second stage."""

    traces = load_traces(script_args, training_args.seed).shuffle(seed=42)  # before pairing, as the authors

    if script_args.stage in ("sft", "both"):
        sft_args = SFTConfig(
            output_dir=f"{training_args.output_dir}/sft",
            learning_rate=script_args.sft_learning_rate,
            num_train_epochs=script_args.sft_num_train_epochs,
            per_device_train_batch_size=script_args.sft_per_device_train_batch_size,
            gradient_accumulation_steps=script_args.sft_gradient_accumulation_steps,
            max_length=script_args.sft_max_length,
            **{name: getattr(training_args, name) for name in SHARED},
        )
        positives = build(traces, "positives", script_args)
        tokenizer = load_tokenizer(model_args.model_name_or_path, model_args.model_revision)
        given = model_arguments(sft_args, model_args) | {"processing_class": keep_traces(tokenizer, positives)}
        trainer = FirstStageTrainer(args=sft_args, train_dataset=positives, **given)
        if not len(trainer.train_dataset):
            raise ValueError(f"All rows are longer than --sft_max_length {sft_args.max_length}. Raise it.")
        show_progress(trainer)
        checkpoint = trainer.find_checkpoint(training_args.resume_from_checkpoint)
        is_finished = trainer.is_finished(checkpoint)
        trainer.train(resume_from_checkpoint=checkpoint or False)
        trainer.save_model()
        trainer.accelerator.wait_for_everyone()  # the second stage reads what the main process writes
        # With --use_peft that is an adapter, which the second stage trains further.
        model_args.model_name_or_path, model_args.use_peft = sft_args.output_dir, False

    if script_args.stage in ("redi", "both"):
        training_args.output_dir = f"{training_args.output_dir}/redi"
        tokenizer = load_tokenizer(model_args.model_name_or_path, model_args.model_revision)
        pairs = build(traces, "pairs", script_args, tokenizer)
        given = model_arguments(training_args, model_args) | {"processing_class": keep_traces(tokenizer, pairs)}
        trainer = REDITrainer(args=training_args, train_dataset=pairs, **given)
        show_progress(trainer)
        checkpoint = trainer.find_checkpoint()
        is_finished = trainer.is_finished(checkpoint)
        trainer.train(resume_from_checkpoint=checkpoint or False)
        trainer.save_model()
        trainer.create_model_card(dataset_name=script_args.dataset_name)

    is_demo = script_args.report_problems and not is_finished and script_args.dataset_name is None
    if is_demo and trainer.accelerator.is_main_process:
        held_out = demo.problem_dataset(script_args.report_problems, operations=demo.OPERATIONS)
        record = demo.evaluate_model(trainer.model, trainer.processing_class, held_out)
        print(f"after: accuracy {record['accuracy']:.1%}, {record['tokens_mean']:.1f} tokens on held-out problems")
    if training_args.push_to_hub:
        trainer.push_to_hub(dataset_name=script_args.dataset_name)
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main()
