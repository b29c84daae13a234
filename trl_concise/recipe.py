# SPDX-License-Identifier: Apache-2.0
"""TRL's command line with a recipe, a YAML file of options, and errors of one line in what a user has given."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from trl import TrlParser


class RecipeParser(TrlParser):
    """
    [`~trl.TrlParser`] whose `--config` is listed among the options, and may be written `--config=FILE`. Options are written
    in full.

    Args:
        dataclass_types (`Sequence[type]`): What the options are the fields of.
        **kwargs: Arguments of [`argparse.ArgumentParser`].

    Attributes:
        recipe (`str`, *optional*): The file that `--config` has named.
    """

    def __init__(self, dataclass_types: Sequence[type], **kwargs: Any):
        super().__init__(dataclass_types, allow_abbrev=False, **kwargs)
        self.recipe: str | None = None
        help = "YAML file of options, such as those of examples/configs; the command line comes before it."
        self.add_argument("--config", metavar="RECIPE", default=argparse.SUPPRESS, help=help)

    def parse_args_and_config(self, args: Sequence[str] | None = None, **kwargs: Any) -> tuple[Any, ...]:
        args = sys.argv[1:] if args is None else args
        words = [part for word in args for part in (word.split("=", 1) if word.startswith("--config=") else [word])]
        if words.count("--config") > 1:
            self.error("argument --config: given more than once, but a run has one recipe; merge the files into one")
        self.recipe = getattr(self.parse_known_args(words)[0], "config", None)
        return super().parse_args_and_config(words, **kwargs)


def given_options(arguments: Sequence[str]) -> set[str]:
    """Return the names of the options on a command line, `dry_run` of `--dry-run=True` as of `--dry_run`."""
    words = (word.partition("=")[0] for word in arguments if word.startswith("-"))
    return {word.lstrip("-").replace("-", "_") for word in words}


@contextmanager
def tell_input_errors() -> Iterator[None]:
    """Say in a line what is wrong with a file or a value that the user has given, and end with status 2."""
    try:
        yield
    except (OSError, ValueError, yaml.YAMLError) as error:
        print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        raise SystemExit(2) from error
