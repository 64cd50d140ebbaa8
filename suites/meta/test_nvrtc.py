"""CUDA C++ becomes machine code for every arch without a GPU, once, and is launched as declared."""

from __future__ import annotations

import ctypes
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest
import torch
from triton import knobs

from harness import cubins, device
from harness.arch import ARCHES
from harness.artifact import CompileFailed
from harness.backends import BackendMissing
from harness.launches import Launch, capture_launches, record_launches
from harness.nvrtc import Function, LaunchedTooLate, Source, compile_launch, compile_source
from suites.meta.scale_cuda import SOURCE, function, require_compiler

if TYPE_CHECKING:
    from pathlib import Path

HALF = torch.zeros(100, dtype=torch.float16)


def captured(kernel: Function, *, shared_bytes: int = 512, block: int = 128) -> Launch:
    with capture_launches() as launches:
        kernel.launch(HALF, HALF, 100, 3.0, grid=1, block=block, shared_bytes=shared_bytes)
    (launch,) = launches
    return launch


@pytest.mark.parametrize("arch", ARCHES)
def test_every_arch_gets_machine_code(tmp_path: Path, arch: str) -> None:
    require_compiler()
    made = compile_launch(captured(function(tmp_path)), arch)
    assert (made.arch, made.kernel) == (arch, "suites.meta.scale_cuda.scale<__half, 3>")
    assert made.find(r"^(@\S+ )?F2F\S*F16")
    assert len(made.find("STS")) == 2
    assert made.shared_bytes == 512 + 64 * 4
    assert made.warps == 4
    assert not made.spills
    assert made.cubin.startswith(b"\x7fELF")
    assert 6 <= made.registers <= 32


