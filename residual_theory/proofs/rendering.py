"""Derivations as text: Unicode for a terminal, LaTeX for a document."""

import textwrap
import unicodedata
from typing import Any

import sympy
from sympy.printing.precedence import PRECEDENCE
from sympy.printing.str import StrPrinter

from residual_theory.proofs.checking import Record, count
from residual_theory.proofs.steps import Derivation, Step
from residual_theory.proofs.sums import weight

_LATEX_SIGN = {"=": "=", "<=": r"\le", ">=": r"\ge", ":=": ":="}


_WIDE = 110  # columns beyond which a formula is printed on lines instead of in two dimensions


class _Linear(StrPrinter):  # type: ignore[misc]
    """Formulas in one line: Σ, √, and E over indices that have a `weight` each."""

    def _print_Sum(self, expression: Any) -> str:  # noqa: N802
        weights = {weight(index, high): index for index, low, high in expression.limits if low == 1}
        factors = sympy.Mul.make_args(expression.function)
        if len(weights) == len(expression.limits) and set(weights) <= set(factors):
            rest = sympy.Mul(*(factor for factor in factors if factor not in weights))
            return f"E_({', '.join(sorted(map(str, weights.values())))})[{self._print(rest)}]"
        ranges = (
            f"Σ_({index}={self._print(low)}…{self._print(high)}) " for index, low, high in expression.limits[::-1]
        )
        return f"[{''.join(ranges)}{self.parenthesize(expression.function, PRECEDENCE['Mul'])}]"

    def _print_Pow(self, expression: Any, rational: bool = False) -> str:  # noqa: N802
        if expression.exp == sympy.Rational(1, 2):
            return f"√({self._print(expression.base)})"
        return str(super()._print_Pow(expression, rational))

    def _print_Function(self, expression: Any) -> str:  # noqa: N802
        brief = getattr(expression, "brief", None)
        return str(super()._print_Function(brief() if brief is not None else expression))

    def _print_Smallest(self, expression: Any) -> str:  # noqa: N802
        names = ", ".join(str(index) for index, *_ in expression.limits)
        return f"min over {names} of ({self._print(expression.function)})"


def _pretty(expression: Any) -> str:
    shown = str(sympy.pretty(expression, use_unicode=True, wrap_line=False))
    if max(map(len, shown.splitlines())) <= _WIDE and not expression.has(weight):
        return shown
    if isinstance(expression, sympy.core.relational.Relational):
        sign = {sympy.Le: "≤", sympy.Ge: "≥"}.get(type(expression), "=")
        line = f"{_linear(expression.lhs)} {sign} {_linear(expression.rhs)}"
    else:
        line = _linear(expression)
    return textwrap.fill(line, _WIDE - 10, subsequent_indent="  ")


def _linear(expression: Any) -> str:
    return str(_Linear().doprint(expression)).replace("**2", "²").replace("**", "^").replace("*", "⋅")


def formula_text(step: Step) -> str:
    """A step's formula in Unicode, over several lines; tall hypotheses stand on lines of their own.

    >>> x, y = sympy.symbols("x y", positive=True)
    >>> print(formula_text(Step("Title", x, y + 2, "Reason.", "<=", given=(y - x, y - 1 / x))))
    x ≤ y + 2
    if -x + y ≥ 0 and
       x⋅y - 1
       ─────── ≥ 0
          x
    """
    kind = {"<=": sympy.Le, ">=": sympy.Ge}.get(step.relation, sympy.Eq)
    shown = _pretty(kind(step.lhs, step.rhs, evaluate=False))
    conditions = [_pretty(sympy.Ge(sympy.factor(given), 0, evaluate=False)) for given in step.given]
    flat = ", ".join(one for one in conditions if "\n" not in one)
    tall = [textwrap.indent(one, "   ") for one in conditions if "\n" in one]
    if conditions:
        shown += "\nif" + f" {flat}" * bool(flat) + " and" * bool(flat and tall)
    return "\n".join(line.rstrip() for line in "\n".join([shown, *tall]).splitlines())


def formula_latex(step: Step) -> str:
    """A step's formula in LaTeX, without dollar signs.

    >>> x, y = sympy.symbols("x y")
    >>> print(formula_latex(Step("Title", x, y + 2, "Reason.", "<=", given=(y - x,))))
    x \\le y + 2 \\quad \\text{if} \\quad - x + y \\ge 0
    """
    formula = f"{sympy.latex(step.lhs)} {_LATEX_SIGN[step.relation]} {sympy.latex(step.rhs)}"
    if not step.given:
        return formula
    conditions = r",\; ".join(rf"{sympy.latex(sympy.factor(given))} \ge 0" for given in step.given)
    return rf"{formula} \quad \text{{if}} \quad {conditions}"


