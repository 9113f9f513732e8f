"""Derivations prove themselves; false ones, undecided ones and empty ones fail loudly."""

import importlib.util
import random
import re
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import sympy
from latex2mathml.converter import convert

from residual_theory.errors import DerivationError
from residual_theory.proofs import Derivation, Proof, Step, main
from residual_theory.proofs import ways as by
from residual_theory.proofs.checking import Record, check, check_step, count
from residual_theory.proofs.rendering import formula_latex, formula_text, latex, prose_latex, result_latex, text

FOLDER = Path(__file__).parents[2] / "derivations"
FALSE_AT = {
    "completep": "Stream at initialisation",
    "cone_gain": "Mean square of the positive part",
    "cone_sum": "The upper bound",
    "correlated_updates": "Weight sharing: all pairs of visits",
    "deeploop": "At the critical exponent the loops drop out",
    "erf_kernel": "A function with this derivative",
    "factored_scaling": "Visits that share a layer",
    "finite_width": "tr(WᵀWᵀWW): the two other pairings",
    "gaussian_limit": "The mean product of two streams, at finite width",
    "gelu_kernel": "The coefficient of P in the kernel",
    "gradient_growth": "Probability that two units are both on",
    "independent_growth": "ReLU passes on half the second moment",
    "learning_rate": "Every visit counts alike",
    "loop_limit": "L layers a loop: not below one layer",
    "paper_lemma_4": "Cauchy–Schwarz over n",
    "paper_lemma_5": "Mean length, below",
    "paper_proposition_7": "Full agreement",
    "paper_theorem_1": "R_N² in three parts",
    "paper_theorem_2": "One ΔW at all visits",
    "paper_theorem_6": "By replacement",
    "paper_untied": "Its mean over W_l",
    "parcae": "N coherent updates",
    "positivity": "R² is at most",
    "power_law_correlations": "A row from above",
    "pre_norm_growth": "A normalised update has one size whatever the stream",
    "relu_kernel": "Integral over the angle",
    "relu_kernel_bounds": "The slope",
    "tied_linear_growth": "One power of ε²σ_w²",
    "tied_relu_growth": "The sizes of all earlier visits",
}
NAMES = sorted(FALSE_AT)
ARGUED = {  # the steps whose reasoning is in words; every other step is symbolic
    "gaussian_limit": {"What Jacobians and feedback add"},
    "gradient_growth": {"and at most"},
    "loop_limit": {
        "One more loop adds little",
        "A little more strength adds little",
        "L layers a loop: not below one layer",
        "and not above one layer at λ²σ_w² = ρx",
        "M loops divided by N: not below",
        "N loops divided by M: not above",
        "What ReLU adds to the linear stack",
    },
    "pre_norm_growth": {"A constant radial step"},
}
x, y = sympy.symbols("x y", positive=True)
z = sympy.Symbol("z", real=True)
GAP = sympy.Symbol("g", nonnegative=True)
n, k = sympy.symbols("n k", integer=True, nonnegative=True)


@cache
def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"derivation_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def checked(name: str) -> tuple[Record, ...]:
    return check(load(name).DERIVATION)


def wrap(*steps: Step) -> Derivation:
    return Derivation(
        "a-test", "A test", "Words.", sympy.Eq(x, y), ("An assumption.",), steps, ("A gap.",), "this project"
    )


@pytest.mark.parametrize("name", NAMES, scope="module")  # so that what one test checks serves the next
def test_holds_symbolically_at_every_step(name: str) -> None:
    records = checked(name)
    assert [r.title for r in records] == [s.title for s in load(name).DERIVATION.steps]
    argued = {r.title for r in records if r.kind == "argued in words"}
    assert argued == ARGUED.get(name, set())
    assert {r.kind for r in records if r.title not in argued} == {"symbolic"}
    assert all(r.points >= 1 for r in records)


@pytest.mark.parametrize("name", NAMES, scope="module")  # so that what one test checks serves the next
def test_false_twin_fails_where_its_law_enters(name: str) -> None:
    twin = load(name).FALSE_TWIN
    with pytest.raises(DerivationError) as caught:
        check(twin)
    assert str(caught.value).startswith(f"{twin.id}, step ")
    assert f"“{FALSE_AT[name]}”: false at " in str(caught.value)
    assert "\n" not in str(caught.value)


def changed(step: Step) -> Step:
    """The step with one coefficient changed, or an inequality turned round."""
    if step.relation in ("<=", ">="):
        return replace(step, relation=">=" if step.relation == "<=" else "<=")
    return replace(step, rhs=sympy.Integer(7) if step.rhs in (0, sympy.oo) else sympy.Rational(11, 10) * step.rhs)


@pytest.mark.parametrize("name", NAMES, scope="module")  # so that what one test checks serves the next
def test_every_planted_error_is_found(name: str) -> None:
    for step in load(name).DERIVATION.steps:
        with pytest.raises(DerivationError, match=r"^false at "):
            check_step(changed(step), random.Random(step.title))


