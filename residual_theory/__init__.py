"""Prove, simulate and measure how residual streams grow in looped (weight-tied) networks."""

from residual_theory.coordinate.check import coordinate_check as coordinate_check
from residual_theory.diagnosis.diagnose import diagnose as diagnose
from residual_theory.errors import InputError as InputError
from residual_theory.errors import ResidualTheoryError as ResidualTheoryError
from residual_theory.measure.applied import verify_applied as verify_applied
from residual_theory.measure.probe import probe as probe
from residual_theory.montecarlo.simulate import simulate as simulate
from residual_theory.stack import LlamaStack as LlamaStack
from residual_theory.stack import Stack as Stack
from residual_theory.statistics.comparison import Verdict as Verdict
from residual_theory.statistics.comparison import compare as compare
from residual_theory.theory.forward import predict as predict
from residual_theory.theory.recommend import recommend as recommend
from residual_theory.transformer.groups import parameter_groups as parameter_groups

__all__ = [
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
]