@pytest.mark.parametrize(
    ("specific", "arch", "target"),
    [
        (False, "sm90", "sm_90\n"),
        (True, "sm90", "sm_90a\n"),
        (False, "sm90a", "sm_90a\n"),
        (True, "sm100", "sm_100a\n"),
        (True, "sm80", "sm_80\n"),
    ],
)
def test_a_kernel_may_ask_for_its_arch_and_no_later_one(
    tmp_path: Path, arch: str, target: str, *, specific: bool
) -> None:
    require_compiler()
    text = "__global__ void which(int* y) { *y = __CUDA_ARCH__; }"
    made = compile_source(
        Source("which.cu", text, "which", specific=specific), arch, folder=tmp_path
    )
    path = tmp_path / "made"
    path.write_bytes(made.cubin)
    command = [knobs.nvidia.cuobjdump.path, "-sass", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f".target\t{target}" in done.stdout


OTHER: dict[str, dict[str, Any]] = {
    "name": {"name": "other.cu"},
    "text": {"text": SOURCE.text + "\n"},
    "kernel": {"kernel": "scale<__half, 4>"},
    "headers": {"headers": {"factors/twice.h": "#define TWICE(x) ((x) + (x))"}},
    "defines": {"defines": {"SIGN": "1.0f"}},
    "options": {"options": {"use_fast_math": True}},
    "specific": {"specific": True},
}


@pytest.mark.parametrize("changed", OTHER.values(), ids=OTHER)
def test_whatever_decides_the_machine_code_is_in_the_key(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    require_compiler()
    compile_source(SOURCE, "sm90", folder=tmp_path)
    compile_source(replace(SOURCE, **changed), "sm90", folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_the_arch_is_in_the_key_and_nothing_else_is(tmp_path: Path) -> None:
    require_compiler()
    for arch in ("sm80", "sm86", "sm80"):
        compile_source(SOURCE, arch, folder=tmp_path)
    same = replace(SOURCE, headers=dict(SOURCE.headers), defines=dict(SOURCE.defines))
    compile_source(same, "sm80", folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_an_entry_is_used_and_a_damaged_one_is_not(tmp_path: Path) -> None:
    require_compiler()
    made = compile_source(SOURCE, "sm80", folder=tmp_path)
    (path,) = tmp_path.iterdir()
    planted = cubins.Binary(b"planted", made.symbol, "")
    cubins.store(tmp_path, path.stem, planted)
    assert compile_source(SOURCE, "sm80", folder=tmp_path) == planted
    for damage in (path.read_bytes()[:-1], b"", b"[]\n", b'{"sha256": ""}\n', b"\xff\xfe"):
        path.write_bytes(damage)
        assert compile_source(SOURCE, "sm80", folder=tmp_path) == made
        assert cubins.load(tmp_path, path.stem) == made


def test_writers_at_once_leave_one_whole_entry(tmp_path: Path) -> None:
    binaries = [cubins.Binary(bytes([n]) * 200_000, f"k{n}", "") for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda binary: cubins.store(tmp_path, "key", binary), binaries * 4))
    assert cubins.load(tmp_path, "key") in binaries
    assert [path.name for path in tmp_path.iterdir()] == ["key.cubin"]


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    require_compiler()
    (tmp_path / "file").touch()
    assert compile_source(SOURCE, "sm80", folder=tmp_path / "file" / "below").symbol


def test_the_compilers_log_is_shown_with_the_place(tmp_path: Path) -> None:
    require_compiler()
    broken = replace(SOURCE, headers={"factors/twice.h": "#define TWICE(x) (2.0f * missing(x))"})
    with pytest.raises(CompileFailed, match="does not compile for sm80") as raised:
        compile_source(broken, "sm80", folder=tmp_path)
    assert 'scale.cu(10): error: identifier "missing" is undefined' in raised.value.message
    assert not list(tmp_path.iterdir())
    with pytest.raises(CompileFailed, match=r"log:\n\nfactors/twice\.h\(1\): error: .*\n  oops"):
        compile_source(replace(SOURCE, headers={"factors/twice.h": "oops"}), "sm80")


def test_an_unknown_option_is_named(tmp_path: Path) -> None:
    require_compiler()
    with pytest.raises(CompileFailed, match="unexpected keyword argument 'fastest'"):
        compile_source(replace(SOURCE, options={"fastest": True}), "sm80", folder=tmp_path)


def test_an_arch_that_the_compiler_lacks_lists_those_it_knows(tmp_path: Path) -> None:
    require_compiler()
    with pytest.raises(CompileFailed, match=r"NVRTC 13\.\d+ knows sm75, sm80, .*install a newer"):
        compile_source(SOURCE, "sm70", folder=tmp_path)
    with pytest.raises(ValueError, match="arch='Hopper' is not an architecture"):
        compile_source(SOURCE, "Hopper", folder=tmp_path)


def test_options_that_are_set_here_are_refused() -> None:
    with pytest.raises(ValueError, match=r"options=\['arch'\] of scale.cu are set here"):
        replace(SOURCE, options={"arch": "sm_80"})


def test_a_captured_launch_is_described_and_compiles_nothing(tmp_path: Path) -> None:
    kernel = function(tmp_path, replace(SOURCE, text="no C++"))
    launch = captured(kernel)
    assert (launch.backend, launch.name) == ("cuda", "scale<__half, 3>")
    assert launch.module == "suites.meta.scale_cuda"
    assert launch.function is kernel
    assert launch.grid == (1,)
    assert launch.arguments == {"x": HALF, "y": HALF, "n": 100, "factor": 3.0}
    assert launch.options == {
        "block": (128,),
        "cluster": (1,),
        "overlaps": False,
        "shared_bytes": 512,
    }
    assert not list(tmp_path.iterdir())


def test_without_a_gpu_a_launch_is_refused_after_it_was_seen(tmp_path: Path) -> None:
    with (
        record_launches() as launches,
        pytest.raises(ValueError, match=r"the tensors' devices are cpu; move all of them to one"),
    ):
        function(tmp_path).launch(HALF, HALF, 100, 1.0, grid=1, block=32)
    assert len(launches) == 1


WRONG: dict[str, tuple[dict[int, object], type[Exception], str]] = {
    "dtype": ({0: torch.zeros(4)}, TypeError, r"x\.dtype='float32'; the kernel reads float16"),
    "no tensor": ({1: [1.0]}, TypeError, r"y=\[1.0\] is a list; pass a tensor"),
    "none": ({1: None}, TypeError, "y=None is a NoneType; pass a tensor"),
    "float for int": ({2: 4.0}, TypeError, "n=4.0 is a float; pass a c_int"),
    "bool for int": ({2: True}, TypeError, "n=True is a bool; pass a c_int"),
    "text for float": ({3: "1"}, TypeError, "factor='1' is a str; pass a c_float"),
    "too wide": ({2: 2**31}, ValueError, "n=2147483648 does not fit into c_int"),
}


@pytest.mark.parametrize(("change", "error", "said"), WRONG.values(), ids=WRONG)
def test_a_wrong_argument_is_named_before_anything_is_launched(
    change: dict[int, object], error: type[Exception], said: str
) -> None:
    arguments = [change.get(i, value) for i, value in enumerate((HALF, HALF, 100, 1.0))]
    with capture_launches() as launches, pytest.raises(error, match=said):
        function(None).launch(*arguments, grid=1, block=32)
    assert launches == []


def test_the_number_of_arguments_is_checked() -> None:
    with capture_launches(), pytest.raises(TypeError, match="1 arguments; pass 4: x, y, n, factor"):
        function(None).launch(HALF, grid=1, block=32)


def test_what_is_optional_may_be_left_out() -> None:
    kernel = Function(SOURCE, {"x": "tensor?", "flag": ctypes.c_bool}, __name__)
    with capture_launches() as launches:
        kernel.launch(None, True, grid=1, block=32)  # noqa: FBT003
        kernel.launch(HALF, False, grid=1, block=32)  # noqa: FBT003
    assert [launch.arguments["x"] is None for launch in launches] == [True, False]
    with pytest.raises(TypeError, match="parameter 'x' is declared as <class 'int'>"):
        Function(SOURCE, {"x": int}, __name__)


@pytest.mark.parametrize(
    ("shape", "error", "said"),
    [
        ({"grid": 0, "block": 32}, ValueError, "grid=0; each of 1 to 3 extents is at least 1"),
        ({"grid": (1, 65536), "block": 32}, ValueError, "at most 2147483647, 65535, 65535"),
        ({"grid": 1, "block": (32, 64)}, ValueError, "has more than 1024 threads"),
        ({"grid": (1, 1, 1, 1), "block": 32}, ValueError, "each of 1 to 3 extents"),
        ({"grid": (1.5,), "block": 32}, TypeError, "is not 1 to 3 integers"),
        ({"grid": (4, 3), "block": 32, "cluster": (1, 2)}, ValueError, "2 blocks, of grid=.4, 3"),
        ({"grid": 6, "block": 32, "cluster": (1, 2)}, ValueError, "that divide the grid, extent"),
        ({"grid": (4, 4), "block": 32, "cluster": (4, 4)}, ValueError, "16 blocks, .* at most 8"),
        ({"grid": 9, "block": 32, "cluster": 9}, ValueError, "at most 8, 8, 8"),
    ],
)
def test_a_shape_that_no_device_launches_is_refused(
    shape: dict[str, Any], error: type[Exception], said: str
) -> None:
    with capture_launches() as launches, pytest.raises(error, match=said):
        function(None).launch(HALF, HALF, 1, 1.0, **shape)
    assert launches == []


def test_what_does_not_fit_into_a_block_is_a_failure(tmp_path: Path) -> None:
    require_compiler()
    launch = captured(function(tmp_path), shared_bytes=99 * 1024)
    with pytest.raises(CompileFailed, match="101632 bytes of shared memory, of 101376"):
        compile_launch(launch, "sm86")
    compile_launch(launch, "sm80")


def test_other_launches_are_refused() -> None:
    with pytest.raises(ValueError, match="is none of native"):
        compile_launch(Launch("triton", "gemm", "their.package", None, (1,), {}), "sm80")


@pytest.mark.gpu
@pytest.mark.parametrize("shared_bytes", [512, 60 * 1024])
def test_it_runs_on_a_gpu(tmp_path: Path, shared_bytes: int) -> None:
    require_compiler()
    x = torch.arange(1000, dtype=torch.float16, device="cuda")
    y = torch.empty_like(x)
    with record_launches() as launches:
        function(tmp_path).launch(x, y, 1000, 0.5, grid=16, block=64, shared_bytes=shared_bytes)
    assert len(launches) == 1
    assert torch.equal(y, x * -3)


CLUSTERED: Final = """
extern "C" __global__ void neighbour(const int* x, int* y) {
  __shared__ int mine[32];
  mine[threadIdx.x] = x[blockIdx.y * 32 + threadIdx.x];
  unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(mine + threadIdx.x)), other;
  asm volatile("griddepcontrol.wait;\\nbarrier.cluster.arrive;\\nbarrier.cluster.wait;");
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(other) : "r"(address),
               "r"((blockIdx.y + 1) % 4));
  asm volatile("ld.shared::cluster.s32 %0, [%1];" : "=r"(y[blockIdx.y * 32 + threadIdx.x])
               : "r"(other));
  asm volatile("barrier.cluster.arrive;\\nbarrier.cluster.wait;");
}
"""


@pytest.mark.gpu
def test_blocks_of_a_cluster_read_each_others_shared_memory(tmp_path: Path) -> None:
    require_compiler()
    x = torch.arange(128, dtype=torch.int32, device="cuda")
    y = torch.zeros_like(x)
    source = Source("neighbour.cu", CLUSTERED, "neighbour")
    kernel = Function(source, {"x": "int32", "y": "int32"}, __name__, tmp_path)
    older = device.arch_of(x.device) in {"sm80", "sm86", "sm89"}  # the compiler refuses mapa
    with pytest.raises(CompileFailed) if older else nullcontext():
        for _ in range(2):
            kernel.launch(x, y, grid=(1, 4), block=32, cluster=(1, 4), overlaps=True)
        assert torch.equal(y, x.roll(-32))


@pytest.mark.gpu
def test_a_block_that_is_too_large_for_the_device_is_refused(tmp_path: Path) -> None:
    require_compiler()
    x = torch.zeros(1, dtype=torch.float16, device="cuda")
    with pytest.raises(ValueError, match=r"shared_bytes=1048576 is refused .*use smaller tiles"):
        function(tmp_path).launch(x, x, 1, 0.5, grid=1, block=64, shared_bytes=1 << 20)


@pytest.mark.gpu
def test_a_kernel_is_loaded_before_a_graph_is_recorded(tmp_path: Path) -> None:
    require_compiler()
    kernel = function(tmp_path)
    x = torch.arange(100, dtype=torch.float16, device="cuda")
    y = torch.zeros_like(x)
    early, late = (torch.cuda.CUDAGraph() for _ in range(2))  # noqa: TID251
    with torch.cuda.graph(early):  # noqa: TID251 - harness.device runs a warm-up before
        y.zero_()  # torch warns of a graph that is empty
        with pytest.raises(LaunchedTooLate, match=r"scale<__half, 3> .*before the capture"):
            kernel.launch(x, y, 100, 0.5, grid=2, block=64, shared_bytes=512)
    kernel.load(x.device)
    with torch.cuda.graph(late):  # noqa: TID251
        kernel.launch(x, y, 100, 0.5, grid=2, block=64, shared_bytes=512)
    assert not y.any()
    late.replay()
    assert torch.equal(y, x * -3)


def test_the_error_of_a_missing_compiler_is_an_import_error() -> None:
    assert issubclass(BackendMissing, ImportError)