@pytest.mark.parametrize("name", NAMES, scope="module")  # so that what one test checks serves the next
def test_planted_error_is_named_in_its_derivation(name: str) -> None:
    derivation = load(name).DERIVATION
    bad = replace(derivation, steps=(changed(derivation.steps[0]), *derivation.steps[1:]))
    with pytest.raises(
        DerivationError, match=re.escape(f"{derivation.id}, step 1 “{derivation.steps[0].title}”: false at ")
    ):
        check(bad)


@pytest.mark.parametrize("name", NAMES, scope="module")  # so that what one test checks serves the next
def test_proof_alone_refuses_planted_errors(name: str) -> None:
    """The symbolic proof has power of its own: no change gets past it, even unseen by the sampled points."""
    for step in load(name).DERIVATION.steps:
        with pytest.raises((DerivationError, ValueError, TypeError, AttributeError)):
            step.proof.run(changed(step))


@pytest.mark.parametrize("name", NAMES, scope="module")  # so that what one test checks serves the next
def test_rendering_has_all_parts(name: str) -> None:
    derivation, records = load(name).DERIVATION, checked(name)
    shown = text(derivation, records)
    parts = ["Statement", "Assumptions", "Steps", "Not proved", "Source"]
    places = [shown.index(part) for part in parts]
    assert places == sorted(places)
    assert max(map(len, shown.splitlines())) <= 140
    for step, record in zip(derivation.steps, records, strict=True):
        assert step.title in shown
        assert f"{record.labelled}." in " ".join(shown.split())
    assert f". {count(records)} in " in shown
    fragment = latex(derivation, records)
    assert fragment.isascii()
    for part in ("Statement.", "Assumptions.", "Steps.", "Not proved.", "Source."):
        assert rf"\paragraph{{{part}}}" in fragment
    assert fragment.count(r"\[") == fragment.count(r"\]") == len(derivation.steps) + 1
    assert fragment.count(r"\begin") == fragment.count(r"\end")
    bare = re.sub(r"\\[{}]", "", fragment)
    assert bare.count("{") == bare.count("}")


@pytest.mark.parametrize("name", NAMES, scope="module")  # so that what one test checks serves the next
def test_formulas_become_mathml(name: str) -> None:
    derivation = load(name).DERIVATION
    for formula in (result_latex(derivation), *map(formula_latex, derivation.steps)):
        shown = convert(formula)
        assert shown.startswith("<math")
        assert "\\" not in re.sub(r"&#x0*5C;", "\\\\", shown), formula


def test_file_runs_alone(tmp_path: Path) -> None:
    for options, start in (([], "The ReLU dual kernel"), (["--latex"], r"\section*{The ReLU dual kernel}")):
        command = [sys.executable, "-W", "error", str(FOLDER / "relu_kernel.py"), *options]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(start)


def test_every_file_is_checked() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.py")) == NAMES


def test_tall_hypotheses_stand_on_lines_of_their_own() -> None:
    flat = Step("t", x, y, "w", "<=", given=(y - x, n - k))
    assert formula_text(flat) == "x ≤ y\nif -x + y ≥ 0, -k + n ≥ 0"
    assert formula_text(replace(flat, given=(y - 1 / x, n - k))).splitlines() == [
        "x ≤ y",
        "if -k + n ≥ 0 and",
        "   x⋅y - 1",
        "   ─────── ≥ 0",
        "      x",
    ]
    assert formula_text(replace(flat, given=(y - 1 / x,))).splitlines()[1:3] == ["if", "   x⋅y - 1"]


def test_main_fails_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(load("correlated_updates").FALSE_TWIN, []) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert output.err.startswith("correlated-updates, step 14 “Weight sharing")


def test_same_seed_same_points() -> None:
    twin = load("correlated_updates").FALSE_TWIN
    messages = []
    for seed in (3, 3):
        with pytest.raises(DerivationError) as caught:
            check(twin, seed=seed)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


FAILING: dict[str, tuple[Step, str]] = {
    "vacuous": (Step("t", x + y, y + x, "w"), "says nothing"),
    "false": (Step("t", (x + y) ** 2, x**2 + y**2, "w"), "false at x = "),
    "false inequality": (Step("t", x**2, x, "w", "<=", by.certificate(x)), "false at x = "),
    "false limit": (Step("t", sympy.Limit(1 / n, n, sympy.oo), sympy.Integer(1), "w", proof=by.limit()), "false at"),
    "no certificate": (Step("t", 2 * z, z**2 + 1, "w", "<=", by.certificate(z**2)), "certificate"),
    "certificate may be negative": (Step("t", x, x + y**2, "w", "<=", by.certificate(y * z)), "not visibly"),
    "certificate from nowhere": (Step("t", x, x + y**2, "w", "<=", by.certificate(GAP, {GAP: y - z})), "not known"),
    "undecidable": (
        Step("t", sympy.acos(x), 2 * sympy.atan(sympy.sqrt(1 - x) / sympy.sqrt(1 + x)), "w", domain={x: (0, 1)}),
        "SymPy cannot show",
    ),
    "cannot be evaluated": (Step("t", sympy.Function("f")(x), x, "w"), "cannot be evaluated"),
    "hypotheses never met": (Step("t", x, x + y, "w", "<=", by.certificate(y), given=(-x,)), "satisfy its hypotheses"),
    "definition of itself": (Step("t", x, x + 1, "w", ":="), "new symbol"),
    "definition of a formula": (Step("t", x**2, y, "w", ":="), "new symbol"),
    "wrong induction": (Step("t", sympy.Sum(k, (k, 0, n)), n**2, "w", proof=by.induction(n)), "false at n"),
}


