"""What claims share: merging the observations of several rounds."""

import numpy as np

from residual_theory.observables import dataset
from residual_theory.verify.claim import Observation
from residual_theory.verify.experiments import pooled


def test_rounds_are_merged_and_keep_what_is_no_mean() -> None:
    def observation(first: int, value: float) -> Observation:
        result = dataset({"second_moment": np.array([value])}, stderr={"second_moment": np.array([0.1])}, samples=4)
        read = result.assign(tokens=(("window", "position"), np.array([[3, 5]])))
        return Observation({"instrument": "probe", "first_model": first, "width": 8}, read)

    (merged,) = pooled([observation(0, 1.0), observation(4, 2.0)], "first_model")
    assert merged.result.tokens.values.tolist() == [[3, 5]]
    assert int(merged.result.samples) == 8
    assert float(merged.result.second_moment[0]) == 1.5
