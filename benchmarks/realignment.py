# SPDX-License-Identifier: Apache-2.0
"""
TrRa and InRa: tokens and accuracy against lambda, between the embedded model and the one that HAPO makes of it.

    python benchmarks/realignment.py

The aligned model is trained first, with HAPO and the demo's settings, and kept in the output folder. Then, for each lambda:

* the mix itself, without training: every token is drawn from the mixed logits of both models;
* TrRa: the embedded model, distilled towards the mix on generated traces;
* InRa: one more layer in the embedded model, trained once by SFT on the aligned model's correct completions, mixed at generation.

All are evaluated on held-out problems of two operations, as in training, and of three. Nothing but the steps and the learning rates was chosen,
once, before the runs. A figure that is in the output folder is not measured again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import matplotlib
import torch
from comparison import BASE, load
from datasets import Dataset
from transformers import LogitsProcessorList, PrinterCallback
from transformers.generation.logits_process import UnbatchedClassifierFreeGuidanceLogitsProcessor
from trl import SFTConfig, SFTTrainer

from trl_concise import HAPOConfig, HAPOTrainer, demo, math_accuracy_reward
from trl_concise.evaluation.plots import BLACK, BLUE, GREEN, ORANGE, VERMILLION
from trl_concise.methods.layer_realignment import InRa
from trl_concise.methods.realignment import TrRaConfig, TrRaTrainer
from trl_concise.state.checkpoint import write_atomically


matplotlib.use("Agg")
import matplotlib.pyplot as plt


SETS = {"two operations": (2,), "three operations": (3,)}
ALIGNED = "aligned (HAPO)"
STYLES = {"mix": (GREEN, "o"), "TrRa": (BLUE, "D"), "InRa": (ORANGE, "s")}
COMMON: dict[str, Any] = {
    "per_device_train_batch_size": 16,
    "lr_scheduler_type": "linear",
    "warmup_steps": 10,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "logging_steps": 1,
}
TRRA: dict[str, Any] = {**COMMON, "learning_rate": 5e-4, "max_completion_length": 256}
INRA: dict[str, Any] = {**COMMON, "learning_rate": 1e-3, "max_length": 512, "num_train_epochs": 3}


def messages(role: str, text: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


def short_reasoning(model: Any, problems: int, seed: int) -> Dataset:
    """Return correct completions of the aligned model."""
    rows = demo.sample_traces(problems, generations=1, seed=seed, model=model)
    texts = [row["generations"][0] for row in rows]
    correct = math_accuracy_reward([messages("assistant", text) for text in texts], [row["answer"] for row in rows])
    kept = [
        {
            "prompt": messages("user", row["problem"]),
            "completion": messages("assistant", text.removeprefix("<think>\n")),
        }
        for row, text, score in zip(rows, texts, correct, strict=True)
        if score
    ]
    return Dataset.from_list(kept)


def train_aligned(folder: Path) -> None:
    """Train HAPO with the demo's settings, unless the folder has the model."""
    if (folder / "config.json").is_file():
        return
    settings = {name: value for name, value in demo.SETTINGS.items() if name != "model_name_or_path"}
    settings |= {"output_dir": f"{folder}-run", "save_strategy": "no", "disable_tqdm": True}
    trainer = HAPOTrainer(str(demo.model_path()), math_accuracy_reward, HAPOConfig(**settings), demo.train_dataset())
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    trainer.processing_class.save_pretrained(folder)
    trainer.model.save_pretrained(folder)


def train_trra(aligned: Path, lambda_: float, options: argparse.Namespace) -> Any:
    """Return the embedded model after distillation towards the mix."""
    with tempfile.TemporaryDirectory() as output_dir:
        args = TrRaConfig(output_dir, lambda_=lambda_, max_steps=options.steps, seed=options.seed, **TRRA)
        text = demo.trace_dataset(options.steps * args.per_device_train_batch_size, seed=options.seed)
        trainer = TrRaTrainer(str(demo.model_path()), str(aligned), args, text)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    print(f"TrRa, lambda {lambda_}: loss {losses[0]:.4f} at first, {losses[-1]:.4f} at last", flush=True)
    return trainer.model


def train_inra(aligned: Path, options: argparse.Namespace) -> InRa:
    """Return the embedded model with a trained layer; it is trained once, and saved."""
    folder = options.output_dir / "layer"
    start, tokenizer = load(demo.model_path())
    if (folder / "inra.json").is_file():
        return InRa.load(start, folder)
    inra = InRa(start)
    data = short_reasoning(load(aligned)[0], options.steps * 8, options.seed)
    with tempfile.TemporaryDirectory() as output_dir:
        args = SFTConfig(output_dir, seed=options.seed, **INRA)
        # Prompt and completion as texts: the chat template opens the thinking in the prompt of a generation only.
        data = data.map(
            lambda row: {
                "prompt": tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True),
                "completion": row["completion"][0]["content"] + tokenizer.eos_token,
            },
            remove_columns=data.column_names,
            load_from_cache_file=False,
        )
        trainer = SFTTrainer(inra.model, args, train_dataset=data, processing_class=tokenizer)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    print(f"InRa: {len(data)} completions, {trainer.state.global_step} steps", flush=True)
    inra.save(folder)
    return inra


