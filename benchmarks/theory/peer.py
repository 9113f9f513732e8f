"""Kernels of untied residual stacks by neural-tangents, as golden numbers for tests/theory/test_peer.py.

neural-tangents is archived and needs an environment of its own:
  python3 -m venv peer && peer/bin/pip install -r benchmarks/theory/peer-requirements.txt
  peer/bin/python benchmarks/theory/peer.py tests/golden/neural_tangents.json
It knows no weight sharing: each visit has weights of its own.
"""

import json
import os
import sys
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import jax

jax.config.update("jax_enable_x64", True)

import neural_tangents
from jax import numpy as jnp
from neural_tangents import stax

NONLINEARITIES = {
    "relu": stax.Relu(),
    "leaky-relu": stax.LeakyRelu(0.01),
    "erf": stax.Erf(),
    "gelu": stax.Gelu(),
    "linear": stax.Identity(),
}
STACKS = [
    {"activation": name, "normalization": norm, "branch": branch, "unique_layers": layers, "residual_scale": scale}
    for name in NONLINEARITIES
    for norm, branch, layers, scale in (
        ("none", "single", 6, 0.4),
        ("none", "mlp", 4, 0.5),
        ("rms", "single", 8, 0.3),
        ("rms", "mlp", 3, 0.7),
    )
]
STACKS.append(
    {"activation": "relu", "normalization": "none", "branch": "single", "unique_layers": 64, "residual_scale": 0.125}
)
# one variance for all weights, so that the tangent kernels differ by that factor
VARIANCES = {"weight_variance": 1.7, "hidden_variance": 1.7, "initial_variance": 0.6}


def kernels(stack: dict) -> dict[str, float]:
    """The NNGP kernel of the last stream, and its tangent kernel for weights with independent N(0, 1) entries."""
    scale = stack["residual_scale"] * VARIANCES["weight_variance"] ** 0.5
    inner = [stax.Dense(1, W_std=VARIANCES["hidden_variance"] ** 0.5)] if stack["branch"] == "mlp" else []
    norm = [stax.LayerNorm(axis=-1, eps=0.0)] if stack["normalization"] == "rms" else []
    branch = stax.serial(*norm, *inner, NONLINEARITIES[stack["activation"]], stax.Dense(1, W_std=scale))
    visit = stax.serial(stax.FanOut(2), stax.parallel(stax.Identity(), branch), stax.FanInSum())
    # A Gaussian input of variance q0: a first dense layer makes one of the constant input. Its own tangent part is q0.
    first = stax.Dense(1, W_std=VARIANCES["initial_variance"] ** 0.5)
    _, _, kernel = stax.serial(first, *[visit] * stack["unique_layers"])
    found = kernel(jnp.ones((1, 4)), None, get=("nngp", "ntk"))
    return {"nngp": float(found.nngp[0, 0]), "ntk": float(found.ntk[0, 0])}


def main() -> None:
    """Write the golden numbers to the file named on the command line."""
    records = [{"stack": stack | VARIANCES, **kernels(stack)} for stack in STACKS]
    versions = {"neural-tangents": neural_tangents.__version__, "jax": jax.__version__}
    document = {"maker": "benchmarks/theory/peer.py", "versions": versions, "records": records}
    Path(sys.argv[1]).write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
