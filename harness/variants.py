"""Correct variants of an op: other ways to compute it, none of which the budget may reject.

A variant is correct by argument, not because it passes. What rejects one accuses a correct kernel:
either the rule is at fault or the op's declaration.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeVar

import torch

from harness import device as devices
from harness import judge as judging
from harness import registry
from harness.declare import ACCUMULATIONS, Kernel
from harness.execute import Observation, build, name_outputs
from harness.reference import dtype_of, evaluate
from harness.soundness import InvalidDeclaration, check_word
from harness.values import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from torch import Tensor

    from harness.case import Case
    from harness.declare import Op
    from harness.execute import Call
    from harness.judge import Judgement
    from harness.reference import Truth

Function = TypeVar("Function", bound="Callable[..., object]")
DEVICES: Final = ("any", "cuda")
_SPACES: Final = re.compile(r"[^\w.-]+")


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One correct way to compute ``op``; ``function`` takes what a kernel takes, by keyword."""

    op: str
    name: str
    accumulates: str
    devices: str
    function: Callable[..., object]
    place: str
    excludes: tuple[str, ...] = ()  # value families on which it is not correct

    def __str__(self) -> str:
        return f"{self.op}: {self.name}"

    def runs_on(self, device: torch.device) -> bool:
        """Whether it can run on ``device``."""
        return self.devices in {"any", device.type}

    def takes(self, case: Case) -> bool:
        """Whether it is correct on the values of ``case``."""
        return case.values not in self.excludes

    @property
    def kernel(self) -> Kernel:
        """What stands for it where a kernel is asked for: for generated cases and for budgets."""
        return Kernel(
            name=f"{self.op}.{_SPACES.sub('_', self.name)}",
            op=self.op,
            backend="variant",
            arch="",
            function=self.function,
            torch_op=None,
            configs=(),
            accumulates=self.accumulates,
            layouts=("contiguous", "rows", "offset", "transposed", "expanded"),
            instructions={},
            spills={},
            emulated=True,
            deterministic=True,
            place=self.place,
        )


def variant(
    *,
    op: str,
    name: str,
    accumulates: str = "fp32",
    devices: str = "any",
    excludes: tuple[str, ...] = (),
) -> Callable[[Function], Function]:
    """Declare the function below as a correct variant of ``op``; the function is unchanged.

    It takes the op's inputs and parameters by keyword, a parameter called ``dtype`` receives the
    case's dtype, and it returns what a kernel returns. No launch is asked of it. ``accumulates``
    is as of a kernel; ``devices="cuda"`` says that it cannot run on a CPU; ``excludes`` are value
    families on which it differs from the op by more than rounding. Raises InvalidDeclaration, or
    DuplicateDeclaration naming both places.
    """
    check_word("accumulates", accumulates, ACCUMULATIONS, of=f"variant {name!r}")
    check_word("devices", devices, DEVICES, of=f"variant {name!r}")
    for family in excludes:
        check_word("excludes", family, tuple(FAMILIES), of=f"variant {name!r}")

    def declare(function: Function) -> Function:
        code = inspect.unwrap(function).__code__
        registry.add_variant(
            Variant(
                op=op,
                name=name,
                accumulates=accumulates,
                devices=devices,
                function=function,
                place=f"{code.co_filename}:{code.co_firstlineno}",
                excludes=excludes,
            )
        )
        return function

    return declare


def of(op: str) -> tuple[Variant, ...]:
    """The variants of that op by name; raises UnknownName for an op that nobody declared."""
    registry.op(op)
    return tuple(found for found in registry.variants() if found.op == op)


def judge_each(
    op: Op, variants: Iterable[Variant], case: Case, device: torch.device
) -> dict[Variant, Judgement]:
    """Run the variants that take the case on its inputs; judge each by the op's reference.

    The case may be of any kernel of the op; its config is left aside. An exception is a finding,
    no launch is none. Raises UnknownName for a variant of an op that nobody declared,
    InvalidDeclaration for one of another op than ``op``.
    """
    variants = tuple(each for each in variants if each.takes(case))
    for each in variants:
        registry.op(each.op)
        if each.op != op.name:
            msg = f"variant {str(each)!r} was given for op={op.name!r}; use variants.of(op.name)"
            raise InvalidDeclaration(msg)
    call = build(op, case, device)
    truths = {
        mode: evaluate(op, kernel, case, call.tensors)
        for mode, kernel in {each.accumulates: each.kernel for each in variants}.items()
    }
    return {
        each: judge(op, observe(op, each, case, call, device), truths[each.accumulates])
        for each in variants
    }


def judge(op: Op, seen: Observation, truths: Mapping[str, Truth]) -> Judgement:
    """Judge what a variant did, of which no launch is asked."""
    found = judging.judge(op, seen, truths)
    return replace(found, findings=tuple(f for f in found.findings if f.oracle != "launch"))


def observe(op: Op, variant: Variant, case: Case, call: Call, device: torch.device) -> Observation:
    """Run ``variant`` on the inputs of ``call``, made from ``case``; an exception is part of it."""
    outputs: dict[str, Tensor] = {}
    error: Exception | None = None
    keywords = {name: value for name, value in call.keywords.items() if name != "config"}
    if "dtype" in inspect.signature(variant.function).parameters and "dtype" not in keywords:
        keywords["dtype"] = dtype_of(case.dtype)
    try:
        with torch.no_grad():
            outputs = name_outputs(op, variant.function(**{**call.tensors, **keywords}))
        devices.synchronize(device)
    except Exception as raised:  # noqa: BLE001 - classified and reported, never swallowed
        error = raised
    damage = [g.stray_writes() for g in call.inputs.values() if g is not None]
    return Observation(outputs, error, (), next((words for words in damage if words), ""), "")
