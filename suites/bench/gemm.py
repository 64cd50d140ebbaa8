"""Prints what the CUDA W4A4 path takes beside a bf16 product, both replayed from CUDA graphs.

``python -m suites.bench.gemm`` measures each size in turns, in one run: quantizer and GEMM
together against ``torch.matmul``. It also prints what compiling and loading the kernels takes.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
from collections import deque
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final

import torch

from harness import device as devices
from harness.launches import record_launches
from harness.nvrtc import Function
from kernels.svdq.cuda_gemm import svdq_gemm_w4a4_cuda
from kernels.svdq.cuda_policy import (
    GEMM_CONFIGS,
    QUANTIZE_CONFIGS,
    choose_gemm,
    choose_quantize,
    has_clusters,
)
from kernels.svdq.cuda_quantize import svdq_quantize_w4a4_act_fuse_lora_cuda
from kernels.svdq.cuda_sources import source
from kernels.svdq.domain import GROUP
from suites.bench.measured import ratio_of
from suites.bench.replayed import copies_of, dense, in_turns, rounds
from suites.bench.start import cold_and_warm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from harness.gate.ratios import Ratio


SIZES: Final = (
    *((m, size, size) for size in (8192, 4096) for m in (1, 16)),
    (4096, 4096, 4096),
)
RANK: Final = 32
PEAK: Final = """
#include "ptx.cuh"
SVDQ_KERNEL(256, 1) peak(int* out, int rounds) {
  const unsigned word = threadIdx.x, a[4] = {word, word + 1, word + 2, word + 3};
  int sum[8][4] = {};
#pragma unroll 1
  for (int round = 0; round < rounds; ++round) {
#pragma unroll
    for (int chain = 0; chain < 8; ++chain) ptx::product_s8(sum[chain], a, word, word + 4);
  }
  int all = 0;
  for (int item = 0; item < 32; ++item) all += sum[item / 4][item % 4];
  out[blockIdx.x * 256 + threadIdx.x] = all;
}
"""
PEAK_ROUNDS: Final = 20_000


@dataclass(frozen=True)
class Weights:
    """The state of one layer of ``n`` outputs and ``k`` inputs, of rank ``RANK``."""

    codes: Tensor
    scales: Tensor
    smooth: Tensor
    down: Tensor
    up: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Quantizer and GEMM, as a layer without bias runs them."""
        codes, ascales, act = svdq_quantize_w4a4_act_fuse_lora_cuda(x, self.down, self.smooth)
        return svdq_gemm_w4a4_cuda(
            codes, self.codes, ascales, self.scales, lora_act=act, lora_up=self.up
        )


def weights(n: int, k: int, generator: torch.Generator) -> Weights:
    """A layer whose numbers are of the usual magnitudes."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(
            shape, generator=generator, device=generator.device, dtype=torch.bfloat16
        )

    codes = torch.randint(
        0, 256, (n, k // 2), generator=generator, device=generator.device, dtype=torch.uint8
    )
    return Weights(
        codes=codes,
        scales=normal(k // GROUP, n).abs() / 64,
        smooth=1 + normal(k).abs(),
        down=normal(k, RANK) / 8,
        up=normal(n, RANK) / 8,
    )


def peak(device: torch.device) -> float:
    """Operations a second of ``mma.sync.m16n8k32.s8``, independent ones from registers."""
    text = replace(source("gemm.cu", "peak"), name="peak.cu", text=PEAK)
    kernel = Function(text, {"out": "int32", "rounds": ctypes.c_int32}, __name__)
    blocks = 4 * devices.multiprocessors(device)
    out = torch.empty(blocks * 256, dtype=torch.int32, device=device)
    times = devices.elapsed(
        lambda: kernel.launch(out, PEAK_ROUNDS, grid=blocks, block=256), device, repeats=5
    )
    return 2 * 16 * 8 * 32 * 8 * 8 * blocks * PEAK_ROUNDS / min(times)


@dataclass(frozen=True)
class Layers:
    """One input, and as many layers as no cache holds; ``m`` rows, ``n`` outputs, ``k`` inputs."""

    m: int
    n: int
    k: int
    x: Tensor
    layers: Sequence[Weights]

    @classmethod
    def of(cls, size: tuple[int, int, int], device: torch.device) -> Layers:
        """Drawn on the device."""
        m, n, k = size
        generator = torch.Generator(device).manual_seed(0)
        x = torch.randn(m, k, generator=generator, device=device).to(torch.bfloat16)
        return cls(m, n, k, x, [weights(n, k, generator) for _ in range(copies_of(n * k // 2))])

    def whole(self) -> list[Callable[[], object]]:
        """Quantizer and GEMM of every layer."""
        return [partial(layer, self.x) for layer in self.layers]

    def quantizers(self, config: str | None) -> list[Callable[[], object]]:
        """The quantizer alone, with each layer's factors."""
        quantize = svdq_quantize_w4a4_act_fuse_lora_cuda
        return [
            lambda layer=layer: quantize(self.x, layer.down, layer.smooth, config=config)[0]  # type: ignore[misc]
            for layer in self.layers
        ]

    def gemms(self, config: str | None) -> list[Callable[[], object]]:
        """The GEMM alone, with each layer's weights on the same activations."""
        first = self.layers[0]
        codes, ascales, act = svdq_quantize_w4a4_act_fuse_lora_cuda(
            self.x, first.down, first.smooth
        )
        return [
            lambda layer=layer: svdq_gemm_w4a4_cuda(  # type: ignore[misc]
                *(codes, layer.codes, ascales, layer.scales),
                lora_act=act,
                lora_up=layer.up,
                config=config,
            )
            for layer in self.layers
        ]


