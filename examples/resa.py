# SPDX-License-Identifier: Apache-2.0
# /// script
# dependencies = ["trl-concise[experimental]"]
# ///
"""
SAE-Tuning (Resa): train a sparse autoencoder on one layer of a source model, insert it into a target model, train LoRA against its error, and
remove it. Experimental.

Without arguments: the embedded model as target, and as source the embedded model after some steps of HAPO, on a CPU, in some minutes. It also
trains the controls, evaluates all models on problems that none was trained on, of two operations and of three, and says whether anything was
transferred:

    python examples/resa.py

A real model on one GPU, with the settings of the release. The source is a model with layers of the same width:

    python examples/resa.py --config examples/configs/resa_1.5b.yaml --source_model_name_or_path outputs/source \
        --dataset_name openai/gsm8k --dataset_config main

Other models; each adapter is in a folder of its own, for `trl-concise eval`:

    python examples/resa.py --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --source_model_name_or_path outputs/hapo --use_peft --layer 14 \
        --dataset_name openai/gsm8k --dataset_config main --output_dir outputs/resa
    trl-concise eval outputs/resa/sae-of-source gsm8k math500

Time and memory: the run without arguments takes 5 minutes of one CPU core; nothing is transferred there (docs/experimental/resa.md). Not measured on a
GPU: stage II computes the logits of each chunk twice.
"""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import PartialState
from trl import ModelConfig

from trl_concise import demo
from trl_concise.cli.arguments import RunArguments, parse_arguments
from trl_concise.cli.script import model_arguments
from trl_concise.errors import report_input_errors
from trl_concise.experimental.resa_config import SAETuningConfig


if TYPE_CHECKING:
    from datasets import Dataset

    from trl_concise.experimental.resa_sae import TopKSAE


DEMO = {
    "model_name_or_path": str(demo.model_path()),
    "output_dir": "outputs/resa-demo",
    "report_problems": 384,
    "layer": 1,  # of the layers 0 to 2
    "num_latents": 2560,
    "k": 16,
    "chunk_length": 512,
    "sae_batch_size": 4,
    "max_steps": 100,
    "per_device_train_batch_size": 2,
    "learning_rate": 3e-4,  # a model of a million parameters needs a higher one than a large model
    "lr_scheduler_type": "constant",
    "logging_steps": 10,
    "save_strategy": "no",
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "use_peft": True,
    "lora_r": 8,
    "lora_alpha": 32,
    "lora_target_modules": "all-linear",
}
SETS = {"demo": "2 operations, as in training", "demo_harder": "3 operations"}
# (name of the model, name of its folder); the letters are those of docs/experimental/resa.md.
BASE, SOURCE = "(a) base", "source of (e)"
OF_BASE, RANDOM, SFT, OF_SOURCE = "(b) SAE of the base", "(c) random SAE", "(d) SFT", "(e) SAE of the source"
FOLDERS = {OF_BASE: "sae-of-base", RANDOM: "random-sae", SFT: "sft", OF_SOURCE: "sae-of-source"}


@dataclass
class ResaArguments(RunArguments):
    """Source model, SAE and texts."""

    dataset_name: str | None = field(
        default=None,
        metadata={
            "help": "Problems with answers: a dataset id on the Hub or a local file. Default: generated problems."
        },
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of the Hub dataset."})
    dataset_train_split: str = field(default="train", metadata={"help": "Split to train on."})
    source_model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Model whose layer the SAE is trained on. Default: of the demo, the embedded model after HAPO."
        },
    )
    num_latents: int = field(default=65536, metadata={"help": "Latents of the SAE."})
    k: int = field(default=32, metadata={"help": "Active latents per token."})
    chunk_length: int = field(default=2048, metadata={"help": "Tokens of a chunk of text."})
    sae_batch_size: int = field(default=16, metadata={"help": "Chunks per step of the SAE's training."})
    controls: bool = field(
        default=True, metadata={"help": "Also train the controls: SAE of the base, random SAE, SFT."}
    )
    hapo_steps: int = field(default=40, metadata={"help": "Of the demo: HAPO steps that make the source model."})
    demo_problems: int = field(default=6000, metadata={"help": "Of the demo: problems of the texts."})


