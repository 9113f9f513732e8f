"""What the loop's linearised map says: whether a small disturbance of the stream dies, drifts, turns or grows."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from residual_theory.diagnosis.trajectory import Estimate, Trajectory

_TURNS = 0.1  # radians a loop
_NEAR = 0.3  # of R: so far from its rest the stream is where the map was linearised
_FASTER = 3.0  # times the growth seen


@dataclass(frozen=True)
class LoopMap:
    """radius, norm: ρ(J) and ‖J‖ of the last loop's Jacobian. angle: of the eigenvalue, in radians; 0 if unknown."""

    radius: Estimate
    norm: Estimate
    angle: float

    @classmethod
    def of(cls, attrs: Mapping[Any, Any]) -> "LoopMap | None":
        """From the attributes of a probe with `loop_map`; None where there are none."""
        if not {"loop_radius", "loop_norm"} <= set(attrs):
            return None
        return cls(_estimate(attrs, "radius"), _estimate(attrs, "norm"), float(attrs.get("loop_angle", 0.0)))

    @property
    def regime(self) -> str:
        """What becomes of a small disturbance of the last stream, in a sentence without a stop."""
        rate = f"{self.radius.value:.3g} a loop"
        turning = ", to and fro" if self.angle > math.pi - _TURNS else ", turning" if self.angle > _TURNS else ""
        if self.radius.high < 1:
            most = f" after growing by up to {self.norm.value:.3g} at first" if self.norm.low > 1 else ""
            return f"a small disturbance of the stream settles, × {rate}{turning}{most}"
        if self.radius.low > 1:
            return f"a small disturbance of the stream grows, × {rate}{turning}"
        return f"a small disturbance of the stream {'oscillates' if turning else 'drifts'}, × {rate}{turning}"

    def rest(self, path: Trajectory) -> float:
        """How far the stream still goes, by the map as it is; infinite where it does not contract."""
        ratio = self.radius.high
        return float(path.sizes[-1]) * ratio / (1 - ratio) if ratio < 1 else math.inf

    def settles(self, path: Trajectory) -> bool:
        """Whether the map contracts, and the rest is near enough for it to hold."""
        return self.rest(path) < _NEAR * math.sqrt(path.squares[-1])

    def warning(self, law: str, rate: Estimate, steps: int) -> str:
        """Where the map is at odds with what was seen; "" where it is not."""
        grows = math.log(self.radius.low) if self.radius.low > 1 else 0.0
        if law in ("bounded", "normalised") and grows > 1 / steps:
            return f"the stream holds its size, yet {self.regime}: another input or more loops may lead elsewhere"
        if law == "exponential" and self.radius.high < 1:
            return f"growth may end soon, for at the last stream {self.regime}"
        if law not in ("bounded", "normalised", "exponential") and grows > _FASTER * max(rate.high, 1 / steps):
            return f"forecasts may be too low, for at the last stream {self.regime}, faster than any growth seen"
        return ""


def _estimate(attrs: Mapping[Any, Any], name: str) -> Estimate:
    value, error = float(attrs[f"loop_{name}"]), float(attrs[f"loop_{name}_error"])
    return Estimate(value, value - error, value + error)
