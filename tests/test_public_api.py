"""The public face, pinned: names and signatures that users rely on."""

import inspect

import residual_theory as rt

SIGNATURES = {
    "predict": ["stack", "inputs", "with_gradients"],
    "simulate": [
        "stack",
        "width",
        "samples",
        "seed",
        "method",
        "device",
        "dtype",
        "memory_budget",
        "first_trial",
        "with_gradients",
        "inputs",
        "target_stderr",
        "max_samples",
        "earlier",
        "antithetic",
        "control",
        "tolerance",
    ],
    "probe": [
        "model",
        "block",
        "inputs",
        "stream",
        "mask",
        "with_gradients",
        "loss",
        "increments",
        "loop_map",
        "memory",
        "seed",
    ],
    "diagnose": ["probed", "loops", "unique_layers", "level"],
    "verify_applied": [
        "model",
        "rule",
        "block",
        "inputs",
        "stream",
        "branches",
        "loops",
        "unique_layers",
        "modes",
        "tolerance",
    ],
    "coordinate_check": [
        "make",
        "block",
        "loops",
        "unique_layers",
        "inputs",
        "targets",
        "loss",
        "optimizer",
        "steps",
        "seeds",
        "margin",
        "alpha",
        "progress",
    ],
    "parameter_groups": [
        "model",
        "blocks",
        "learning_rate",
        "weight_decay",
        "adam_epsilon",
        "block_rate",
        "block_epsilon",
        "block_decay",
        "decay_gains",
    ],
    "compare": ["predicted", "observed", "observable", "margin", "alpha"],
    "recommend": ["loops", "unique_layers", "strength", "tuned_loops", "tuned_layers", "optimizer"],
}


def test_names() -> None:
    assert rt.__all__ == sorted(rt.__all__)
    assert set(rt.__all__) == {
        "InputError",
        "LlamaStack",
        "ResidualTheoryError",
        "Stack",
        "Verdict",
        "compare",
        "coordinate_check",
        "diagnose",
        "parameter_groups",
        "predict",
        "probe",
        "recommend",
        "simulate",
        "verify_applied",
    }
    assert all(hasattr(rt, name) for name in rt.__all__)


def test_signatures() -> None:
    names = {name: list(inspect.signature(getattr(rt, name)).parameters) for name in SIGNATURES}
    assert names == SIGNATURES
    assert list(rt.Stack.model_fields) == [
        "loops",
        "unique_layers",
        "residual_scale",
        "tied",
        "sharing",
        "activation",
        "branch",
        "normalization",
        "loop_normalization",
        "weight_variance",
        "hidden_variance",
        "initial_variance",
        "expansion",
        "skip",
        "carry",
        "injection",
        "prelude",
        "coda",
        "outer_scale",
    ]


def test_one_description_is_predicted_simulated_and_compared() -> None:
    stack = rt.Stack(loops=4, residual_scale="1/N", weight_variance=2.0, initial_variance=0.5)
    predicted = rt.predict(stack)
    observed = rt.simulate(stack, width=256, samples=200, seed=3)
    measured = set(predicted.data_vars) & set(observed.data_vars)
    assert measured == {"second_moment", "covariance", "increment_cosine"}
    assert all(predicted[name].dims == observed[name].dims for name in measured)
    assert rt.compare(predicted, observed, margin=0.1).verdict == "confirmed"
    untied = rt.predict(rt.Stack(loops=4, residual_scale="1/N", weight_variance=2.0, initial_variance=0.5, tied=False))
    assert rt.compare(untied, observed, margin=0.1).verdict == "refuted"
