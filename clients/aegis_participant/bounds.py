"""Between which numbers DP-SGD keeps its promise on a site's rows.

Less noise than this protects nobody, and the accountant's table would fill the memory. Clip norms
are kept where float32 has its full precision: near its smallest number, clipping rounds up, every
coordinate by more than the norm, and a large learning rate makes that visible again.
"""

from __future__ import annotations

NOISE_MIN, NOISE_MAX = 0.1, 10_000.0
CLIP_NORM_MIN, CLIP_NORM_MAX = 1e-6, 1e6
STEPS_MAX = 1_000_000


def problem(noise: float, rate: float, clip_norm: float, steps: int) -> str | None:
    """Returns why these numbers protect nobody, or None."""
    if not NOISE_MIN <= noise <= NOISE_MAX:
        return f"a noise multiplier of {noise:g} is not from {NOISE_MIN} to {NOISE_MAX:,.0f}"
    if not 0 < rate <= 1:
        return f"a sample rate of {rate:g} is not above 0 and at most 1"
    if not CLIP_NORM_MIN <= clip_norm <= CLIP_NORM_MAX:
        return f"a clip norm of {clip_norm:g} is not from {CLIP_NORM_MIN:g} to {CLIP_NORM_MAX:,.0f}"
    if not 1 <= steps <= STEPS_MAX:
        return f"the number of steps is not from 1 to {STEPS_MAX:,}"
    return None
