"""Errors to plant in what makes verdicts of samples, and in the description of stacks."""

from tests.mutation.unit_mutant import UnitMutant as M

GROWTH, VISITS = ("looped-growth",), "stack.Stack.visits"

FINDINGS = (
    M("one of two one-sided tests", "statistics.findings._p_values", "max(_a, default=1.0)", "min(_a, default=1.0)",
      GROWTH),
    M("two edges at the price of one", "statistics.findings._p_values", "len(inside) * refute_p", "refute_p", GROWTH),
    M("normal for Student", "statistics.findings._upper_p", "special.stdtr(degrees, _a)", "special.ndtr(_a)", GROWTH),
    M("two-sided p-values", "statistics.findings._upper_p", "special.stdtr(degrees, _a)",
      "2 * special.stdtr(degrees, _a)",
      GROWTH),
    M("one-sided intervals", "statistics.findings.Finding.interval", "0.5 + level / 2", "level", GROWTH),
    M("a degree of freedom too many", "statistics.findings.equivalence", "samples - 1", "samples", GROWTH),
    M("a degree of freedom too many between bounds", "statistics.findings.within", "samples - 1", "samples"),
    M("one finding confirms for all", "statistics.findings.Evidence.confirm_p", "max(_a)", "min(_a)", GROWTH),
    M("any of many findings refutes for free", "statistics.findings.Evidence.refute_p",
      "len(self.findings) * _a", "_a", GROWTH),
    M("no Holm", "statistics.findings.holm", "alpha / (len(p_values) - rank)", "alpha", GROWTH),
    M("Bonferroni for Holm", "statistics.findings.holm", "alpha / (len(p_values) - rank)", "alpha / len(p_values)",
      GROWTH),
    M("Holm goes on after the first that is kept", "statistics.findings.holm", "break", "continue"),
    M("confirmed and refuted exchanged", "statistics.findings.decide", '"confirmed" if confirmed else "refuted"',
      '"refuted" if confirmed else "confirmed"', GROWTH),
    M("both decided is confirmed", "statistics.findings.decide", "confirmed == refuted", "not (confirmed or refuted)"),
    M("differences' error of n for n − 1", "statistics.findings.positive", "sample.std(ddof=1)", "sample.std()"),
    M("a failed proof confirms", "statistics.findings.proof", "float(bool(failure))", "0.0"),
    M("the first finding shown", "statistics.findings.Evidence.decisive",
      "min(self.findings, key=lambda finding: finding.refute_p)", "self.findings[0]"),
)  # fmt: skip

LOOKS = (
    M("no payment for looks", "statistics.sequential.Looks._over_looks", "p / share", "p", GROWTH),
    M("error spent in proportion", "statistics.sequential.spent", "fraction ** 2", "fraction"),
    M("samples that grow evenly", "statistics.sequential.doubling", "2.0 ** (look + 1 - looks)",
      "(look + 1) / looks"),
    M("the share of the first look", "statistics.sequential.Looks.share", "len(self.evidence) - 1", "0"),
    M("the last look alone", "statistics.sequential.Looks._over_looks", "min(_a, default=1.0)",
      "(list(_a) or [1.0])[-1]"),
    M("looks beyond those planned", "statistics.sequential.Looks.and_at", "len(self.evidence) == len(self.shares)",
      "False"),
)  # fmt: skip

EXPONENTS = (
    M("bounds from all sizes", "statistics.exponents._side", "math.ceil(len(distinct) / 2)", "len(distinct)"),
    M("bounds widened by curvature", "statistics.exponents._side", "0.0", "MISFIT"),
    M("bounds by normal quantiles", "statistics.exponents._side", "min(slope.degrees, samples - 1)", "slope.degrees"),
    M("a misfit's degree of freedom too many", "statistics.exponents._slope", "len(points.x) - degree - 1",
      "len(points.x) - degree"),
    M("HC0 for HC3", "statistics.exponents._slope", "row * residuals / spare", "row * residuals"),
    M("errors of values for those of logarithms", "statistics.exponents._points", "Points(_a, _b, stderr / value)",
      "Points(_a, _b, stderr)"),
    M("the ends of a curve not asked", "statistics.exponents.growth_exponent",
      "max((item.confirm_p for item in (found, *others)))", "found.confirm_p"),
    M("late growth not asked", "statistics.exponents.paired_exponent", "max(line.confirm_p, last.confirm_p)",
      "line.confirm_p"),
    M("the spread over seeds for its mean's error", "statistics.exponents.paired_exponent",
      "slopes.std(1, ddof=1) / math.sqrt(count)", "slopes.std(1, ddof=1)"),
    M("the spread over seeds by n for n − 1", "statistics.exponents.paired_exponent",
      "slopes.std(1, ddof=1)", "slopes.std(1)"),
)  # fmt: skip