class Mixing:
    """A model whose `generate` draws from a mix. Everything else is the model's."""

    def __init__(self, model: Any, lambda_: float, reference: Any = None, inra: InRa | None = None):
        self.__dict__.update(model=model, lambda_=lambda_, reference=reference, inra=inra)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def generate(self, input_ids: Any, attention_mask: Any, **kwargs: Any) -> Any:
        if self.inra is not None:
            return self.inra.generate(input_ids, attention_mask, lambda_=self.lambda_, **kwargs)
        mix = UnbatchedClassifierFreeGuidanceLogitsProcessor(self.lambda_, self.reference, input_ids, attention_mask)
        return self.model.generate(
            input_ids=input_ids, attention_mask=attention_mask, logits_processor=LogitsProcessorList([mix]), **kwargs
        )


def models(options: argparse.Namespace, aligned: Path) -> Iterator[tuple[str, float, Any]]:
    """Yield the series, the lambda and a function that makes the model of each point."""
    yield BASE, 0.0, lambda: load(demo.model_path())[0]
    yield ALIGNED, 1.0, lambda: load(aligned)[0]
    for lambda_ in options.lambdas:
        yield "TrRa", lambda_, lambda lambda_=lambda_: train_trra(aligned, lambda_, options)
    for lambda_ in options.inra_lambdas:

        def with_layer(lambda_: float = lambda_) -> Mixing:
            inra = train_inra(aligned, options)
            return Mixing(inra.model, lambda_, inra=inra)

        yield "InRa", lambda_, with_layer
    for lambda_ in options.lambdas:
        if lambda_ not in (0, 1):  # the models themselves
            yield (
                "mix",
                lambda_,
                lambda lambda_=lambda_: Mixing(load(aligned)[0], lambda_, load(demo.model_path())[0].eval()),
            )


def table(points: list[dict[str, Any]]) -> str:
    """Return the figures in Markdown."""
    lines = [
        f"| Model | λ | {' | '.join(f'{name}: accuracy | tokens' for name in SETS)} |",
        f"|---|---|{'---|---|' * len(SETS)}",
    ]
    for point in points:
        cells = [f"{100 * one['accuracy']:.1f} % | {one['tokens']:.1f}" for one in point["sets"].values()]
        lines.append(f"| {point['series']} | {point['lambda']:g} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(points: list[dict[str, Any]], path: Path) -> None:
    """Draw tokens and accuracy against lambda, for each set."""
    style = {"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3}
    with plt.rc_context(style):
        figure, axes = plt.subplots(2, len(SETS), figsize=(9, 5.6), sharex=True, layout="constrained")
        for column, name in enumerate(SETS):
            for row, (key, scale) in enumerate((("tokens", 1), ("accuracy", 100))):
                ax = axes[row][column]
                for series, (color, marker) in STYLES.items():
                    ends = (BASE, ALIGNED) if series == "mix" else (BASE,)
                    own = sorted(
                        (point["lambda"], scale * point["sets"][name][key])
                        for point in points
                        if point["series"] == series or point["series"] in ends
                    )
                    ax.plot(*zip(*own, strict=True), color=color, marker=marker, label=series)
                for series, color in ((BASE, BLACK), (ALIGNED, VERMILLION)):
                    (value,) = (scale * p["sets"][name][key] for p in points if p["series"] == series)
                    ax.axhline(value, color=color, linestyle=":", linewidth=1, label=series)
            axes[0][column].set(title=f"Problems of {name}")
            axes[1][column].set(xlabel="λ")
        axes[0][0].set_ylabel("Mean completion tokens")
        axes[1][0].set_ylabel("Held-out accuracy, %")
        axes[1][0].legend(frameon=False, loc="lower left")
        figure.savefig(path, dpi=120, metadata={"Software": None})
        plt.close(figure)


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lambdas", type=float, nargs="+", default=[0.5, 1, 1.5, 2], help="of TrRa and of the mix")
    parser.add_argument("--inra_lambdas", type=float, nargs="+", default=[-0.5, 0.5, 1, 2], help="of InRa")
    parser.add_argument("--steps", type=int, default=100, help="steps of 16 rows that TrRa takes")
    parser.add_argument("--problems", type=int, default=256, help="problems of each kind in the evaluation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/realign"))
    parser.add_argument("--picture", type=Path, help="file to draw the curves into")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # a second thread waits more than it works in a model this small

    aligned = options.output_dir / "hapo"
    train_aligned(aligned)
    tokenizer = load(demo.model_path())[1]
    settings = {"steps": options.steps, "problems": options.problems, "seed": options.seed}
    points = []
    for series, lambda_, make in models(options, aligned):
        path = options.output_dir / "points" / f"{series.split()[0]}-{lambda_:g}.json"
        if not path.is_file():
            start = time.perf_counter()
            model = make()
            sets = {}
            for name, lengths in SETS.items():
                problems = demo.problem_dataset(options.problems, operations=lengths)
                record = demo.evaluate_model(model, tokenizer, problems, seed=options.seed)
                sets[name] = {"accuracy": record["accuracy"], "tokens": record["tokens_mean"]}
            point = {"series": series, "lambda": lambda_, "settings": settings, "sets": sets}
            point["seconds"] = time.perf_counter() - start
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(point).encode() + b"\n")
            print(f"{series}, lambda {lambda_:g}: {point['seconds']:.0f} s, {sets}", flush=True)
        point = json.loads(path.read_text(encoding="utf-8"))
        if point["settings"] != settings:
            raise SystemExit(
                f"{path} has a figure of {point['settings']}, but this command has {settings}. Use the same options, or another "
                "--output_dir."
            )
        points.append(point)
    print(f"\n{table(points)}")
    if options.picture is not None:
        draw(points, options.picture)


if __name__ == "__main__":
    main()