def check_shapes(base: str, source: str | None, layer: int) -> None:
    """Report a layer that is missing, and models of different widths, before anything is trained."""
    from transformers import AutoConfig

    from trl_concise.state.adapters import adapter_config, check_model

    shapes = {}
    for name in (source or base, base):
        check_model(name)
        if adapter_config(name) is not None:
            raise ValueError(f"{name} is an adapter. Merge it first, with trl-concise merge.")
        config = AutoConfig.from_pretrained(name).get_text_config()
        shapes[name] = config.hidden_size
        if not 0 <= layer < config.num_hidden_layers:
            raise ValueError(
                f"--layer must be between 0 and {config.num_hidden_layers - 1}, got {layer}: {name} has {config.num_hidden_layers} layers."
            )
    if len(set(shapes.values())) > 1:
        raise ValueError(
            f"{source} and {base} have the widths {shapes[source]} and {shapes[base]}. Source and target need layers of equal width."
        )


def hapo_source(folder: Path, steps: int, seed: int) -> Path:
    """Train the embedded model with HAPO, unless the folder has the result."""
    from transformers import PrinterCallback

    from trl_concise import HAPOConfig, HAPOTrainer, math_accuracy_reward

    if (folder / "config.json").is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as partial:  # a run that is stopped leaves no model
        settings = {name: value for name, value in demo.SETTINGS.items() if name != "model_name_or_path"}
        settings |= {
            "output_dir": f"{partial}/run",
            "max_steps": steps,
            "save_strategy": "no",
            "disable_tqdm": True,
            "seed": seed,
        }
        trainer = HAPOTrainer(
            str(demo.model_path()), math_accuracy_reward, HAPOConfig(**settings), demo.train_dataset()
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        whole = Path(partial, "model")
        trainer.processing_class.save_pretrained(whole)
        trainer.model.save_pretrained(whole)
        whole.rename(folder)
    return folder


def make_sae(
    name: str, folder: Path, chunks: Dataset, source: ResaArguments, args: SAETuningConfig, tokenizer: Any
) -> TopKSAE:
    """Train an SAE on a model and save it. The first process does, and the others read the files."""
    from transformers import AutoModelForCausalLM

    from trl_concise.experimental.resa import TopKSAE, reasoning_features, train_sae

    state = PartialState()
    with state.main_process_first():
        if state.is_main_process:
            model = AutoModelForCausalLM.from_pretrained(name, dtype="auto").to(args.device)

            def show(record: dict[str, Any]) -> None:
                print(
                    f"SAE of {Path(name).name}, step {record['step']}: FVU {record['fvu']:.3f}, dead {record['dead']:.1%}",
                    flush=True,
                )

            sae, records = train_sae(
                model,
                chunks,
                args.layer,
                num_latents=source.num_latents,
                k=source.k,
                batch_size=source.sae_batch_size,
                seed=args.seed,
                on_log=show,
            )
            sae.save(folder)
            (folder / "log.json").write_text(json.dumps(records, indent=2) + "\n", encoding="utf-8")
            try:
                features = reasoning_features(model, tokenizer, sae, args.layer)
                print(f"Reasoning features of layer {args.layer}: {features or 'none'}")
            except ValueError as error:  # a tokenizer without markers
                print(f"No reasoning features: {error}")
    return TopKSAE.load(folder)


def tune(
    name: str,
    sae: TopKSAE | None,
    chunks: Dataset,
    args: SAETuningConfig,
    model_args: ModelConfig,
    dataset_name: str | None,
) -> dict[str, Any]:
    """Train an adapter with an SAE, or with SFT on the same chunks, and save it."""
    from trl import SFTTrainer

    from trl_concise.callbacks import show_progress
    from trl_concise.experimental.resa import SAETuningTrainer

    own = copy.copy(args)
    own.output_dir = str(Path(args.output_dir, FOLDERS[name]))
    own.push_to_hub = args.push_to_hub and name == OF_SOURCE
    arguments = {"args": own, "train_dataset": chunks, **model_arguments(own, model_args)}
    if sae is None:
        own.dataset_kwargs = {"skip_prepare_dataset": True}
        trainer: Any = SFTTrainer(**arguments)
    else:
        trainer = SAETuningTrainer(sae=sae, **arguments)
    show_progress(trainer)
    began = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - began
    trainer.save_model()
    if sae is not None:
        trainer.create_model_card(dataset_name=dataset_name)
    if own.push_to_hub:
        trainer.push_to_hub(dataset_name=dataset_name)
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    rows = own.train_batch_size * own.gradient_accumulation_steps * own.world_size
    steps = trainer.state.global_step
    cost: dict[str, Any] = {"seconds": seconds, "steps": steps, "tokens": steps * rows * len(chunks[0]["input_ids"])}
    metrics = ("loss", "resa/kl", "resa/fvu", "resa/grad_share_before")
    for when, entry in zip(("first", "last"), (*logged[:1], *logged[-1:]), strict=False):
        cost[when] = {key: entry[key] for key in metrics if key in entry}
    return cost


def report(models: dict[str, str], runs: dict[str, Any], limit: int, output_dir: Path, seed: int) -> None:
    """Evaluate the models on held-out problems, print paired differences, and write `resa.json`."""
    from trl_concise.demo.report import held_out_sets
    from trl_concise.evaluation import evaluate, read_completions
    from trl_concise.experimental.equal_cost import paired_difference
    from trl_concise.state.checkpoint import write_atomically

    sets = {name: rows for name, rows in held_out_sets().items() if name in SETS}
    results: dict[str, Any] = {"runs": runs, "problems": limit, "sets": {name: {} for name in SETS}, "transfer": {}}
    values: dict[tuple[str, str, str], list[float]] = {}
    for name, path in models.items():
        folder = output_dir / "evaluation" / name.partition(" ")[0].strip("()")
        shutil.rmtree(folder, ignore_errors=True)  # of an earlier run
        records = evaluate(
            path, sets, folder, limit=limit, seed=seed, model_name=name, **demo.EVALUATION, progress=False
        )
        completions = read_completions(folder / "completions.jsonl")
        for record in records:
            own = sorted(
                (item for item in completions if item.dataset == record["dataset"]), key=lambda item: item.problem
            )
            values[name, record["dataset"], "accuracy"] = [100.0 * bool(item.correct) for item in own]
            values[name, record["dataset"], "tokens"] = [float(item.tokens) for item in own]

    def difference(name: str, other: str, dataset: str, quantity: str) -> list[float]:
        mean, limits = paired_difference(values[name, dataset, quantity], values[other, dataset, quantity])
        return [mean, *limits]

    for dataset, description in SETS.items():
        print(f"\n{limit} problems of {description}. Changes against (a), paired, with 95 % intervals.\n")
        print("| Model | Accuracy, % | Change, points | Tokens | Change |\n|---|---:|---|---:|---|")
        for name in models:
            row = {
                quantity: sum(own) / len(own)
                for quantity in ("accuracy", "tokens")
                for own in [values[name, dataset, quantity]]
            }
            row |= {
                f"{quantity} change": difference(name, BASE, dataset, quantity) for quantity in ("accuracy", "tokens")
            }
            results["sets"][dataset][name] = row
            changes = [
                _interval(row[f"{quantity} change"]) if name != BASE else "" for quantity in ("accuracy", "tokens")
            ]
            print(f"| {name} | {row['accuracy']:.1f} | {changes[0]} | {row['tokens']:.1f} | {changes[1]} |")
    print()
    figures = [(quantity, dataset) for dataset in SETS for quantity in ("accuracy", "tokens")]
    for control in (OF_BASE, RANDOM):
        if control in models:
            against = {f"{q}, {d}": difference(OF_SOURCE, control, d, q) for q, d in figures}
            results["transfer"][control] = against
            print(
                f"(e) minus {control}: " + "; ".join(f"{name} {_interval(value)}" for name, value in against.items())
            )
    if results["transfer"]:
        results["verdict"] = verdict(results)
        print(results["verdict"])
    write_atomically(output_dir / "resa.json", (json.dumps(results, indent=2) + "\n").encode())


def verdict(results: dict[str, Any]) -> str:
    """
    Say whether anything was transferred: only what the source changed can be, if (e) differs in the same direction from the base and from every
    control.
    """
    changed, transferred = [], []
    for dataset, rows in results["sets"].items():
        for quantity in ("accuracy", "tokens"):
            name, change = f"{quantity}, {dataset}", rows[SOURCE][f"{quantity} change"]
            if not _excludes_0(change):
                continue
            changed.append(name)
            compared = [
                rows[OF_SOURCE][f"{quantity} change"],
                *(values[name] for values in results["transfer"].values()),
            ]
            if all(_excludes_0(value) and value[0] * change[0] > 0 for value in compared):
                transferred.append(name)
    if not changed:
        return "Nothing could be transferred: the source cannot be told apart from the base. Train it longer, with --hapo_steps."
    if not transferred:
        return f"Nothing was transferred: the source changed {'; '.join(changed)}, and (e) does not differ from base and controls in that direction."
    return f"(e) differs from base and controls in the direction of the source: {'; '.join(transferred)}."


def _excludes_0(value: list[float]) -> bool:
    _, low, high = value
    return low > 0 or high < 0


def _interval(value: list[float]) -> str:
    mean, low, high = value
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


@report_input_errors()
def main(arguments: list[str] | None = None):
    source, args, model_args = parse_arguments((ResaArguments, SAETuningConfig, ModelConfig), arguments, DEMO)

    # After the command line: --help does not wait for them.
    from trl_concise.data import load_problems
    from trl_concise.experimental.resa import TopKSAE, check_peft, question_answer_chunks
    from trl_concise.experimental.resa_text import BOXED_RESPONSE
    from trl_concise.state.adapters import load_tokenizer

    check_peft()
    if source.hapo_steps < 1 or source.demo_problems < 1:
        raise ValueError(
            f"--hapo_steps and --demo_problems must be at least 1, got {source.hapo_steps} and {source.demo_problems}."
        )
    is_demo = model_args.model_name_or_path == str(demo.model_path())
    if not is_demo and source.source_model_name_or_path is None:
        raise ValueError("--source_model_name_or_path is missing: name the model whose layer the SAE is trained on.")
    if args.layer is None:
        raise ValueError("--layer is missing: name a decoder layer, counted from 0, for example one in the middle.")
    if not model_args.use_peft:
        raise ValueError("--use_peft is missing: SAE-Tuning trains a LoRA adapter.")
    check_shapes(model_args.model_name_or_path, source.source_model_name_or_path, args.layer)
    base, output_dir = model_args.model_name_or_path, Path(args.output_dir)
    tokenizer = load_tokenizer(base, model_args.model_revision)
    if source.source_model_name_or_path is not None:
        if load_tokenizer(source.source_model_name_or_path).get_vocab() != tokenizer.get_vocab():
            raise ValueError(
                f"{source.source_model_name_or_path} and {base} have different vocabularies. Choose a source with the tokenizer of the target."
            )
    if source.dataset_name is None:
        texts = question_answer_chunks(
            demo.train_dataset(source.demo_problems, seed=args.seed),
            tokenizer,
            source.chunk_length,
            system_prompt=None,
            response=BOXED_RESPONSE,
        )
    else:
        problems = load_problems(
            source.dataset_name, config_name=source.dataset_config, split=source.dataset_train_split
        )
        texts = question_answer_chunks(problems, tokenizer, source.chunk_length)
    teacher = source.source_model_name_or_path
    if teacher is None:
        with PartialState().main_process_first():
            teacher = str(hapo_source(output_dir / "hapo-source", source.hapo_steps, args.seed))
    saes: dict[str, Any] = {OF_SOURCE: make_sae(teacher, output_dir / "sae-source", texts, source, args, tokenizer)}
    if source.controls:
        of_base = make_sae(base, output_dir / "sae-base", texts, source, args, tokenizer)
        random = TopKSAE(of_base.d_in, source.num_latents, source.k, seed=args.seed + 1)
        saes = {OF_BASE: of_base, RANDOM: random, SFT: None, **saes}
    runs = {name: tune(name, sae, texts, args, model_args, source.dataset_name) for name, sae in saes.items()}
    for name, run in runs.items():
        print(
            f"{name}: {run['steps']} steps, {run['tokens']:,} tokens, {run['seconds']:.0f} s, {run.get('first')} -> {run.get('last')}"
        )
    if is_demo and source.report_problems and PartialState().is_main_process:
        models = {BASE: base, SOURCE: teacher} | {name: str(output_dir / FOLDERS[name]) for name in runs}
        report(models, runs, source.report_problems, output_dir, args.seed)


if __name__ == "__main__":
    main()
