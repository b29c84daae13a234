# SPDX-License-Identifier: Apache-2.0
"""`benchmarks/gpu`, with `--smoke` on the CPU."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch

from trl_concise import demo
from trl_concise.evaluation import read_completions


ROOT = Path(__file__).parent.parent
GPU = ROOT / "benchmarks" / "gpu"
BENCHMARK = str(GPU / "memory.py")


def test_memory_smoke(tmp_path, capsys):
    runpy.run_path(BENCHMARK)["main"](["--smoke", "--output", str(tmp_path / "gpu.json")])
    written = json.loads((tmp_path / "gpu.json").read_text())
    results = written["results"]
    assert [result["method"] for result in results] == ["grpo", "sgrpo", "tspmo", "hapo", "redi", "simpo", "dpo"]
    assert all(result["seconds"] > 0 and result["peak"] is None for result in results)
    assert [result["method"] for result in results if result["predicted"] is None] == ["simpo"]
    for result in (*results, *written["rollouts"]):
        online = "method" not in result
        if result.get("method") == "simpo":
            continue
        assert list(result["phases"]) == (["generation", "log-probs"] if online else ["loss", "backward"])
        assert all(phase["seconds"] > 0 and phase["predicted"] > 0 for phase in result["phases"].values())
    assert len(written["rollouts"]) == 1
    printed = capsys.readouterr().out
    assert all(f"| {result['method']} | 16 |" in printed for result in results)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_memory_without_a_gpu(capsys):
    with pytest.raises(SystemExit):
        runpy.run_path(BENCHMARK)["main"]([])
    assert "--smoke runs on the CPU" in capsys.readouterr().err


@pytest.fixture(scope="module")
def problem_files(tmp_path_factory) -> list[str]:
    """The options that name three files of generated problems."""
    folder, options = tmp_path_factory.mktemp("problems"), []
    for seed, name in enumerate(("train", "test", "harder")):
        rows = demo.generate_problems(8, seed=seed, split="test")
        lines = [json.dumps({"problem": row["problem"], "answer": row["answer"]}) + "\n" for row in rows]
        (folder / f"{name}.jsonl").write_text("".join(lines))
        options += [f"--{name}", str(folder / f"{name}.jsonl")]
    return options


def test_real_model_smoke(problem_files, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(GPU)
    monkeypatch.setenv("MASTER_PORT", "29511")  # the script would set one for the rest of the tests
    import real_model

    tested = [*real_model.DEFAULT_ARMS, "ddca"]  # one with a component
    options = ["--smoke", "--output_dir", str(tmp_path), "--arms", *tested, *problem_files]
    for arm in tested:
        for verb in ("train", "measure") if arm != "base" else ("measure",):
            assert real_model.main([verb, "--arm", arm, *options]) == 0
    trained = json.loads((tmp_path / "hapo" / "trainer_state.json").read_text())
    assert trained["global_step"] == 2
    assert real_model.main(["summarize", *options]) == 0

    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results["arms"]) == tested and list(results["sets"]) == ["test", "harder"]
    assert results["arms"]["base"]["generated_tokens"] == 0
    lengths = [
        entry["completions/mean_length"] for entry in trained["log_history"] if "completions/mean_length" in entry
    ]
    assert results["arms"]["hapo"]["generated_tokens"] == round(4 * sum(lengths)) > 0
    for arms in results["sets"].values():
        assert "difference_to_base" not in arms["base"] and "difference_to_grpo" not in arms["grpo"]
        for arm in ("hapo", "sgrpo", "tspmo", "laser", "ddca"):
            for other in ("base", "grpo"):
                for key, mean in (("accuracy", "accuracy"), ("tokens", "tokens_mean")):
                    difference = arms[arm][f"difference_to_{other}"][key]
                    low, high = difference["interval"]
                    assert difference["mean"] == pytest.approx(arms[arm][mean] - arms[other][mean])
                    assert low <= difference["mean"] <= high
            control = arms[arm]["base_truncated"]
            assert control["budget"] == round(arms[arm]["tokens_mean"])
            assert control["tokens_mean"] <= control["budget"] and control["accuracy"] <= arms["base"]["accuracy"]
    assert capsys.readouterr().out.count("| hapo |") == 2
    assert all((tmp_path / f"frontier_{name}.png").is_file() for name in ("test", "harder"))
    card = (tmp_path / "laser" / "README.md").read_text()
    assert "LASER" in card and "harder" in card
    assert "DDCA" in (tmp_path / "ddca" / "README.md").read_text()
    before = read_completions(tmp_path / "base" / "evaluation" / "completions.jsonl")
    assert real_model.main(["measure", "--arm", "base", *options]) == 0  # a restart repeats nothing
    assert read_completions(tmp_path / "base" / "evaluation" / "completions.jsonl") == before


def test_an_arm_that_fails_is_started_once_more_on_another_port(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(GPU)
    import real_model

    monkeypatch.delenv("MASTER_PORT", raising=False)
    program = """