def measure(made: Layers, device: torch.device, fastest: float) -> Ratio:
    """Print one size's times, their ratio, and what the policy chose; returns the ratio."""
    m, n, k = made.m, made.n, made.k
    found = rounds([made.whole(), dense(made.x, n, len(made.layers))], device)
    ours, theirs = (statistics.median(times) for times in found)
    quantizer, gemm = in_turns([made.quantizers(None), made.gemms(None)], device)
    count, clusters = devices.multiprocessors(device), has_clusters(devices.arch_of(device))
    print(
        f"  M={m}, N={n}, K={k}: {1e6 * ours:.1f} us, bf16 {1e6 * theirs:.1f} us: "
        f"{theirs / ours:.2f} x; {2e-12 * m * n * k / ours:.0f} TOPS, "
        f"{2 * m * n * k / ours / fastest:.0%} of the peak, "
        f"{1e-12 * n * k / 2 / ours:.2f} TB/s of weights\n"
        f"    of it the quantizer {1e6 * quantizer:.1f} us "
        f"({choose_quantize(m, k, RANK, count, clusters=clusters)[0]}), "
        f"the GEMM {1e6 * gemm:.1f} us ({choose_gemm(m, n, k, count)[0]})",
        flush=True,
    )
    return ratio_of(f"W4A4 in CUDA/bf16 at M={m} N={n} K={k}", found[1], found[0], device)


def sweep(made: Layers, device: torch.device) -> None:
    """Print what both kernels take in each configuration that makes sense, the fastest first."""
    tall = made.m > 64
    gemms = [
        name
        for name, config in GEMM_CONFIGS.items()
        if (config.splits == 1 if tall else config.tile.block_m <= max(64, made.m))
        and config.tile.block_m >= (64 if tall else 16)
    ]
    quantizers = [name for name in QUANTIZE_CONFIGS if tall <= name.startswith("m64")]
    for what, names, calls in (
        ("quantizer", quantizers, made.quantizers),
        ("GEMM", gemms, made.gemms),
    ):
        times = in_turns([calls(name) for name in names], device)
        ranked = sorted(zip(times, names, strict=True))
        words = ", ".join(f"{name} {1e6 * taken:.1f}" for taken, name in ranked)
        print(f"    us of the {what}: {words}", flush=True)


def start_up(device: torch.device) -> None:
    """Print what compiling each kernel anew takes, and loading it from the cache on disk."""
    generator = torch.Generator(device).manual_seed(0)
    layer = weights(4096, 4096, generator)
    with record_launches() as launches:
        layer(torch.ones(16, 4096, dtype=torch.bfloat16, device=device))
    for launch in {launch.name: launch for launch in launches}.values():
        cold, warm = cold_and_warm(launch.function, device)
        print(f"  {launch.name}: compiled in {cold:.2f} s, loaded in {1000 * warm:.1f} ms")


def on_cuda(device: torch.device, *, sweeps: bool = False) -> Iterator[Ratio]:
    """Print all figures of a CUDA device; yields the ratios."""
    print(f"W4A4 in CUDA on {devices.describe(device)['device']}, quantizer included:")
    start_up(device)
    fastest = peak(device)
    print(f"  products of bytes, from registers: {1e-12 * fastest:.0f} TOPS")
    for size in SIZES:
        made = Layers.of(size, device)
        yield measure(made, device, fastest)
        if sweeps:
            sweep(made, device)


def main() -> None:
    """Measure on the device of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--sweep", action="store_true", help="time every configuration too")
    asked = parser.parse_args()
    deque(on_cuda(torch.device(asked.device), sweeps=asked.sweep), maxlen=0)


if __name__ == "__main__":
    main()
