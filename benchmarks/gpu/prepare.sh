#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Build the payload of the GPU benchmarks for a machine without network. docs/gpu.md shows the sequence.
#
#   prepare.sh --model FOLDER --train FILE --test FILE --harder FILE [OPTIONS] OUTPUT
#
#   --python PYTHON   of the version that the GPU machine has (default: python3)
#   --torch VERSION   that the GPU machine has (default: that of constraints.txt)
#   --vllm VERSION    of TRL's range, for that version of torch; "none": without vLLM (default: none)
#   --has "NAMES"     top-level names in site-packages that the GPU machine has, as patterns
#                     (default: torch and the packages of CUDA); "everything": no package is sent
#   --part_mb SIZE    of a part (default: 60)
#
# OUTPUT then contains 000.bin, 001.bin, ..., index.json and drive.py. OUTPUT/build can be deleted.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=python3 torch= vllm=none part_mb=60 model= train= test= harder= output=
has='torch torch-* torchgen functorch nvidia* triton triton-* cuda* pip pip-* setuptools* __pycache__'
while [ $# -gt 0 ]; do
  case $1 in
    --python | --torch | --vllm | --has | --part_mb | --model | --train | --test | --harder)
      [ $# -gt 1 ] || { echo "prepare.sh: $1 needs a value" >&2; exit 2; }
      printf -v "${1#--}" %s "$2"; shift 2 ;;
    -*) echo "prepare.sh: unknown option $1; the comment at the top of the script lists them" >&2; exit 2 ;;
    *) output=$1; shift ;;
  esac
done
for name in model train test harder output; do
  [ -n "${!name}" ] || { echo "prepare.sh: $name is missing; the comment at the top of the script shows the command" >&2; exit 2; }
done
build=$output/build
rm -rf "$build/tree"
mkdir -p "$build/tree/site" "$build/tree/lane" "$build/tree/data"

if [ "$has" != everything ]; then
  if [ ! -f "$build/venv/.installed" ]; then
    "$python" -m venv "$build/venv"
    pip() { "$build/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }
    : "${torch:=$(sed -n 's/^torch==//p' "$root/constraints.txt")}"
    # A CUDA build of torch and vLLM bring versions of their own, so the tested ones do not apply to these packages.
    sed -E '/^(torch|triton|nvidia|cuda|numpy|vllm)/d' "$root/constraints.txt" > "$build/constraints.txt"
    engine=(); [ "$vllm" = none ] || engine=("vllm==$vllm")
    pip --constraint "$build/constraints.txt" "$root[peft,plots]" "torch==$torch" "${engine[@]}"
    touch "$build/venv/.installed"
  fi
  site=$("$build/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  exclude=()
  set -f; for pattern in $has; do exclude+=("--exclude=./$pattern"); done; set +f
  tar -C "$site" "${exclude[@]}" --exclude=__pycache__ -cf - . | tar -C "$build/tree/site" -xf -
fi
rm -rf "$build/tree/site/trl_concise"
tar -C "$root" --exclude=__pycache__ -cf - trl_concise | tar -C "$build/tree/site" -xf -
cp "$root"/benchmarks/gpu/*.py "$build/tree/lane/"
cp -RL "$model" "$build/tree/model"
for name in train test harder; do cp "${!name}" "$build/tree/data/$name.jsonl"; done

"$python" - "$build/tree" "$output" "$part_mb" << 'PYTHON'
import hashlib, json, subprocess, sys
from pathlib import Path

tree, output, size = Path(sys.argv[1]), Path(sys.argv[2]), round(float(sys.argv[3]) * 1e6)
for old in output.glob("*.bin"):
    old.unlink()
files, stream = [], output / "build" / "stream"
with open(stream, "wb") as out:
    for name in ("lane", "data", "site", "model"):  # small first; the packages before the model
        digest, start = hashlib.sha256(), out.tell()
        tar = subprocess.Popen(["tar", "-C", tree, "-I", "xz -T0 -6", "-cf", "-", name], stdout=subprocess.PIPE)
        while block := tar.stdout.read(1 << 20):
            digest.update(block)
            out.write(block)
        if tar.wait():
            sys.exit(f"prepare.sh: tar could not pack {name}")
        files.append({"name": name, "start": start, "bytes": out.tell() - start, "sha256": digest.hexdigest()})
    total = out.tell()
parts = []
with open(stream, "rb") as source:
    while block := source.read(size):
        parts.append(f"{len(parts):03d}.bin")
        (output / parts[-1]).write_bytes(block)
stream.unlink()
index = {"bytes": total, "part_bytes": size, "parts": parts, "files": files}
(output / "index.json").write_text(json.dumps(index, indent=1) + "\n")
print(f"{total / 1e6:.1f} MB in {len(parts)} parts:", *(f"{one['name']} {one['bytes'] / 1e6:.1f} MB" for one in files))
PYTHON
cp "$root/benchmarks/gpu/drive.py" "$output/"
