"""Errors to plant, one at a time, in what predicts and in what proves: each is one change of a function's source."""

import contextlib
import inspect
import pkgutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any

import pytest


@dataclass(frozen=True)
class Mutant:
    """A wrong function of what predicts: `old` is replaced by `new` where it stands, once, in its source.

    `claims` are those that have to notice. Where none can, `missing` says what a claim would have to be about.
    """

    name: str
    where: str  # module.function, or module.class.method, of theory unless it begins with "branches" or "stack"
    old: str
    new: str
    claims: tuple[str, ...] = ()
    missing: str = ""

    @contextlib.contextmanager
    def planted(self) -> Iterator[None]:
        """The error in place, for whoever holds the function, under whatever name."""
        place = self.where if self.where.startswith(("branches.", "stack.")) else f"theory.{self.where}"
        found: Any = pkgutil.resolve_name(f"residual_theory.{place}")
        function: FunctionType = inspect.unwrap(getattr(found, "fget", found))  # of a property, its getter
        source = textwrap.dedent(inspect.getsource(function))
        assert source.count(self.old) == 1, f"{self.name}: {self.where} has {self.old!r} {source.count(self.old)} times"
        whole = compile(source.replace(self.old, self.new), f"<{self.name}>", "exec")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(function, "__code__", _code_of(whole, function.__name__))
            _forget()
            try:
                yield
            finally:
                patch.undo()
                _forget()


def _code_of(whole: CodeType, name: str) -> CodeType:
    """The code of the one function that a compiled source defines."""
    return next(part for part in whole.co_consts if isinstance(part, CodeType) and part.co_name == name)


def _forget() -> None:
    """Empty every cache of the theory."""
    for name, module in list(sys.modules.items()):
        if name.startswith("residual_theory.theory"):
            clear: list[Callable[[], None]] = [
                item.cache_clear for item in vars(module).values() if hasattr(item, "cache_clear")
            ]
            for empty in clear:
                empty()


def _visits(of: str) -> tuple[str, str]:
    """The visits of another stack in place of those described, in `predict`."""
    return "visits, initial = stack.visits,", f"visits, initial = {of}.visits,"


