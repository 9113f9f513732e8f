"""Residual-scale rules, short formulas in N (loops) and L (unique layers), and what block weights are trained with."""

import ast
import math
import operator
import re
from collections.abc import Callable
from typing import NamedTuple

from residual_theory.errors import InputError

_BINARY: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_BLOCK_RULES: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {  # powers of (m_L, N): rate, Adam's ε
    "none": ((0.0, 0.0), (0.0, 0.0)),
    "paper": ((-0.5, 0.0), (-0.5, 0.0)),
    "completep": ((0.0, 0.0), (-1.0, 0.0)),
    "rate/sqrt(N)": ((0.0, -0.5), (0.0, 0.0)),
}
_SPELLED = re.compile(r"[0-9NLsqrtEe.()+\-*/^ ]{1,80}")  # what ast.parse never warns about nor reads as another letter


def residual_scale(rule: float | str, loops: int, unique_layers: int) -> float:
    """The number ε that `rule` gives for N = `loops` and L = `unique_layers`.

    Arguments:
      rule: a number, or a formula of numbers, N, L, + - * / ^, brackets and sqrt(), such as
        "1/N", "1/sqrt(N)" or "1/(N*sqrt(L))". It is parsed by this grammar and never evaluated as code.
    Returns: a finite number ≥ 0, dimensionless.
    Raises: InputError for anything outside the grammar, and for a value that is negative or not finite.
    Source: the rules of arXiv:2606.18524, §3 and §4.

    >>> residual_scale("1/(N*sqrt(L))", loops=4, unique_layers=9)
    0.08333333333333333
    """
    return rule_value("residual_scale", rule, loops, unique_layers)


def rule_value(name: str, rule: float | str, loops: int, unique_layers: int) -> float:
    """The number ≥ 0 that the rule of the argument `name` gives at N = `loops`, L = `unique_layers`."""
    try:
        value = rule if not isinstance(rule, str) else _parse(name, rule, {"N": loops, "L": unique_layers})
        value = float(value)
    except TypeError:
        raise InputError(name, rule, "give a number, or a formula in N and L such as '1/N'") from None
    except (ZeroDivisionError, OverflowError):
        raise InputError(name, rule, f"has no finite value at N = {loops}, L = {unique_layers}") from None
    if not math.isfinite(value) or value < 0:
        mend = f"must be finite and at least 0, and is {value} at N = {loops}, L = {unique_layers}"
        raise InputError(name, rule, mend)
    return value


class BlockFactors(NamedTuple):
    """Multipliers of the learning rate and of AdamW's ε for the weights inside the loops. Weight decay has none."""

    rate: float
    adam_epsilon: float


def block_factors(rule: str, loops: int, unique_layers: int, *, tuned_layers: int = 1) -> BlockFactors:
    """The multipliers that a named rule gives, with m_L = `unique_layers`/`tuned_layers` and N = `loops`.

    Arguments:
      rule: "paper", both m_L^(-1/2), which goes with ε = λ/(N √m_L); "completep", 1 and m_L^(-1), with ε = λ/(N m_L);
        "rate/sqrt(N)", N^(-1/2) and 1; or "none".
    Raises: InputError for a rule without that name.
    Source: arXiv:2606.18524, §5; arXiv:2505.01618 with a = 1; arXiv:2606.16825. AdamW's ε follows the gradient of a
      block weight, ∝ εN: so no power of N in the first two.

    >>> block_factors("paper", loops=8, unique_layers=48, tuned_layers=12)
    BlockFactors(rate=0.5, adam_epsilon=0.5)
    """
    if rule not in _BLOCK_RULES:
        raise InputError("block_rule", rule, f"choose from {', '.join(_BLOCK_RULES)}")
    ratio = unique_layers / tuned_layers
    rate, epsilon = (ratio**layers * loops**power for layers, power in _BLOCK_RULES[rule])
    return BlockFactors(float(rate), float(epsilon))


def _parse(name: str, rule: str, sizes: dict[str, int]) -> float:
    symbols = {letter: float(size) for letter, size in sizes.items()}
    refusal = InputError(name, rule, "write a formula in N and L with + - * / ^ and sqrt, such as '1/(N*sqrt(L))'")
    if not _SPELLED.fullmatch(rule):
        raise refusal

    def value_of(node: ast.AST) -> float:
        match node:
            case ast.Constant(value=bool()):
                raise refusal
            case ast.Constant(value=int() | float() as number):
                return float(number)
            case ast.Name(id=name) if name in symbols:
                return symbols[name]
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
                value = _BINARY[type(op)](value_of(left), value_of(right))
                if isinstance(value, complex):
                    raise refusal
                return value
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -value_of(operand)
            case ast.Call(func=ast.Name(id="sqrt"), args=[argument], keywords=[]):
                inner = value_of(argument)
                if inner < 0:
                    raise refusal
                return math.sqrt(inner)
            case _:
                raise refusal

    try:
        tree = ast.parse(rule.strip().replace("^", "**"), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise refusal from None
    return value_of(tree.body)
