"""Errors to plant in what simulates random stacks."""

from tests.mutation.unit_mutant import UnitMutant as M

GRADIENTS, GROWTH, LAWS = ("gradient-growth",), ("looped-growth",), ("finite-width",)

MATRIX_FREE = (
    M("products with W not conditioned on those with its transpose", "montecarlo.matrix_free.MatrixFree._one",
      "self._condition(_a, _b, _c, _d, _e, _f)", "None", GRADIENTS),
    M("what was drawn along the other side's rows kept", "montecarlo.matrix_free.MatrixFree._condition",
      "known - leaving.along(image)", "known", GRADIENTS),
    M("rows of the other side without what the basis knows", "montecarlo.matrix_free.MatrixFree._condition",
      "leaving.products(z) - _products(_a, _b)", "leaving.products(z)", GRADIENTS),
    M("rows of the other side not per unit vector", "montecarlo.matrix_free.MatrixFree._condition",
      "_a * share[:, None]", "_a", GRADIENTS),
    M("products of both sides not noted", "montecarlo.matrix_free.MatrixFree._condition",
      "between[:, :, k] = known", "between[:, :, k] = 0 * known", GRADIENTS),
    M("gradients in the order of the forward pass", "montecarlo.matrix_free.MatrixFree.gradient_square",
      "self._right.by_call(inputs)[:, self._calls]", "self._right.by_call(inputs)", GRADIENTS),
    M("the antithetic matrix is the matrix", "montecarlo.matrix_free.MatrixFree._one", "image.neg_()", "image"),
    M("an input's whole norm as its new part", "montecarlo.matrix_free._Side.resolve",
      "noted[:, k] = size", "noted[:, k] = norm.sqrt()", GROWTH),
    M("a basis that is not orthogonal", "montecarlo.matrix_free._Side.keep", "inside * -share[:, None]",
      "0 * inside", GROWTH),
    M("a path continued by its last input", "montecarlo.matrix_free._Path.suggest", "2.0", "1.0", GROWTH),
    M("the last step added where it is to be taken off", "montecarlo.matrix_free._Path.remainder",
      "torch.sub(step, _a, out=here)", "torch.add(step, _a, out=here)", GROWTH),
    M("the tolerance of a norm asked of its square", "montecarlo.matrix_free._Side._judge",
      "self._tolerance ** 2 * n", "self._tolerance * n"),
    M("never a second pass", "montecarlo.matrix_free._Side._judge", "rest < _INDEPENDENT * z", "False"),
    M("coordinates left in other units", "montecarlo.matrix_free._Side.resolve",
      "noted[:, :k + 1] *= scale[:, None]", "pass"),
)  # fmt: skip

DENSE = (
    M("the dense antithetic matrix is the matrix", "montecarlo.dense.Dense.__init__", "self.matrix.neg_()", "None"),
    M("a dense matrix sends back its own product", "montecarlo.dense.Dense.multiply_transposed",
      "torch.bmm(u, self.matrix)", "torch.bmm(u, self.matrix.mT)"),
    M("dense gradients without products of different calls", "montecarlo.dense.Dense.gradient_square",
      "_a.sum(dim=(2, 3))", "_a.diagonal(dim1=2, dim2=3).sum(2)"),
    M("the dense gradient's sign", "montecarlo.dense.Dense.gradient", "cotangents.mT @ _a", "-cotangents.mT @ _a",
      ("learning-rate",)),
)  # fmt: skip