MUTANTS = (
    # the kernel of ReLU
    Mutant("κ without its factor 1/2", "closed_kernels.Relu.value", "/ (2 * np.pi)", "/ np.pi", ("looped-growth",)),
    Mutant("κ of the sign function", "closed_kernels.Relu.value", "size_of(q, other_q) * (c * angle + r) / (2 * np.pi)",
           "(angle - np.pi / 2) * 2 / np.pi", ("looped-growth",)),
    Mutant("the cosine for the angle", "closed_kernels._angles", "np.pi / 2 + np.arctan(c / np.maximum(r, TINY**0.5))",
           "np.pi / 2 + c", ("looped-growth",)),
    Mutant("κ without sin θ", "closed_kernels.Relu.value", "(c * angle + r)", "(c * angle)", ("looped-growth",)),
    Mutant("θ for π − θ in the slope", "closed_kernels.Relu.slope", "_angles(k, q, other_q)[2]",
           "(np.pi - _angles(k, q, other_q)[2])", ("gradient-growth",)),
    Mutant("the slope without its factor 1/2", "closed_kernels.Relu.slope", "/ (2 * np.pi)", "/ np.pi",
           ("gradient-growth",)),
    # of other activations
    Mutant("half the kernel of erf", "closed_kernels.Sigmoids.value", "(2 / np.pi)", "(1 / np.pi)", ("positivity",)),
    Mutant("half the kernel of linear layers", "closed_kernels.Gates.value", "return self.odd * covariance",
           "return covariance / 2", ("positivity",)),
    Mutant("half the odd modes of tanh", "hermite.Series.value", "c * self.polynomial(square, left, right, 1)",
           "c * self.polynomial(square, left, right, 1) / 2", ("positivity",)),
    # branches and norms
    Mutant("no σ_w²", "branches.single.Single.covariance", "return self.weight_variance * ", "return ",
           ("looped-growth",)),
    Mutant("no σ_w² of gated branches", "branches.gated.Gated.covariance", "return self.weight_variance * ", "return ",
           ("matrix-branches",)),
    Mutant("no σ_w² of branches with a hidden layer", "branches.mlp.Mlp.covariance", "return self.weight_variance * ",
           "return ", ("matrix-branches",)),
    Mutant("no pre-norm divisor", "kernels.Elementwise.state", "np.sqrt(square + epsilon)",
           "np.ones_like(square)", ("looped-growth",)),
    Mutant("post-norm by the mean square", "recursion._step", "row[: a + 1] /= divisor[:, None]",
           "row[: a + 1] /= divisor[:, None] ** 2", ("deeploop",)),
    Mutant("post-norm of the newest stream by one root", "recursion._step", "np.outer(divisor, divisor)", "divisor",
           ("deeploop",)),
    Mutant("no post-norm between visits", "recursion._gather", "np.vstack([divisors[:, t],",
           "np.vstack([np.ones(count),", ("deeploop",)),
    # the recursion
    Mutant("tied as untied", "forward.predict", *_visits('stack.model_copy(update={"tied": False})'),
           ("looped-growth",)),
    Mutant("untied as tied", "forward.predict", *_visits('stack.model_copy(update={"tied": True})'),
           ("increment-cosine",)),
    Mutant("N and L swapped", "forward.predict",
           *_visits('stack.model_copy(update={"loops": stack.unique_layers, "unique_layers": stack.loops, '
                    '"residual_scale": stack.epsilon})'), ("factored-scaling",)),
    Mutant("whatever order of sharing as cyclic", "forward.predict",
           *_visits('stack.model_copy(update={"sharing": "cyclic"})'), ("correlated-updates",)),
    Mutant("ε for ε²", "recursion.covariances", " * group.scales[: group.done, None, None]", "", ("looped-growth",)),
    Mutant("the stream one visit late", "forward.predict", "(last[block] + 1 for", "(last[block] for",
           ("looped-growth",)),
    Mutant("off by one visit, one layer", "recursion._add_branch", "row[1 : a + 1] += X[:-1]",
           "row[1 : a + 1] += X[1:]", ("looped-growth",)),
    Mutant("off by one visit, several layers", "recursion._add_branch", "np.searchsorted(shared, np.arange(a + 1)) - 1",
           "np.searchsorted(shared, np.arange(a + 1))", ("factored-scaling",)),
    Mutant("decay once too often", "forward.predict",
           *_visits('stack.model_copy(update={"carry": stack.carry**2})'), ("parcae",)),
    Mutant("no decay beside the stream", "recursion._gather", "np.append(-carries[1:], 0.0)",
           "np.append(0 * carries[1:] - 1, 0.0)", ("parcae",)),
    Mutant("nothing injected into products with earlier visits", "recursion._step",
           "visit.injection * injected[: a + 1]", "0 * injected[: a + 1]", ("parcae",)),
    Mutant("half the injection", "forward.predict",
           *_visits('stack.model_copy(update={"injection": stack.injection / 2})'), ("parcae",)),
    Mutant("cosines over one root only", "forward._cosines", "products / np.outer(size, size)",
           "products / size[:, None]", ("increment-cosine",)),
    # gradients and the tangent kernel
    Mutant("tangent kernel off by one visit", "backward.gradients", "outer = row[later + 1]", "outer = row[later]",
           ("gradient-growth",)),
    Mutant("tangent kernel of one order of visits", "backward.gradients", "2.0, 1.0)", "1.0, 1.0)",
           ("gradient-growth",)),
    Mutant("ε for ε² in the gradient", "backward.gradients", "D = scales[:, None, None] * ", "D = ",
           ("gradient-growth",)),
    Mutant("no products of different visits in the gradient", "backward._add_branch", "row[a + 1].T + Y[0]",
           "row[a + 1].T + D[0]", ("gradient-growth",)),
    # finite width
    Mutant("Wick pairings counted once", "finite_width._coefficients", "_count(letters)",
           "{term: 1 for term in _count(letters)}", ("finite-width",)),
    Mutant("a power of the width too many", "finite_width.second_moment_at_width", "** power for",
           "** (power + 1) for", ("finite-width",)),
    Mutant("rows paired with columns", "finite_width._free_indices", "+ (here & 1)", "+ 1 - (here & 1)",
           ("finite-width",)),
    Mutant("ε for ε² at finite width", "finite_width.second_moment_at_width", "np.float64(stack.epsilon) ** 2",
           "np.float64(stack.epsilon)", ("finite-width",)),
    # many loops
    Mutant("twice the right side of the limit's equation", "loop_limit._trapezoid", "/ 4", "/ 2", ("loop-limit",)),
    # bounds and rules
    Mutant("cosh for cosh²", "bounds._log_cosh_squared", "return 2 * (", "return (", ("growth-constant",)),
    Mutant("Σ C(N,k) for Σ C(N,k)²", "bounds._log_sum_of_squares", "2 * np.log(", "np.log(", ("growth-constant",)),
    Mutant("2 for √2 in the bounds", "bounds.bounds", "gain += math.log(KAPPA[stack.activation](1.0))", "gain += 0",
           ("growth-constant",)),
    Mutant("no σ_w² in the bounds", "bounds.bounds", " + math.log(stack.weight_variance)", "", ("growth-constant",)),
    Mutant("the stream's gain linear in N", "learning_rate.ScalingRule.growth", "2 - 2 * self.loops",
           "1 - 2 * self.loops", ("completep",)),
    Mutant("the stream's gain in L like that in N", "learning_rate.ScalingRule.growth", "1 - 2 * self.layers",
           "2 - 2 * self.layers", ("completep",)),
    Mutant("λ for λ² in the limit", "loop_limit._trapezoid", "(strength / intervals) * (strength / intervals)",
           "strength / intervals / intervals", ("loop-limit",)),
    Mutant("no σ_w² in the limit", "loop_limit.branch_of", "return weight_variance * value[:, 0, 0]",
           "return value[:, 0, 0]", ("loop-limit",)),
    Mutant("the growth constant 2 for √2", "growth.growth_constant", "2 * scale * math.sqrt(gain)",
           "2 * scale * math.sqrt(2 * gain)", ("growth-constant",)),
    Mutant("α_c = 1 for layers", "growth.growth_exponents", "1.0 - 2.0 * number(", "1.0 - number(",
           ("factored-scaling",)),
    Mutant("α_c = ½ for loops", "growth.growth_exponents", '1.0 - number("loop', '1.0 - 2.0 * number("loop',
           ("factored-scaling",)),
    Mutant("the sign of the rate's exponents", "learning_rate.ScalingRule.learning_rate",
           "Exponents(self.layers - 1, self.loops - 1)", "Exponents(1 - self.layers, 1 - self.loops)",
           ("learning-rate",)),
    Mutant("a sign step as a gradient step", "learning_rate.step_size",
           "math.sqrt(found.groups[layer].kernel.matrices * part)", "part", ("learning-rate",)),
    # variances
    Mutant("no q0", "forward.initial_covariance", "stack.initial_variance", "1.0", ("looped-growth",)),
    Mutant("no σ_w² in the gradient", "branches.single.Single.slopes", "return self.weight_variance * slope",
           "return slope", ("gradient-growth",)),
    Mutant("no σ_1² before the gate", "branches.gated.Gated.covariance", "dual.value(self.hidden_variance * k",
           "dual.value(k", ("matrix-branches",)),
    Mutant("no σ_1² before the activation", "branches.mlp.Mlp.covariance", "dual.value(self.hidden_variance * k",
           "dual.value(k", ("matrix-branches",)),
    Mutant("no σ_1² in the state", "branches.mlp.Mlp.states", "self.hidden_variance * variance", "variance",
           ("matrix-branches",)),
    Mutant("no σ_1² in the gradient of gated branches", "branches.gated.Gated.slopes", ", self.hidden_variance",
           ", 1.0", ("matrix-branches",)),
    Mutant("no σ_1² in the gradient", "branches.mlp.Mlp.slopes", ", self.hidden_variance", ", 1.0",
           ("matrix-branches",)),
    # what a gradient passes
    Mutant("no pre-norm divisor in the gradient", "kernels.Elementwise.slopes", "Slopes(chain / divisors",
           "Slopes(chain + 0 * divisors", ("gradient-growth",)),
    Mutant("no post-norm divisor in the gradient", "backward.gradients",
           "outer = row[later + 1] / (found.divisors[a][:, None] * found.divisors[later][:, None, :])",
           "outer = row[later + 1]", ("gradient-growth",)),
    Mutant("no decay in the gradient", "backward.gradients", "carry = (visit.carry /", "carry = (1.0 /",
           ("gradient-growth",)),
    Mutant("no decay beside the gradient", "backward._gather", "-(carries / divisors[:, t])", "-(1 / divisors[:, t])",
           ("gradient-growth",)),
    Mutant("off by one visit, several layers, in the gradient", "backward._add_branch",
           "np.searchsorted(later, np.arange(a + 1, len(row)))", "np.searchsorted(later, np.arange(a, len(row) - 1))",
           ("gradient-growth",)),
    Mutant("no gradient through the injection", "backward._add_injected", "row[a] += cross + cross.T + ",
           "row[a] += 0 * ", ("gradient-growth",)),
    Mutant("the injected stream read before the prelude", "recursion._empty", "if visit.loop is not None), V)",
           "), 0)", ("gradient-growth",)),
    Mutant("no coda", "forward.predict", *_visits('stack.model_copy(update={"outer_scale": 0.0})'),
           ("gradient-growth",)),
    Mutant("half the slope of erf", "closed_kernels.Sigmoids.slope", "(2 / np.pi)", "(1 / np.pi)",
           ("gradient-growth",)),
    # branches of several matrices
    Mutant("no factor k in gated branches", "branches.gated.Gated.covariance",
           "self.hidden_variance * k * value", "self.hidden_variance * value", ("matrix-branches",)),
    Mutant("gates without their root", "closed_kernels.Gates.value", " + g * r)", ")", ("matrix-branches",)),
    Mutant("gates without their slope's last term", "closed_kernels.Gates.slope", " + t * (a + b + a * b * (1 + t**2))",
           "", ("matrix-branches",)),
    Mutant("only the last of two matrices in the tangent kernel", "branches.mlp.Mlp.slopes",
           "value + out * slope * k", "value", ("matrix-branches",)),
    Mutant("only the first and last of three matrices", "branches.gated.Gated.slopes",
           "out * (value + hidden * k * slope)", "out * hidden * k * slope", ("matrix-branches",)),
    # several inputs
    Mutant("other inputs under other weights", "recursion._add_branch", "row[a + 1] = _mirror(row[a]) + X[-1]",
           "row[a + 1] = _mirror(row[a]) + X[-1] * (X[-1] == X[-1][:1, :1])", ("several-inputs",)),
    Mutant("the square of the inputs' correlation", "forward.predict", "initial * distinct,", "initial * distinct**2,",
           ("several-inputs",)),
)  # fmt: skip

