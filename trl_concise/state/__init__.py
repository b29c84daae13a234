# SPDX-License-Identifier: Apache-2.0
"""What a run remembers: checkpoints, resuming, histories per prompt, and the order of prompts."""
