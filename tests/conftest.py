# SPDX-License-Identifier: Apache-2.0
"""Settings every test needs, made before torch, transformers or TRL are imported."""

from __future__ import annotations

import gc
import os


os.environ["HF_HUB_OFFLINE"] = "1"  # the suite needs no network, and must not come to need one
os.environ["TOKENIZERS_PARALLELISM"] = "false"  # tests fork and spawn
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start; see below
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # golden losses are CPU ones; set it to test on a GPU

import torch  # noqa: E402


torch.set_num_threads(1)  # tiny models: a second thread only waits for the first, and longer on a busy machine

import pytest  # noqa: E402
import transformers  # noqa: E402
from datasets import Dataset  # noqa: E402
from filelock import FileLock  # noqa: E402
from packaging.version import Version  # noqa: E402

from tests import tiny  # noqa: E402
from tests.distributed import run_on_processes  # noqa: E402
from trl_concise.demo.settings import model_path  # noqa: E402


try:
    from hypothesis import HealthCheck, settings
except ModuleNotFoundError:  # the tests of vLLM do not need it
    pass
else:
    settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("any machine")  # also a busy one


def pytest_collection_finish() -> None:
    """
    Exempt what was imported from garbage collection.

    Every `trainer.train()` collects garbage, and to search the modules of torch, transformers and TRL takes three times as long as to
    train a tiny model.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> str:
    """Folder of a random model of some 100,000 parameters, with its tokenizer."""
    return tiny.make_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def model():
    """The embedded model."""
    return transformers.AutoModelForCausalLM.from_pretrained(model_path())


@pytest.fixture(scope="module")
def tokenizer():
    """The embedded model's tokenizer."""
    return transformers.AutoTokenizer.from_pretrained(model_path())


@pytest.fixture
def plain_nf4(monkeypatch) -> None:
    """Keep bitsandbytes from repacking NF4 weights, which it does in evaluation mode on CPUs with avx512_bf16 only."""
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: False)


@pytest.fixture
def problems() -> Dataset:
    """16 conversational prompts with an answer."""
    return Dataset.from_list(
        [
            {"prompt": [{"role": "user", "content": f"What is {i} + {i}?"}], "solution": str(2 * i), "row": i}
            for i in range(16)
        ]
    )


@pytest.fixture(scope="session")
def two_processes(tiny_model, tmp_path_factory):
    """
    Folder with what each module of `tests.distributed` wrote when it ran on two processes.

    The workers of pytest-xdist share one run: the first starts it, the others wait.
    """
    if Version(transformers.__version__) < Version("5.19"):
        pytest.skip("an optimizer cannot be resumed on several CPU processes before transformers 5.19")
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / "two_processes"
    with FileLock(shared / "two_processes.lock"):
        if not (folder / "finished").exists():
            folder.mkdir(exist_ok=True)
            done = run_on_processes(2, "tests.distributed.every", tiny_model, str(folder))
            assert done.returncode == 0, done.stderr[-5000:]
            (folder / "finished").touch()
    return folder
