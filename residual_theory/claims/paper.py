"""What arXiv:2606.18524 states and shows, in the order in which claims and figures are listed by it.

Theorem by theorem, each before what rests on it, then figure by figure.
"""

from residual_theory.errors import InputError

PAPER = "arXiv:2606.18524"
PLACES = {
    "§3": "updates through shared weights add like N, independent ones like √N",
    "App. A.1": "untied layers: bounded for ε = L^-α with α ≥ ½",
    "§3.2": "R² as its start, a cross term and a sum of updates; positive activations suffice and are not necessary",
    "Lemma 4": "a sum of N nonnegative vectors is of order N",
    "Lemma 5": "what a Gaussian matrix makes of nonnegative vectors, at least and at most",
    "Theorem 1": "one layer looped N times is bounded only if εN is",
    "App. A.2": "the updates of all visits overlap by a fixed share",
    "Theorem 2": "an optimizer step moves the output by at most a multiple of ηεN",
    "App. A.3": "where visits agree that is the order, so that η ∝ N^(α−1) under ε = N^-α",
    "Theorem 3": "L layers looped N times are bounded under ε = λ/(N√L)",
    "Theorem 6": "Theorem 3 in full: its assumptions, and both sides for small λ",
    "Proposition 7": "an optimizer step of L layers moves the output by at most a multiple of ηεNL",
    "Fig. 1": "schematic: independent updates against aligned ones",
    "Fig. 2": "the norm of the stream against depth and loops under six rules, in the first ten steps",
    "Fig. 3": "cosines between increments after ten steps, untied and tied",
    "Fig. 4": "how far one step moves the final state, against N",
    "Fig. 5": "validation loss against the learning rate for several N and L",
    "§5.2": "validation losses under 1/N and 1/√N",
    "Fig. 6": "cosines between increments after training, N = 8",
    "Fig. 7": "the norm of the stream against the loop after training",
    "Fig. 8": "Fig. 6 at N = 4",
    "Fig. 9": "Fig. 4 at each of the first ten steps",
    "Tables": "how residual scale, rates and Adam's ε of the language models depend on N and L",
}


def places_of(paper: tuple[str, ...] | str) -> tuple[str, ...]:
    """The places that something belongs to: none, or those given, in the paper's order.

    Raises: InputError for a place that the paper does not have.

    >>> places_of("Theorem 1"), places_of(("Fig. 4", "Theorem 2")), places_of(())
    (('Theorem 1',), ('Theorem 2', 'Fig. 4'), ())
    """
    given = paper if isinstance(paper, tuple) else (paper,)
    for place in given:
        if not isinstance(place, str) or place not in PLACES:
            raise InputError("paper", place, f"choose from {', '.join(PLACES)}")
    return tuple(place for place in PLACES if place in given)
