# SPDX-License-Identifier: Apache-2.0
"""Templates of prompts with names in braces."""

from __future__ import annotations

import re


def fill_template(template: str, **values: str) -> str:
    r"""
    Replace names in braces by their values. Other braces stay, in the template and in the values.

    Args:
        template (`str`): The template.
        **values (`str`): Values by name.

    Examples:
        >>> fill_template("{question} Answer in \\boxed{}.", question="What is {a} + 2?")
        'What is {a} + 2? Answer in \\boxed{}.'
    """
    return re.sub(r"\{(\w+)\}", lambda found: values.get(found[1], found[0]), template)
