# SPDX-License-Identifier: Apache-2.0
"""Progress as one looks for it in these runs: accuracy and tokens beside the bar, instead of a line of numbers a step."""

from __future__ import annotations

from transformers import ProgressCallback


class ConciseProgressCallback(ProgressCallback):
    """
    A progress bar with accuracy, tokens per completion and history coverage of the last logged step.

    Everything that is logged still goes to `trainer.state.log_history` and to the trackers in `report_to`; only the
    printed line per step is gone.

    Example:

    ```python
    >>> from transformers import ProgressCallback

    >>> trainer.remove_callback(ProgressCallback)
    >>> trainer.add_callback(ConciseProgressCallback)
    ```
    """

    shown = {  # logged metric -> how the bar shows it
        "accuracy": "accuracy {:.0%}",
        "completions/mean_length": "{:.0f} tokens",
        "hapo/history_coverage": "history {:.0%}",
    }

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero and self.training_bar is not None:
            parts = [text.format(logs[name]) for name, text in self.shown.items() if logs.get(name) is not None]
            if parts:
                self.training_bar.set_postfix_str(", ".join(parts))
