# SPDX-License-Identifier: Apache-2.0
# /// script
# dependencies = ["trl-concise[peft]"]
# ///
"""
Distill a teacher's solutions as in Light-R1: SFT on all problems, SFT on those that are still hard, preference tuning on the model's own mistakes, and
a merge of the last two models.

Without arguments: the embedded model learns problems that are longer than those it knows, on a CPU, in a few minutes:

    accelerate launch examples/light_r1.py

One stage after the other on a real model, from rows with `problem`, `answer` and `generations` (a list with replies of the teacher). The folder of
each stage is the model of the next one:

    accelerate launch examples/light_r1.py --stage sft --dataset_name traces.jsonl \
        --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct
    accelerate launch examples/light_r1.py --stage hard_sft --dataset_name traces.jsonl
    accelerate launch examples/light_r1.py --stage preference --dataset_name traces.jsonl
    python examples/light_r1.py --stage merge

The authors' settings, 32B on 32 to 96 GPUs: `--config examples/configs/light_r1_paper.yaml`.

Time and memory: the run without arguments takes 290 seconds of processor time, its report included. Not measured on a GPU yet.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from accelerate import PartialState
from trl import DPOConfig, ModelConfig

from trl_concise import demo
from trl_concise.cli.arguments import RunArguments, parse_arguments
from trl_concise.cli.script import model_arguments
from trl_concise.errors import report_input_errors
from trl_concise.evaluation.folder import read_sets


if TYPE_CHECKING:
    from datasets import Dataset


STAGES = ("sft", "hard_sft", "preference", "merge")
# Settings of DPOConfig that hold in the stages of supervised fine-tuning too.
SHARED = """
    max_steps use_cpu bf16 fp16 seed data_seed optim gradient_checkpointing gradient_checkpointing_kwargs logging_steps
    save_strategy save_steps save_total_limit report_to disable_tqdm dataset_num_proc model_init_kwargs