@pytest.mark.parametrize("case", FAILING)
def test_bad_steps_fail(case: str) -> None:
    step, reason = FAILING[case]
    with pytest.raises(DerivationError, match=rf"^a-test, step 1 “t”: .*{re.escape(reason)}"):
        check(wrap(step))


def test_proofs_use_only_earlier_steps() -> None:
    bound = Step("bound", x, x + y, "w", "<=", by.certificate(y))
    user = Step("user", 2 * x, 2 * x + 2 * y, "w", "<=", by.certificate(2 * GAP, {GAP: bound}))
    assert len(check(wrap(bound, user))) == 2
    for steps in ((user,), (user, bound)):
        with pytest.raises(DerivationError, match="does not stand earlier"):
            check(wrap(*steps))


def test_an_instance_keeps_assumptions_and_hypotheses() -> None:
    bound = Step("bound", -x, sympy.Integer(0), "w", "<=", by.certificate(x))
    wrong = Step(
        "user", -z, sympy.Integer(0), "w", "<=", by.certificate(GAP, {GAP: (bound, {x: z})}), domain={z: (1, 2)}
    )
    with pytest.raises(DerivationError, match="not known to be nonnegative"):
        check(wrap(bound, wrong))
    conditional = Step("bound", y, x, "w", "<=", by.certificate(GAP, {GAP: x - y}), given=(x - y,))
    forgetful = Step(
        "user", 2 * y, 2 * x, "w", "<=", by.certificate(2 * GAP, {GAP: conditional}), domain={x: (2, 3), y: (0, 1)}
    )
    with pytest.raises(DerivationError, match=r"needs x - y ≥ 0"):
        check(wrap(conditional, forgetful))


def test_evidence_is_called_evidence() -> None:
    identity = Step(
        "t", sympy.sin(x) ** 2 + sympy.cos(x) ** 2, sympy.Integer(1), "w", proof=by.evidence("no proof known")
    )
    derivation = wrap(identity)
    records = check(derivation)
    assert records[0].kind == "numerical evidence"
    for shown in (text(derivation, records), latex(derivation, records)):
        assert "numerical evidence, not proved (no proof known)" in " ".join(shown.split())


def test_an_argument_in_words_says_so_and_is_named() -> None:
    """In the text, in LaTeX, in the count and among what is not proved."""
    step = Step("Bold claim", x, x + y, "w", "<=", replace(by.certificate(y), argued=True))
    with pytest.raises(DerivationError, match="“Bold claim” is argued in words; not_proved has to name it"):
        check(wrap(step))
    derivation = replace(wrap(step, Step("t", x * y, y * (x + 1) - y, "w")), not_proved=("“Bold claim” in full.",))
    records = check(derivation)
    assert [record.kind for record in records] == ["argued in words", "symbolic"]
    assert count(records) == "1 steps checked, 1 argued in words"
    for shown in (text(derivation, records), latex(derivation, records)):
        assert "Not checked: argued in words, certificate of positivity" in " ".join(shown.split())
    assert "1 steps checked, 1 argued in words in " in text(derivation, records)
    with pytest.raises(DerivationError, match=r"^a-test, step 1 “Bold claim”: false at"):
        check(replace(derivation, steps=(replace(step, rhs=x - y), derivation.steps[1])))


def test_definitions_say_so_and_may_not_repeat() -> None:
    name = sympy.Symbol("K")
    definition = Step("t", name, x + y, "w", ":=")
    assert str(check(wrap(definition))[0]) == "definition, nothing to prove"
    assert formula_latex(definition) == "K := x + y"
    with pytest.raises(DerivationError, match="already in use"):
        check(wrap(definition, replace(definition, rhs=x)))


@pytest.mark.parametrize(
    ("lhs", "rhs", "proof"),
    [
        (sympy.Sum(k**3, (k, 0, n)), (n * (n + 1) / 2) ** 2, by.induction(n)),
        (sympy.Limit((1 + x / n) ** n, n, sympy.oo), sympy.exp(x), by.limit()),
        (sympy.Integral(z**2 * sympy.exp(-x * z), (z, 0, sympy.oo)), 2 / x**3, by.substitution()),
    ],
)
def test_true_steps_pass(lhs: Any, rhs: Any, proof: Proof) -> None:
    assert check(wrap(Step("t", lhs, rhs, "w", proof=proof)))[0].kind == "symbolic"


def test_prose_becomes_plain_latex() -> None:
    assert prose_latex("50% of ε²·R_V² ≤ √N — “λ”") == (
        r"50\% of \ensuremath{\epsilon}\ensuremath{^2}\ensuremath{\cdot}R\_V\ensuremath{^2} \ensuremath{\le} "
        r"\ensuremath{\surd}N --- ``\ensuremath{\lambda}''"
    )
