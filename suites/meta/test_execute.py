"""What a kernel does in a call is seen and classified: outputs, refusals, launches, damage."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from harness import Expected, kernel, op, registry, size, tensor
from harness.buffers import POISONS
from harness.case import Case
from harness.draws import normal
from harness.emulation import is_active
from harness.execute import ReturnedWrongKind, build, execute, generator, name_outputs
from harness.judge import judge
from harness.launches import Launch, report_launch
from harness.reference import evaluate

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.declare import Kernel, Op
    from harness.execute import Call, Observation
    from harness.judge import Judgement

CPU = torch.device("cpu")


def affine(
    x: Tensor, scale: Tensor, bias: Tensor | None, sign: float
) -> dict[str, Tensor | Expected]:
    product, added = sign * x * scale, 0 * scale if bias is None else bias
    y = Expected(product + added, product.abs() + added.abs())
    return {"y": y, "flags": torch.zeros_like(x[:, 0])}


def launch() -> None:
    """What a launcher says right before it launches."""
    assert report_launch(Launch("cuda", "affine", __name__, None, (1,), {}))


def right(x: Tensor, scale: Tensor, bias: Tensor | None, sign: float) -> tuple[Tensor, Tensor]:
    y, flags = torch.empty_like(x), torch.empty_like(x[:, 0])
    launch()
    y.copy_(sign * x * scale + (0 if bias is None else bias))
    flags.zero_()
    return y, flags


def declare(function: Callable[..., object]) -> tuple[Op, Kernel]:
    """The op and a kernel of it, as declared; they outlive the scratch registry."""
    with registry.scratch():
        op(
            inputs={
                "x": "m n",
                "scale": tensor("n", dtype="float32", role="scale"),
                "bias": tensor("n", role="weight", optional="bias"),
            },
            outputs={"y": "m n", "flags": "m"},
            domain={"m": size(0, 64), "n": size(1, 64)},
            dtypes=("float32", "float16"),
            params={"sign": {"plus": 1.0, "minus": -1.0}},
        )(affine)
        kernel("affine", backend="cuda", arch="sm90")(function)
        return registry.op("affine"), registry.kernel("affine.cuda")


def case_of(  # a case of `affine`; sizes by position
    m: int = 4,
    n: int = 6,
    *,
    sign: str = "plus",
    without: tuple[str, ...] = (),
    layout: str = "contiguous",
    config: str = "default",
    seed: int = 0,
) -> Case:
    return Case(
        kernel="affine.cuda",
        sizes=(("m", m), ("n", n)),
        dtype="float32",
        params=(("sign", sign),),
        without=without,
        layout=layout,
        config=config,
        seed=seed,
    )


def run(function: Callable[..., object], case: Case | None = None) -> tuple[Observation, Judgement]:
    case = case or case_of()
    declared, subject = declare(function)
    call, seen = execute(declared, subject, case, CPU)
    truths = evaluate(declared, subject, case, call.tensors)
    return seen, judge(declared, seen, truths)


def built(case: Case) -> Call:
    return build(declare(right)[0], case, CPU)


@pytest.mark.parametrize("seed", range(len(POISONS)))
def test_a_right_kernel_passes_with_every_poison(seed: int) -> None:
    seen, verdict = run(right, case_of(seed=seed))
    assert (seen.error, seen.damage, seen.poison) == (None, "", POISONS[seed])
    assert list(seen.outputs) == ["y", "flags"]
    assert [each.name for each in seen.launches] == ["affine"]
    assert verdict.problems == ()
    assert verdict.worst <= 1


def test_an_ignored_parameter_is_seen() -> None:
    def without_sign(x: Tensor, scale: Tensor, bias: Tensor | None, sign: float) -> object:
        del sign
        return right(x, scale, bias, 1.0)

    assert run(without_sign)[1].problems == ()
    (problem,) = run(without_sign, case_of(sign="minus"))[1].problems
    assert problem.startswith("y: budget: ")
    assert "of 24 elements wrong" in problem


def test_an_input_left_out_is_none() -> None:
    def only_without(x: Tensor, scale: Tensor, bias: Tensor | None, sign: float) -> object:
        assert bias is None
        return right(x, scale, bias, sign)

    assert run(only_without, case_of(without=("bias",)))[1].problems == ()


@pytest.mark.parametrize("seed", range(len(POISONS)))
def test_what_was_not_written_fails_with_every_poison(seed: int) -> None:
    def half(x: Tensor, scale: Tensor, bias: Tensor | None, sign: float) -> object:
        y, flags = right(x, scale, bias, sign)
        partial = torch.empty_like(y)
        partial[:2] = y[:2]
        return partial, flags

    (problem,) = run(half, case_of(seed=seed))[1].problems
    assert problem.startswith("y: budget: 12 of 24 elements wrong")
    assert "in rows 2..3 of 4 (the tail)" in problem


def test_a_missing_output_fails() -> None:
    seen, verdict = run(lambda **arguments: right(**arguments)[0])
    assert isinstance(seen.error, ReturnedWrongKind)
    (problem,) = verdict.problems
    assert problem == (
        "raised ReturnedWrongKind after 1 launches: the kernel returned (Tensor); "
        "affine has the outputs ['y', 'flags']"
    )


@pytest.mark.parametrize(
    ("result", "kinds"),
    [
        (None, "NoneType"),
        ((torch.zeros(1), None), "Tensor, NoneType"),
        ([torch.zeros(1)] * 3, "Tensor, Tensor, Tensor"),
        ({"y": torch.zeros(1), "flags": torch.zeros(1)}, "dict"),
    ],
)
def test_what_is_not_the_ops_outputs_is_named(result: object, kinds: str) -> None:
    declared, _ = declare(right)
    with pytest.raises(ReturnedWrongKind) as error:
        name_outputs(declared, result)
    assert f"the kernel returned ({kinds}); affine has the outputs" in str(error.value)


def test_outputs_may_come_as_a_list() -> None:
    assert run(lambda **arguments: list(right(**arguments)))[1].problems == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda y: y.half(), "y: metadata: dtype torch.float16, expected torch.float32"),
        (lambda y: y[:3], "y: metadata: shape (3, 6), expected (4, 6)"),
        (lambda y: y.T, "y: metadata: shape (6, 4), expected (4, 6)"),
    ],
)
def test_an_output_of_another_shape_or_dtype_fails(
    change: Callable[[Tensor], Tensor], message: str
) -> None:
    def changed(**arguments: object) -> object:
        y, flags = right(**arguments)  # type: ignore[arg-type]
        return change(y), flags

    assert run(changed)[1].problems == (message,)


@pytest.mark.parametrize("name", ["x", "scale", "bias"])
def test_a_changed_input_fails(name: str) -> None:
    def scribbling(**arguments: object) -> object:
        result = right(**arguments)  # type: ignore[arg-type]
        changed = arguments[name]
        assert isinstance(changed, Tensor)
        changed.view(torch.uint8)[..., -1] ^= 1
        return result

    seen, verdict = run(scribbling)
    assert seen.damage.startswith(f"{name}: ")
    assert f"memory: {seen.damage}" in verdict.problems


def write(target: Tensor, where: int) -> None:
    place = target.storage_offset() + where
    target.as_strided((1,), (1,), place).fill_(7.0)


@pytest.mark.parametrize(("where", "side"), [(-1, "before"), (24, "after")])
def test_a_write_past_an_output_fails(where: int, side: str) -> None:
    def stray(**arguments: object) -> object:
        y, flags = right(**arguments)  # type: ignore[arg-type]
        write(y, where)
        return y, flags

    assert run(stray)[1].problems == (f"memory: allocation 0: 4 bytes {side} it were written",)


def test_a_write_past_an_input_fails_where_the_call_raised_too() -> None:
    def stray(x: Tensor, **rest: object) -> object:
        write(x, 24)
        raise ValueError(rest)

    raised, damage = run(stray)[1].problems
    assert raised.startswith("raised ValueError before launch: ")
    assert damage == "memory: x: 4 bytes changed, the first at byte 96 from its start"


def test_a_read_past_an_input_meets_nan() -> None:
    def greedy(x: Tensor, scale: Tensor, bias: Tensor | None, sign: float) -> object:
        y, flags = right(x, scale, bias, sign)
        beyond = x.as_strided((1,), (1,), x.storage_offset() + x.numel())
        return y + 0 * beyond, flags

    (problem,) = run(greedy)[1].problems
    assert "24 of 24 elements wrong" in problem
    assert "actual nan" in problem


def test_a_result_without_a_launch_fails() -> None:
    def fallback(x: Tensor, scale: Tensor, bias: Tensor | None, sign: float) -> object:
        y = sign * x * scale
        return y if bias is None else y + bias, torch.zeros_like(x[:, 0])

    seen, verdict = run(fallback)
    assert seen.launches == ()
    assert verdict.problems == ("no launch was seen: a fallback computed this, not the kernel",)


def test_nothing_needs_no_launch() -> None:
    def nothing(x: Tensor, **rest: object) -> object:
        del rest
        return torch.empty_like(x), x.new_empty(0)

    assert run(nothing, case_of(m=0))[1].problems == ()


def test_a_legal_case_may_not_be_refused() -> None:
    def refuses(x: Tensor, **rest: object) -> object:
        del rest
        msg = f"m={len(x)} is too few"
        raise ValueError(msg)

    seen, verdict = run(refuses)
    assert seen.launches == ()
    assert verdict.problems == ("raised ValueError before launch: m=4 is too few",)


def test_an_error_after_launch_is_told_from_one_before() -> None:
    def late(**arguments: object) -> object:
        right(**arguments)  # type: ignore[arg-type]
        msg = "too late"
        raise ValueError(msg)

    seen, verdict = run(late)
    assert len(seen.launches) == 1
    assert verdict.problems == ("raised ValueError after 1 launches: too late",)


@pytest.mark.parametrize("error", [RuntimeError, AssertionError, KeyError, OSError, MemoryError])
def test_any_error_is_a_finding(error: type[Exception]) -> None:
    def breaks(**arguments: object) -> object:
        raise error(str(list(arguments)))

    (problem,) = run(breaks)[1].problems
    assert problem.startswith(f"raised {error.__name__} before launch: ")


def test_an_interrupt_is_not_held_back() -> None:
    def interrupted(**arguments: object) -> object:
        raise KeyboardInterrupt(arguments)

    with pytest.raises(KeyboardInterrupt):
        run(interrupted)
    assert not is_active()


def test_a_cpu_call_is_emulated_and_keeps_no_gradients() -> None:
    states = []

    def states_seen(**arguments: object) -> object:
        states.append((is_active(), torch.is_grad_enabled()))
        return right(**arguments)  # type: ignore[arg-type]

    run(states_seen)
    assert states == [(True, False)]
    assert not is_active()


def test_the_default_config_is_the_kernels_own_choice() -> None:
    assert "config" not in built(case_of()).arguments
    assert built(case_of(config="wide")).arguments["config"] == "wide"


def test_a_parameter_is_given_by_its_value() -> None:
    assert built(case_of(sign="minus")).arguments["sign"] == -1.0


@pytest.mark.parametrize(("seed", "others"), [(0, 1), (1, 2), (6, 1), (7, 2)])
def test_every_input_has_the_layout_of_the_case_or_the_first_alone(seed: int, others: int) -> None:
    tensors = built(case_of(layout="strided", seed=seed)).tensors
    strides = {name: value.stride() for name, value in tensors.items() if value is not None}
    assert strides == {"x": (12, 2), "scale": (others,), "bias": (others,)}


def test_an_offset_is_one_element_off() -> None:
    tensors = built(case_of(layout="offset")).tensors
    offsets = [value.storage_offset() % 16 for value in tensors.values() if value is not None]
    assert offsets == [1, 0, 0]


def test_an_input_has_its_own_dtype_or_that_of_the_case() -> None:
    tensors = built(case_of()).tensors
    assert {value.dtype for value in tensors.values() if value is not None} == {torch.float32}
    half = Case(
        kernel="affine.cuda",
        sizes=(("m", 1), ("n", 1)),
        dtype="float16",
        params=(("sign", "plus"),),
    )
    tensors = built(half).tensors
    dtypes = [value.dtype for value in tensors.values() if value is not None]
    assert dtypes == [torch.float16, torch.float32, torch.float16]


def test_a_keyword_replaces_an_input_of_its_name() -> None:
    call = built(case_of())
    replaced = type(call)(call.inputs, {**call.keywords, "x": None})
    assert replaced.arguments["x"] is None


def test_values_depend_on_the_seed_and_the_inputs_name_alone() -> None:
    one, two = built(case_of(seed=7)).tensors, built(case_of(seed=7, layout="offset")).tensors
    for name, value in one.items():
        other = two[name]
        assert value is not None
        assert other is not None
        assert torch.equal(value, other)
    assert built(case_of(seed=7, without=("bias",))).tensors["bias"] is None
    again = built(case_of(seed=7, without=("bias",))).tensors["scale"]
    assert again is not None
    assert one["scale"] is not None
    assert torch.equal(again, one["scale"])
    expected = normal((4, 6), torch.float32, generator(case_of(seed=7), "x"))
    assert one["x"] is not None
    assert torch.equal(one["x"], expected)


def test_seeds_and_names_have_generators_of_their_own() -> None:
    drawn = {
        float(torch.rand((), generator=generator(case_of(seed=seed), name)))
        for seed in range(8)
        for name in ("x", "y", "x/y")
    }
    assert len(drawn) == 24
