# SPDX-License-Identifier: Apache-2.0
"""Upload a run's folder to the Hub, after training or after a failed push."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import ADAPTER_CONFIG_NAME, CONFIG_NAME

from ..errors import Parser
from ..evaluation.folder import SETTINGS_FILE
from ..evaluation.runs import FACTS_FILE, LAST_CHECKPOINT, read_facts
from ..state.resume import newest_complete_checkpoint
from .card import write_card
from .outbox import FOLDER, Outbox, last_repository
from .retries import FAILURES


# Completions and prompts are not uploaded. The `settings.json` of an evaluation contains the system prompt.
TEXT_FILES = [
    *("completions/*", "*/completions/*", "*.jsonl", "*.parquet", "*.html"),
    *(SETTINGS_FILE, f"*/{SETTINGS_FILE}"),
]
# Of this run, and of other runs in subfolders, for example of the training before it.
CHECKPOINTS = [f"{PREFIX_CHECKPOINT_DIR}-*/*", f"*/{PREFIX_CHECKPOINT_DIR}-*/*"]


def push_run(
    run: str | Path,
    repo_id: str | None = None,
    *,
    token: str | None = None,
    private: bool | None = None,
    patience: float = 120.0,
) -> str:
    """
    Send a run's model, card, figures, history and last checkpoint, and what [`HubFrontierCallback`] has left unsent.

    The model goes to the main branch, the last checkpoint into `last-checkpoint/` there, as with TRL's
    `hub_strategy="checkpoint"`. Files that hold prompts, completions or pickled arguments are not sent.

    Args:
        run (`str` or `Path`):
            The run's output folder.
        repo_id (`str`, *optional*):
            Repository. Defaults to the one that the run was pushed to before, else to its `hub_model_id`.
        token (`str`, *optional*):
            Token with write permission. Defaults to the stored one.
        private (`bool`, *optional*):
            Whether a new repository is private. Defaults to what [`HubFrontierCallback`] was told, else to what the
            account says.
        patience (`float`, *optional*, defaults to `120.0`):
            Seconds for which a request is repeated while the Hub fails.

    Returns:
        `str`: The repository's id.

    Raises:
        `FileNotFoundError`: If the folder does not exist, or contains neither a run nor a model.
        `ValueError`: If no repository is known, or `run.json` is damaged.
        `RuntimeError`: If another process is sending the run's checkpoints for longer than `patience`.
    """
    run = Path(run)
    if not run.is_dir():
        raise FileNotFoundError(f"{run} is not a folder. Name the output folder of a run.")
    facts = read_facts(run) if (run / FACTS_FILE).exists() else {}  # before the Hub is contacted: the card needs them
    if not facts and not any((run / name).exists() for name in (FOLDER, CONFIG_NAME, ADAPTER_CONFIG_NAME)):
        raise FileNotFoundError(
            f"{run} contains neither {FACTS_FILE}, which a trainer of trl_concise writes at each checkpoint, nor a model. Name "
            "the output folder of a run."
        )
    repo_id = repo_id or last_repository(run) or facts.get("repo_id")
    if repo_id is None:
        raise ValueError(
            f"No repository is known for {run}. Name one with repo_id (--repo_id), for example user/model."
        )
    outbox = Outbox(run, repo_id, token=token, private=private, patience=patience)
    with outbox.sending():
        checkpoint, _ = newest_complete_checkpoint(run)
        if facts:
            write_card(run, outbox.repository, LAST_CHECKPOINT if checkpoint is not None else None)
        outbox.upload(run, "Upload the run", ignore_patterns=[*TEXT_FILES, *CHECKPOINTS])
        if checkpoint is not None:
            message = f"Upload {checkpoint.name}"
            outbox.upload(checkpoint, message, path_in_repo=LAST_CHECKPOINT, delete_patterns="*")
        outbox.send(update_card=False)  # the run's is newer
    return outbox.repository


def main(argv: list[str]) -> int:
    """Run `trl-concise push`."""
    parser = Parser(prog="trl-concise push", description=__doc__)
    parser.add_argument("run", type=Path, help="output folder of a run")
    parser.add_argument(
        "--repo_id", help="repository, e.g. user/model (default: the one that it was pushed to before)"
    )
    parser.add_argument("--private", action="store_true", default=None, help="create a private repository")
    parser.add_argument(
        "--patience", type=float, default=120.0, help="seconds for which a failing request is repeated (default: 120)"
    )
    options = parser.parse_args(argv)
    if not options.patience >= 0:
        parser.error(f"argument --patience: must be at least 0 seconds, got {options.patience}")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        repo_id = push_run(options.run, options.repo_id, private=options.private, patience=options.patience)
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    except FAILURES as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        print(f"trl-concise push: error: not everything was sent ({reason}). Run the command again.", file=sys.stderr)
        return 1
    print(f"Sent {options.run} to {repo_id}.")
    return 0