import os, pathlib, sys
name, failures = sys.argv[1:]
with open(name + ".started", "a") as starts:
    starts.write(os.environ["ARM_STARTED"] + "\\n")
ports = pathlib.Path(name).read_text().split() if pathlib.Path(name).exists() else []
pathlib.Path(name).write_text(" ".join([*ports, os.environ["MASTER_PORT"]]))
sys.exit(len(ports) < int(failures))
"""
    failures = {"good": "0", "once": "1", "always": "9"}
    stages = {
        name: [[sys.executable, "-c", program, str(tmp_path / f"{name}{stage}"), count] for stage in (1, 2)]
        for name, count in failures.items()
    }
    stages["once"][1][-1] = "0"
    assert real_model.supervise(stages, tmp_path / "logs", at_once=2) == {"good": 0, "once": 0, "always": 1}
    started = {file.stem: set(file.read_text().split()) for file in tmp_path.glob("*.started")}
    # The third arm waited for its turn. A restart, and the second stage, do not begin a new time.
    assert max(map(float, started["good1"])) < min(map(float, started["always1"]))
    assert len(started["once1"] | started["once2"]) == len(started["always1"]) == 1
    ports = {file.name: file.read_text().split() for file in tmp_path.iterdir() if file.is_file() and not file.suffix}
    # The second stage follows the first one's success, and only that.
    assert {name: len(own) for name, own in ports.items()} == {
        "good1": 1,
        "good2": 1,
        "once1": 2,
        "once2": 1,
        "always1": 2,
    }
    assert len({port for own in ports.values() for port in own}) == 7
    assert capsys.readouterr().out.count("started again") == 2


def drive(payload: Path, lane: Path, *arguments: str, **more) -> subprocess.CompletedProcess:
    environment = os.environ | {"GPU_LANE": str(lane)}
    command = [sys.executable, str(payload / "drive.py"), *arguments]
    return subprocess.run(
        command, env=environment, cwd=lane.parent, capture_output=True, text=True, timeout=300, **more
    )


@pytest.fixture(scope="module")
def payload(problem_files, tmp_path_factory) -> Path:
    """A payload without packages, with the embedded model."""
    if os.name == "nt":
        pytest.skip("the payload is built with bash and tar")
    folder = tmp_path_factory.mktemp("payload")
    options = ["--python", sys.executable, "--has", "everything", "--part_mb", "2", "--model", str(demo.model_path())]
    subprocess.run(["bash", str(GPU / "prepare.sh"), *options, *problem_files, str(folder)], check=True, timeout=120)
    return folder


def test_payload_transfer_start_and_collect(payload, tmp_path):
    lane, parts = tmp_path / "lane", sorted(str(part) for part in payload.glob("*.bin"))
    assert len(parts) > 2
    drive(payload, lane, "receive", parts[0], check=True)
    refused = drive(payload, lane, "receive", parts[2])
    assert refused.returncode != 0
    assert "002.bin does not follow what was received. Send 001.bin first." in refused.stderr
    drive(payload, lane, "receive", *parts, check=True)  # what is there already is skipped
    assert (lane / "site" / "trl_concise" / "trainer.py").read_bytes() == (
        ROOT / "trl_concise/trainer.py"
    ).read_bytes()
    assert (lane / "model" / "config.json").is_file() and (lane / "lane" / "memory.py").is_file()

    started = drive(payload, lane, "start", "--skip_memory", "--smoke", "--arms", "base", check=True)
    assert "started: real_model" in started.stdout
    archive = tmp_path / "results.tar.xz"
    drive(payload, lane, "collect", "--seconds", "240", "--output", str(archive), check=True)
    with tarfile.open(archive) as packed:
        assert {"out/real_model/results.json", "logs/real_model.log"} <= set(packed.getnames())
    assert (lane / "logs" / "real_model.log").read_text().endswith("exit status 0\n")


def test_a_damaged_payload_is_refused(payload, tmp_path):
    lane, copy = tmp_path / "lane", tmp_path / "copy"
    shutil.copytree(payload, copy, ignore=shutil.ignore_patterns("build"))
    first = (copy / "000.bin").read_bytes()
    (copy / "000.bin").write_bytes(first[:100] + bytes([first[100] ^ 1]) + first[101:])
    refused = drive(copy, lane, "receive", str(copy / "000.bin"))
    assert refused.returncode != 0 and "lane is damaged: its checksum differs. Send all parts again." in refused.stderr
    (copy / "000.bin").write_bytes(first)
    assert "complete: lane" in drive(copy, lane, "receive", str(copy / "000.bin"), check=True).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--smoke", "out"], "unknown option --smoke"),
        (["out", "--model"], "--model needs a value"),
        (["out", "--model", "here"], "train is missing"),
    ],
)
def test_prepare_names_mistakes(arguments, message, tmp_path):
    done = subprocess.run(["bash", str(GPU / "prepare.sh"), *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and message in done.stderr and not list(tmp_path.iterdir())