STREAMS = (
    M("the input injected as it enters the prelude", "montecarlo.streams.ForwardPass.__init__",
      "self.streams[stack.loop_ends[0]]", "self.streams[0]", GRADIENTS),
    M("no variance in the tangent kernel", "montecarlo.streams.ForwardPass.backward",
      "_a.gradient_square(inputs) / matrix.variance", "_a.gradient_square(inputs)", GRADIENTS),
    M("only the last matrix in the tangent kernel", "montecarlo.streams.ForwardPass.backward",
      "kernel += _a", "kernel = _a", GRADIENTS),
    M("a readout of whatever length", "montecarlo.streams.ForwardPass.backward", "readout / _a", "readout", GRADIENTS),
    M("no carry", "montecarlo.streams._follow", "stream * visit.carry if _a else stream", "stream", ("parcae",)),
    M("the injection without its factor", "montecarlo.streams._follow", "visit.injection * entered", "entered",
      ("parcae",)),
    M("no pre-norm", "montecarlo.streams._follow", "_normalise(stream, branch.epsilon)", "stream", GROWTH),
    M("no post-norm", "montecarlo.streams._follow",
      "_normalise(following) if visit.normalized else following", "following", ("deeploop",)),
    M("norms to length one", "montecarlo.streams._normalise",
      "math.sqrt(stream.shape[2]) / _a", "1 / _a", GROWTH),
    M("every cotangent that of the first product", "montecarlo.streams._Multiply.backward", "ctx.call", "0", GRADIENTS),
    M("one-sided differences over two steps", "montecarlo.streams._ActivateOwn.backward", "2 * step", "step"),
    M("as many products as visits, for several inputs", "montecarlo.streams.most_products", "inputs * _a", "_a"),
)  # fmt: skip

VALUES = (
    M("cosines one visit early", "montecarlo.values.values", "slice(ends[0] + 1, ends[-1] + 1)",
      "slice(ends[0], ends[-1])", ("increment-cosine",)),
    M("cosines over one size only", "montecarlo.values._increment_cosines",
      "_a / sizes[:, :, :, None] / sizes[:, :, None, :]", "_a / sizes[:, :, :, None] / sizes[:, :, :, None]",
      ("increment-cosine",)),
    M("gradients summed over inputs", "montecarlo.values.values", "backward.gradients.double().mean(dim=2)",
      "backward.gradients.double().sum(dim=2)"),
    M("tangent kernels summed over inputs", "montecarlo.values.values", "backward.tangent_kernel.double().mean(dim=1)",
      "backward.tangent_kernel.double().sum(dim=1)"),
    M("an overflow spoils the loop after it", "montecarlo.values.spoil", "np.searchsorted(ends[1:], visit)",
      "np.searchsorted(ends, visit)"),
    M("changes from the start for changes from visit to visit", "montecarlo.values._gram",
      "after.sub_(before)", "after.sub_(by_visit[0])", GROWTH),
    M("antithetic pairs by their first run", "montecarlo.values.average",
      "np.mean([run[name] for run in runs], axis=0)", "runs[0][name]"),
)  # fmt: skip

RANDOM = (
    M("every trial draws the same numbers", "montecarlo.randomness.Normals.__init__",
      "(*key, trial % 2 ** 32, trial // 2 ** 32)", "(*key, 0, 0)", GROWTH),
    M("trials beyond 32 bits repeat", "montecarlo.randomness.Normals.__init__", "trial // 2 ** 32", "0"),
    M("all pieces of a vector alike", "montecarlo.randomness.Normals._entropy", "(*key, piece)", "(*key, 0)"),
    M("the last piece for the sum over pieces", "montecarlo.randomness.Rows.total", "first + other", "other"),
)  # fmt: skip