def result_latex(derivation: Derivation) -> str:
    """What a derivation derives, in LaTeX, without dollar signs."""
    return derivation.formula if isinstance(derivation.formula, str) else str(sympy.latex(derivation.formula))


def text(derivation: Derivation, records: tuple[Record, ...]) -> str:
    """The checked derivation for a terminal: statement, assumptions, steps, what is not proved."""

    def wrap(words: str, first: str = "  ", rest: str = "  ") -> str:
        return textwrap.fill(words, 110, initial_indent=first, subsequent_indent=rest)

    formula = derivation.formula
    shown = formula if isinstance(formula, str) else _pretty(formula)
    parts = [f"{derivation.title}  [{derivation.id}]", "", "Statement", wrap(derivation.statement), ""]
    parts += [
        textwrap.indent(shown, "    "),
        "",
        "Assumptions",
        *(wrap(a, "  - ", "    ") for a in derivation.assumptions),
    ]
    parts += ["", "Steps"]
    for number, (step, record) in enumerate(zip(derivation.steps, records, strict=True), 1):
        parts += [f"  {number}. {step.title}", "", textwrap.indent(formula_text(step), "         "), ""]
        parts += [wrap(step.because, "     Because: ", "       "), wrap(f"{record.labelled}.", "     ", "       "), ""]
    parts += ["Not proved", *(wrap(line, "  - ", "    ") for line in derivation.not_proved)]
    seconds = sum(record.seconds for record in records)
    return "\n".join([*parts, "", f"Source: {derivation.source}. {count(records)} in {seconds:.1f} s.", ""])


_MATH = {"√": r"\surd", "∞": r"\infty", "≤": r"\le", "≥": r"\ge", "→": r"\to", "×": r"\times", "·": r"\cdot"}
_MATH |= {"⟨": r"\langle", "⟩": r"\rangle", "‖": r"\|", "∈": r"\in", "≈": r"\approx", "≠": r"\ne", "−": "-", "²": "^2"}
_MATH |= {
    "½": r"\frac{1}{2}",
    "′": "'",
    "ᵀ": r"^{\top}",
    "₁": "_1",
    "₂": "_2",
    "⁰": "^0",
    "⁺": "^+",
    "₊": "_+",
    "³": "^3",
    "⁴": "^4",
    "←": r"\gets",
    "Σ": r"\sum",
    "±": r"\pm",
    "∂": r"\partial",
    "∇": r"\nabla",
    "ℓ": r"\ell",
    "ĝ": r"\hat{g}",
}
_PLAIN = {"–": "--", "—": "---", "“": "``", "”": "''", "§": r"\S{}", "’": "'", "…": r"\ldots{}", "é": r"\'e"}
_ESCAPED = {c: "\\" + c for c in "_%&#${}"} | {"^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "~": r"\~{}"}


def prose_latex(words: str) -> str:
    """Prose with LaTeX's special characters escaped and mathematical Unicode as commands: plain ASCII."""

    def one(character: str) -> str:
        name = unicodedata.name(character, "")
        if character in _MATH:
            return rf"\ensuremath{{{_MATH[character]}}}"
        if name.startswith("GREEK"):
            letter = name.split()[-1].lower().replace("lamda", "lambda")
            return rf"\ensuremath{{\{letter.capitalize() if 'CAPITAL' in name else letter}}}"
        return _PLAIN.get(character) or _ESCAPED.get(character, character)

    return "".join(map(one, words))


def latex(derivation: Derivation, records: tuple[Record, ...]) -> str:
    """The checked derivation as a LaTeX fragment; needs amsmath."""

    def list_items(kind: str, items: list[str]) -> list[str]:
        return [rf"\begin{{{kind}}}", *(rf"\item {item}" for item in items), rf"\end{{{kind}}}"] if items else []

    steps = [
        f"{prose_latex(step.title)}.\n\\[ {formula_latex(step)} \\]\n"
        f"{prose_latex(step.because)} \\emph{{{prose_latex(record.labelled)}.}}"
        for step, record in zip(derivation.steps, records, strict=True)
    ]
    parts = [
        rf"\section*{{{prose_latex(derivation.title)}}}",
        rf"\paragraph{{Statement.}} {prose_latex(derivation.statement)}",
    ]
    parts += [rf"\[ {result_latex(derivation)} \]", r"\paragraph{Assumptions.}"]
    parts += list_items("itemize", [prose_latex(line) for line in derivation.assumptions])
    parts += [r"\paragraph{Steps.}", *list_items("enumerate", steps), r"\paragraph{Not proved.}"]
    parts += list_items("itemize", [prose_latex(line) for line in derivation.not_proved])
    return "\n".join([*parts, rf"\paragraph{{Source.}} {prose_latex(derivation.source)}.", ""])