COMPARISONS = (
    M("diagonals left out", "statistics.comparison._findings", "index[-1] > index[-2]", "index[-1] >= index[-2]"),
    M("cosines with themselves counted", "statistics.comparison._findings", "index[0] == index[1]", "False"),
    M("a covariance's margin relative to itself", "statistics.comparison._scale",
      "np.asarray(sizes[..., :, None] * sizes[..., None, :])", "np.abs(law.values)"),
    M("an interval of one of many places", "statistics.comparison.compare", "1 - alpha / len(findings)", "1 - alpha"),
    M("the moment for its logarithm", "statistics.comparison.compare", "np.log(predicted.second_moment)",
      "predicted.second_moment"),
)  # fmt: skip

POWER = (
    M("rates by the normal law", "statistics.power.passing", "math.isinf(degrees)", "True"),
    M("refuting at one of several edges", "statistics.power.EdgeTest.refuted", "level / self.bounds", "level"),
    M("rates of looks that are not paid for", "statistics.power.EdgeTest._over_looks", "level * share", "level"),
    M("as many samples at every look", "statistics.power.EdgeTest._over_looks", "inside * math.sqrt(fraction)",
      "inside"),
    M("stricter tests confirm as often", "statistics.power.EdgeTest.confirmed",
      "Between(0.0, found.most) if self.stricter else found", "found"),
)  # fmt: skip

STATISTICS = (*FINDINGS, *LOOKS, *EXPONENTS, *COMPARISONS, *POWER)

STACK = (
    M("consecutive sharing as cyclic", "stack.Stack._weights", "place // self.loops", "place % self.unique_layers",
      ("correlated-updates",)),
    M("consecutive sharing in runs of L", "stack.Stack._weights", "place // self.loops", "place // self.unique_layers",
      ("correlated-updates",)),
    M("cyclic sharing over N", "stack.Stack._weights", "place % self.unique_layers", "place % self.loops",
      ("factored-scaling",)),
    M("untied stacks share", "stack.Stack._weights", "not self.tied", "False", ("correlated-updates",)),
    M("the loop norm after every visit", VISITS, "leaving and self.loop_normalization", "self.loop_normalization",
      ("deeploop", "gradient-growth")),
    M("the loop norm after the first layer", VISITS, "leaving and self.loop_normalization",
      "entering and self.loop_normalization", ("deeploop", "gradient-growth")),
    M("the carry of the last layer", VISITS, "place % L == 0", "place % L == L - 1", ("parcae", "gradient-growth")),
    M("no skip inside the loops", VISITS, "skip * (carry if entering else 1.0)", "carry if entering else 1.0",
      ("deeploop",)),
    M("injection at every visit", VISITS, "injection * entering", "injection", ("parcae", "gradient-growth")),
    M("prelude and coda at ε", VISITS, "Visit(branch, weights, outer, _a, None, carry=skip, normalized=post)",
      "Visit(branch, weights, epsilon, _a, None, carry=skip, normalized=post)", ("gradient-growth",)),
    M("prelude and coda share weights", VISITS, "-1 - self.prelude - i", "-1 - i", ("gradient-growth",)),
    M("prelude and coda without skip", VISITS,
      "Visit(branch, weights, outer, _a, None, carry=skip, normalized=post)",
      "Visit(branch, weights, outer, _a, None, carry=1.0, normalized=post)", ("gradient-growth",)),
    M("pre-norm only beside post-norm", "stack.Stack._branch_law", 'self.normalization.startswith("rms")',
      'self.normalization == "rms-post"', GROWTH),
    M("loops that begin at the input", "stack.Stack.loop_ends", "self.prelude + end", "end", ("increment-cosine",)),
    M("attention and MLP share weights", "stack.LlamaStack.visits", "layer * len(branches) + i", "layer"),
    M("blocks of a Llama tied where they are not", "stack.LlamaStack.visits",
      "block % self.unique_layers if self.tied else block", "block % self.unique_layers"),
    M("an MLP as wide as the stream", "stack.LlamaStack.visits", "self.mlp_width * _a", "variance"),
    M("rows of a layer for rows of a loop", "stack._Looped.loop_ends",
      "range(0, self.looped_blocks + 1, self.unique_layers)", "range(0, self.looped_blocks + 1, self.loops)"),
)  # fmt: skip
