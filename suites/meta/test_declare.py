"""A declaration that contradicts itself, its function or another declaration is refused by name."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch

from harness import kernel, op, output, registry, size, tensor
from harness.arch import InvalidClaim
from harness.declare import InvalidDeclaration
from harness.domain import InvalidDomain
from harness.registry import DuplicateDeclaration, UnknownName
from harness.values import FAMILIES, Family

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

THIS_FILE = __file__


@pytest.fixture(autouse=True)
def empty_registry() -> Iterator[None]:
    with registry.scratch():
        yield


def scaled(x: torch.Tensor, by: float) -> torch.Tensor:
    return x * by


def nothing(*_: object) -> None:
    """As a family, every input of it is normal."""


def declare_op(function: Callable[..., object] = scaled, **changes: object) -> None:
    declaration: dict[str, Any] = {
        "inputs": {"x": "m n"},
        "outputs": {"y": "m n"},
        "domain": {"m": size(0, 8), "n": size(1, 8)},
        "dtypes": ("float32",),
        "params": {"by": (1.0, 2.0)},
    }
    op(**(declaration | changes))(function)


def declare_kernel(
    function: Callable[..., object] = scaled, of: str = "scaled", **changes: object
) -> None:
    declaration: dict[str, Any] = {"backend": "triton", "arch": ">=sm80"}
    kernel(of, **(declaration | changes))(function)


def test_a_declaration_leaves_its_function_as_it_is() -> None:
    declared = op(
        inputs={"x": "m"}, outputs={"y": "m"}, domain={"m": size(0, 4)}, dtypes=("float32",)
    )(partial_free := lambda x: x)
    assert declared is partial_free
    assert kernel("f", backend="triton", arch="sm90")(scaled) is scaled


def test_an_op_has_what_was_declared() -> None:
    declare_op(
        inputs={"x": "m n", "s": tensor("m n//2", dtype="uint8", role="code", optional="extra")},
        outputs={"y": "m n", "z": output("m", dtype="float32", sums_over="m n", exact=True)},
        sums_over="n",
        domain={"m": size(), "n": size(2, 8, multiple_of=2)},
        params={"by": {"one": 1.0, "two": 2.0}},
        function=lambda x, s, by: (x, s, by),
    )
    declared = registry.op("<lambda>")
    assert declared.inputs["s"].dims({"m": 3, "n": 8}) == (3, 4)
    assert declared.outputs["y"].sums_over == "n"
    assert declared.outputs["z"].sums_over == "m n"
    assert declared.groups == ("extra",)
    assert declared.param_values({"by": "two"}) == {"by": 2.0}


def test_families_exact_grids_and_independent_axes_are_kept() -> None:
    own = Family(nothing, random=True)
    declare_op(families={"own": own}, exact={"own": 2, "probe": 0.25}, independent=("m",))
    declared = registry.op("scaled")
    assert declared.families == {"own": own}
    assert declared.exact == {"own": 2, "probe": 0.25}
    assert declared.independent == ("m",)


def test_a_sequence_of_values_is_labelled_by_their_words() -> None:
    declare_op(params={"by": (1.0, None, torch.float16)})
    assert registry.op("scaled").params["by"] == {
        "1.0": 1.0,
        "None": None,
        "torch.float16": torch.float16,
    }


def test_a_kernel_is_named_by_op_backend_and_variant() -> None:
    declare_op()
    declare_kernel()
    declare_kernel(variant="split")
    assert [k.name for k in registry.kernels()] == ["scaled.triton", "scaled.triton.split"]
    assert registry.kernel("scaled.triton").archs[0] == "sm80"


def test_a_place_is_file_and_line() -> None:
    declare_op()
    line = scaled.__code__.co_firstlineno
    assert registry.op("scaled").place == f"{THIS_FILE}:{line}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": {"x": "m q"}}, r"scaled: x uses axes \['q'\]; the domain has \['m', 'n'\]"),
        ({"outputs": {"y": "m q*2"}}, r"scaled: y uses axes \['q'\]"),
        ({"params": {"by": (1.0,), "eps": (0.0,)}}, r"takes \['x', 'by'\], not \['eps'\]"),
        ({"inputs": {"x": "m n", "w": "n"}}, r"takes \['x', 'by'\], not \['w'\]"),
        ({"dtypes": ()}, r"dtypes=\(\) leaves no case"),
        ({"dtypes": ("flaot16",)}, "flaot16"),
        ({"inputs": {"x": tensor("m n", dtype="flaot16")}}, "flaot16"),
        ({"inputs": {"x": "m n//"}}, "n//"),
        ({"sums_over": "q"}, r"y.*\['q'\]"),
        ({"outputs": {"y": output("m n", sums_over="m q")}}, r"y.*\['q'\]"),
        ({"refuses": {"eps": (0.0,)}}, "eps"),
        ({"params": {"by": ()}}, "by"),
        ({"outputs": {}}, "outputs"),
        ({"families": {"a,b": Family(nothing)}}, "family 'a,b' breaks the case id"),
        ({"families": {"own": nothing}}, "families 'own' is <function.*; need Family"),
        (
            {"families": {"tiny": Family(nothing)}, "excludes": {"tiny": "why"}},
            "family 'tiny' is both its own and excluded; drop one",
        ),
        ({"excludes": {"speical": "why"}}, "excludes 'speical' is unknown; known: normal, exact"),
        ({"excludes": dict.fromkeys(FAMILIES, "why")}, "leaves no family; keep one or add"),
        ({"exact": {"grid": 1.0}}, "exact 'grid' is unknown; known: normal, exact"),
        ({"exact": {"exact": 0.75}}, "exact 'exact' has the quantum 0.75; need a power of two"),
        ({"exact": {"exact": 0.0}}, "the quantum 0.0"),
        ({"exact": {"exact": -1.0}}, "the quantum -1.0"),
        ({"exact": {"exact": math.nan}}, "the quantum nan"),
        ({"exact": {"exact": math.inf}}, "the quantum inf"),
        ({"exact": {"exact": "1"}}, "exact 'exact' is '1'; need int or float"),
        ({"exact": {"tiny": 1.0}, "excludes": {"tiny": "why"}}, "exact 'tiny' is unknown"),
        ({"independent": ("q",)}, "independent 'q' is unknown; known: m, n"),
        ({"independent": ("m", "m")}, "names an axis twice"),
        ({"independent": ("m",), "outputs": {"y": "n"}}, "axis 'm' is no dimension of any output"),
        ({"independent": ("m",), "inputs": {"x": "n m*2"}}, "'m' is no dimension of any input"),
    ],
)
def test_an_op_that_contradicts_itself_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidDeclaration, match=message):
        declare_op(**changes)


@pytest.mark.parametrize("name", ["dtype", "values", "layout", "config", "seed", "without"])
def test_a_parameter_or_axis_may_not_take_a_field_of_the_case_id(name: str) -> None:
    with pytest.raises(InvalidDeclaration, match=name):
        declare_op(
            params={"by": (1.0,), name: (1, 2)}, function=lambda x, by, **rest: (x, by, rest)
        )
    with pytest.raises(InvalidDeclaration, match=name):
        declare_op(domain={"m": size(0, 8), "n": size(1, 8), name: size(1, 8)})


@pytest.mark.parametrize("word", ["a,b", "a b", "(1, 2)"])
def test_a_word_that_breaks_the_case_id_is_refused(word: str) -> None:
    with pytest.raises(InvalidDeclaration, match="label"):
        declare_op(params={"by": {word: 1.0}})
    with pytest.raises(InvalidDeclaration, match="config"):
        declare_kernel(lambda x, config: (x, config), configs=(word,))


@pytest.mark.parametrize("word", ["a,b", "a+b"])
def test_a_group_that_breaks_the_case_id_is_refused(word: str) -> None:
    with pytest.raises(InvalidDeclaration, match="optional"):
        declare_op(inputs={"x": tensor("m n", optional=word)})


def test_an_unknown_role_lists_the_known_ones() -> None:
    says = r"role='wieght' of tensor\('m'\) is unknown; use data, weight"
    with pytest.raises(InvalidDeclaration, match=says):
        tensor("m", role="wieght")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"backend": "opencl"}, InvalidDeclaration, "backend='opencl'.*triton, cuda, cutedsl"),
        ({"accumulates": "fp16"}, InvalidDeclaration, "accumulates='fp16'.*fp32, tensor_core"),
        ({"torch_op": "scaled"}, InvalidDeclaration, "torch_op='scaled' of scaled.triton is not"),
        ({"configs": ("a",)}, InvalidDeclaration, r"configs=\('a',\).*no parameter 'config'"),
        ({"layouts": ()}, InvalidDeclaration, "layouts"),
        (
            {"layouts": ("strided", "odd")},
            InvalidDeclaration,
            "layout 'odd' is unknown; known",
        ),
        ({"deterministic": "no"}, InvalidDeclaration, "deterministic is 'no'; need bool"),
        ({"variant": "a/b"}, InvalidDeclaration, "a/b"),
        ({"arch": "blackwell"}, InvalidClaim, "arch='blackwell'"),
        ({"arch": "sm70"}, InvalidClaim, "arch='sm70' covers none"),
        ({"instructions": {"sm9": "HGMMA"}}, InvalidClaim, "sm9"),
        ({"instructions": {"sm90": "HGMMA("}}, InvalidDeclaration, "HGMMA"),
        ({"spills": {"sm9": "why"}}, InvalidClaim, "sm9"),
    ],
)
def test_a_kernel_that_contradicts_itself_is_refused(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        declare_kernel(**changes)


def test_a_kernel_with_configs_takes_config() -> None:
    def tiled(x: torch.Tensor, config: str | None = None) -> torch.Tensor:
        del config
        return x

    declare_op()
    declare_kernel(tiled, configs=("small", "large"))
    assert registry.kernel("scaled.triton").configs == ("small", "large")


def test_a_kernel_declared_twice_names_both_places() -> None:
    def first(x: torch.Tensor) -> torch.Tensor:
        return x

    def second(x: torch.Tensor) -> torch.Tensor:
        return x

    declare_kernel(first)
    with pytest.raises(DuplicateDeclaration) as error:
        declare_kernel(second)
    for function in (first, second):
        assert f"{THIS_FILE}:{function.__code__.co_firstlineno}" in str(error.value)
    assert "kernel 'scaled.triton' is declared twice" in str(error.value)
    assert registry.kernel("scaled.triton").function is first


def test_an_op_declared_twice_names_both_places() -> None:
    def twin(function: Callable[..., object]) -> Callable[..., object]:
        function.__name__ = "twin"
        return function

    first, second = (
        twin(lambda x, by: x * by),
        twin(lambda x, by: x + by),
    )
    declare_op(first)
    with pytest.raises(DuplicateDeclaration) as error:
        declare_op(second)
    for function in (first, second):
        assert f"{THIS_FILE}:{function.__code__.co_firstlineno}" in str(error.value)


def test_a_module_that_is_loaded_again_declares_again() -> None:
    declare_kernel()
    declare_kernel()
    declare_op()
    assert len(registry.kernels()) == 1


def test_an_unknown_op_lists_the_known_ones() -> None:
    declare_op()
    declare_op(lambda x, by: x * by)
    declare_kernel(of="scalde")
    with pytest.raises(UnknownName) as error:
        registry.kernels()
    place = registry.kernel("scalde.triton").place
    assert f"scalde.triton at {place} implements op='scalde'" in str(error.value)
    assert "known ops: <lambda>, scaled;" in str(error.value)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UnknownName, match="op 'scaled' is unknown; known: none"):
        registry.op("scaled")
    declare_op()
    declare_kernel()
    with pytest.raises(
        UnknownName, match=r"kernel 'scaled\.cuda' is unknown; known: scaled\.triton"
    ):
        registry.kernel("scaled.cuda")


def test_a_scratch_registry_starts_empty_and_leaves_nothing_behind() -> None:
    declare_op()
    with registry.scratch():
        with pytest.raises(UnknownName):
            registry.op("scaled")
        declare_op(lambda x, by: x * by)
    assert registry.op("scaled").reference is scaled
    with pytest.raises(UnknownName):
        registry.op("<lambda>")


def test_a_scratch_registry_ends_with_an_exception_too() -> None:
    def fail() -> None:
        with registry.scratch():
            declare_op()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with pytest.raises(UnknownName):
        registry.op("scaled")


def test_a_callable_without_code_is_declared_by_its_words() -> None:
    declare_op()
    declare_kernel(partial(scaled, by=2.0))
    assert "partial" in registry.kernel("scaled.triton").place


def test_a_domain_that_admits_nothing_is_refused() -> None:
    with pytest.raises(InvalidDomain, match="min=9, max=8"):
        size(9, 8)
    with pytest.raises(InvalidDomain, match=r"coupling='m <= q'"):
        declare_op(couplings=("m <= q",))


def test_the_package_lists_what_it_has() -> None:
    import harness

    with pytest.raises(AttributeError, match=r"no attribute 'kernle'; it has .*kernel"):
        harness.kernle  # noqa: B018
