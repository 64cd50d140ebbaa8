"""The rules by which others compare a kernel's result, each as they write it.

They are here to be scored beside the error budget; nothing in the harness judges by them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import torch
from torch.nn.functional import cosine_similarity

from harness import registry
from harness.arch import CPU
from harness.case import Case
from harness.precision import outputs_in
from harness.reference import dtype_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from harness.declare import Op
    from harness.domain import Size
    from harness.reference import Truth

    Rule = Callable[[Tensor, Tensor, Tensor], bool]


def close_by_default(actual: Tensor, expected: Tensor, _: Tensor) -> bool:
    """``torch.testing.assert_close`` as it is: tolerances by dtype, NaN equals nothing."""
    try:
        torch.testing.assert_close(actual, expected.to(actual.dtype))
    except AssertionError:
        return False
    return True


def allclose_hundredth(actual: Tensor, expected: Tensor, _: Tensor) -> bool:
    """``torch.allclose(atol=1e-2, rtol=1e-2)``."""
    return torch.allclose(actual.double(), _rounded(actual, expected), atol=1e-2, rtol=1e-2)


def allclose_tenth(actual: Tensor, expected: Tensor, _: Tensor) -> bool:
    """``torch.allclose(atol=0.1, rtol=0.1)``."""
    return torch.allclose(actual.double(), _rounded(actual, expected), atol=0.1, rtol=0.1)


def cosine(actual: Tensor, expected: Tensor, _: Tensor) -> bool:
    """Cosine similarity of the flattened results above 0.97."""
    flat = actual.double().flatten(), _rounded(actual, expected).flatten()
    return bool(cosine_similarity(*flat, dim=0) > 0.97)  # noqa: PLR2004


def cosine_difference(actual: Tensor, expected: Tensor, _: Tensor) -> bool:
    """``1 - 2 (x . y) / (x . x + y . y)`` below 1e-5, in float64."""
    x, y = actual.double(), _rounded(actual, expected)
    return bool(1 - 2 * (x * y).sum() / (x * x + y * y).sum() < 1e-5)  # noqa: PLR2004


def sqnr(actual: Tensor, expected: Tensor, _: Tensor) -> bool:
    """Signal to quantization noise above 40 dB."""
    wide = _rounded(actual, expected)
    signal, noise = float(wide.square().sum()), float((actual.double() - wide).square().sum())
    if noise == 0:
        return True
    ratio = signal / noise
    return ratio > 0 and 10 * math.log10(ratio) > 40  # noqa: PLR2004


def relative_l2(actual: Tensor, expected: Tensor, _: Tensor) -> bool:
    """``|actual - expected| / |expected|`` below 5e-3."""
    wide = _rounded(actual, expected)
    return bool((actual.double() - wide).norm() / wide.norm() < 5e-3)  # noqa: PLR2004


def twice_the_baseline(actual: Tensor, expected: Tensor, baseline: Tensor) -> bool:
    """The largest error at most twice that of the formula computed in the working dtype."""
    allowed = 2 * (baseline.double() - expected).abs().max()
    return bool((actual.double() - expected).abs().max() <= allowed)


_LEVELS: Final = {True: (64, 128, 256), False: (256, 1024, 2048)}  # whether emulated

RULES: Final[dict[str, Rule]] = {
    "assert_close, defaults": close_by_default,
    "allclose 1e-2": allclose_hundredth,
    "allclose 0.1": allclose_tenth,
    "cosine > 0.97": cosine,
    "cosine difference < 1e-5": cosine_difference,
    "SQNR > 40 dB": sqnr,
    "relative L2 < 5e-3": relative_l2,
    "2x baseline": twice_the_baseline,
}


def rejecting(
    op: Op,
    case: Case,
    inputs: Mapping[str, Tensor | None],
    outputs: Mapping[str, Tensor],
    truths: Mapping[str, Truth],
) -> tuple[str, ...]:
    """Names of the rules that reject a result, in one of its outputs; bytes compare as floats.

    A result of another shape than expected is rejected by all; one without elements by none.
    """
    baselines = outputs_in(dtype_of(case.dtype), op, case, inputs)
    found: set[str] = set()
    for name, truth in truths.items():
        actual, expected = outputs[name], truth.expected.double()
        if actual.shape != expected.shape:
            return tuple(RULES)
        if actual.numel():
            wide = actual if actual.is_floating_point() else actual.float()
            baseline = baselines[name]
            found |= {n for n, passes in RULES.items() if not passes(wide, expected, baseline)}
    return tuple(name for name in RULES if name in found)


def habits(kernel: str, arch: str) -> dict[str, tuple[Case, ...]]:
    """Inputs as people use them: normal, contiguous, of few shapes, every axis a power of two.

    ``few shapes``: three shapes in each dtype. ``one shape``: the middle one five times, in the
    first dtype, as KernelBench does.
    """
    declared = registry.kernel(kernel)
    op = registry.op(declared.op)
    levels = _LEVELS[arch == CPU]

    def case(level: int, dtype: str, seed: int) -> Case:
        sizes = {axis: _near(size, level) for axis, size in op.domain.sizes.items()}
        params = tuple(op.first_labels.items())
        return Case(
            kernel=kernel, sizes=tuple(sizes.items()), dtype=dtype, params=params, seed=seed
        )

    few = [case(level, dtype, 2 * i) for i, level in enumerate(levels) for dtype in op.dtypes]
    one = [case(levels[1], op.dtypes[0], 2 * seed) for seed in range(5)]
    return {"few shapes": tuple(few), "one shape": tuple(one)}


def _near(size: Size, level: int) -> int:
    within = min(level, size.max) // size.multiple_of * size.multiple_of
    return max(size.smallest, within)


def _rounded(actual: Tensor, expected: Tensor) -> Tensor:
    """What they compare with: the reference in the dtype of the result."""
    return expected.to(actual.dtype).double()