# Errors in what predicts Transformers. What moves little at a variance of the logits of 0.01 no claim can notice.
TRANSFORMERS = (
    Mutant("attention without its variance", "attention.Attention.forward", "self._square * ", "",
           ("norm-at-init",)),
    Mutant("v for v²", "attention.Attention._square", "self.variance * self.variance", "self.variance",
           ("norm-at-init",)),
    Mutant("queries that see the future", "attention.attention_state", "seen = np.tril(np.ones((tokens, tokens)))",
           "seen = np.ones((tokens, tokens))", ("norm-at-init",)),
    Mutant("queries that see themselves only", "attention.attention_state", "np.tril(np.ones((tokens, tokens)))",
           "np.eye(tokens)", ("norm-at-init",)),
    Mutant("no correlations in what is averaged", "attention._covariance", "np.stack((np.ones_like(cosine), cosine)",
           "np.stack((np.ones_like(cosine), np.ones_like(cosine))", ("norm-at-init",)),
    Mutant("no norm before attention", "kernels.PreNormAttention.forward",
           "_quotient(covariance, _outer(left[1], right[1]))", "covariance", ("norm-at-init",)),
    Mutant("every token unlike every other", "forward.initial_covariance", "tokens[:, None] == tokens[None, :]",
           "np.eye(len(tokens), dtype=bool)", ("increment-cosine",)),
    Mutant("an MLP as wide as the stream", "stack.LlamaStack.visits", "self.mlp_width * self.init_std**2", "variance",
           ("norm-at-init",)),
    Mutant("ReLU for SiLU", "stack.LlamaStack.visits", '"silu"', '"relu"', ("norm-at-init",)),
    Mutant("logits without variance", "attention.Attention.state", "self._logit_variance", "0.0",
           missing="wide initial weights: at v² = 2.7 (tests/test_attention.py) softmax is far from uniform"),
    Mutant("no rotation", "attention.Attention._rotation", "if self.rope", "if False",
           missing="wide initial weights, as above"),
)  # fmt: skip

