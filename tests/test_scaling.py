"""Residual-scale rules: the paper's, random ones against an evaluator of the test's own, and everything refused."""

import builtins
import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from residual_theory.errors import InputError
from residual_theory.scaling import residual_scale


@pytest.mark.parametrize(
    ("rule", "value"),
    [
        ("1", 1.0),
        ("1/N", 1 / 6),
        ("1/sqrt(N)", 6**-0.5),
        ("1/sqrt(L)", 10**-0.5),
        ("1/(N*sqrt(L))", 1 / (6 * 10**0.5)),
        ("1/sqrt(N*L)", 60**-0.5),
        ("1/(N*L)", 1 / 60),
        ("N^-0.75", 6**-0.75),
        ("N**-0.75", 6**-0.75),
        ("0.3/N", 0.05),
        ("1e-1*N/L", 0.06),
        ("  2 / ( N + L ) ", 0.125),
        ("N-L+5", 1.0),
        ("--N", 6.0),
        ("-(2-N)", 4.0),
        ("2^3^2", 512.0),  # to the right, as in print
        ("10-2-3", 5.0),
        ("12/2/3", 2.0),
        ("17+-2^4", 1.0),
        ("0", 0.0),
        (0.25, 0.25),
        (3, 3.0),
        (0, 0.0),
    ],
)
def test_rules_have_the_value_of_the_formula(rule: float | str, value: float) -> None:
    assert residual_scale(rule, loops=6, unique_layers=10) == pytest.approx(value, rel=1e-14)


class Evaluator:
    """The grammar once more, by recursive descent over tokens; raises ArithmeticError where there is no value."""

    def __init__(self, rule: str, loops: int, unique_layers: int) -> None:
        self.tokens: list[str] = [*re.findall(r"\d+\.?\d*|[NL]|sqrt|[-+*/^()]", rule), "end"]
        self.symbols = {"N": float(loops), "L": float(unique_layers)}

    def take(self) -> str:
        return self.tokens.pop(0)

    def value(self) -> float:
        value = self.sum()
        assert self.take() == "end"
        if not 0 <= value < math.inf:
            raise ArithmeticError
        return value

    def sum(self) -> float:
        value = self.product()
        while self.tokens[0] in ("+", "-"):
            value = value + self.product() if self.take() == "+" else value - self.product()
        return value

    def product(self) -> float:
        value = self.signed()
        while self.tokens[0] in ("*", "/"):
            value = value * self.signed() if self.take() == "*" else value / self.signed()
        return value

    def signed(self) -> float:
        if self.tokens[0] == "-":
            self.take()
            return -self.signed()
        base = self.atom()
        if self.tokens[0] != "^":
            return base
        self.take()
        exponent = self.signed()
        if base < 0 and exponent != int(exponent):
            raise ArithmeticError
        return math.pow(base, exponent) if base or exponent >= 0 else 1 / 0

    def atom(self) -> float:
        token = self.take()
        if token in self.symbols:
            return self.symbols[token]
        if token not in ("sqrt", "("):
            return float(token)
        if token == "sqrt":
            self.take()
        value = self.sum()
        assert self.take() == ")"
        if token == "sqrt" and value < 0:
            raise ArithmeticError
        return math.sqrt(value) if token == "sqrt" else value


ATOMS = st.sampled_from(["N", "L", "0", "1", "2", "0.5", "1.5", "3"])
FORMULAS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.builds("({})".format, inner),
        st.builds("sqrt({})".format, inner),
        st.builds("-{}".format, inner),
        st.builds("{}{}{}".format, inner, st.sampled_from("+-*/^"), inner),
        st.builds("1/({})".format, inner),
    ),
    max_leaves=8,
).filter(lambda rule: len(rule) <= 80)


@given(rule=FORMULAS, loops=st.integers(1, 9), unique_layers=st.integers(1, 9))
def test_random_formulas_agree_with_an_evaluator_of_our_own(rule: str, loops: int, unique_layers: int) -> None:
    try:
        expected = Evaluator(rule, loops, unique_layers).value()
    except (ArithmeticError, ValueError):
        with pytest.raises(InputError, match=r"^residual_scale = "):
            residual_scale(rule, loops, unique_layers)
    else:
        assert residual_scale(rule, loops, unique_layers) == pytest.approx(expected, rel=1e-12)


