"""Errors to plant, one at a time, in what predicts and in what proves: each is one operation in a function's syntax."""

import ast
import contextlib
import copy
import inspect
import pkgutil
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any

import pytest

_ANY = re.compile(r"_[a-z]")  # a name that stands for any expression, the same wherever it is repeated


class Rewrite(ast.NodeTransformer):
    """Code of the form `old` becomes `new`, at the one place where it stands.

    Both are an expression or statement in which _a, _b, … stand for whatever is there; spacing, brackets and line
    breaks do not count.
    """

    def __init__(self, old: str, new: str) -> None:
        self.old, self.new = _parsed(old), _parsed(new)

    def applied(self, tree: ast.Module, name: str) -> ast.Module:
        """The changed copy of a tree; `name` is for the message."""
        hits = sum(_fits(self.old, node, {}) for node in ast.walk(tree))
        assert hits == 1, f"{name}: {ast.unparse(self.old)!r} stands there {hits} times"
        changed: ast.Module = self.visit(copy.deepcopy(tree))
        assert ast.dump(changed) != ast.dump(tree), f"{name}: nothing changes"
        return ast.fix_missing_locations(changed)

    def visit(self, node: ast.AST) -> Any:
        """The node in its new form."""
        found: dict[str, ast.AST] = {}
        if _fits(self.old, node, found):
            return _Filled(found).visit(copy.deepcopy(self.new))
        return self.generic_visit(node)


class _Filled(ast.NodeTransformer):
    """Each wildcard replaced by what it stands for."""

    def __init__(self, found: dict[str, ast.AST]) -> None:
        self.found = found

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return copy.deepcopy(self.found[node.id]) if _ANY.fullmatch(node.id) else node


def _parsed(form: str) -> ast.AST:
    (statement,) = ast.parse(form).body
    return statement.value if isinstance(statement, ast.Expr) else statement


def _fits(form: Any, node: Any, found: dict[str, ast.AST]) -> bool:
    """Whether a node has a form, and what its wildcards stand for. Loading and storing are not told apart."""
    if isinstance(form, ast.Name) and _ANY.fullmatch(form.id):
        return isinstance(node, ast.expr) and ast.unparse(found.setdefault(form.id, node)) == ast.unparse(node)
    if type(form) is not type(node):
        return isinstance(form, ast.expr_context)
    if isinstance(form, list):
        return len(form) == len(node) and all(_fits(one, other, found) for one, other in zip(form, node, strict=True))
    if isinstance(form, ast.AST):
        return all(_fits(getattr(form, field, None), getattr(node, field, None), found) for field in form._fields)
    return bool(form == node)


_OTHERS = ("branches.", "kernels.", "stack.", "montecarlo.", "statistics.", "transformer.", "measure.", "claims.")


@dataclass(frozen=True)
class Mutant:
    """A wrong function of what predicts: where it has the form `old` it has the form `new`, as in `Rewrite`.

    `claims` are those that have to notice. Where none can, `missing` says what a claim would have to be about.
    """

    name: str
    where: str  # module.function, or module.class.method, of theory unless it begins with a name of _OTHERS
    old: str
    new: str
    claims: tuple[str, ...] = ()
    missing: str = ""

    def changed(self) -> tuple[FunctionType, CodeType]:
        """The function, and the code that it gets."""
        place = self.where if self.where.startswith(_OTHERS) else f"theory.{self.where}"
        found: Any = pkgutil.resolve_name(f"residual_theory.{place}")
        getter = getattr(found, "fget", None) or getattr(found, "func", None)  # of a property, cached or not
        function: FunctionType = inspect.unwrap(getter or found)
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        return function, _code_of(Rewrite(self.old, self.new).applied(tree, f"{self.name}, {self.where}"), function)

    @contextlib.contextmanager
    def planted(self) -> Iterator[None]:
        """The error in place, for whoever holds the function, under whatever name."""
        function, code = self.changed()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(function, "__code__", code)
            _forget()
            try:
                yield
            finally:
                patch.undo()
                _forget()


def _code_of(tree: ast.Module, function: FunctionType) -> CodeType:
    """The code of the one function that a tree defines, with the names that `function` has from around it."""
    outside = ", ".join(function.__code__.co_freevars)
    around = ast.parse(
        f"def _around({outside}):\n    global {function.__name__}"
    )  # so that recursion finds the module's
    assert isinstance(around.body[0], ast.FunctionDef)
    around.body[0].body += tree.body
    code = compile(ast.fix_missing_locations(around), f"<{function.__qualname__}>", "exec")
    for name in ("_around", function.__name__):
        code = next(part for part in code.co_consts if isinstance(part, CodeType) and part.co_name == name)
    return code


