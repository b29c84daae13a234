# SPDX-License-Identifier: Apache-2.0
"""[`Calculator`], which executes assignments and `print` of exact arithmetic, without running Python code."""

from __future__ import annotations

import ast
import operator
import warnings
from collections.abc import Callable, Sequence
from fractions import Fraction

from .executor import FAILED, OK


LONGEST_BLOCK = 2000  # characters
LARGEST_EXPONENT = 1000
DECIMAL_DIGITS = 15  # those that a float keeps
MOST_BITS = 4096  # of a numerator or denominator

_OPERATORS: dict[type, Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: lambda left, right: Fraction(left // right),
    ast.Mod: operator.mod,
}


class _Refused(Exception):
    """The code is not arithmetic, or too large."""


class Calculator:
    """
    Executes blocks of assignments and of `print` with one expression, in exact arithmetic. It is the default executor.

    Expressions have integers, decimals, names, parentheses and `+ - * / // % **`. A decimal such as `0.1` is the fraction 1/10, and a quotient
    is an integer or a fraction: `print(6 / 4)` prints `3/2`. Everything else fails, as does a block of more than 2,000 characters, an exponent
    above 1,000, a decimal of more than 15 digits, or a number of more than 4,096 bits. The code is parsed and never compiled.

    Examples:
        >>> Calculator()(["x = (27 + 8) * 2", "print(x - 6)"])
        ('64', 'ok')
        >>> Calculator()(["print(1 / 0)"])
        ('ZeroDivisionError: division by zero', 'error')
    """

    def __call__(self, blocks: Sequence[str]) -> tuple[str, str]:
        """
        Execute the last block after the earlier ones.

        Args:
            blocks (`Sequence[str]`): The earlier blocks without a failure, then the new one.

        Returns:
            `tuple[str, str]`: Output, with the error as its last line, and status.
        """
        names: dict[str, Fraction] = {}
        printed: list[str] = []
        try:
            for block in blocks:
                printed = []
                _run(block, names, printed)
        except _Refused as error:
            return "\n".join([*printed, f"Error: {error}"]), FAILED
        except NameError as error:
            return "\n".join([*printed, f"NameError: {error}"]), FAILED
        except ZeroDivisionError:
            return "\n".join([*printed, "ZeroDivisionError: division by zero"]), FAILED
        return "\n".join(printed), OK


def _run(block: str, names: dict[str, Fraction], printed: list[str]) -> None:
    if len(block) > LONGEST_BLOCK:
        raise _Refused(f"more than {LONGEST_BLOCK} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Python, about how a number is written
            tree = ast.parse(block)
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, float):
                _check_decimal(ast.get_source_segment(block, node) or "", node.value)
        statements = tree.body
        for statement in statements:
            match statement:
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    names[name] = _value(value, names)
                case ast.Expr(value=ast.Call(func=ast.Name(id="print"), args=[argument], keywords=[])):
                    printed.append(str(_value(argument, names)))
                case _:
                    raise _Refused("only assignments and print of one expression")
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise _Refused("invalid syntax" if isinstance(error, SyntaxError) else "too large") from None


def _check_decimal(text: str, value: float) -> None:
    """Refuse a decimal of which Python keeps fewer digits than are written: the result would not be exact."""
    digits = text.lower().partition("e")[0].replace("_", "").replace(".", "").strip("0")
    if len(digits) > DECIMAL_DIGITS or (digits and not value):
        raise _Refused(f"a decimal has at most {DECIMAL_DIGITS} digits")


def _value(node: ast.expr, names: dict[str, Fraction]) -> Fraction:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            value = Fraction(str(number))
        case ast.Name(id=name):
            if name not in names:
                raise NameError(f"name {name!r} is not defined")
            value = names[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            value = -_value(operand, names)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            value = _value(operand, names)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            value = _power(_value(left, names), _value(right, names))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            value = _OPERATORS[type(op)](_value(left, names), _value(right, names))
        case _:
            raise _Refused("only numbers, names and + - * / // % **")
    if _bits(value) > MOST_BITS:
        raise _Refused("too large")
    return value


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1 or abs(exponent) > LARGEST_EXPONENT:
        raise _Refused(f"an exponent is an integer of at most {LARGEST_EXPONENT}")
    if (_bits(base) - 1) * abs(int(exponent)) > MOST_BITS:
        raise _Refused("too large")
    return base ** int(exponent)
