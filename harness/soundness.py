"""A declaration that contradicts itself or its function is refused where it is made, in words."""

from __future__ import annotations

import inspect
import math
import re
from typing import TYPE_CHECKING, Final

from harness import arch as arches
from harness import expression
from harness.case import FIXED
from harness.registry import WrongDeclaration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.declare import DtypeRule, Kernel, Op, TensorSpec

DTYPES: Final = (
    *("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"),
    *("int64", "int32", "int16", "int8", "uint8", "bool"),
)
_HEAD: Final = re.compile(r"[^\s/]+")  # a kernel's name ends at the first slash of a case id
_LABEL: Final = re.compile(r"[\w@%:.+/-]+")  # a value in a case id, which is one shell word
_GROUP: Final = re.compile(r"[\w.-]+")  # groups in a case id are joined by plus signs


class InvalidDeclaration(WrongDeclaration):
    """A declaration that contradicts itself or its function's signature."""


def check_word(what: str, value: str, known: Sequence[str], *, of: str) -> None:
    """Raise InvalidDeclaration for a word of a declaration that is not among those ``known``."""
    if value not in known:
        msg = f"{what}={value!r} of {of} is unknown; use {', '.join(known)}"
        raise InvalidDeclaration(msg)


def check_op(op: Op) -> None:
    """Raise InvalidDeclaration for an op that contradicts itself or its reference."""
    for name, given in op.inputs.items():
        _check_tensor(op, name, given.shape, given.dtype)
        _check_role(op, name, given)
    for name, out in op.outputs.items():
        _check_tensor(op, name, (*out.shape, *(out.sums_over or "").split()), out.dtype)
    for dtype in op.dtypes:
        _check_known(f"{op.name}: dtype", dtype, DTYPES)
    for group in op.groups:
        _check_form(f"{op.name}: optional", group, _GROUP)
    _check_params(op)
    _check_families(op)
    _check_independent(op)
    _check_upstream(op)
    accepted = inspect.signature(op.reference).parameters
    if missing := {*op.inputs, *op.params} - set(accepted):
        msg = (
            f"{op.name}: its reference at {op.place} takes {list(accepted)}, not {sorted(missing)}"
        )
        raise InvalidDeclaration(msg)
    if not op.dtypes:
        msg = f"{op.name}: dtypes=() leaves no case; name at least one dtype"
        raise InvalidDeclaration(msg)
    if not op.outputs:
        msg = f"{op.name}: outputs={{}} leaves nothing to compare; name at least one output"
        raise InvalidDeclaration(msg)


def _check_tensor(op: Op, name: str, words: Sequence[str], dtype: DtypeRule | None) -> None:
    known = set(op.domain.sizes)
    try:
        used = frozenset[str]().union(*(expression.axes(word) for word in words))
    except expression.InvalidExpression as error:
        msg = f"{op.name}: {name}: {error}"
        raise InvalidDeclaration(msg) from error
    if unknown := used - known:
        msg = f"{op.name}: {name} uses axes {sorted(unknown)}; the domain has {sorted(known)}"
        raise InvalidDeclaration(msg)
    if isinstance(dtype, str):
        _check_known(f"{op.name}: dtype of {name}", dtype, DTYPES)


def _check_role(op: Op, name: str, spec: TensorSpec) -> None:
    remedies = {
        "code": "codes are integers: give dtype=..., e.g. 'uint8'",
        "scale": "scales are floating point: use role='code' for encoded ones",
        "index": "indices are integers: give dtype=..., e.g. 'int32'",
    }
    if (spec.role == "index") != (spec.below is not None):
        given = f"{op.name}: {name} has role={spec.role!r} and below={spec.below!r}"
        msg = f"{given}; an index has an axis that it stays below, and nothing else has one"
        raise InvalidDeclaration(msg)
    if spec.below is not None:
        _check_tensor(op, name, (spec.below,), None)
    for dtype in (spec.dtype,) if spec.dtype else op.dtypes:
        floating = dtype.startswith(("float", "bfloat"))
        if spec.role in remedies and floating != (spec.role == "scale"):
            given = f"{op.name}: {name} has role={spec.role!r} and dtype={dtype!r}"
            msg = f"{given}; {remedies[spec.role]}"
            raise InvalidDeclaration(msg)