def _forget() -> None:
    """Empty every cache of the theory."""
    for name, module in list(sys.modules.items()):
        if name.startswith(("residual_theory.theory", "residual_theory.kernels")):
            clear: list[Callable[[], None]] = [
                item.cache_clear for item in vars(module).values() if hasattr(item, "cache_clear")
            ]
            for empty in clear:
                empty()


def _visits(name: str, changes: str, claim: str) -> Mutant:
    """The visits of another stack in place of those described, in `predict`."""
    return Mutant(name, "forward.predict", "stack.visits", f"stack.model_copy(update={{{changes}}}).visits", (claim,))


MUTANTS = (
    # the kernel of ReLU
    Mutant("κ without its factor 1/2", "kernels.closed.Relu.value", "_a / (2 * np.pi)", "_a / np.pi",
           ("looped-growth",)),
    Mutant("κ of the sign function", "kernels.closed.Relu.value", "size_of(_a, _b) * (_c * _d + _e) / _f",
           "(_d - np.pi / 2) * 2 / np.pi", ("looped-growth",)),
    Mutant("the cosine for the angle", "kernels.closed._angles", "np.pi / 2 + np.arctan(_a / _b)", "np.pi / 2 + _a",
           ("looped-growth",)),
    Mutant("κ without sin θ", "kernels.closed.Relu.value", "_a * _b + _c", "_a * _b", ("looped-growth",)),
    Mutant("θ for π − θ in the slope", "kernels.closed.Relu.slope", "_a[2]", "np.pi - _a[2]", ("gradient-growth",)),
    Mutant("the slope without its factor 1/2", "kernels.closed.Relu.slope", "_a / (2 * np.pi)", "_a / np.pi",
           ("gradient-growth",)),
    # of other activations
    Mutant("half the kernel of erf", "kernels.closed.Sigmoids.value", "2 / np.pi", "1 / np.pi", ("positivity",)),
    Mutant("half the kernel of linear layers", "kernels.closed.Gates.value", "self.odd * covariance", "covariance / 2",
           ("positivity",)),
    Mutant("half the odd modes of tanh", "kernels.hermite.Series.value", "_a * self.polynomial(_b, _c, _d, 1)",
           "_a * self.polynomial(_b, _c, _d, 1) / 2", ("positivity",)),
    # branches and norms
    Mutant("no σ_w²", "branches.single.Single.covariance", "self.weight_variance * _a", "_a", ("looped-growth",)),
    Mutant("no σ_w² of gated branches", "branches.gated.Gated.covariance", "self.weight_variance * _a", "_a",
           ("matrix-branches",)),
    Mutant("no σ_w² of branches with a hidden layer", "branches.mlp.Mlp.covariance", "self.weight_variance * _a", "_a",
           ("matrix-branches",)),
    Mutant("no pre-norm divisor", "kernels.branch.Elementwise.state", "np.sqrt(_a + epsilon)", "np.ones_like(_a)",
           ("looped-growth",)),
    Mutant("post-norm by the mean square", "recursion._step", "_a /= _b[:, None]", "_a /= _b[:, None] ** 2",
           ("deeploop",)),
    Mutant("post-norm of the newest stream by one root", "recursion._step", "np.outer(_a, _a)", "_a", ("deeploop",)),
    Mutant("no post-norm between visits", "recursion._gather", "np.vstack([_a, _b])",
           "np.vstack([np.ones_like(_a), _b])", ("deeploop",)),
    # the recursion
    _visits("tied as untied", '"tied": False', "looped-growth"),
    _visits("untied as tied", '"tied": True', "increment-cosine"),
    _visits("N and L swapped", '"loops": stack.unique_layers, "unique_layers": stack.loops, '
            '"residual_scale": stack.epsilon', "factored-scaling"),
    _visits("whatever order of sharing as cyclic", '"sharing": "cyclic"', "correlated-updates"),
    Mutant("ε for ε²", "recursion.covariances", "_a * group.scales[_b]", "_a", ("looped-growth",)),
    Mutant("the stream one visit late", "forward.predict", "last[_a] + 1", "last[_a]", ("looped-growth",)),
    Mutant("off by one visit, one layer", "recursion._add_branch", "_a += _b[:-1]", "_a += _b[1:]",
           ("looped-growth",)),
    Mutant("off by one visit, several layers", "recursion._add_branch", "np.searchsorted(_a, _b) - 1",
           "np.searchsorted(_a, _b)", ("factored-scaling",)),
    _visits("decay once too often", '"carry": stack.carry**2', "parcae"),
    Mutant("no decay beside the stream", "recursion._gather", "-_a[1:]", "0 * _a[1:] - 1", ("parcae",)),
    Mutant("nothing injected into products with earlier visits", "recursion._step", "visit.injection * injected[_a]",
           "0 * injected[_a]", ("parcae",)),
    _visits("half the injection", '"injection": stack.injection / 2', "parcae"),
    Mutant("cosines over one root only", "forward._cosines", "_a / np.outer(_b, _b)", "_a / _b[:, None]",
           ("increment-cosine",)),
    # gradients and the tangent kernel
    Mutant("tangent kernel off by one visit", "backward._gradients", "_a[later + 1]", "_a[later]",
           ("gradient-growth",)),
    Mutant("tangent kernel of one order of visits", "backward._gradients", "np.where(_a, 2.0, 1.0)",
           "np.where(_a, 1.0, 1.0)", ("gradient-growth",)),
    Mutant("ε for ε² in the gradient", "backward._gradients", "scales[:, None, None] * _a", "_a",
           ("gradient-growth",)),
    Mutant("no products of different visits in the gradient", "backward._add_branch", "_a.T + _b[0]", "_a.T + D[0]",
           ("gradient-growth",)),
    # finite width
    Mutant("Wick pairings counted once", "finite_width._coefficients", "_count(_a)",
           "{term: 1 for term in _count(_a)}", ("finite-width",)),
    Mutant("a power of the width too many", "finite_width.second_moment_at_width", "_a ** power",
           "_a ** (power + 1)", ("finite-width",)),
    Mutant("rows paired with columns", "finite_width._free_indices", "_a + (_b & 1)", "_a + 1 - (_b & 1)",
           ("finite-width",)),
    Mutant("ε for ε² at finite width", "finite_width.second_moment_at_width", "_a ** 2", "_a", ("finite-width",)),
    # many loops
    Mutant("twice the right side of the limit's equation", "loop_limit._trapezoid", "_a / 4", "_a / 2",
           ("loop-limit",)),
    # bounds and rules
    Mutant("cosh for cosh²", "bounds._log_cosh_squared", "2 * (_a - _b)", "_a - _b", ("growth-constant",)),
    Mutant("Σ C(N,k) for Σ C(N,k)²", "bounds._log_sum_of_squares", "2 * np.log(_a)", "np.log(_a)",
           ("growth-constant",)),
    Mutant("2 for √2 in the bounds", "bounds.bounds", "gain += _a", "gain += 0", ("growth-constant",)),
    Mutant("no σ_w² in the bounds", "bounds.bounds", "_a + math.log(stack.weight_variance)", "_a",
           ("growth-constant",)),
    Mutant("the stream's gain linear in N", "learning_rate.ScalingRule.growth", "2 - 2 * _a", "1 - 2 * _a",
           ("completep",)),
    Mutant("the stream's gain in L like that in N", "learning_rate.ScalingRule.growth", "1 - 2 * _a", "2 - 2 * _a",
           ("completep",)),
    Mutant("λ for λ² in the limit", "loop_limit._trapezoid", "_a / _b * (_a / _b)", "_a / _b / _b", ("loop-limit",)),
    Mutant("no σ_w² in the limit", "loop_limit.branch_of", "weight_variance * _a", "_a", ("loop-limit",)),
    Mutant("the growth constant 2 for √2", "growth.growth_constant", "math.sqrt(_a)", "math.sqrt(2 * _a)",
           ("growth-constant",)),
    Mutant("α_c = 1 for layers", "growth.growth_exponents", "1.0 - 2.0 * _a", "1.0 - _a", ("factored-scaling",)),
    Mutant("α_c = ½ for loops", "growth.growth_exponents", "1.0 - number(_a, _b)", "1.0 - 2.0 * number(_a, _b)",
           ("factored-scaling",)),
    Mutant("the sign of the rate's exponents", "learning_rate.ScalingRule.learning_rate", "Exponents(_a - 1, _b - 1)",
           "Exponents(1 - _a, 1 - _b)", ("learning-rate",)),
    Mutant("a sign step as a gradient step", "learning_rate.step_size", "math.sqrt(_a * _b)", "_b",
           ("learning-rate",)),
    # variances
    Mutant("no q0", "forward.initial_covariance", "stack.initial_variance", "1.0", ("looped-growth",)),
    Mutant("no σ_w² in the gradient", "branches.single.Single.slopes", "self.weight_variance", "1.0",
           ("gradient-growth",)),
    Mutant("no σ_1² before the gate", "branches.gated.Gated.covariance", "dual.value(self.hidden_variance * k, _a, _b)",
           "dual.value(k, _a, _b)", ("matrix-branches",)),
    Mutant("no σ_1² before the activation", "branches.mlp.Mlp.covariance", "self.hidden_variance * k", "k",
           ("matrix-branches",)),
    Mutant("no σ_1² in the state", "branches.mlp.Mlp.states", "self.hidden_variance * _a", "_a",
           ("matrix-branches",)),
    Mutant("no σ_1² in the gradient of gated branches", "branches.gated.Gated.slopes", "self.hidden_variance", "1.0",
           ("matrix-branches",)),
    Mutant("no σ_1² in the gradient", "branches.mlp.Mlp.slopes", "self.hidden_variance", "1.0",
           ("matrix-branches",)),
    # what a gradient passes
    Mutant("no pre-norm divisor in the gradient", "kernels.branch.Elementwise.slopes", "_a / _b", "_a + 0 * _b",
           ("gradient-growth",)),
    Mutant("no post-norm divisor in the gradient", "backward._gradients", "_a / (_b * _c)", "_a", ("gradient-growth",)),
    Mutant("no decay in the gradient", "backward._gradients", "visit.carry / _a", "1.0 / _a", ("gradient-growth",)),
    Mutant("no decay beside the gradient", "backward._gather", "_a / _b", "1 / _b", ("gradient-growth",)),
    Mutant("off by one visit, several layers, in the gradient", "backward._add_branch", "np.arange(_a + 1, _b)",
           "np.arange(_a, _b - 1)", ("gradient-growth",)),
    Mutant("no gradient through the injection", "backward._add_injected", "_a + _a.T + _b", "0 * _b",
           ("gradient-growth",)),
    Mutant("the injected stream read before the prelude", "recursion._empty", "next(_a, _b)", "0",
           ("gradient-growth",)),
    _visits("no coda", '"outer_scale": 0.0', "gradient-growth"),
    Mutant("half the slope of erf", "kernels.closed.Sigmoids.slope", "2 / np.pi", "1 / np.pi", ("gradient-growth",)),
    # branches of several matrices
    Mutant("no factor k in gated branches", "branches.gated.Gated.covariance", "_a * k * value", "_a * value",
           ("matrix-branches",)),
    Mutant("gates without their root", "kernels.closed.Gates.value", "_a + g * r", "_a", ("matrix-branches",)),
    Mutant("gates without their slope's last term", "kernels.closed.Gates.slope", "_a + t * _b", "_a",
           ("matrix-branches",)),
    Mutant("only the last of two matrices in the tangent kernel", "branches.mlp.Mlp.slopes", "_a + out * _b * _c", "_a",
           ("matrix-branches",)),
    Mutant("only the first and last of three matrices", "branches.gated.Gated.slopes", "out * (_a + _b)", "out * _b",
           ("matrix-branches",)),
    # several inputs
    Mutant("other inputs under other weights", "recursion._add_branch", "_mirror(_a) + _b",
           "_mirror(_a) + _b * (_b == _b[:1, :1])", ("several-inputs",)),
    Mutant("the square of the inputs' correlation", "forward.predict", "_a * distinct", "_a * distinct**2",
           ("several-inputs",)),
)  # fmt: skip

