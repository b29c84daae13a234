# SPDX-License-Identifier: Apache-2.0
"""Which checkpoint a run resumes from, and [`ResumesTraining`], the mixin of all trainers of this package."""

from __future__ import annotations

import errno
import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from accelerate.utils import gather_object
from datasets import IterableDataset
from safetensors import SafetensorError
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import (
    ADAPTER_SAFE_WEIGHTS_NAME,
    ADAPTER_WEIGHTS_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
)


logger = logging.getLogger(__name__)

_WEIGHTS = (
    SAFE_WEIGHTS_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    ADAPTER_SAFE_WEIGHTS_NAME,
    WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    ADAPTER_WEIGHTS_NAME,
)
_SHARDS = ("pytorch_model_fsdp*", "global_step*")  # FSDP, DeepSpeed
_OPTIMIZERS = ("optimizer*", "global_step*")  # files of one process and FSDP's folder; DeepSpeed's folder
_ALMOST_NOTHING = 2**20  # bytes


# Streamed datasets


def stream_position(folder: str | Path) -> tuple[int, int]:
    """
    Return the position in a streamed dataset at which a checkpoint was written.

    Args:
        folder (`str` or `Path`): The checkpoint folder.

    Returns:
        `tuple[int, int]`: Passes over the stream that are complete, and optimizer steps in the current one.
    """
    state = json.loads(Path(folder, TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    # Without a length, the trainer counts a pass as `max_steps` steps long, and begins the next where the stream ends.
    epoch = int(state["epoch"])
    return epoch, round((state["epoch"] - epoch) * state["max_steps"])


# Checkpoints


def missing_from_checkpoint(folder: str | Path) -> str | None:
    """
    Return what a half-written checkpoint lacks.

    A process that is killed while it saves leaves a folder without the files that are written last; one that is killed
    while it deletes an old checkpoint leaves a folder without some.

    Args:
        folder (`str` or `Path`): A checkpoint folder.

    Returns:
        `str` or `None`: What is missing or unreadable; `None` if the checkpoint is complete.
    """
    folder = Path(folder)
    try:
        json.loads((folder / TRAINER_STATE_NAME).read_text(encoding="utf-8"))  # the last file to be written
    except FileNotFoundError:
        return TRAINER_STATE_NAME
    except ValueError:
        return f"the end of {TRAINER_STATE_NAME}"
    sharded = any(any(folder.glob(pattern)) for pattern in _SHARDS)
    if not sharded and not any((folder / name).is_file() for name in _WEIGHTS):
        return "the weights"
    for index in (folder / name for name in (SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_INDEX_NAME)):
        if index.is_file():
            named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            if absent := sorted(name for name in named if not (folder / name).is_file()):
                return absent[0]
    return None


def clear_checkpoint(folder: str | Path) -> None:
    """
    Remove a checkpoint's files before it is written again.

    If the run is killed meanwhile, no mixture remains that looks complete. Also, `torch.save` overwrites an existing file: one
    that is linked elsewhere, to be sent to the Hub, would change there too.
    """
    Path(folder, TRAINER_STATE_NAME).unlink(missing_ok=True)  # first: with it, the checkpoint counts as complete
    for path in [path for path in Path(folder).rglob("*") if not path.is_dir()]:
        path.unlink(missing_ok=True)


def check_checkpoint(folder: str | Path) -> None:
    """
    Check that a folder to resume from is a complete checkpoint.

    A checkpoint without the optimizer, as `save_only_model` writes it, is resumed with a warning.

    Raises:
        `ValueError`: If it is not; the message names the checkpoint to resume from, if there is one.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"The folder {folder} to resume from does not exist. {_suggest_checkpoint(folder.parent)}")
    is_named_checkpoint = folder.resolve() in (path for _, path in checkpoints(folder.resolve().parent))
    has_optimizer = any(any(folder.glob(pattern)) for pattern in _OPTIMIZERS)
    if not is_named_checkpoint and not has_optimizer and any(checkpoints(folder)):
        raise ValueError(f"{folder} is the output folder of a run, not a checkpoint. {_suggest_checkpoint(folder)}")
    if (missing := missing_from_checkpoint(folder)) is not None:
        raise ValueError(
            f"{folder} is not a complete checkpoint: it lacks {missing}. {_suggest_checkpoint(folder.parent)}"
        )
    if has_optimizer:
        return
    if not is_named_checkpoint:
        raise ValueError(
            f"{folder} holds a model without the state of its optimizer, as save_model() writes it: a run cannot be resumed "
            "from it. To train this model further, pass the folder as the model, without resume_from_checkpoint."
        )
    logger.warning(
        "%s holds no optimizer state (save_only_model=True): the optimizer and its schedule start from the beginning.",
        folder,
    )


def _suggest_checkpoint(output_dir: Path) -> str:
    newest, _ = newest_complete_checkpoint(output_dir)
    if newest is not None:
        return f"Resume from {newest}."
    return f"No complete checkpoint was found in {output_dir} either: train without resume_from_checkpoint."


def last_complete_checkpoint(output_dir: str | Path) -> Path:
    """
    Return the newest complete checkpoint of a run. A warning names each newer one that is half-written.

    Args:
        output_dir (`str` or `Path`): Output folder of the run.

    Returns:
        `Path`: A checkpoint folder.

    Raises:
        `ValueError`: If there is none.
    """
    newest, skipped = newest_complete_checkpoint(Path(output_dir))
    if newest is None:
        found = ", ".join(f"{folder.name} lacks {what}" for folder, what in skipped) or "there is none"
        raise ValueError(
            f"No checkpoint to resume from in {output_dir}: {found}. Train without resume_from_checkpoint, or with "
            '"auto", which resumes from a checkpoint only if there is one.'
        )
    for other, what in skipped:
        logger.warning("%s is half-written (it lacks %s): resuming from %s instead.", other, what, newest)
    return newest


def find_checkpoint(resume_from_checkpoint: str | Path | bool | None, output_dir: str | Path) -> Path | None:
    """
    Return the checkpoint that a value of `resume_from_checkpoint` means.

    Args:
        resume_from_checkpoint (`str`, `Path` or `bool`, *optional*):
            A checkpoint folder; `True`: the newest complete one of the run; `"auto"`: the same if there is one; `None` or
            `False`: none.
        output_dir (`str` or `Path`): Output folder of the run.

    Returns:
        `Path` or `None`: A checkpoint folder; `None` to start from the beginning.

    Raises:
        `ValueError`: If the checkpoint is not found or incomplete.
    """
    if resume_from_checkpoint is None or resume_from_checkpoint is False:
        return None
    if resume_from_checkpoint is True:
        return last_complete_checkpoint(output_dir)
    if resume_from_checkpoint != "auto":
        check_checkpoint(resume_from_checkpoint)
        return Path(resume_from_checkpoint)
    if newest_complete_checkpoint(Path(output_dir))[0] is not None:
        return last_complete_checkpoint(output_dir)
    for _, folder in sorted(checkpoints(Path(output_dir))):
        missing = missing_from_checkpoint(folder)
        logger.warning("%s is half-written (it lacks %s): training starts from the beginning.", folder, missing)
    return None


def newest_complete_checkpoint(output_dir: Path) -> tuple[Path | None, list[tuple[Path, str]]]:
    """Return the newest complete checkpoint, and the newer ones with what each lacks."""
    skipped: list[tuple[Path, str]] = []
    for _, folder in sorted(checkpoints(output_dir), reverse=True):
        missing = missing_from_checkpoint(folder)
        if missing is None:
            return folder, skipped
        skipped.append((folder, missing))
    return None, skipped


def checkpoints(output_dir: Path) -> Iterator[tuple[int, Path]]:
    """Yield the steps and folders of a run's checkpoints, in no order."""
    for folder in output_dir.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        step = folder.name.rpartition("-")[2]
        if folder.is_dir() and step.isdecimal():
            yield int(step), folder


@contextmanager
def explain_disk_full(output_dir: str | Path) -> Iterator[None]:
    """
    Replace the error that a library raises when the disk runs full by one clear sentence.

    Args:
        output_dir (`str` or `Path`): Output folder of the run.

    Raises:
        `OSError`: If writing failed and the disk is full. Names the checkpoint to resume from.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        is_full = getattr(error, "errno", None) == errno.ENOSPC or shutil.disk_usage(output_dir).free < _ALMOST_NOTHING
        if not is_full:
            raise
        complete = [
            folder for _, folder in sorted(checkpoints(Path(output_dir))) if not missing_from_checkpoint(folder)
        ]
        rest = (
            f"{complete[-1]} is complete: make room, and train(resume_from_checkpoint=True)"
            if complete
            else "Make room"
        )
        raise OSError(errno.ENOSPC, f"The disk ran full while a checkpoint was written. {rest}.") from error


if TYPE_CHECKING:
    from transformers import Trainer as _Mixed  # attributes of the classes that this mixin is used with
else:
    _Mixed = object


class ResumesTraining(_Mixed):
    """
    Mixin for a [`~transformers.Trainer`]: which checkpoint `train` resumes from. Comes before the trainer among the bases.

    `resume_from_checkpoint` is an argument of `train`, or else a field of the config, which transformers ignores. It is the
    folder of a checkpoint, `True` for the newest complete one in `output_dir`, or `"auto"` for the same if there is one, for jobs
    that are restarted. A finished run is not trained further.
    """

    def train(self, resume_from_checkpoint=None, *args, **kwargs):
        """As [`~transformers.Trainer.train`]. See the class for the values of `resume_from_checkpoint`."""
        return super().train(self.find_checkpoint(resume_from_checkpoint), *args, **kwargs)

    def find_checkpoint(self, resume_from_checkpoint: str | Path | bool | None = None) -> str | None:
        """
        Return the checkpoint that `train(resume_from_checkpoint)` resumes from. Every process calls this.

        Args:
            resume_from_checkpoint (`str`, `Path` or `bool`, *optional*):
                As for `train`. `None` means that of the config, and `False` means none.

        Returns:
            `str` or `None`: A folder; `None` if training starts from the beginning.

        Raises:
            `ValueError`: If the checkpoint is not found or incomplete, or the processes find different ones.
        """
        if resume_from_checkpoint is None:
            resume_from_checkpoint = self.args.resume_from_checkpoint
        folder = find_checkpoint(resume_from_checkpoint, self.args.output_dir)
        found = gather_object([folder and folder.name])
        if len(set(found)) > 1:
            raise ValueError(
                f"The processes found different checkpoints to resume from: {found}. Put output_dir on a disk that all "
                "machines share, or give resume_from_checkpoint the folder of a checkpoint that is on all of them."
            )
        return str(folder) if folder is not None else None

    def is_finished(self, checkpoint: str | Path | None) -> bool:
        """Return whether a checkpoint is the end of the run, so that no step is left to train."""
        if checkpoint is None:
            return False
        steps = json.loads(Path(checkpoint, TRAINER_STATE_NAME).read_text(encoding="utf-8"))["global_step"]
        return steps >= self.set_initial_training_values(self.args, self.get_train_dataloader())[-1]

    def _was_stopped(self) -> bool:
        """Return whether the resumed run had stopped itself at this step."""
        return False

    def _init_training_state(
        self, max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, *args, **kwargs
    ):
        start = super()._init_training_state(
            max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, *args, **kwargs
        )
        if self._was_stopped():
            logger.warning(
                "The run was stopped at step %d, where accuracy on the watch set was too low, so no step is trained. To train "
                'further, set on_loss="warn" or raise max_accuracy_loss.',
                self.state.global_step,
            )
            return num_train_epochs, 0
        if not 0 < max_steps <= self.state.global_step:
            if resume_from_checkpoint is None or not isinstance(self.train_dataset, IterableDataset):
                return start
            # A stream has no length: transformers would skip the steps of all epochs in the first one.
            epoch, steps = stream_position(resume_from_checkpoint)
            return epoch, 0 if self.args.ignore_data_skip else steps * self.args.gradient_accumulation_steps
        # Without this, transformers trains one more step before it looks at the limit.
        if self.is_world_process_zero():
            logger.warning(
                "The run is finished: its checkpoint is of step %d of %d, so no step is trained. To train further, raise "
                "max_steps or num_train_epochs.",
                self.state.global_step,
                max_steps,
            )
        return num_train_epochs, 0
