"""SVDQuant's activation quantizer: int4 codes and group scales, exact, and the low-rank product."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness import Expected, op, output, size, tensor

if TYPE_CHECKING:
    from torch import Tensor

GROUP = 64


@op(
    inputs={
        "x": "m k",
        "lora_down": tensor("k r", role="weight"),
        "smooth": tensor("k", role="scale"),
    },
    outputs={
        "codes": output("m k//2", dtype="uint8", exact=True),
        "ascales": output("k//64 m", exact=True),
        "lora_act": output("m r", dtype="float32", sums_over="k"),
    },
    domain={
        "m": size(0, 2**20),
        "k": size(64, 65536, multiple_of=64),
        "r": size(16, 256, multiple_of=16),
    },
    dtypes=("float16", "bfloat16"),
    exact={"exact": 1.0, "probe": 1.0},
    independent=("m",),
    params={"precision": ("int4",)},
    refuses={"precision": ("nvfp4", "int3", None)},
)
def svdq_quantize_w4a4_act_fuse_lora(
    x: Tensor, lora_down: Tensor, smooth: Tensor, precision: str, dtype: torch.dtype
) -> dict[str, Tensor | Expected]:
    """Per row and group of 64: ``s = max|xs| / 7``, ``code = rint(xs / s)``, ``xs = x / smooth``.

    The recipe is fp32 and half arithmetic, so codes and scales are exact. Each quotient is taken in
    float64 and then rounded to the recipe's format: a quotient of p-bit numbers is never within
    2^-(2p+1), relative, of a rounding tie unless it is one, so the second rounding changes nothing.
    A quotient that is NaN (0/0 in a zero group, inf/inf) has code 0.
    """
    del precision
    smoothed = (x / smooth).to(dtype).double().unflatten(1, (-1, GROUP))
    scale = (smoothed.abs().amax(dim=2, keepdim=True) / 7).float().double()
    quotient = (smoothed / scale).float()
    codes = quotient.round().nan_to_num(nan=0.0).clamp(-7, 7).to(torch.int8)  # round: half to even
    nibbles = (codes.reshape(x.shape) & 0xF).to(torch.uint8)
    even, odd = nibbles[:, 0::2], nibbles[:, 1::2]
    return {
        "codes": even | odd << 4,
        "ascales": scale.squeeze(2).T,
        "lora_act": Expected(
            x @ lora_down, x.abs() @ lora_down.abs(), x.square() @ lora_down.square()
        ),
    }