# Errors in what predicts Transformers. What moves little at a variance of the logits of 0.01 no claim can notice.
TRANSFORMERS = (
    Mutant("attention without its variance", "kernels.attention.Attention.forward", "self.square * _a", "_a",
           ("norm-at-init",)),
    Mutant("v for v²", "kernels.attention.Attention.square", "_a * _a", "_a", ("norm-at-init",)),
    Mutant("queries that see the future", "kernels.attention.attention_state", "np.tril(_a)", "_a", ("norm-at-init",)),
    Mutant("queries that see themselves only", "kernels.attention.attention_state", "np.tril(np.ones((_a, _a)))",
           "np.eye(_a)", ("norm-at-init",)),
    Mutant("no correlations in what is averaged", "kernels.attention._covariance", "(np.ones_like(_a), _a)",
           "(np.ones_like(_a), np.ones_like(_a))", ("norm-at-init",)),
    Mutant("no norm before attention", "kernels.branch.PreNormAttention.forward", "_quotient(_a, _b)", "_a",
           ("norm-at-init",)),
    Mutant("every token unlike every other", "forward.initial_covariance", "_a[:, None] == _a[None, :]",
           "np.eye(len(_a), dtype=bool)", ("increment-cosine",)),
    Mutant("an MLP as wide as the stream", "stack.LlamaStack.visits", "self.mlp_width * _a", "variance",
           ("norm-at-init",)),
    Mutant("ReLU for SiLU", "stack.LlamaStack.visits", '"silu"', '"relu"', ("norm-at-init",)),
    Mutant("logits without variance", "kernels.attention.Attention.state", "self.logit_variance", "0.0",
           missing="wide initial weights: at v² = 2.7 (tests/kernels/test_attention.py) softmax is far from uniform"),
    Mutant("no rotation", "kernels.attention.Attention.rotation", "_a if self.rope else _b", "_b",
           missing="wide initial weights, as above"),
)  # fmt: skip

