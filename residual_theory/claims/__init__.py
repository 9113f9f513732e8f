"""Claims, what they measure, and how they are judged: all that a file of claims needs is imported from here."""

from typing import TYPE_CHECKING

from residual_theory.lazy import attach

if TYPE_CHECKING:
    from residual_theory.arrays import Array as Array
    from residual_theory.claims.claim import Claim as Claim
    from residual_theory.claims.claim import Parameters as Parameters
    from residual_theory.claims.claim import Record as Record
    from residual_theory.claims.claim import Round as Round
    from residual_theory.claims.claim import Twin as Twin
    from residual_theory.claims.growth import Curve as Curve
    from residual_theory.claims.growth import curves as curves
    from residual_theory.claims.growth import exponent as exponent
    from residual_theory.claims.growth import gain as gain
    from residual_theory.claims.growth import typical_norm as typical_norm
    from residual_theory.claims.stacks import Draws as Draws
    from residual_theory.claims.stacks import FittedSizes as FittedSizes
    from residual_theory.claims.stacks import Limit as Limit
    from residual_theory.claims.stacks import Positive as Positive
    from residual_theory.claims.stacks import StackLaw as StackLaw
    from residual_theory.claims.stacks import StackParameters as StackParameters
    from residual_theory.claims.stacks import WideParameters as WideParameters
    from residual_theory.claims.stacks import at_infinite_width as at_infinite_width
    from residual_theory.claims.stacks import at_large_width as at_large_width
    from residual_theory.claims.stacks import elements as elements
    from residual_theory.claims.stacks import gains as gains
    from residual_theory.claims.stacks import label as label
    from residual_theory.claims.stacks import limits as limits
    from residual_theory.claims.stacks import own_trials as own_trials
    from residual_theory.claims.stacks import separate_simulations as separate_simulations
    from residual_theory.claims.stacks import simulations as simulations
    from residual_theory.claims.stacks import stack_claim as stack_claim
    from residual_theory.claims.stacks import trials as trials
    from residual_theory.claims.stacks import untied as untied
    from residual_theory.claims.stacks import wide_simulations as wide_simulations
    from residual_theory.claims.trainings import Rates as Rates
    from residual_theory.claims.trainings import Seeds as Seeds
    from residual_theory.claims.trainings import SweepParameters as SweepParameters
    from residual_theory.claims.trainings import TrainingParameters as TrainingParameters
    from residual_theory.claims.trainings import at_best as at_best
    from residual_theory.claims.trainings import from_one as from_one
    from residual_theory.claims.trainings import losses as losses
    from residual_theory.claims.trainings import lower as lower
    from residual_theory.claims.trainings import rate_exponent as rate_exponent
    from residual_theory.claims.trainings import runs_of as runs_of
    from residual_theory.claims.transformers import TransformerParameters as TransformerParameters
    from residual_theory.claims.transformers import predicted as predicted
    from residual_theory.claims.transformers import transformer as transformer
    from residual_theory.measurements.alignment import change_cosines as change_cosines
    from residual_theory.measurements.alignment import visit_alignment as visit_alignment
    from residual_theory.measurements.kinds import Assumptions as Assumptions
    from residual_theory.measurements.kinds import ConeGain as ConeGain
    from residual_theory.measurements.kinds import Diagnostic as Diagnostic
    from residual_theory.measurements.kinds import DriftingWeights as DriftingWeights
    from residual_theory.measurements.kinds import OfStacks as OfStacks
    from residual_theory.measurements.kinds import OptimizerStep as OptimizerStep
    from residual_theory.measurements.kinds import Prediction as Prediction
    from residual_theory.measurements.kinds import Probe as Probe
    from residual_theory.measurements.kinds import Proof as Proof
    from residual_theory.measurements.kinds import RedrawnBlocks as RedrawnBlocks
    from residual_theory.measurements.kinds import Simulation as Simulation
    from residual_theory.measurements.kinds import StepAssumptions as StepAssumptions
    from residual_theory.measurements.kinds import Training as Training
    from residual_theory.measurements.measurement import Measurement as Measurement
    from residual_theory.measurements.measurement import Observation as Observation
    from residual_theory.measurements.measurement import Observations as Observations
    from residual_theory.measurements.observations import has as has
    from residual_theory.measurements.observations import pooled as pooled
    from residual_theory.stack import Activation as Activation
    from residual_theory.stack import Count as Count
    from residual_theory.statistics.exponents import FEWEST_SIZES as FEWEST_SIZES
    from residual_theory.statistics.exponents import bounded as bounded
    from residual_theory.statistics.exponents import paired_exponent as paired_exponent
    from residual_theory.statistics.exponents import unbounded as unbounded
    from residual_theory.statistics.findings import Evidence as Evidence
    from residual_theory.statistics.findings import Finding as Finding
    from residual_theory.statistics.findings import computed as computed
    from residual_theory.statistics.findings import equivalence as equivalence
    from residual_theory.statistics.findings import positive as positive
    from residual_theory.statistics.findings import within as within
    from residual_theory.transformer.config import ModelConfig as ModelConfig
    from residual_theory.transformer.config import TrainConfig as TrainConfig

    __all__: list[str]
else:  # hidden from a type checker, which would take any name for one of the package's
    __getattr__, __dir__, __all__ = attach(
        __name__,
        {
            "arrays": "Array",
            "claims.claim": "Claim Parameters Record Round Twin",
            "claims.growth": "Curve curves exponent gain typical_norm",
            "claims.stacks": "Draws FittedSizes Limit Positive StackLaw StackParameters WideParameters "
            "at_infinite_width at_large_width elements gains label limits "
            "own_trials separate_simulations simulations stack_claim trials untied "
            "wide_simulations",
            "claims.trainings": "Rates Seeds SweepParameters TrainingParameters at_best from_one losses lower "
            "rate_exponent runs_of",
            "claims.transformers": "TransformerParameters predicted transformer",
            "measurements.alignment": "change_cosines visit_alignment",
            "measurements.kinds": "Assumptions ConeGain Diagnostic DriftingWeights OfStacks OptimizerStep Prediction "
            "Probe Proof RedrawnBlocks Simulation StepAssumptions Training",
            "measurements.measurement": "Measurement Observation Observations",
            "measurements.observations": "has pooled",
            "stack": "Activation Count",
            "statistics.exponents": "FEWEST_SIZES bounded paired_exponent unbounded",
            "statistics.findings": "Evidence Finding computed equivalence positive within",
            "transformer.config": "ModelConfig TrainConfig",
        },
    )