# One constant of each derivation: file, what it says, what it says instead.
DERIVATIONS = (
    ("completep.py", "v * lam**2 / L,", "v * lam**2 / L**2,"),
    ("cone_gain.py", "d * (d + 5) / 4,", "d * (d + 5) / 8,"),
    ("cone_sum.py", "(n + 1) * d * m,", "(n + 2) * d * m,"),
    ("correlated_updates.py", "total = V + rho * V * (V - 1)", "total = V + rho * V * V"),
    ("deeploop.py", "C) ** Rational(3, 2),", "C) ** Rational(1, 2),"),
    ("erf_kernel.py", "4 / pi * exp(-(u**2) - v**2),", "2 / pi * exp(-(u**2) - v**2),"),
    ("factored_scaling.py", "growth = 1 + x**2 * N\n", "growth = 1 + x**2 * N / 2\n"),
    ("finite_width.py", "/ d ** (len(pairing) + 1)", "/ d ** len(pairing)"),
    ("gelu_kernel.py", "given_u = normal(k * u / q, 1 + s)", "given_u = normal(k * u / q, s)"),
    ("gradient_growth.py", "(1 + x**2 * N) ** other) / 2", "(1 + x**2 * N) ** other) / 3"),
    ("independent_growth.py", "Sum(s**2 / d * q, (j, 1, d))", "Sum(s / d * q, (j, 1, d))"),
    ("learning_rate.py", "gain ** (N - 1) * h,", "gain**N * h,"),
    ("loop_limit.py", "sqrt(q * p - m**2) / (4 * pi * q),", "sqrt(q * p - m**2) / (2 * pi * q),"),
    ("parcae.py", "(5 + sqrt(5)) / 4,", "(5 + sqrt(5)) / 2,"),
    ("positivity.py", "exp(alpha**2 / 2),", "exp(alpha**2),"),
    ("power_law_correlations.py", "power * h * at ** (power - 1),", "power * h * at**power,"),
    ("pre_norm_growth.py", "1 + t * N**2 * L / 2,", "1 + t * N**2 * L / 3,"),
    ("relu_kernel.py", "(pi - theta) * cos(theta)\n", "theta * cos(theta)\n"),
    ("relu_kernel_bounds.py", "KAPPA - cos(theta) / 2,", "KAPPA - cos(theta),"),
    ("tied_linear_growth.py", "in_the_limit(3, 3, s**6,", "in_the_limit(3, 3, 2 * s**6,"),
    ("tied_relu_growth.py", "1 + x**2 * Sum(cov(i, j),", "1 + 2 * x**2 * Sum(cov(i, j),"),
)