# One constant of each derivation: file, a form of code in it, and the form it gets instead.
DERIVATIONS = (
    ("completep.py", "v * lam**2 / L", "v * lam**2 / L**2"),
    ("cone_gain.py", "(2 - delta) / 4", "(2 - delta) / 2"),
    ("cone_sum.py", "(n + 1) * _a * _b", "(n + 2) * _a * _b"),
    ("correlated_updates.py", "V + rho * V * (V - 1)", "V + rho * V * V"),
    ("deeploop.py", "_a ** Rational(3, 2)", "_a ** Rational(1, 2)"),
    ("erf_kernel.py", "4 / pi * exp(_a)", "2 / pi * exp(_a)"),
    ("factored_scaling.py", "growth = 1 + _a * N", "growth = 1 + _a * N / 2"),
    ("finite_width.py", "d ** (len(pairing) + 1)", "d ** len(pairing)"),
    ("gaussian_limit.py", "4 * A**2 * rho**2", "2 * A**2 * rho**2"),
    ("gelu_kernel.py", "normal(_a, 1 + s)", "normal(_a, s)"),
    ("gradient_growth.py", "(_a ** one + _a ** other) / 2", "(_a ** one + _a ** other) / 3"),
    ("independent_growth.py", "s**2 / d * q", "s / d * q"),
    ("learning_rate.py", "_a * gain ** (N - 1) * h", "_a * gain ** N * h"),
    ("loop_limit.py", "_a / (4 * pi * q)", "_a / (2 * pi * q)"),
    ("paper_lemma_4.py", "SIZE ** 2 / N ** 2", "SIZE ** 2 / N"),
    ("paper_lemma_5.py", "exp(gamma / 2) * _a", "_a"),
    ("paper_proposition_7.py", "kappa * least * eta * eps * V", "least * eta * eps * V"),
    ("paper_theorem_1.py", "BEFORE + eps * most.rhs", "BEFORE + eps * most.rhs / 9"),
    ("paper_theorem_2.py", "(1 - theta) * zeta * _a", "(1 + theta) * zeta * _a"),
    ("paper_theorem_6.py", "small / 4 * L * N ** 2", "small * 4 * L * N ** 2"),
    ("paper_untied.py", "x - x ** 2 / 2", "x - x ** 2 / 4"),
    ("parcae.py", "(5 + sqrt(5)) / 4", "(5 + sqrt(5)) / 2"),
    ("positivity.py", "4 / (pi * sqrt(9 - 4 * x**2))", "4 / (pi * sqrt(9 - x**2))"),
    ("power_law_correlations.py", "power * h * _a ** (power - 1)", "power * h * _a ** power"),
    ("pre_norm_growth.py", "1 + t * N**2 * L / 2", "1 + t * N**2 * L / 3"),
    ("relu_kernel.py", "(pi - theta) * cos(theta)", "theta * cos(theta)"),
    ("relu_kernel_bounds.py", "KAPPA - cos(theta) / 2", "KAPPA - cos(theta)"),
    ("tied_linear_growth.py", "in_the_limit(3, 3, _a, _b)", "in_the_limit(3, 3, 2 * _a, _b)"),
    ("tied_relu_growth.py", "_a * Sum(cov(i, j), _b, _c)", "2 * _a * Sum(cov(i, j), _b, _c)"),
)