def _check_families(op: Op) -> None:
    if not (op.families or op.exact or op.excludes):
        return
    from harness import values

    for name, family in op.families.items():
        _check_form(f"{op.name}: family", name, _LABEL)
        _check_kind(f"{op.name}: families {name!r}", family, values.Family)
        if name in op.excludes:
            msg = f"{op.name}: family {name!r} is both its own and excluded; drop one of the two"
            raise InvalidDeclaration(msg)
    for name in op.excludes:
        _check_known(f"{op.name}: excludes", name, tuple(values.FAMILIES))
    known = tuple(values.families_of(op))
    if not known:
        msg = f"{op.name}: excludes={list(op.excludes)} leaves no family; keep one or add your own"
        raise InvalidDeclaration(msg)
    for name, quantum in op.exact.items():
        _check_known(f"{op.name}: exact", name, known)
        _check_kind(f"{op.name}: exact {name!r}", quantum, (int, float))
        if math.frexp(quantum)[0] != 1 / 2:
            msg = f"{op.name}: exact {name!r} has the quantum {quantum!r}; need a power of two > 0"
            raise InvalidDeclaration(msg)


def _check_independent(op: Op) -> None:
    for axis in op.independent:
        _check_known(f"{op.name}: independent", axis, tuple(op.domain.sizes))
        for what, specs in (("input", op.inputs), ("output", op.outputs)):
            if not any(axis in spec.shape for spec in specs.values()):
                msg = f"{op.name}: independent axis {axis!r} is no dimension of any {what}"
                raise InvalidDeclaration(msg)
    if len(set(op.independent)) < len(op.independent):
        msg = f"{op.name}: independent={op.independent!r} names an axis twice; name it once"
        raise InvalidDeclaration(msg)


def _check_upstream(op: Op) -> None:
    if op.upstream is None:
        return
    from harness.upstream import Upstream

    _check_kind(f"{op.name}: upstream", op.upstream, Upstream)
    accepted, limit = inspect.signature(op.upstream.function).parameters, op.upstream.at_most
    if missing := {*op.inputs, *op.params} - set(accepted):
        msg = f"{op.name}: upstream's function takes {list(accepted)}, not {sorted(missing)}"
        raise InvalidDeclaration(msg)
    if limit is not None and not 0 < limit < math.inf:
        msg = f"{op.name}: upstream has at_most={limit!r}; need a finite ratio > 0, or None"
        raise InvalidDeclaration(msg)


def _check_params(op: Op) -> None:
    names = (*FIXED, *op.domain.sizes, *op.params)
    if twice := sorted({name for name in names if names.count(name) > 1}):
        msg = f"{op.name}: {twice} would name two fields of a case id; rename the axis or parameter"
        raise InvalidDeclaration(msg)
    for name, labels in op.params.items():
        if not labels:
            msg = f"{op.name}: params {name}=() leaves no case; give at least one value"
            raise InvalidDeclaration(msg)
        for label in labels:
            _check_form(f"{op.name}: label of {name}", label, _LABEL)
    for name in op.refuses:
        _check_known(f"{op.name}: refuses", name, tuple(op.params))


def _check_known(what: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        msg = f"{what} {value!r} is unknown; known: {', '.join(known) or 'none'}"
        raise InvalidDeclaration(msg)


def _check_kind(what: str, value: object, kind: type | tuple[type, ...]) -> None:
    if not isinstance(value, kind):
        words = [k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,))]
        msg = f"{what} is {value!r}; need {' or '.join(words)}"
        raise InvalidDeclaration(msg)


def _check_form(what: str, word: str, form: re.Pattern[str]) -> None:
    if not form.fullmatch(word):
        msg = f"{what} {word!r} breaks the case id; use a word of the form {form.pattern}"
        raise InvalidDeclaration(msg)


def check_kernel(kernel: Kernel) -> None:
    """Raise InvalidDeclaration or InvalidClaim for a kernel that contradicts itself."""
    _check_form("kernel", kernel.name, _HEAD)
    for config in kernel.configs:
        _check_form(f"{kernel.name}: config", config, _LABEL)
    if not kernel.layouts:
        msg = f"{kernel.name}: layouts=() leaves no case; give at least 'contiguous'"
        raise InvalidDeclaration(msg)
    from harness.buffers import LAYOUTS

    for layout in kernel.layouts:
        _check_known(f"{kernel.name}: layout", layout, LAYOUTS)
    _check_kind(f"{kernel.name}: deterministic", kernel.deterministic, bool)
    for claim in (*kernel.instructions, *kernel.spills):
        arches.claimed(claim)
    for pattern in kernel.instructions.values():
        try:
            re.compile(pattern)
        except re.error as error:
            msg = f"{kernel.name}: instructions={pattern!r} is no regular expression: {error}"
            raise InvalidDeclaration(msg) from error
    if kernel.torch_op is not None and "::" not in kernel.torch_op:
        msg = f"torch_op={kernel.torch_op!r} of {kernel.name} is not of the form 'namespace::name'"
        raise InvalidDeclaration(msg)
    accepted = inspect.signature(kernel.function).parameters
    if kernel.configs and "config" not in accepted:
        msg = (
            f"{kernel.name} declares configs={kernel.configs!r} but {kernel.place} has no "
            f"parameter 'config'; add `config: str | None = None` or drop configs"
        )
        raise InvalidDeclaration(msg)
