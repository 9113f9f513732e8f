"""Prove, simulate and measure how residual streams grow in looped (weight-tied) networks."""

from typing import TYPE_CHECKING

from residual_theory.lazy import attach

if TYPE_CHECKING:
    from residual_theory.applied.verify import verify_applied as verify_applied
    from residual_theory.coordinate.check import coordinate_check as coordinate_check
    from residual_theory.diagnosis.diagnose import diagnose as diagnose
    from residual_theory.errors import InputError as InputError
    from residual_theory.errors import ResidualTheoryError as ResidualTheoryError
    from residual_theory.measure.probe import probe as probe
    from residual_theory.montecarlo.simulate import simulate as simulate
    from residual_theory.stack import LlamaStack as LlamaStack
    from residual_theory.stack import Stack as Stack
    from residual_theory.statistics.comparison import Verdict as Verdict
    from residual_theory.statistics.comparison import compare as compare
    from residual_theory.theory.forward import predict as predict
    from residual_theory.theory.recommend import recommend as recommend
    from residual_theory.transformer.groups import parameter_groups as parameter_groups

    __all__: list[str]
else:  # hidden from a type checker, which would take any name for one of the package's
    __getattr__, __dir__, __all__ = attach(
        __name__,
        {
            "coordinate.check": "coordinate_check",
            "diagnosis.diagnose": "diagnose",
            "errors": "InputError ResidualTheoryError",
            "applied.verify": "verify_applied",
            "measure.probe": "probe",
            "montecarlo.simulate": "simulate",
            "stack": "LlamaStack Stack",
            "statistics.comparison": "Verdict compare",
            "theory.forward": "predict",
            "theory.recommend": "recommend",
            "transformer.groups": "parameter_groups",
        },
    )
