"""Declarations: one decorator per op (its contract), one per kernel (an implementation)."""

from __future__ import annotations

import inspect
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from harness import arch as arches
from harness import expression, registry
from harness.case import FIXED
from harness.domain import UNBOUNDED, Domain, Size

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch

    from harness.budget import Term
    from harness.values import Family

    DtypeRule = str | Callable[[torch.dtype, Mapping[str, object]], torch.dtype]

Function = TypeVar("Function", bound="Callable[..., object]")
BACKENDS: Final = ("triton", "cuda", "cutedsl")
ACCUMULATIONS: Final = ("fp32", "tensor_core")
ROLES: Final = ("data", "weight", "scale", "code")
DTYPES: Final = (
    *("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"),
    *("int64", "int32", "int16", "int8", "uint8", "bool"),
)
_HEAD: Final = re.compile(r"[^\s/]+")  # a kernel's name ends at the first slash of a case id
_LABEL: Final = re.compile(r"[\w@%:.+/-]+")  # a value in a case id, which is one shell word
_GROUP: Final = re.compile(r"[\w.-]+")  # groups in a case id are joined by plus signs


class InvalidDeclaration(registry.WrongDeclaration):
    """A declaration that contradicts itself or its function's signature."""


@dataclass(frozen=True)
class TensorSpec:
    """One input: its shape over axes, its dtype if fixed, its role, its group if optional."""

    shape: tuple[str, ...]
    dtype: str | None = None
    role: str = "data"
    optional: str | None = None

    def dims(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The concrete shape at ``sizes``."""
        return tuple(expression.evaluate(word, sizes) for word in self.shape)


@dataclass(frozen=True)
class OutputSpec:
    """One output: its shape, its dtype rule, whether bytes must equal, what its sums run over."""

    shape: tuple[str, ...]
    dtype: DtypeRule | None = None
    exact: bool = False
    sums_over: str | None = None

    def dims(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The concrete shape at ``sizes``."""
        return tuple(expression.evaluate(word, sizes) for word in self.shape)


@dataclass(frozen=True)
class Op:
    """A mathematical contract; ``reference`` computes it densely in float64."""

    name: str
    reference: Callable[..., object]
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, OutputSpec]
    domain: Domain
    dtypes: tuple[str, ...]
    params: Mapping[str, Mapping[str, object]]
    terms: tuple[Term, ...]
    excludes: Mapping[str, str]
    refuses: Mapping[str, tuple[object, ...]]
    families: Mapping[str, Family]
    exact: Mapping[str, float]
    independent: tuple[str, ...]
    place: str

    @property
    def groups(self) -> tuple[str, ...]:
        """The optional groups of inputs, in order of appearance."""
        return tuple(dict.fromkeys(s.optional for s in self.inputs.values() if s.optional))

    def param_values(self, labels: Mapping[str, str]) -> dict[str, object]:
        """Values of the parameters from the labels that a case carries."""
        return {name: self.params[name][label] for name, label in labels.items()}


@dataclass(frozen=True)
class Kernel:
    """One implementation of an op on one backend, for the archs that ``arch`` claims."""

    name: str
    op: str
    backend: str
    arch: str
    function: Callable[..., object]
    torch_op: str | None
    configs: tuple[str, ...]
    accumulates: str
    layouts: tuple[str, ...]
    instructions: Mapping[str, str]
    spills: Mapping[str, str]
    emulated: bool
    deterministic: bool
    place: str

    @property
    def archs(self) -> tuple[str, ...]:
        """The known archs that the kernel claims."""
        return arches.claimed(self.arch)


def size(
    min: int = 0,  # noqa: A002 - the words users say
    max: int = UNBOUNDED,  # noqa: A002
    *,
    multiple_of: int = 1,
) -> Size:
    """Legal sizes of an axis, without an upper bound unless given; raises InvalidDomain."""
    return Size(min, max, multiple_of)


def tensor(
    shape: str, *, dtype: str | None = None, role: str = "data", optional: str | None = None
) -> TensorSpec:
    """An input over axes, e.g. ``tensor("k//64 m", role="scale")``.

    ``dtype=None`` is the case's dtype. ``role`` says what values make sense: ``data`` takes every
    value family, ``weight`` stays ordinary beside most extreme data, ``scale`` is positive and
    floating point, ``code`` is an integer of any bits. Inputs with the same ``optional`` word are
    left out (None) together in some cases.
    """
    if role not in ROLES:
        msg = f"role={role!r} is unknown; roles: {', '.join(ROLES)}"
        raise InvalidDeclaration(msg)
    return TensorSpec(tuple(shape.split()), dtype, role, optional)


def output(
    shape: str,
    *,
    dtype: DtypeRule | None = None,
    exact: bool = False,
    sums_over: str | None = None,
) -> OutputSpec:
    """An output over axes; ``dtype`` is a name, a rule of (case dtype, params), or the case's.

    ``exact`` asks for equal bytes. ``sums_over`` names the axes (a product, ``"k r"``) over which
    each element sums, for the error budget; None means pointwise.
    """
    return OutputSpec(tuple(shape.split()), dtype, exact, sums_over)


