"""Errors to plant in what measures models."""

from tests.mutation.unit_mutant import UnitMutant as M

NORM = ("norm-at-init",)
COSINE = ("increment-cosine",)

MOMENTS = (
    M("visits pooled", "measure.moments._products", "h @ h.mT", "h.mean(1, keepdim=True).expand_as(h) @ h.mT", NORM),
    M("changes from the last loop's end", "measure.moments._products", "_a - begun",
      "_a - torch.cat([begun[:, :1], h[:, layers:-layers:layers]], 1)"),
    M("measured cosines over one length only", "measure.moments._cosines", "_a / length[:, None, :]", "_a", COSINE),
    M("samples by groups weighted alike", "measure.moments._Average.add", "step * (count / total)", "step / 2"),
    M("the spread within groups alone", "measure.moments._Average.add", "scatter + _a", "scatter"),
    M("measured spreads for standard errors", "measure.moments._Average.stderr",
      "self._deviation / self._count ** 0.5", "self._deviation"),
    M("a gradient's mean square for its square", "measure.moments.gradient_statistics", "_a.square().sum(1)",
      "_a.square().mean(1)"),
    M("sketched lengths beside exact ones", "measure.moments._with_lengths",
      "exact.diagonal(dim1=1, dim2=2).copy_(squares)", "None"),
    M("padding counted", "measure.mask.Mask.__call__", "stream.masked_fill(_a, 0)", "stream"),
    M("means over padding, too", "measure.mask.Mask.entries", "whole * _a", "whole"),
    M("mean squares of whole samples", "measure.mask.Mask.mean_square", "_a / self.entries(_b)",
      "_a / torch.Size(stream.shape[1:]).numel()"),
    M("positions that stayed counted as updated", "measure.mask.Mask.updated_square", "stream != before",
      "stream == before"),
)  # fmt: skip

RECORDER = (
    M("snapshots that change with the stream", "measure.recorder.Recorder._snapshot", "kept.clone()", "kept"),
    M("a stream changed in place taken for what was left", "measure.recorder.Recorder.is_what_was_left",
      "given._version == self._left[1]", "True"),
    M("every visit's input taken for what was left", "measure.recorder.Recorder.is_what_was_left",
      "identical(self.mask(stream.detach()), self.after[-1])", "True"),
    M("gradients of the block's own output", "measure.recorder.Recorder.finish",
      "self.edges[place + 1] = junction.edge", "pass"),
    M("a single injection taken for the model's own update", "measure.recorder.Recorder._to_follow", "not any(mixed)",
      "False"),
    M("the last visit's output never followed", "measure.recorder.Recorder._follow_last",
      "self._take_last(place, seen, junction)", "None"),
    M("a sketch without signs", "measure.sketch.Sketch.__init__", "sign.mul_(2).sub_(1)", "sign.mul_(0).add_(1)"),
    M("a sketch halved within buckets", "measure.sketch.halved", "sketch.view(len(sketch), 2, -1).sum(1)",
      "sketch.view(len(sketch), -1, 2).sum(2)"),
    M("one sign for all samples", "measure.sketch.Sketch.__call__", "self.sign[start:start + step]", "self.sign[:1]"),
)  # fmt: skip

PROBE = (
    M("a probe's readout of whatever length", "measure.probe._gradients",
      "readout.flatten(1).norm(dim=1).view(_a, *_b)", "1.0"),
    M("one readout for all seeds", "measure.probe._gradients", "_a.manual_seed(seed)", "_a.manual_seed(0)"),
    M("unchanged visits counted as changed", "measure.probe._attributes", "entered is not left", "entered is left"),
    M("padding in the readout", "measure.probe._gradients", "recorder.mask(readout)", "readout"),
    M("the map of all loops for the last", "measure.probe._loop_map", "len(recorder.calls) // loops",
      "len(recorder.calls)"),
    M("the share kept for the share updated", "measure.updates._masked", "~kept", "kept"),
    M("a mixture's rounding for its change", "measure.updates._mixed", "float(rest.norm()) > _a", "False"),
    M("the output's multiple taken for a mixture", "measure.updates.update_outside", "_is_multiple(_a)", "False"),
    M("gates looked at on a sample only", "measure.updates._gated", "_holds(1 - gate, gate, rows)", "True"),
    M("nested blocks counted twice", "measure.visits.Visits.enter", "len(self.calls) > self._ended", "False"),
    M("a stream of another shape taken", "measure.visits.Visits._checked", "shape != self.shape", "False"),
    M("an unclear stream guessed", "measure.visits.Visits._told", "moved if len(moved) == 1 else found", "moved[:1]"),
    M("random numbers of the model's run kept", "measure.running.running",
      "stack.enter_context(torch.random.fork_rng(devices=_a))", "None"),
    M("the block called once", "measure.repeated.find_block", "count > 1", "count > 2"),
    M("inner blocks for outer ones", "measure.repeated.find_block", "not again & set(around)",
      "not again - set(around) - {module}"),
    M("a star over several parts of a name", "measure.blocks._fits", "_a and fnmatchcase(_b, _c) and _d",
      'fnmatchcase(".".join(name), ".".join(pattern))'),
    M("layers in order of their names", "measure.blocks._matches", "int(part) if part.isdigit() else part", "part"),
    M("sums for means in the rms", "measure.changes._rms", "_a.square().mean()", "_a.square().sum()"),
    M("changes since the input", "measure.changes._Sizes.read", "self.start[index]", "self.start[0]"),
    M("a model in training mode", "measure.changes.sizes_and_changes", "model.eval()", "None"),
)  # fmt: skip

SHARING = (
    M("layers by any weights in common", "measure.sharing.WeightLog.sharing", "best >= _SAME", "best > 0"),
    M("views of one storage as one parameter", "measure.sharing.WeightLog._key",
      "(self._storages.setdefault(storage.cdata, storage).cdata, tensor.storage_offset(), tensor.numel())",
      "(self._storages.setdefault(storage.cdata, storage).cdata, tensor.numel())"),
    M("no loop of two", "measure.sharing.whole_loops", "visits // 2 + 1", "visits // 2"),
    M("any order as whole loops", "measure.sharing.whole_loops", "calls[period:] == calls[:-period]", "True"),
    M("constant matrices as copies", "measure.sharing._is_copy", "bool(_a)", "True"),
    M("weights looked up once a block", "measure.sharing.WeightLog.note", "self._last[block][0] == glance", "True"),
)  # fmt: skip

LOOP_MAP = (
    M("an eigenvalue's real part", "measure.loop_map.loop_map", "abs(value)", "value.real"),
    M("the error of half the eigenvector", "measure.loop_map._largest_eigenvalue",
      "float(np.linalg.norm(image - value * vector))", "0.0"),
    M("the map for its transpose", "measure.loop_map._largest_singular_value", "operator.matvec(right[0])",
      "operator.rmatvec(right[0])"),
    M("the square of the norm", "measure.loop_map._largest_singular_value", "(square ** 0.5, _a)", "(square, _a)"),
    M("a growth from the first products", "measure.loop_map._by_powers", "(float(np.exp(last)), _a)",
      "(float(np.exp(before)), _a)"),
)  # fmt: skip

MEASURE = (*MOMENTS, *RECORDER, *PROBE, *SHARING, *LOOP_MAP)
