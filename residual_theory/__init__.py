"""Prove, simulate and measure how residual streams grow in looped (weight-tied) networks."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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

_MODULES = {  # where each name comes from; imported at its first use, since torch takes seconds to import
    "InputError": "errors",
    "LlamaStack": "stack",
    "ResidualTheoryError": "errors",
    "Stack": "stack",
    "Verdict": "statistics.comparison",
    "compare": "statistics.comparison",
    "coordinate_check": "coordinate.check",
    "diagnose": "diagnosis.diagnose",
    "parameter_groups": "transformer.groups",
    "predict": "theory.forward",
    "probe": "measure.probe",
    "recommend": "theory.recommend",
    "simulate": "montecarlo.simulate",
    "verify_applied": "measure.applied",
}
__all__ = list(_MODULES)

if not TYPE_CHECKING:  # a type checker would take any name for one of the package's

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