SCRAPS = [
    *"NL0123.+-*/^() \n\t#'\"_,:;=[]{}@!<>é√",
    *("sqrt", "1/", "e5", "1e999", "0x1", "1if N else 2", "lambda:", "N()", "True", "None", "j", "**", "//"),
    *("__import__('os')", ".__class__", "eval", "exec(", "open('scale.txt','w')"),
]


def outcome(rule: str) -> float | InputError:
    try:
        return residual_scale(rule, loops=3, unique_layers=2)
    except InputError as error:
        return error


@given(rule=st.one_of(st.text(max_size=90), st.lists(st.sampled_from(SCRAPS), max_size=12).map("".join)))
def test_any_text_is_a_number_or_an_input_error(rule: str) -> None:
    result = outcome(rule)
    if isinstance(result, InputError):
        assert result.argument == "residual_scale"
        assert len(str(result).splitlines()) == 1
    else:
        assert 0 <= result < math.inf
        assert set(rule) <= set("NLsqrtEe0123456789.+-*/^() ")


@pytest.mark.parametrize(
    "code",
    [
        "__import__('os')",
        "open('scale.txt','w')",
        "exec('x=1')",
        "eval('1')",
        "print(N)",
        "N.__class__",
        "(lambda: 1)()",
        "[1][0]",
        "sqrt.__call__(N)",
        "N if N else L",
        "(N:=1)",
        "f'{N}'",
    ],
)
def test_code_is_refused_and_never_run(code: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def ran(*_: object) -> None:
        raise AssertionError("code was run")

    monkeypatch.chdir(tmp_path)
    for name in ("eval", "exec", "open", "print", "__import__"):
        monkeypatch.setattr(builtins, name, ran)
    try:
        refused = False
        residual_scale(code, 4, 2)
    except InputError:
        refused = True
    finally:
        monkeypatch.undo()
    assert refused
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("rule", "mend"),
    [
        ("1/M", "write a formula in N and L"),
        ("", "write a formula"),
        ("1/", "write a formula"),
        ("sqrt", "write a formula"),
        ("sqrt()", "write a formula"),
        ("sqrt(N,L)", "write a formula"),
        ("sqrt(N-9)", "write a formula"),
        ("(-N)^0.5", "write a formula"),
        ("+N", "write a formula"),
        ("N%2", "write a formula"),
        ("N//2", "write a formula"),
        ("2j", "write a formula"),
        ("True", "write a formula"),
        ("1_0", "write a formula"),
        ("ℕ", "write a formula"),  # Python would read it as N
        ("1/N # half", "write a formula"),
        ("1if N else 2", "write a formula"),
        ("(" * 40 + "N" + ")" * 40, "write a formula"),
        ("(" * 5000 + "N" + ")" * 5000, "write a formula"),
        ("-" * 100_000 + "N", "write a formula"),
        ("1/(N-2)", "has no finite value at N = 2, L = 3"),
        ("9^9^9^9", "has no finite value at N = 2"),
        ("0^-1", "has no finite value"),
        ("1e999", "must be finite and at least 0, and is inf"),
        ("1e999-1e999", "must be finite and at least 0, and is nan"),
        ("-1/N", "must be finite and at least 0, and is -0.5 at N = 2, L = 3"),
        ("1-L", "and is -2.0"),
        (-0.5, "must be finite and at least 0"),
        (math.nan, "must be finite and at least 0"),
        (math.inf, "must be finite and at least 0"),
        (10**400, "has no finite value"),
    ],
)
def test_a_bad_rule_is_named_in_one_line_with_its_mend(rule: float | str, mend: str) -> None:
    with pytest.raises(InputError) as caught:
        residual_scale(rule, loops=2, unique_layers=3)
    error = caught.value
    assert (error.argument, error.value) == ("residual_scale", rule) or rule != rule
    assert str(error).startswith("residual_scale = ")
    assert mend in str(error)
    assert len(str(error).splitlines()) == 1
    assert len(str(error)) < 250


def test_the_longest_rule_that_is_read() -> None:
    assert residual_scale("-" * 78 + "2", 1, 1) == 2.0
    with pytest.raises(InputError, match="write a formula"):
        residual_scale("-" * 80 + "2", 1, 1)
