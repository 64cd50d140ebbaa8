"""What a layer in NVFP4 holds and returns, by the references alone, from the dense layer's weights.

No kernel and nothing of ``kernels`` has a part in it, so that a layer whose state was made wrongly
is as wrong as one whose kernel is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from harness.budget import Budget
from harness.compare import Comparison, compare
from harness.registry import op
from references.nvfp4_experts import routed
from references.nvfp4_format import BLOCK, E2M1, E2M1_MAX, E4M3_MAX, linear, swizzled
from references.nvfp4_gemm import dequantized
from references.nvfp4_moe_down import nvfp4_moe_down
from references.nvfp4_moe_up import nvfp4_moe_up
from references.nvfp4_quantize import nvfp4_quantize
from references.nvfp4_recipes import vllm
from suites.e2e import nvfp4
from suites.e2e.moe.model import Experts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness import Expected

State = dict[str, Tensor]
_SCALES: Final = torch.float8_e4m3fn
_SAME_AMAX: Final = 1e-5  # of what is computed in float32 for a sample, and here in float64


def state_of(dense: nn.Module, sample: Tensor, dtype: torch.dtype) -> State:
    """What the layer that replaces ``dense`` holds, made for inputs like ``sample`` [..., k]."""
    if isinstance(dense, Experts):
        return _state_of_experts(dense, sample)
    weight, bias = dense.get_parameter("weight"), dense.bias
    encode = _encode_scale(weight)
    made = nvfp4_quantize(weight.double(), encode.double(), "vllm")
    state = {
        "weight_codes": made["codes"],
        "weight_scales": made["scales"].to(_SCALES),
        "weight_global_encode_scale": encode,
        "input_global_encode_scale": _encode_scale(sample),
    }
    return state | ({"bias": bias.to(dtype)} if isinstance(bias, Tensor) else {})


def _state_of_experts(dense: Experts, sample: Tensor) -> State:
    weights = {name: dense.get_parameter(name) for name in ("gate", "up", "down")}
    gate, up, down = ([_quantized(w) for w in each] for each in weights.values())
    pairs = list(zip(gate, up, strict=True))
    scales = [swizzled(torch.cat((g.scales, u.scales))) for g, u in pairs]
    x = sample.double().flatten(0, -2)
    between = [
        _encode_scale(silu(x @ g.double().T) * (x @ u.double().T))
        for g, u in zip(weights["gate"], weights["up"], strict=True)
    ]
    return {
        "gate_up_codes": torch.stack([torch.cat((g.codes, u.codes)) for g, u in pairs]),
        "gate_up_scales": torch.stack(scales).to(_SCALES),
        "gate_up_global_encode_scale": torch.stack(
            [torch.cat((g.encode, u.encode)) for g, u in pairs]
        ),
        "input_global_encode_scale": _encode_scale(sample),
        "down_codes": torch.stack([each.codes for each in down]),
        "down_scales": torch.stack([swizzled(each.scales) for each in down]).to(_SCALES),
        "down_global_encode_scale": torch.cat([each.encode for each in down]),
        "intermediate_global_encode_scale": torch.cat(between),
    }


def calibrated_as(state: State, held: Mapping[str, Tensor]) -> State:
    """``state`` with the intermediates' scales that a layer holds, where they are right.

    These are of sums in float32, of which no bits are promised; and any of them is a right one.
    """
    key = "intermediate_global_encode_scale"
    if key not in state:
        return state
    own, found = state[key], held[key].cpu()
    near = (found.double() / own.double() - 1).abs() <= _SAME_AMAX
    return state | {key: torch.where(near, found, own)}


def expected_output(
    state: Mapping[str, Tensor],
    x: Tensor,
    weights: Tensor | None = None,
    ids: Tensor | None = None,
) -> Expected:
    """Float64 output [m, n] of the layer that holds ``state`` on x [m, k], on the CPU.

    ``weights`` and ``ids`` [m, t] are given for experts.
    """
    if weights is None or ids is None:
        return nvfp4.expected_output(state, x)
    given = state["input_global_encode_scale"].double()
    between = state["intermediate_global_encode_scale"].double()
    made = nvfp4_quantize(x.double(), given, "vllm")
    found = nvfp4_moe_up(
        made["codes"],
        state["gate_up_codes"],
        made["scales"],
        state["gate_up_scales"].double(),
        ids,
        _alpha(given, state["gate_up_global_encode_scale"]),
        between,
        intermediate_dtype=x.dtype,
    )
    alphas = _alpha(between, state["down_global_encode_scale"])
    result = nvfp4_moe_down(
        found["next_codes"].value,
        state["down_codes"],
        found["next_scales"].value,
        state["down_scales"].double(),
        ids,
        weights.double(),
        alphas,
        out_dtype=x.dtype,
    )
    loose = _looseness(found["next_codes"], found["next_scales"])
    return replace(result, near_ties=_summed(loose, state, weights.double(), ids, alphas))


def compare_output(expected: Expected, actual: Tensor, *, terms_summed: int) -> Comparison:
    """Compare a layer's output [m, n] with its recipe's, each element within its budget."""
    judged_as = "nvfp4_gemm" if expected.near_ties is None else "nvfp4_moe_down"
    budget = Budget(
        dtype=actual.dtype,
        terms_summed=terms_summed,
        tensor_core=True,
        terms=op(judged_as).terms,
    )
    return compare(actual, expected.value, expected.magnitude, budget, near_ties=expected.near_ties)


def _looseness(codes: Expected, scales: Expected) -> Tensor:
    """How far a right intermediate may lie from the one that is expected: nearly all 0."""
    if codes.within is None or scales.within is None:
        msg = "within=None; a mixture's first half must say which of its bytes may differ"
        raise ValueError(msg)
    value = dequantized(codes.value.flatten(0, 1), scales.value.double())
    table = torch.tensor([-v for v in reversed(E2M1)] + [*E2M1], dtype=torch.float64)
    numbers = [
        table[end.long() + len(E2M1)].view_as(value)
        for end in (codes.within.low, codes.within.high)
    ]
    steps = [
        linear(end.to(torch.uint8).view(_SCALES).double(), len(value), value.shape[1] // BLOCK)
        for end in (scales.within.low, scales.within.high)
    ]
    ends = [n * s.repeat_interleave(BLOCK, 1) for n in numbers for s in steps]
    return (torch.stack(ends) - value).abs().amax(0)


def _summed(
    loose: Tensor, state: Mapping[str, Tensor], weights: Tensor, ids: Tensor, alphas: Tensor
) -> Tensor:
    """What ``loose`` [m * t, i] may change in the result [m, h]."""
    scales = state["down_scales"].double()
    parts = loose.new_zeros(len(loose), state["down_codes"].shape[1])
    for expert, places, w in routed(ids, state["down_codes"], scales):
        parts[places] = alphas[expert] * (loose[places] @ w.abs().T)
    by_slot: Tensor = parts.unflatten(0, ids.shape)
    return (weights.abs()[:, :, None] * by_slot).sum(1)


@dataclass(frozen=True)
class _Quantized:
    """A weight's codes [n, k / 2], scales [n, k / 16] in rows, and global encode scale [1]."""

    codes: Tensor
    scales: Tensor
    encode: Tensor


def _quantized(weight: Tensor) -> _Quantized:
    encode = _encode_scale(weight)
    return _Quantized(*vllm(weight.double(), encode.double()), encode)


def _encode_scale(values: Tensor) -> Tensor:
    """``2688 / amax`` [1], rounded once to float32."""
    return (E2M1_MAX * E4M3_MAX / values.double().abs().amax()).float().reshape(1)


def _alpha(given: Tensor, weight: Tensor) -> Tensor:
    """``1 / (g_a g_w)``, rounded once to float32 as the layers keep it."""
    return (given.double() * weight.double()).reciprocal().float().double()
