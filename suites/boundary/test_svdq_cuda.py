"""What the CUDA W4A4 wrappers refuse and launch, with no GPU: the launches are captured."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import torch

import kernels
from harness import device, fakes, registry
from harness.launches import Launch, capture_launches
from harness.probes import base_case, probes
from kernels.svdq.cuda_gemm import svdq_gemm_w4a4_cuda
from kernels.svdq.cuda_gemm_activated import ACTIVATIONS, svdq_gemm_w4a4_activated_cuda
from kernels.svdq.cuda_gemm_requantized import svdq_gemm_w4a4_requantized_cuda
from kernels.svdq.cuda_policy import (
    GEMM_CONFIGS,
    QUANTIZE_CONFIGS,
    REQUANTIZE_TILES,
    GemmTile,
    ShortTile,
    TallTile,
)
from kernels.svdq.cuda_quantize import svdq_quantize_w4a4_act_fuse_lora_cuda
from kernels.svdq.domain import MAX_M

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from harness.probes import Probe

CPU: Final = torch.device("cpu")
QUANTIZE: Final = "svdq_quantize_w4a4_act_fuse_lora"
GEMM: Final = "svdq_gemm_w4a4"
ACTIVATED: Final = "svdq_gemm_w4a4_activated"
REQUANTIZED: Final = "svdq_gemm_w4a4_requantized"
OPS: Final = (QUANTIZE, GEMM, ACTIVATED, REQUANTIZED)
KERNELS: Final = {
    GemmTile: "svdq_gemm_w4a4",
    ShortTile: "svdq_gemm_w4a4_short",
    TallTile: "svdq_gemm_w4a4_tall",
}
# Layouts that are handled although they are not promised; every other one is refused.
HANDLED: Final = {
    QUANTIZE: {"x.layout=rows", "x.layout=expanded"},
    **{
        op: {f"{name}.layout=offset" for name in ("ascales", "bias", "wcscales")}
        for op in (GEMM, ACTIVATED, REQUANTIZED)
    },
}


@contextmanager
def captured(arch: str = "sm90") -> Iterator[list[Launch]]:
    """Launches are kept and not executed, as on ``arch``."""
    with device.pretend(arch), capture_launches() as launches:
        yield launches


@cache
def probes_of(op: str) -> Mapping[str, Probe]:
    registry.load_all(("references", "kernels"))
    return probes(registry.op(op), registry.kernel(f"{op}.cuda"), CPU)


def answer(op: str, probe: Probe) -> tuple[Exception | None, int]:
    """The exception that a probe's call raises, if any, and how much it launches."""
    call = probe.make()
    with captured(probe.arch or "sm90") as launches:
        try:
            registry.kernel(f"{op}.cuda").function(**call.arguments)
        except Exception as error:  # noqa: BLE001 - judged by the caller
            return error, len(launches)
    return None, len(launches)


@pytest.mark.parametrize("op", OPS)
def test_every_neighbour_of_the_domain_is_refused_before_a_launch(op: str) -> None:
    wrong = []
    for name, probe in probes_of(op).items():
        error, launched = answer(op, probe)
        if name in HANDLED[op]:
            assert (error, launched > 0) == (None, True), name
        elif not isinstance(error, probe.refusals) or launched:
            wrong.append(f"{name}: {error!r} after {launched} launches")
        elif not any(word in str(error) for word in probe.mentions):
            wrong.append(f"{name}: {error} names none of {probe.mentions}")
    assert not wrong


def test_a_vector_is_probed_in_each_layout_that_it_can_have() -> None:
    made = {**probes_of(QUANTIZE), **probes_of(GEMM)}
    for name in ("smooth", "bias", "wcscales"):
        layouts = {key for key in made if key.startswith(f"{name}.layout=")}
        assert layouts == {f"{name}.layout=offset", f"{name}.layout=strided"}


@pytest.mark.parametrize("op", OPS)
def test_the_fake_refuses_and_accepts_the_same(op: str) -> None:
    made = probes_of(op)
    kernel = registry.kernel(f"{op}.cuda")
    asked = {name: probe for name, probe in made.items() if probe.arch is None}
    words = {n: fakes.check_refusal(registry.op(op), kernel, p, CPU) for n, p in asked.items()}
    assert {name: said for name, said in words.items() if said} == {}