""".split()

DEMO = {
    "model_name_or_path": str(demo.model_path()),
    "output_dir": "outputs/light-r1-demo",
    "report_problems": 256,
    "sft_learning_rate": 5e-4,  # a model of a million parameters takes more than a large one
    "sft_num_train_epochs": 4,
    "hard_sft_learning_rate": 2e-4,
    "hard_sft_num_train_epochs": 4,
    "sft_max_length": 512,
    "sft_per_device_train_batch_size": 16,
    "samples": 2,
    "sample_batch_size": 128,
    "max_new_tokens": 256,
    "learning_rate": 1e-5,
    "num_train_epochs": 2,
    "per_device_train_batch_size": 16,
    "gradient_accumulation_steps": 1,
    "max_length": 512,
    "logging_steps": 10,
    "save_strategy": "no",
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
}


@dataclass
class LightR1Config(DPOConfig):
    """DPO with the loss and the settings of the paper."""

    loss_type: list[str] = field(default_factory=lambda: ["nca_pair"], metadata={"help": "Loss of the third stage."})
    beta: float = field(default=0.3, metadata={"help": "Strength of the reference model in the loss."})
    learning_rate: float = field(default=5e-7, metadata={"help": "Learning rate of the third stage."})


@dataclass
class LightR1Arguments(RunArguments):
    """What to run, on which problems; the settings of the first two stages, and of sampling."""

    stage: str = field(default="all", metadata={"help": "Stage to run.", "choices": [*STAGES, "all"]})
    dataset_name: str | None = field(
        default=None,
        metadata={
            "help": "Problems with a teacher's solutions: a dataset id on the Hub or a local .jsonl file with `problem`, `answer` and "
            "`generations`. Default: generated ones."
        },
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of the Hub dataset."})
    dataset_train_split: str = field(default="train", metadata={"help": "Split to train on."})
    demo_problems: int = field(default=512, metadata={"help": "Generated problems to train on."})
    sft_learning_rate: float = field(default=5e-5, metadata={"help": "Learning rate of the first stage."})
    sft_num_train_epochs: float = field(default=4, metadata={"help": "Epochs of the first stage."})
    hard_sft_learning_rate: float = field(default=1e-5, metadata={"help": "Learning rate of the second stage."})
    hard_sft_num_train_epochs: float = field(default=8, metadata={"help": "Epochs of the second stage."})
    sft_max_length: int = field(default=20_000, metadata={"help": "Longest sequence of stages 1 and 2, in tokens."})
    sft_per_device_train_batch_size: int = field(default=1, metadata={"help": "Replies per process, stages 1 and 2."})
    hard_pass_rate: float = field(
        default=0.5,
        metadata={"help": "Largest share of correct completions of a problem that the second stage trains on."},
    )
    samples: int = field(default=4, metadata={"help": "Completions per problem, before stages 2 and 3."})
    sample_batch_size: int = field(default=64, metadata={"help": "Completions that are sampled at a time."})
    max_new_tokens: int = field(default=16_384, metadata={"help": "Most tokens of such a completion."})
    use_vllm: bool = field(default=False, metadata={"help": "Sample them with vLLM."})


def load_rows(source: LightR1Arguments, seed: int) -> Dataset:
    """Rows of `prompt`, `solution` and `generations`."""
    from datasets import Dataset

    from trl_concise.data.problems import load_rows

    if source.dataset_name is None:
        return demo.teacher_dataset(source.demo_problems, seed=seed)
    rows = load_rows(source.dataset_name, source.dataset_config, source.dataset_train_split)
    if missing := sorted({"problem", "answer", "generations"} - set(rows.column_names)):
        raise ValueError(f"{source.dataset_name} lacks the columns {missing}; it has {sorted(rows.column_names)}.")
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": row["problem"]}],
                "solution": row["answer"],
                "generations": row["generations"],
            }
            for row in rows
        ]
    )


class Stages:
    """
    The stages. Each writes a model into its folder, from which the next one starts.

    Args:
        source (`LightR1Arguments`), args ([`~trl.DPOConfig`]), model_args ([`~trl.ModelConfig`]): The command line.
    """

    def __init__(self, source: LightR1Arguments, args: DPOConfig, model_args: ModelConfig):
        self.source, self.args, self.model_args = source, args, model_args
        self.run, self.seed = args.output_dir, args.seed
        self.rows = load_rows(source, args.seed)

    def folder(self, stage: str) -> str:
        """Folder of a stage."""
        return f"{self.run}/{stage}"

    def sample(self, model: str, name: str) -> tuple[dict[str, Dataset], str]:
        """Sample and judge completions of the current model. Those that the folder has are not sampled again."""
        from trl_concise.evaluation import evaluate

        source, sets, folder = (
            self.source,
            {"train": self.rows.select_columns(["prompt", "solution"])},
            f"{self.run}/{name}",
        )
        with PartialState().main_process_first():  # the others find every completion in the folder
            evaluate(
                model,
                sets,
                folder,
                num_completions=source.samples,
                max_new_tokens=source.max_new_tokens,
                temperature=1.0,
                top_p=1.0,
                seed=self.seed,
                batch_size=source.sample_batch_size,
                use_vllm=source.use_vllm,
                progress=False,
            )
        return {"train": self.rows}, folder

    def fine_tune(self, stage: str, start: str, rows: Dataset) -> Any:
        """Train on the first correct solution of the teacher of each problem."""
        from datasets import Dataset
        from trl import SFTConfig, SFTTrainer

        from trl_concise.data import build_redi_pairs

        raw = [
            {"problem": row["prompt"][-1]["content"], "answer": row["solution"], "generations": row["generations"]}
            for row in rows
        ]
        positives = build_redi_pairs(raw, output="positives")
        args = SFTConfig(
            output_dir=self.folder(stage),
            learning_rate=getattr(self.source, f"{stage}_learning_rate"),
            num_train_epochs=getattr(self.source, f"{stage}_num_train_epochs"),
            per_device_train_batch_size=self.source.sft_per_device_train_batch_size,
            max_length=self.source.sft_max_length,
            lr_scheduler_type="cosine",  # this and what follows: as the authors
            warmup_steps=0.01,
            adam_beta2=0.95,
            weight_decay=0.1,
            **{name: getattr(self.args, name) for name in SHARED},
        )
        return self.train(SFTTrainer, args, start, Dataset.from_list(list(positives)))

    def sft(self) -> Any:
        """Stage 1: all problems."""
        return self.fine_tune("sft", self.model_args.model_name_or_path, self.rows)

    def hard_sft(self) -> Any:
        """Stage 2: the problems that the model of stage 1 seldom solves."""
        sets, folder = self.sample(self.folder("sft"), "samples-hard_sft")
        correct = [0] * len(self.rows)
        for item in read_sets(folder, sets)["train"]:
            correct[item.problem] += bool(item.correct)
        limit = self.source.hard_pass_rate * self.source.samples
        hard = [index for index, count in enumerate(correct) if count <= limit]
        if not hard:
            raise ValueError(
                f"The model of stage 1 solves more than {self.source.hard_pass_rate:.0%} of its samples of every problem. Give harder "
                "problems, or raise --hard_pass_rate."
            )
        say(f"stage 2: {len(hard):,} of {len(self.rows):,} problems are hard")
        return self.fine_tune("hard_sft", self.folder("sft"), self.rows.select(hard))

    def preference(self) -> Any:
        """Stage 3: the model's wrong completions against the teacher's correct ones."""
        from trl import DPOTrainer

        from trl_concise.methods.light_r1 import build_teacher_pairs
        from trl_concise.state.adapters import load_tokenizer

        start = self.folder("hard_sft")
        sets, folder = self.sample(start, "samples-preference")
        pairs, dropped = build_teacher_pairs(folder, sets, load_tokenizer(start))
        say(f"stage 3: {len(pairs):,} pairs; {', '.join(f'{why}: {count:,}' for why, count in dropped.items())}")
        self.args.output_dir = self.folder("preference")
        return self.train(DPOTrainer, self.args, start, pairs)

    def merge(self) -> None:
        """Stage 4: the mean of the models of stages 2 and 3."""
        from trl_concise.methods.light_r1 import average_checkpoints

        if PartialState().is_main_process:
            average_checkpoints([self.folder("hard_sft"), self.folder("preference")], self.folder("merge"))

    def train(self, trainer_class: type, args: Any, start: str, dataset: Dataset) -> Any:
        from trl_concise.callbacks import show_progress
        from trl_concise.state.resume import ResumesTraining

        class StageTrainer(ResumesTraining, trainer_class):  # type: ignore[valid-type,misc]
            """TRL's, which a job that is started again resumes."""

        self.model_args.model_name_or_path = start
        trainer = StageTrainer(args=args, train_dataset=dataset, **model_arguments(args, self.model_args))
        show_progress(trainer)
        trainer.train(resume_from_checkpoint=trainer.find_checkpoint(self.args.resume_from_checkpoint) or False)
        trainer.save_model()
        trainer.accelerator.wait_for_everyone()  # the next stage reads what the main process writes
        return trainer


