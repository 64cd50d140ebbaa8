"""A fault planted for one layer turns that layer's check red, in words that point at the fault.

Every fault is one replacement in a source that passes: the unplanted twin is green.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import pytest
import torch

from harness import compilation, fakes, registry
from harness.artifact import Artifact
from harness.boundary import check_probe, check_survival
from harness.disassembly import Code
from harness.probes import base_case, probes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from harness.declare import Kernel, Op

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Fault:
    """What is replaced by what, the checks that turn red, and what the first of them says."""

    old: str
    new: str
    red: tuple[str, ...]  # how the names of the checks begin that turn red
    says: tuple[str, ...]

    def planted(self, source: str) -> str:
        """The faulty source; there has to be one place to plant it in."""
        assert source.count(self.old) == 1, self.old
        return source.replace(self.old, self.new)

    def shows_in(self, findings: Mapping[str, str]) -> None:
        """Assert that its checks, and no others, have found it."""
        red = {name: words for name, words in findings.items() if words}
        assert [name for name in red if not name.startswith(self.red)] == []
        to_the_point = [words for name, words in red.items() if name.startswith(self.red[0])]
        assert to_the_point, "the fault was not found"
        assert [
            (words, said) for words in to_the_point for said in self.says if said not in words
        ] == []


KERNEL = """
import torch
from torch import Tensor

from harness import device, kernel, op, size
from harness.launches import Launch, report_launch


@op(
    inputs={"x": "m k"},
    outputs={"y": "m k"},
    domain={"m": size(0, 256), "k": size(64, 512, multiple_of=64)},
    dtypes=("float32", "float16"),
)
def double(x):
    return 2 * x


def _check(x):
    if x.dtype not in (torch.float32, torch.float16):
        raise TypeError(f"x.dtype={x.dtype} is neither float32 nor float16; convert x")
    if x.dim() != 2:
        raise ValueError(f"x has rank {x.dim()}; pass x [m, k]")
    if x.device.type == "meta":
        raise ValueError("x is on the device meta; move it to a GPU")
    m, k = x.shape
    if m > 256:
        raise ValueError(f"m={m} exceeds 256; call twice")
    if k % 64 or not 64 <= k <= 512:
        raise ValueError(f"k={k} is no multiple of 64 in 64..512; pad x")


@torch.library.custom_op("parity_meta_NUMBER::double", mutates_args=())
def _double(x: Tensor) -> Tensor:
    _check(x)
    device.require_arch(x.device, ">=sm80")
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if y.numel():
        report_launch(Launch("triton", "double", __name__, None, (1,), {}))
    return torch.add(x, x, out=y)


@_double.register_fake
def _fake_double(x: Tensor) -> Tensor:
    _check(x)  # as the real one
    return x.new_empty(x.shape)


@kernel(
    "double",
    backend="triton",
    arch=">=sm80",
    torch_op="parity_meta_NUMBER::double",
    layouts=("contiguous", "rows"),
)
def double_it(x):
    if not isinstance(x, Tensor):
        raise TypeError(f"x={x!r} is no tensor; pass one")
    return _double(x)
"""
# The lines of it in which faults are planted.
K_CHECK = """    if k % 64 or not 64 <= k <= 512:
        raise ValueError(f"k={k} is no multiple of 64 in 64..512; pad x")
