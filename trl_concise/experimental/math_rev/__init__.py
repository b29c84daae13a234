# SPDX-License-Identifier: Apache-2.0
"""
Math-Rev and CoTnPoT: a verifier from a reference-free preference loss, and solutions checked by a program (2024,
https://huggingface.co/papers/2410.05318).

The verifier is a language model; its score is the mean log-probability per token of a solution. Of n solutions, the one with the highest score is chosen,
among those whose answer agrees with that of a program made from them. Everything but the idea and the loss's formula is a RECONSTRUCTION.
"""

from __future__ import annotations

import lazy_loader


__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "config": ["VerifierConfig"],
        "data": ["build_verifier_pairs", "check_no_common_problems", "completion_rows"],
        "programs": ["arithmetic_program", "check_consistency", "run_arithmetic"],
        "scores": ["VerifierScore", "expected_best_of_k"],
        "trainer": ["VerifierTrainer", "verifier_loss"],
    },
)
