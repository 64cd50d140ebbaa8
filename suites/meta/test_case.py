"""A case's id is one word that makes the same case again, and nothing but a legal case."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness import kernel, op, output, registry, size, tensor
from harness.case import Case, InvalidCase, kernel_of, parse
from harness.registry import UnknownName
from harness.strategies import cases
from harness.values import Family
from suites.meta.laws import LAW

if TYPE_CHECKING:
    from collections.abc import Iterator

CONFIGS = ("default", "64x64_w4", "split-k")
ID = (
    "gemm.triton/m=3,n=16,k=128,r=32,dtype=bfloat16,alpha=-0.75,out=same,without=lora+bias,"
    "values=ties,layout=rows,config=split-k,seed=7"
)


@pytest.fixture(scope="module", autouse=True)
def declared() -> Iterator[None]:
    with registry.scratch():
        op(
            inputs={
                "x": "m k",
                "codes": tensor("n k//2", dtype="uint8", role="code"),
                "down": tensor("m r", optional="lora"),
                "up": tensor("n r", optional="lora"),
                "bias": tensor("n", optional="bias"),
            },
            outputs={"y": output("m n", sums_over="k")},
            domain={
                "m": size(0, 4096),
                "n": size(8, 4096, multiple_of=8),
                "k": size(64, 4096, multiple_of=64),
                "r": size(16, 256, multiple_of=16),
            },
            couplings=("r <= k",),
            dtypes=("float16", "bfloat16"),
            params={"alpha": (1.0, -0.75, 1e-6), "out": {"same": None, "half": torch.float16}},
            families={"grid": Family(lambda *_: None)},
            excludes={"special": "no NaN in the contract"},
        )(gemm)
        kernel(
            "gemm",
            backend="triton",
            arch=">=sm80",
            configs=CONFIGS[1:],
            layouts=("contiguous", "rows", "offset"),
        )(gemm_on_gpu)
        yield


def gemm(  # noqa: PLR0917 - as many as an op has
    x: object, codes: object, down: object, up: object, bias: object, alpha: float, out: object
) -> None:
    raise NotImplementedError


def gemm_on_gpu(*, config: str | None = None) -> None:
    raise NotImplementedError


@given(st.data())
@LAW
def test_the_id_of_a_generated_case_makes_it_again(data: st.DataObject) -> None:
    case = data.draw(
        cases(
            registry.op("gemm"),
            registry.kernel("gemm.triton"),
            dtype=data.draw(st.sampled_from(("float16", "bfloat16"))),
            config=data.draw(st.sampled_from(CONFIGS)),
        )
    )
    assert parse(case.id) == case
    assert shlex.split(case.id) == [case.id]
    assert kernel_of(case.id) == case.kernel


def test_an_id_names_every_field() -> None:
    assert parse(ID) == Case(
        kernel="gemm.triton",
        sizes=(("m", 3), ("n", 16), ("k", 128), ("r", 32)),
        dtype="bfloat16",
        params=(("alpha", "-0.75"), ("out", "same")),
        without=("lora", "bias"),
        values="ties",
        layout="rows",
        config="split-k",
        seed=7,
    )
    assert parse(ID).id == ID


def test_fields_may_come_in_any_order() -> None:
    head, _, fields = ID.partition("/")
    backwards = ",".join(reversed(fields.split(",")))
    assert parse(f"{head}/{backwards}") == parse(ID)


def test_an_id_may_name_a_family_of_the_ops_own() -> None:
    assert parse(ID.replace("values=ties", "values=grid")).values == "grid"


def test_every_input_is_there_unless_left_out() -> None:
    assert parse(ID.replace("without=lora+bias,", "")).without == ()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("m=3,", "", r"missing or unknown fields \['m'\]"),
        ("seed=7", "seed=7,q=1", r"missing or unknown fields \['q'\]"),
        ("out=same,", "", r"missing or unknown fields \['out'\]; needed: .*'values'"),
        ("m=3", "m", "'m' is not of the form name=value"),
        ("m=3", "m=-3", "'-3' is not a whole number"),
        ("m=3", "m=3.0", "'3.0' is not a whole number"),
        ("m=3", "m=", "'' is not a whole number"),
        ("m=3", "m=²", "'²' is not a whole number"),
        ("seed=7", "seed=0x7", "'0x7' is not a whole number"),
        ("m=3", "m=4097", "m=4097 is outside 0..4096"),
        ("n=16", "n=17", "n=17 is not a multiple of 8"),
        ("r=32", "r=256", "'r <= k' does not hold"),
        ("dtype=bfloat16", "dtype=float32", r"dtype='float32' is not in \['float16', 'bfloat16'\]"),
        ("alpha=-0.75", "alpha=-.75", r"alpha='-.75' is not in \['1.0', '-0.75', '1e-06'\]"),
        ("config=split-k", "config=split", r"config='split' is not in \['default', '64x64_w4'"),
        ("without=lora+bias", "without=lroa", "without='lroa'"),
        ("without=lora+bias", "without=", "without=''"),
        ("m=3,", "m=3,m=4,", "'m' is given twice"),
        ("ties", "tise", r"values='tise' is not in \['normal', 'exact', .*'mixed', 'grid'\]"),
        ("ties", "special", "gemm excludes values='special': no NaN in the contract"),
        ("rows", "diagonal", r"layout='diagonal' is not in \['contiguous', .*'strided'"),
    ],
)
def test_what_is_no_legal_case_is_refused(old: str, new: str, message: str) -> None:
    assert old in ID
    with pytest.raises(InvalidCase, match=message):
        parse(ID.replace(old, new))


def test_two_refusals_are_given_at_once() -> None:
    with pytest.raises(InvalidCase) as error:
        parse(ID.replace("n=16", "n=17").replace("dtype=bfloat16", "dtype=float32"))
    assert "n=17" in str(error.value)
    assert "dtype='float32'" in str(error.value)


@pytest.mark.parametrize("text", ["", "gemm", "gemm.cuda/m=1"])
def test_an_unknown_kernel_lists_the_known_ones(text: str) -> None:
    with pytest.raises(UnknownName, match=r"is unknown; known: gemm\.triton"):
        parse(text)


def test_a_kernel_alone_is_no_case() -> None:
    with pytest.raises(InvalidCase, match=r"case='gemm\.triton'"):
        parse("gemm.triton")


def test_a_case_knows_its_op() -> None:
    assert parse(ID).op() is registry.op("gemm")
    assert parse(ID).size_of == {"m": 3, "n": 16, "k": 128, "r": 32}