@pytest.mark.parametrize("op", OPS)
def test_the_fake_describes_the_result(op: str) -> None:
    probes_of(op)
    kernel, declared = registry.kernel(f"{op}.cuda"), registry.op(op)
    for dtype in declared.dtypes:
        case = replace(base_case(declared, kernel), dtype=dtype)
        assert fakes.check_case(declared, kernel, case, CPU) == ""
    assert fakes.check_name(declared, kernel) == ""


# What only this backend refuses


def activations(m: int = 3, k: int = 128, r: int = 32) -> tuple[Tensor, Tensor, Tensor]:
    half = torch.float16
    return torch.ones(m, k, dtype=half), torch.ones(k, r, dtype=half), torch.ones(k, dtype=half)


def operands(m: int = 3, n: int = 16, k: int = 128) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    codes, wcodes = (torch.zeros(rows, k // 2, dtype=torch.uint8) for rows in (m, n))
    ascales, wscales = (torch.ones(k // 64, rows, dtype=torch.float16) for rows in (m, n))
    return codes, wcodes, ascales, wscales


def misaligned(like: Tensor) -> Tensor:
    """A copy, at offset 0 of a storage that begins 8 bytes off."""
    size = like.numel() * like.element_size()
    memory = torch.empty(size + 32, dtype=torch.uint8)
    start = -memory.data_ptr() % 16 + 8
    made = torch.frombuffer(memory.numpy().data[start:], dtype=like.dtype, count=like.numel())
    return made.reshape(like.shape).copy_(like)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_the_quantizer_refuses_memory_that_is_not_aligned(index: int) -> None:
    arguments = list(activations())
    arguments[index] = misaligned(arguments[index])
    assert arguments[index].storage_offset() == 0
    name = ("x", "lora_down", "smooth")[index]
    with captured() as launches, pytest.raises(ValueError, match=rf"{name} lies at address .*16 b"):
        svdq_quantize_w4a4_act_fuse_lora_cuda(*arguments)
    assert not launches


@pytest.mark.parametrize("name", ["codes", "wcodes", "lora_act", "lora_up"])
def test_the_gemm_refuses_memory_that_is_not_aligned(name: str) -> None:
    codes, wcodes, ascales, wscales = operands()
    given: dict[str, Any] = {
        "codes": codes,
        "wcodes": wcodes,
        "lora_act": torch.ones(3, 16),
        "lora_up": torch.ones(16, 16, dtype=torch.float16),
    }
    given[name] = misaligned(given[name])
    with captured() as launches, pytest.raises(ValueError, match=rf"{name} lies at address .*16 b"):
        svdq_gemm_w4a4_cuda(**given, ascales=ascales, wscales=wscales)
    assert not launches


@pytest.mark.parametrize("stride", [0, 2])
def test_a_strided_vector_is_refused(stride: int) -> None:
    x, down, _ = activations()
    vector = torch.ones(256, dtype=torch.float16)
    with captured() as launches:
        with pytest.raises(ValueError, match=r"smooth has strides \[\d\].*smooth\.contiguous"):
            svdq_quantize_w4a4_act_fuse_lora_cuda(x, down, vector.as_strided((128,), (stride,)))
        for name in ("bias", "wcscales"):
            given: dict[str, Any] = {name: vector.as_strided((16,), (stride,))}
            with pytest.raises(ValueError, match=rf"{name} has strides \[\d\].*contiguous"):
                svdq_gemm_w4a4_cuda(*operands(), **given)
    assert not launches


@pytest.mark.parametrize(("apart", "fits"), [(128, True), (136, True), (132, False), (129, False)])
def test_rows_of_x_are_16_bytes_apart_or_a_multiple(apart: int, *, fits: bool) -> None:
    _, down, smooth = activations()
    x = torch.ones(3 * apart, dtype=torch.float16).as_strided((3, 128), (apart, 1))
    refused = pytest.raises(ValueError, match=r"x has strides .*multiple of 8 elements apart")
    with captured() as launches, nullcontext() if fits else refused:
        svdq_quantize_w4a4_act_fuse_lora_cuda(x, down, smooth)
    assert bool(launches) == fits


def test_a_single_row_may_have_any_row_stride() -> None:
    x, down, smooth = activations(1)
    with captured() as launches:
        svdq_quantize_w4a4_act_fuse_lora_cuda(x.as_strided((1, 128), (131, 1)), down, smooth)
    assert launches


def test_tensors_on_the_cpu_are_refused() -> None:
    with pytest.raises(ValueError, match=r"device='cpu' is not a CUDA device.*\.cuda\(\)"):
        svdq_gemm_w4a4_cuda(*operands())
    with pytest.raises(ValueError, match=r"device='cpu' is not a CUDA device.*\.cuda\(\)"):
        svdq_quantize_w4a4_act_fuse_lora_cuda(*activations())


# What is launched


@pytest.mark.parametrize("name", GEMM_CONFIGS)
@pytest.mark.parametrize("arch", ["sm80", "sm90"])
def test_the_gemm_launches_its_config_and_adds_the_splits(name: str, arch: str) -> None:
    config = GEMM_CONFIGS[name]
    clustered = isinstance(config.tile, ShortTile) and arch == "sm90" and config.splits > 1
    with captured(arch) as launches:
        svdq_gemm_w4a4_cuda(*operands(200, 264, 256), config=name)
    first, *second = launches
    assert first.grid == (config.tile.tiles(200, 264), config.splits)
    assert first.function.source.defines["BLOCK_M"] == str(config.tile.block_m)
    assert first.name == KERNELS[type(config.tile)]
    assert first.options["cluster"] == ((1, config.splits) if clustered else (1,))
    assert len(second) == (config.splits > 1 and not clustered)
    workspace = first.arguments.get("workspace")
    assert (workspace is None) == (not second)
    for launch in second:
        assert launch.arguments["workspace"] is workspace
        assert workspace.shape == (config.splits, 200, 264)
        assert launch.grid == (13, 5)


@pytest.mark.parametrize("arch", ["sm80", "sm90"])
def test_what_waits_for_the_kernel_before_it_is_launched_to_overlap_it(arch: str) -> None:
    for rows, overlaps in ((16, arch == "sm90"), (300, False)):
        with captured(arch) as launches:
            svdq_quantize_w4a4_act_fuse_lora_cuda(*activations(rows))
            svdq_gemm_w4a4_cuda(*operands(rows, 264, 256))
        first = {launch.name: launch.options["overlaps"] for launch in reversed(launches)}
        assert first["svdq_quantize_w4a4"] == overlaps
        gemms = [name for name in first if name in KERNELS.values()]
        assert [first[name] for name in gemms] == [overlaps]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", ["m16n64", "m16n32_k2", "m64n64_k2", "m128n64"])
def test_every_kernel_that_finishes_has_the_activation(name: str, activation: str) -> None:
    with captured("sm80") as launches:
        svdq_gemm_w4a4_activated_cuda(*operands(), activation=activation, config=name)
    assert len(launches) == GEMM_CONFIGS[name].splits
    for launch in launches:
        defines = launch.function.source.defines
        assert defines["FINISH"] == '"activation.cuh"'
        assert defines["ACTIVATION"] == str(ACTIVATIONS[activation])


def test_the_plain_gemm_has_neither_end() -> None:
    with captured() as launches:
        svdq_gemm_w4a4_cuda(*operands(), config="m64n64_k2")
    for launch in launches:
        assert not {"FINISH", "EPILOGUE"} & set(launch.function.source.defines)


def next_layer(n: int, r: int = 48) -> dict[str, Any]:
    half = torch.float16
    return {
        "next_smooth": torch.ones(n, dtype=half),
        "next_lora_down": torch.ones(n, r, dtype=half),
    }


@pytest.mark.parametrize("name", REQUANTIZE_TILES)
@pytest.mark.parametrize("n", [64, 320])
def test_the_requantizing_gemm_adds_what_its_tile_columns_sum(name: str, n: int) -> None:
    tile = REQUANTIZE_TILES[name]
    with captured() as launches:
        made = svdq_gemm_w4a4_requantized_cuda(
            *operands(200, n, 256), **next_layer(n), config=name, next_unsigned=True
        )
    first, *second = launches
    assert first.grid == (tile.tiles(200, n), 1)
    assert first.function.source.defines["EPILOGUE"] == '"requantize.cuh"'
    assert first.function.source.defines["NEXT_UNSIGNED"] == "1"
    assert "FINISH" not in first.function.source.defines
    columns = -(-n // tile.block_n)
    assert len(second) == (columns > 1)
    assert (first.arguments["next_sums"] is made[2]) == (columns == 1)
    for launch in second:
        assert launch.arguments["workspace"] is first.arguments["next_sums"]
        assert launch.arguments["workspace"].shape == (columns, 200, 48)
        assert launch.arguments["lora_act"] is made[2]


@pytest.mark.parametrize("name", ["next_smooth", "next_lora_down"])
def test_the_requantizing_gemm_refuses_memory_that_is_not_aligned(name: str) -> None:
    given = next_layer(64)
    given[name] = misaligned(given[name])
    with captured() as launches, pytest.raises(ValueError, match=rf"{name} lies at address .*16 b"):
        svdq_gemm_w4a4_requantized_cuda(*operands(3, 64), **given)
    assert not launches


def test_an_activation_that_there_is_not_is_named_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"activation='gelu' is unknown; .*'silu', 'gelu_tanh'"):
        svdq_gemm_w4a4_activated_cuda(*operands(), activation="gelu")
    with pytest.raises(
        ValueError, match=r"activation='relu' is unknown; use one of 'none', 'silu'"
    ):
        svdq_gemm_w4a4_requantized_cuda(*operands(3, 64), **next_layer(64), activation="relu")


@pytest.mark.parametrize("name", QUANTIZE_CONFIGS)
@pytest.mark.parametrize("r", [16, 80])
@pytest.mark.parametrize("arch", ["sm80", "sm90"])
def test_the_quantizer_launches_its_config_and_adds_the_splits(
    name: str, r: int, arch: str
) -> None:
    config = QUANTIZE_CONFIGS[name]
    clustered = config.is_clustered(clusters=arch == "sm90")
    with captured(arch) as launches:
        lora_act = svdq_quantize_w4a4_act_fuse_lora_cuda(*activations(100, r=r), config=name)[2]
    first, *second = launches
    assert first.grid == (-(-100 // config.block_m), config.splits, config.rank_pieces(r))
    assert first.options["cluster"] == ((1, config.splits) if clustered else (1,))
    assert len(second) == (config.splits > 1 and not clustered)
    assert (first.arguments["sums"] is lora_act) == (not second)
    for launch in second:
        assert launch.arguments["workspace"] is first.arguments["sums"]
        assert launch.arguments["lora_act"] is lora_act


@pytest.mark.parametrize(("arch", "wide"), [("sm80", "0"), ("sm89", "0"), ("sm90", "1")])
@pytest.mark.parametrize("unsigned", [False, True])
def test_the_arch_and_the_flag_choose_the_product(arch: str, wide: str, *, unsigned: bool) -> None:
    with captured(arch) as launches:
        svdq_gemm_w4a4_cuda(*operands(), act_unsigned=unsigned)
    defines = launches[0].function.source.defines
    assert (defines["PATH_S8"], defines["UNSIGNED"]) == (wide, str(int(unsigned)))


def test_the_longest_m_fits_into_a_grid() -> None:
    with captured("sm80") as launches:
        svdq_gemm_w4a4_cuda(*operands(MAX_M, 8, 64), config="m16n32_k2")
    assert [launch.grid for launch in launches] == [(MAX_M // 16, 2), (MAX_M // 16, 1)]


def test_nothing_is_launched_for_no_rows() -> None:
    with captured() as launches:
        codes, ascales, act = svdq_quantize_w4a4_act_fuse_lora_cuda(*activations(0))
        y = svdq_gemm_w4a4_cuda(*operands(0), config="m16n32_k2")
    assert not launches
    assert (codes.shape, ascales.shape, act.shape, y.shape) == ((0, 64), (2, 0), (0, 32), (0, 16))


def test_no_workspace_is_shared_between_calls() -> None:
    with captured() as launches:
        for _ in range(2):
            svdq_gemm_w4a4_cuda(*operands(), config="m64n64_k2")
    first, _, third, _ = (launch.arguments["workspace"] for launch in launches)
    assert first.untyped_storage().data_ptr() != third.untyped_storage().data_ptr()


# Without the compiler

WITHOUT = """
import sys
sys.modules["cuda"] = sys.modules["cuda.core"] = None
import kernels
from harness import backends
from kernels.svdq.cuda_gemm import svdq_gemm_w4a4_cuda
from kernels.module_backends import load_backend
from kernels.svdq.linear import BACKENDS
assert backends.load_error("cuda") is None, "asked for before it was needed"
load_backend("cuda", BACKENDS)
errors = []
for _ in range(2):
    try:
        kernels.svdq_gemm_w4a4_cuda
    except ImportError as error:
        errors.append(error)
assert errors[0] is errors[1] is backends.load_error("cuda"), errors
print(errors[0])
"""


def test_without_cuda_core_imports_work_and_the_error_says_what_to_install() -> None:
    root = Path(kernels.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], cwd=root, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "backend 'cuda' cannot be imported" in done.stdout
    assert "pip install 'cuda-core[cu13]>=1.2,<2.0'" in done.stdout
