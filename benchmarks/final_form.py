# SPDX-License-Identifier: Apache-2.0
"""
How often a model boxes the calculation instead of the result, and its reward with and without `final_form`.

    python benchmarks/final_form.py completions.jsonl [completions.jsonl ...]

Each line of a file is a JSON object with the reference answer under `solution` (or `gold`), the completion under `text`, and whether
it was truncated under `truncated` (or `"finish": "length"`).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from trl_concise.verification.finished import is_finished
from trl_concise.verification.verify import verify_and_count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", help="JSON lines, one completion each")
    files = parser.parse_args().files
    print(
        f"{'file':<28}{'completions':>12}{'truncated':>11}{'unfinished form':>17}{'as math-verify':>16}{'final form':>12}"
    )
    for file in files:
        rows = [json.loads(line) for line in file.open(encoding="utf-8") if line.strip()]
        golds = [str(row.get("solution", row.get("gold"))) for row in rows]
        texts = [row["text"] for row in rows]
        truncated = [bool(row.get("truncated", row.get("finish") == "length")) for row in rows]
        finished = [is_finished(text, truncated=cut) for text, cut in zip(texts, truncated, strict=True)]
        equal, _ = verify_and_count(golds, texts, finished=finished)
        final, tally = verify_and_count(golds, texts, finished=finished, final_form=True)
        shares = [sum(truncated), tally.unfinished_form, sum(map(bool, equal)), sum(map(bool, final))]
        cut, unfinished, before, after = (f"{count / len(rows):.1%}" for count in shares)
        print(f"{file.stem:<28}{len(rows):>12,}{cut:>11}{unfinished:>17}{before:>16}{after:>12}")


if __name__ == "__main__":
    main()
