# SPDX-License-Identifier: Apache-2.0
"""
Draw a run's model card as the Hub would show it, down to a heading.

    trl-concise hapo
    python benchmarks/card_picture.py outputs/hapo-demo

Needs Pillow, which comes with matplotlib, and Chromium (`apt-get install chromium`). The card itself is not changed.
"""

from __future__ import annotations

import argparse
import html
import re
import subprocess
import tempfile
from pathlib import Path

import yaml
from markdown_it import MarkdownIt
from PIL import Image, ImageOps


HEIGHT = 6000  # CSS pixels, more than a card has
STYLE = """
body { font: 16px/1.5 "DejaVu Sans", sans-serif; color: #1f2937; width: 820px; margin: 24px; }
h1, h2 { line-height: 1.25; } h2 { border-bottom: 1px solid #e5e7eb; padding-bottom: 6px; margin-top: 32px; }
a { color: #2563eb; text-decoration: none; } img { width: 100%; }
code { font: 13px "DejaVu Sans Mono", monospace; background: #f4f4f5; padding: 2px 4px; border-radius: 4px; }
pre { background: #f4f4f5; padding: 14px; border-radius: 8px; } pre code { padding: 0; }
table { border-collapse: collapse; font-size: 14px; } th, td { border: 1px solid #e5e7eb; padding: 5px 9px; text-align: left; }
blockquote { background: #fffbeb; border-left: 4px solid #f59e0b; margin: 16px 0; padding: 6px 14px; }
.tag { font-size: 13px; border: 1px solid #e5e7eb; border-radius: 10px; padding: 2px 9px; margin-right: 4px; }
"""


def page(card: str, until: str) -> str:
    """Return the card as HTML: the tags of its metadata, then its text up to the heading `until`."""
    metadata, text = re.fullmatch(r"---\n(.*?)\n---\n(.*)", card, re.DOTALL).groups()
    fields = yaml.safe_load(metadata)
    names = [fields["pipeline_tag"], fields["library_name"], *fields["tags"]]
    tags = "".join(f'<span class="tag">{html.escape(name)}</span>' for name in names)
    body = MarkdownIt("commonmark").enable("table").render(text.partition(f"\n## {until}\n")[0])
    return f'<!DOCTYPE html><meta charset="utf-8"><style>{STYLE}</style><p>{tags}</p>{body}'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="output folder of the run")
    parser.add_argument("--until", default="Known failures", help="heading before which the picture ends")
    parser.add_argument("--browser", default="chromium")
    parser.add_argument("--output", type=Path, default=Path("docs/images/model_card.png"))
    options = parser.parse_args()
    with tempfile.NamedTemporaryFile("w", dir=options.run, suffix=".html", encoding="utf-8") as file:
        file.write(page((options.run / "README.md").read_text(encoding="utf-8"), options.until))
        file.flush()
        command = [
            options.browser,
            "--headless",
            "--no-sandbox",
            "--hide-scrollbars",
        ]
        command += [f"--window-size=870,{HEIGHT}", f"--screenshot={options.output.resolve()}"]
        subprocess.run([*command, Path(file.name).resolve().as_uri()], check=True, capture_output=True)
    picture = Image.open(options.output).convert("RGB")
    _, _, _, bottom = ImageOps.invert(picture).getbbox()
    picture.crop((0, 0, picture.width, bottom + 30)).save(options.output, optimize=True)


if __name__ == "__main__":
    main()
