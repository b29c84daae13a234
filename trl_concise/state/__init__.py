# SPDX-License-Identifier: Apache-2.0
"""State of a run: checkpoints, resuming, histories per prompt, and the order of prompts."""