"""
REQUIRE = '    device.require_arch(x.device, ">=sm80")\n'
LAUNCH = '    report_launch(Launch("triton", "double", __name__, None, (1,), {}))\n'
ADD = "    return torch.add(x, x, out=y)\n"
FAKE_CHECK = "    _check(x)  # as the real one\n"
FAKE = "    return x.new_empty(x.shape)\n"

FAKE_FAULTS = {
    "wrong dtype": Fault(
        FAKE,
        "    return x.new_empty(x.shape, dtype=torch.float64)\n",
        ("describes",),
        ("y: real", "torch.float32", "fake", "torch.float64"),
    ),
    "wrong stride": Fault(
        FAKE,
        "    return x.new_empty(x.shape[::-1]).t()\n",
        ("describes",),
        ("y: real", "strides=(192, 1)", "fake", "strides=(1, 5)"),
    ),
    "wrong last dimension": Fault(
        FAKE,
        "    return x.new_empty((x.shape[0], x.shape[1] + 1))\n",
        ("describes",),
        ("y: real", "shape=(5, 192)", "fake", "shape=(5, 193)", "declared"),
    ),
    "returns its input": Fault(FAKE, "    return x\n", ("describes",), ("y: real", "alias='x'")),
    "accepts what the real one refuses": Fault(
        FAKE_CHECK,
        f"    if x.dtype is not torch.float64:\n    {FAKE_CHECK}",
        ("refuses x.dtype=float64",),
        ("real raises TypeError: x.dtype=torch.float64 is neither", "fake accepts"),
    ),
    "refuses what the real one accepts": Fault(
        FAKE_CHECK,
        f"{FAKE_CHECK}    if x.shape[0] == 5:\n        raise ValueError('m=5 is odd')\n",
        ("describes",),
        ("a legal call: real accepts; fake raises ValueError: m=5 is odd",),
    ),
    "refuses in another way": Fault(
        FAKE_CHECK,
        f"    if x.dim() == 2 and x.shape[1] % 64:\n        raise OSError('bad')\n{FAKE_CHECK}",
        ("refuses k=",),
        ("real raises ValueError: k=", "fake raises OSError: bad"),
    ),
    "undeclared mutation": Fault(
        ADD,
        f"    x.copy_(x + 1) if x.is_contiguous() else None\n{ADD}",
        ("describes", "traces"),  # what is traced twice sees another input
        ("the real one mutates an input, undeclared: x:",),
    ),
    "a fake of another name": Fault(
        "def _fake_double", "def _shape_of_double", ("name",), ("_fake_double", "name the fake so")
    ),
    "does not trace": Fault(
        "    return _double(x)",
        "    torch._dynamo.graph_break()\n    return _double(x)",
        ("traces",),
        ("does not trace", "graph_break"),
    ),
}
BOUNDARY_FAULTS = {
    "accepts k off its multiple": Fault("k % 64 or ", "", ("k=",), ("silently accepted",)),
    "raises the wrong type": Fault(
        K_CHECK,
        K_CHECK.replace("ValueError", "RuntimeError"),
        ("k=",),
        ("raised RuntimeError: k=", "must be ValueError"),
    ),
    "names nothing": Fault(
        'f"k={k} is no multiple of 64 in 64..512; pad x"',
        "'unsupported shape'",
        ("k=",),
        ("the message names none of k", "ValueError: unsupported shape"),
    ),
    "refuses after launch": Fault(
        K_CHECK,
        K_CHECK.replace("        raise", f"    {LAUNCH}        raise"),
        ("k=",),
        ("raised after 1 launches: ValueError: k=",),
    ),
    "writes before it refuses": Fault(
        K_CHECK,
        K_CHECK.replace("        raise", "        x.zero_()\n        raise"),
        ("k=",),
        ("memory: x:", "bytes changed"),
    ),
    "takes a transposed input for a contiguous one": Fault(
        ADD,
        f"    x = x if x.stride(1) == 1 else x.as_strided(x.shape, (x.shape[1], 1))\n{ADD}",
        ("x.layout=transposed", "x.layout=strided"),
        ("silently wrong: y: budget:", "elements wrong"),
    ),
    "accepts any arch": Fault(REQUIRE, "", ("arch=sm75",), ("silently accepted",)),
    "takes a list for a tensor": Fault(
        '        raise TypeError(f"x={x!r} is no tensor; pass one")\n',
        "        x = x.contiguous()\n",
        ("x=",),
        ("raised AttributeError", "must be TypeError"),
    ),
    "does not survive its last refusal": Fault(
        REQUIRE,
        "    if getattr(_check, 'lost', False):\n        raise OSError('the context is gone')\n"
        f"    _check.lost = device.arch_of(x.device) == 'sm75'\n{REQUIRE}",
        ("survival",),
        ("raised OSError before launch: the context is gone",),
    ),
}


@dataclass(frozen=True)
class Loaded:
    """A declared op and its kernel."""

    op: Op
    kernel: Kernel


@pytest.fixture
def load(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[[str], Loaded]]:
    """Loads a source that declares the op ``double``, for the time of the test."""
    number = f"{abs(hash(request.node.nodeid)):x}"

    def load(source: str) -> Loaded:
        path = tmp_path / f"planted_{number}.py"
        path.write_text(source.replace("NUMBER", number))
        registry.load(str(path))
        return Loaded(registry.op("double"), registry.kernel("double.triton"))

    with registry.scratch():
        yield load
    sys.modules.pop(f"{registry.FILE_PREFIX}planted_{number}", None)


def of_the_fake(loaded: Loaded) -> dict[str, str]:
    """What every check of the fake_shape layer says; opcheck is asked by its own tests."""
    op, kernel = loaded.op, loaded.kernel
    case = base_case(op, kernel)
    five_rows = replace(case, sizes=(("m", 5), ("k", 192)))
    asked = {
        "describes": partial(fakes.check_case, op, kernel, five_rows, CPU),
        "name": partial(fakes.check_name, op, kernel),
        "traces": partial(fakes.check_traces, op, kernel, case, CPU),
    }
    for name, probe in probes(op, kernel, CPU).items():
        if probe.arch is None:
            asked[f"refuses {name}"] = partial(fakes.check_refusal, op, kernel, probe, CPU)
    return {name: ask() for name, ask in asked.items()}


@pytest.mark.parametrize("fault", FAKE_FAULTS.values(), ids=FAKE_FAULTS)
def test_a_fault_of_the_fake_is_found(load: Callable[[str], Loaded], fault: Fault) -> None:
    fault.shows_in(of_the_fake(load(fault.planted(KERNEL))))


def test_a_true_fake_passes(load: Callable[[str], Loaded]) -> None:
    loaded = load(KERNEL)
    assert {name: words for name, words in of_the_fake(loaded).items() if words} == {}
    case = base_case(loaded.op, loaded.kernel)
    assert fakes.check_opcheck(loaded.op, loaded.kernel, case, CPU) == ""


# Not "wrong stride": torch 2.11 does not compare strides on a CPU (pytorch#177115). We do.
@pytest.mark.parametrize("name", ["wrong dtype", "undeclared mutation"])
def test_opcheck_is_asked_too(load: Callable[[str], Loaded], name: str) -> None:
    loaded = load(FAKE_FAULTS[name].planted(KERNEL))
    case = base_case(loaded.op, loaded.kernel)
    assert fakes.check_opcheck(loaded.op, loaded.kernel, case, CPU).startswith("opcheck: ")


@pytest.mark.parametrize(
    ("fake", "words"), [("x.new_empty(x.shape)", ""), ("x.new_empty(x.shape[::-1])", "opcheck: ")]
)
def test_opcheck_is_asked_of_float8_what_it_can_ask(
    load: Callable[[str], Loaded], fake: str, words: str
) -> None:
    source = KERNEL.replace('dtypes=("float32", "float16")', 'dtypes=("float8_e4m3fn",)')
    source = source.replace("(torch.float32, torch.float16)", "(torch.float8_e4m3fn,)")
    source = source.replace("return torch.add(x, x, out=y)", "return y.copy_(x)")
    loaded = load(source.replace("x.new_empty(x.shape)", fake))
    case = base_case(loaded.op, loaded.kernel)
    assert fakes.check_opcheck(loaded.op, loaded.kernel, case, CPU)[: len("opcheck: ")] == words


def test_an_operator_that_is_never_called_is_not_checked_by_opcheck(
    load: Callable[[str], Loaded],
) -> None:
    loaded = load(KERNEL.replace("return _double(x)", "return x + x"))
    words = fakes.check_opcheck(loaded.op, loaded.kernel, base_case(loaded.op, loaded.kernel), CPU)
    assert words.startswith("double_it never calls parity_meta_")


def at_the_boundary(loaded: Loaded) -> dict[str, str]:
    """What every check of the boundary layer says."""
    made = probes(loaded.op, loaded.kernel, CPU)
    found = {
        name: check_probe(loaded.op, loaded.kernel, probe, CPU) for name, probe in made.items()
    }
    return {**found, "survival": check_survival(loaded.op, loaded.kernel, CPU)}


@pytest.mark.parametrize("fault", BOUNDARY_FAULTS.values(), ids=BOUNDARY_FAULTS)
def test_a_fault_at_the_boundary_is_found(load: Callable[[str], Loaded], fault: Fault) -> None:
    fault.shows_in(at_the_boundary(load(fault.planted(KERNEL))))


def test_a_careful_kernel_passes_the_boundary(load: Callable[[str], Loaded]) -> None:
    assert {name: words for name, words in at_the_boundary(load(KERNEL)).items() if words} == {}


def test_every_neighbour_of_a_multiple_is_probed(load: Callable[[str], Loaded]) -> None:
    loaded = load(KERNEL)
    made = probes(loaded.op, loaded.kernel, CPU)
    assert {"k=0", "k=32", "k=63", "k=65", "k=96", "k=513", "m=257"} <= set(made)


PADDED = """
from harness import kernel, op, size, tensor