def op(
    *,
    inputs: Mapping[str, str | TensorSpec],
    outputs: Mapping[str, str | OutputSpec],
    domain: Mapping[str, Size],
    dtypes: Sequence[str],
    couplings: Sequence[str] = (),
    sums_over: str | None = None,
    params: Mapping[str, Sequence[object] | Mapping[str, object]] | None = None,
    terms: Sequence[Term] = (),
    excludes: Mapping[str, str] | None = None,
    refuses: Mapping[str, Sequence[object]] | None = None,
    families: Mapping[str, Family] | None = None,
    exact: Mapping[str, float] | None = None,
    independent: Sequence[str] = (),
) -> Callable[[Function], Function]:
    """Declare the function below as the dense reference of the op of its name.

    The reference takes float64 tensors (integer tensors stay as they are) and parameters by
    keyword; a parameter called ``dtype`` receives the case's dtype. It returns one tensor or a
    mapping by output name, each a tensor or an ``Expected``. ``excludes`` maps a value family for
    which the contract says nothing to the reason; ``refuses`` maps a parameter to values that
    every kernel must refuse.

    ``families`` adds value families of the op's own; one with the name of a generic family replaces
    it. ``exact`` maps a family to a quantum, a power of two, of which every term and partial sum is
    a multiple on inputs of that family: while sums stay below 2^24 quanta the result must be equal
    bit for bit. ``independent`` names axes along which one index must not influence the outputs of
    another: garbage in one row leaves the others' bits alone. Raises InvalidDeclaration.
    """

    def declare(function: Function) -> Function:
        specs = {k: tensor(v) if isinstance(v, str) else v for k, v in inputs.items()}
        outs = {
            k: output(v, sums_over=sums_over) if isinstance(v, str) else v
            for k, v in outputs.items()
        }
        declared = Op(
            name=function.__name__,
            reference=function,
            inputs=specs,
            outputs=outs,
            domain=Domain(dict(domain), tuple(couplings)),
            dtypes=tuple(dtypes),
            params={k: _labelled(v) for k, v in (params or {}).items()},
            terms=tuple(terms),
            excludes=dict(excludes or {}),
            refuses={k: tuple(v) for k, v in (refuses or {}).items()},
            families=dict(families or {}),
            exact=dict(exact or {}),
            independent=tuple(independent),
            place=_place(function),
        )
        _check_op(declared)
        registry.add_op(declared)
        return function

    return declare


def kernel(
    op: str,
    *,
    backend: str,
    arch: str,
    torch_op: str | None = None,
    configs: Sequence[str] = (),
    accumulates: str = "fp32",
    layouts: Sequence[str] = ("contiguous",),
    instructions: Mapping[str, str] | None = None,
    spills: Mapping[str, str] | None = None,
    emulated: bool = True,
    deterministic: bool = True,
    variant: str | None = None,
) -> Callable[[Function], Function]:
    """Declare a public host function as a kernel of ``op``; the function itself is unchanged.

    ``torch_op`` is its ``torch.library`` name (``ns::name``), needed by the fake_shape layer.
    ``configs`` are the tilings it accepts as ``config="name"``; every one is checked, and None
    beside them. ``layouts`` of ``harness.buffers`` must be handled in every input, whether or not
    the others have them too; any other is refused or handled, never silently wrong.
    ``instructions`` maps a claim to a regular expression that the machine code must
    match; ``spills`` maps a claim to the reason why spills are accepted there. ``emulated=False``
    says that it cannot run without a GPU; ``deterministic=False`` that its bits may differ from
    run to run. Raises InvalidDeclaration, InvalidClaim, or
    DuplicateDeclaration naming both places.
    """
    for what, value, known in (
        ("backend", backend, BACKENDS),
        ("accumulates", accumulates, ACCUMULATIONS),
    ):
        if value not in known:
            msg = f"{what}={value!r} of a kernel of {op!r} is unknown; use {', '.join(known)}"
            raise InvalidDeclaration(msg)
    arches.claimed(arch)

    def declare(function: Function) -> Function:
        declared = Kernel(
            name=".".join(part for part in (op, backend, variant) if part),
            op=op,
            backend=backend,
            arch=arch,
            function=function,
            torch_op=torch_op,
            configs=tuple(configs),
            accumulates=accumulates,
            layouts=tuple(layouts),
            instructions=dict(instructions or {}),
            spills=dict(spills or {}),
            emulated=emulated,
            deterministic=deterministic,
            place=_place(function),
        )
        _check_kernel(declared)
        registry.add_kernel(declared)
        return function

    return declare


def _place(function: Callable[..., object]) -> str:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else repr(function)


def _labelled(values: Sequence[object] | Mapping[str, object]) -> dict[str, object]:
    if hasattr(values, "items"):
        return dict(values.items())
    return {str(value): value for value in values}


def _check_op(op: Op) -> None:
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
    }
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


def _check_kernel(kernel: Kernel) -> None:
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
