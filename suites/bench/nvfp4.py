"""Prints what NVFP4's kernels take beside a bf16 product, all replayed from CUDA graphs.

``python -m suites.bench.nvfp4`` measures each size in turns, in one run: the GEMM in the CuTe DSL
and in Triton against ``torch.matmul``, alone and with the quantizer of the activations before it.
It also prints what compiling and loading the kernels takes.
"""

from __future__ import annotations

import argparse
import statistics
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import torch

from harness import device as devices
from harness.launches import record_launches
from kernels.nvfp4 import cutedsl_policy, triton_gemm
from kernels.nvfp4.cutedsl_gemm import nvfp4_gemm_cutedsl
from kernels.nvfp4.domain import BLOCK
from kernels.nvfp4.scale_layout import padded_shape
from kernels.nvfp4.triton_gemm import nvfp4_gemm
from kernels.nvfp4.triton_quantize import nvfp4_quantize
from suites.bench.measured import ratio_of
from suites.bench.replayed import copies_of, dense, in_turns, rounds
from suites.bench.start import cold_and_warm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from harness.gate.ratios import Ratio

SIZES: Final = (*((m, 8192, 8192) for m in (1, 16, 4096)), (4096, 4096, 4096))
GEMMS: Final = {"CuTe DSL": nvfp4_gemm_cutedsl, "Triton": nvfp4_gemm}


@dataclass(frozen=True)
class Weights:
    """Codes ``[n, k/2]`` and swizzled scales of one layer."""

    codes: Tensor
    scales: Tensor

    @classmethod
    def of(cls, n: int, k: int, generator: torch.Generator) -> Weights:
        """Any codes; scales between 0.5 and 4."""

        def drawn(low: int, high: int, *shape: int) -> Tensor:
            return torch.randint(
                *(low, high, shape),
                generator=generator,
                device=generator.device,
                dtype=torch.uint8,
            )

        scales = drawn(0x30, 0x48, *padded_shape(n, k // BLOCK)).view(torch.float8_e4m3fn)
        return cls(drawn(0, 256, n, k // 2), scales)


@dataclass(frozen=True)
class Layers:
    """One input, and as many layers as no cache holds; ``m`` rows, ``n`` outputs, ``k`` inputs."""

    m: int
    n: int
    k: int
    x: Tensor
    encode: Tensor
    layers: Sequence[Weights]

    @classmethod
    def of(cls, size: tuple[int, int, int], device: torch.device) -> Layers:
        """Drawn on the device."""
        m, n, k = size
        generator = torch.Generator(device).manual_seed(0)
        x = torch.randn(m, k, generator=generator, device=device).to(torch.bfloat16)
        layers = [Weights.of(n, k, generator) for _ in range(copies_of(n * k // 2))]
        return cls(m, n, k, x, torch.full((1,), 2688 / 6.0, device=device), layers)

    def quantized(self) -> tuple[Tensor, Tensor]:
        """Codes and scales of the input."""
        return nvfp4_quantize(self.x, self.encode)

    def gemms(self, gemm: Callable[..., Tensor], config: str | None) -> list[Callable[[], object]]:
        """The GEMM alone, with each layer's weights on the same activations."""
        codes, scales = self.quantized()
        return [
            partial(gemm, codes, each.codes, scales, each.scales, self.encode, config=config)
            for each in self.layers
        ]

    def whole(self, gemm: Callable[..., Tensor]) -> list[Callable[[], object]]:
        """Quantizer and GEMM of every layer."""

        def run(each: Weights) -> Tensor:
            codes, scales = self.quantized()
            return gemm(codes, each.codes, scales, each.scales, self.encode)

        return [partial(run, each) for each in self.layers]


def measure(made: Layers, device: torch.device) -> Iterator[Ratio]:
    """Print one size's times and their ratios to the product in bf16; yields the ratios."""
    m, n, k = made.m, made.n, made.k
    lists = [dense(made.x, n, len(made.layers))]
    for gemm in GEMMS.values():
        lists += [made.gemms(gemm, None), made.whole(gemm)]
    dense_rounds, *found = rounds(lists, device)
    theirs, *ours = (statistics.median(times) for times in (dense_rounds, *found))
    print(f"  M={m}, N={n}, K={k}: bf16 {1e6 * theirs:.1f} us")
    for name, alone, whole in zip(GEMMS, ours[::2], ours[1::2], strict=True):
        print(
            f"    {name}: {1e6 * alone:.1f} us, {theirs / alone:.2f} x; quantizer included "
            f"{1e6 * whole:.1f} us, {theirs / whole:.2f} x; "
            f"{2e-12 * m * n * k / alone:.0f} TFLOP/s, "
            f"{1e-12 * n * k * 9 / 16 / alone:.2f} TB/s of weights",
            flush=True,
        )
    for number, name in enumerate(GEMMS):
        for what, times in zip(("alone", "with quantizer"), found[2 * number :], strict=False):
            of = f"NVFP4 in {name}/bf16 at M={m} N={n} K={k}, {what}"
            yield ratio_of(of, dense_rounds, times, device)


def sweep(made: Layers, device: torch.device) -> None:
    """Print what each GEMM takes in each tiling that makes sense, the fastest first."""
    tilings = {
        "CuTe DSL": {name: tile.rows for name, tile in cutedsl_policy.CONFIGS.items()},
        "Triton": {name: each.block_m for name, each in triton_gemm.CONFIGS.items()},
    }
    for what, rows in tilings.items():
        names = [name for name, tall in rows.items() if (tall >= 32) == (made.m > 16)]
        times = in_turns([made.gemms(GEMMS[what], name) for name in names], device)
        ranked = sorted(zip(times, names, strict=True))
        words = ", ".join(f"{name} {1e6 * taken:.1f}" for taken, name in ranked)
        print(f"    us of {what}: {words}", flush=True)


def start_up(device: torch.device) -> None:
    """Print what compiling the DSL's GEMM anew takes, and loading it from the cache on disk."""
    made = Layers.of((16, 256, 256), device)
    codes, scales = made.quantized()
    for name in cutedsl_policy.CONFIGS:
        with record_launches() as launches:
            each = made.layers[0]
            nvfp4_gemm_cutedsl(codes, each.codes, scales, each.scales, made.encode, config=name)
        (function,) = (launch.function for launch in launches)
        cold, warm = cold_and_warm(function, device)
        print(f"  {name} in the CuTe DSL: compiled in {cold:.2f} s, loaded in {1000 * warm:.1f} ms")


def on_cuda(device: torch.device, *, sweeps: bool = False) -> Iterator[Ratio]:
    """Print all figures of a CUDA device; yields the ratios."""
    print(f"NVFP4 on {devices.describe(device)['device']}:")
    start_up(device)
    for size in SIZES:
        made = Layers.of(size, device)
        yield from measure(made, device)
        if sweeps:
            sweep(made, device)


def main() -> None:
    """Measure on the device of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--sweep", action="store_true", help="time every tiling too")
    asked = parser.parse_args()
    deque(on_cuda(torch.device(asked.device), sweeps=asked.sweep), maxlen=0)


if __name__ == "__main__":
    main()