TRIALS = (
    M("a run's first trials from the start of their block", "montecarlo.trials._draw_block",
      "max(trials.start - start, 0)", "0"),
    M("the input's variance for its root", "montecarlo.trials._run", "start *= stack.initial_variance ** 0.5",
      "start *= stack.initial_variance", LAWS),
    M("correlations for their root", "montecarlo.trials._run", "_root(_a).to(start)", "torch.from_numpy(_a).to(start)",
      ("several-inputs",)),
    M("the control as it enters", "montecarlo.trials._part", 'other["second_moment"][:, -1]',
      'other["second_moment"][:, 0]'),
    M("pairs that are not antithetic", "montecarlo.trials._part", "(1, -1)", "(1, 1)"),
    M("later trials drawn again", "montecarlo.simulate._Estimate.after", "self._first + self.samples", "self._first"),
    M("earlier trials counted again", "montecarlo.simulate._estimate", "estimate.after(total - known)",
      "estimate.after(total)"),
    M("a run goes on where its samples, not its trials end", "montecarlo.plan.next_trial",
      "int(first) + int(samples)", "int(samples)"),
    M("the largest trial is that of the last block", "montecarlo.simulate._Estimate._take",
      "np.fmax(self._largest, _a)", "_a"),
    M("a control's mean checked from above only", "montecarlo.simulate._Estimate._check_control",
      "abs(mean - known)", "mean - known"),
    M("matrix-free at a width of as many products", "montecarlo.plan.make_plan", "width <= products",
      "width < products"),
    M("later rounds of a claim draw the first trials again", "claims.stacks.trials",
      "(first * 2 ** (number - 1), _a)", "(0, _a)"),
)  # fmt: skip

ESTIMATES = (
    M("standard errors halved", "montecarlo.estimate.Moments.stderr", "np.sqrt(_a)", "np.sqrt(_a) / 2",
      ("looped-growth", "finite-width")),
    M("standard deviations for standard errors", "montecarlo.estimate.Moments.stderr", "_a / self.count", "_a",
      GROWTH),
    M("Chan's update without the shift of means", "montecarlo.estimate._Running._combine",
      "one[2] + other[2] + _a", "one[2] + other[2]"),
    M("means of parts weighted alike", "montecarlo.estimate._Running._combine", "shift * (other[0] / total)",
      "shift / 2"),
    M("a control's coefficient from the same half", "montecarlo.estimate.ControlledMoments._estimate",
      "other.coefficient(_a)", "half.coefficient(_a)"),
    M("half the covariance in the controlled error", "montecarlo.estimate.ControlledMoments._estimate",
      "2 * coefficient * _a", "coefficient * _a"),
    M("heavy tails by 1/n for 1/√n", "montecarlo.estimate.is_heavy_tailed", "TAIL_THRESHOLD / math.sqrt(count)",
      "TAIL_THRESHOLD / count"),
    M("pooled variances of one sample too many", "montecarlo.estimate.pool", "variance * (count - 1)",
      "variance * count"),
    M("a pool's smallest largest trial", "montecarlo.estimate._tails", "max(values)", "min(values)"),
    M("errors of the limit without their unit", "montecarlo.extrapolation._first_coefficient",
      "np.sqrt(_a) * unit[..., 0]", "np.sqrt(_a)"),
    M("a parabola through four widths", "montecarlo.extrapolation._terms", "len(inverse) >= 5", "len(inverse) >= 4"),
    M("a parabola through two widths", "montecarlo.extrapolation.width_bias", "len(np.unique(inverse)) >= 3",
      "len(np.unique(inverse)) >= 2", LAWS),
    M("samples in proportion to the error", "montecarlo.target._shortfall", "_a ** 2", "_a"),
    M("a share of the smallest element", "montecarlo.target._shortfall", "magnitudes.max()", "magnitudes.min()"),
)  # fmt: skip

STEPS = (
    M("sign steps without the entries' size", "montecarlo.steps._descend",
      "rate / math.sqrt(variance * gradient.shape[2]) * _a", "rate / math.sqrt(gradient.shape[2]) * _a"),
    M("gradient steps without the entries' variance", "montecarlo.steps._descend", "rate / variance * gradient",
      "rate * gradient"),
    M("the change's length for its root mean square", "montecarlo.steps.optimizer_step", "float(size) / _a",
      "float(size)", ("learning-rate",)),
    M("weights that drift half as fast", "montecarlo.steps.drifting_weights", "_a ** -exponent",
      "_a ** (-exponent / 2)", ("correlated-updates",)),
)  # fmt: skip

MONTECARLO = (*MATRIX_FREE, *DENSE, *STREAMS, *VALUES, *RANDOM, *TRIALS, *ESTIMATES, *STEPS)