@op(
    inputs={"x": "m k", "scales": "(m+7)//8*8"},
    outputs={"y": "m k"},
    domain={"m": size(0, 256), "k": size(64, 512, multiple_of=64)},
    dtypes=("float32",),
)
def double(x, scales):
    return x


@kernel("double", backend="triton", arch=">=sm80")
def double_it(x, scales):
    return x
"""


@pytest.mark.parametrize(
    ("rows", "probed"),
    [
        ("(m+7)//8*8", {"scales.shape[0]+1"}),
        ("m", {"x.shape[0]+1", "scales.shape[0]+1"}),
    ],
)
def test_a_shape_that_is_legal_at_another_size_is_no_mismatch(
    load: Callable[[str], Loaded], rows: str, probed: set[str]
) -> None:
    """4 rows beside scales that are padded to 8 are no fault: those of 3 rows have that shape."""
    loaded = load(PADDED.replace("(m+7)//8*8", rows))
    made = probes(loaded.op, loaded.kernel, CPU)
    assert {name for name in made if name.endswith("]+1")} == probed


def artifact(*more: str) -> Artifact:
    """Machine code of an invented kernel."""
    code = Code(b"", "sm90")
    code.instructions = ("LDG.E R2, desc[R4][R2.64]", "FADD R2, R2, R2", *more)
    return Artifact(
        arch="sm90",
        kernel="_double",
        ptx="",
        cubin=b"",
        code=code,
        registers=16,
        shared_bytes=0,
        stack_bytes=0,
        local_bytes=0,
        warps=4,
    )


SPILLS = (*["STL [R1], R2"] * 3, *["@!P0 LDL.LU R2, [R1]"] * 5)
SAID_OF_SPILLS = "_double: 3 stores and 5 loads of spilled registers"
MACHINE_CODE = {
    "sound": ({}, (), []),
    "spills": ({}, SPILLS, [SAID_OF_SPILLS]),
    "spills, declared for this arch": ({"spills": {"sm90": "one tile too many"}}, SPILLS, []),
    "spills, declared for another": ({"spills": {"sm80": "as above"}}, SPILLS, [SAID_OF_SPILLS]),
    "has what it should": ({"instructions": {">=sm80": r"\bFADD\b"}}, (), []),
    "lacks what it should have": (
        {"instructions": {">=sm80": r"\bFADD\b", "sm90": r"HGMMA"}},
        (),
        ["no instruction of _double matches 'HGMMA', expected on sm90"],
    ),
    "lacks what another arch should have": ({"instructions": {"sm10x": r"UTC\w*MMA"}}, (), []),
}


@pytest.mark.parametrize(("claims", "more", "said"), MACHINE_CODE.values(), ids=MACHINE_CODE)
def test_machine_code_is_held_against_the_declaration(
    load: Callable[[str], Loaded],
    claims: Mapping[str, Mapping[str, str]],
    more: tuple[str, ...],
    said: list[str],
) -> None:
    loaded = load(KERNEL)
    kernel = replace(loaded.kernel, **claims)  # type: ignore[arg-type]
    made = compilation.Compiled(base_case(loaded.op, kernel), (artifact(*more),))
    assert compilation.problems(kernel, made, "sm90") == said


def test_a_kernel_that_launches_nothing_has_no_machine_code(load: Callable[[str], Loaded]) -> None:
    loaded = load(
        KERNEL.replace(LAUNCH, "    pass\n").replace("if y.numel():\n    ", "if True:\n    ")
    )
    case = base_case(loaded.op, loaded.kernel)
    with pytest.raises(compilation.NothingLaunched, match=r"double\.triton launched nothing"):
        compilation.compile_case(loaded.op, loaded.kernel, case, "sm90")