def say(text: str) -> None:
    """Print a line, once."""
    if PartialState().is_main_process:
        print(text, flush=True)


def report(name: str, model: str, problems: int) -> None:
    """Print accuracy and tokens on held-out problems of 2, 3 and 4 operations."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    figures = []
    for operations in (2, 3, 4):
        held_out = demo.problem_dataset(problems, operations=(operations,))
        model_, tokenizer = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
        record = demo.evaluate_model(model_, tokenizer, held_out)
        figures.append(f"{record['accuracy']:6.1%} {record['tokens_mean']:6.1f}")
    print(f"{name:<12}{'   '.join(figures)}", flush=True)


@report_input_errors()
def main(arguments: list[str] | None = None):
    source, args, model_args = parse_arguments((LightR1Arguments, LightR1Config, ModelConfig), arguments, DEMO)
    start = model_args.model_name_or_path
    stages = Stages(source, args, model_args)
    run = STAGES if source.stage == "all" else (source.stage,)
    for stage in run:
        trainer = getattr(stages, stage)()
        if stage == "preference":
            trainer.create_model_card(dataset_name=source.dataset_name)
    if source.report_problems and PartialState().is_main_process and source.dataset_name is None:
        print("accuracy and tokens on held-out problems of 2, 3 and 4 operations")
        for name, model in {"before": start, **{stage: stages.folder(stage) for stage in run}}.items():
            report(name, model, source.report_problems)


if __name__ == "__main__":
    main()
