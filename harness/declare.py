"""Declarations: one decorator per op (its contract), one per kernel (an implementation)."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from harness import arch as arches
from harness import expression, registry
from harness.domain import UNBOUNDED, Domain, Size
from harness.soundness import InvalidDeclaration, check_kernel, check_op, check_word

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch

    from harness.budget import Term
    from harness.upstream import Upstream
    from harness.values import Family

    Unread = Callable[[Mapping[str, int]], torch.Tensor]
    DtypeRule = str | Callable[[torch.dtype, Mapping[str, object]], torch.dtype]

__all__ = [
    "InvalidDeclaration",
    "Kernel",
    "Op",
    "OutputSpec",
    "TensorSpec",
    "kernel",
    "op",
    "output",
    "size",
    "tensor",
]

Function = TypeVar("Function", bound="Callable[..., object]")
BACKENDS: Final = ("triton", "cuda", "cutedsl")
ACCUMULATIONS: Final = ("fp32", "tensor_core")
ROLES: Final = ("data", "weight", "scale", "code", "index")


@dataclass(frozen=True)
class TensorSpec:
    """One input: its shape over axes, its dtype if fixed, its role, its group if optional.

    ``below``, of an index, is the expression over axes that its values stay below. ``unread`` says
    at which sizes what is padding, true where no result may depend on an element.
    """

    shape: tuple[str, ...]
    dtype: str | None = None
    role: str = "data"
    optional: str | None = None
    below: str | None = None
    unread: Unread | None = None

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
    upstream: Upstream | None = None

    @property
    def groups(self) -> tuple[str, ...]:
        """The optional groups of inputs, in order of appearance."""
        return tuple(dict.fromkeys(s.optional for s in self.inputs.values() if s.optional))

    @property
    def first_labels(self) -> dict[str, str]:
        """The label of every parameter's first value."""
        return {name: next(iter(labels)) for name, labels in self.params.items()}

    def elements(self, sizes: Mapping[str, int]) -> int:
        """How many elements all inputs and outputs have together at ``sizes``."""
        shapes = [spec.dims(sizes) for spec in self.inputs.values()]
        shapes += [spec.dims(sizes) for spec in self.outputs.values()]
        return sum(math.prod(shape) for shape in shapes)

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
    launches: tuple[str, ...] = ()

    @property
    def archs(self) -> tuple[str, ...]:
        """The known archs that the kernel claims."""
        return arches.claimed(self.arch)

    @property
    def implementation(self) -> str:
        """The backend, with the variant behind it if there is one: the name without the op."""
        return self.name.removeprefix(f"{self.op}.")


def size(
    min: int = 0,  # noqa: A002 - the words users say
    max: int = UNBOUNDED,  # noqa: A002
    *,
    multiple_of: int = 1,
) -> Size:
    """Legal sizes of an axis, without an upper bound unless given; raises InvalidDomain."""
    return Size(min, max, multiple_of)


def tensor(
    shape: str,
    *,
    dtype: str | None = None,
    role: str = "data",
    optional: str | None = None,
    below: str | None = None,
    unread: Unread | None = None,
) -> TensorSpec:
    """An input over axes, e.g. ``tensor("k//64 m", role="scale")``.

    ``dtype=None`` is the case's dtype. ``role`` says what values make sense: ``data`` takes every
    value family, ``weight`` stays ordinary beside most extreme data, ``scale`` is positive and
    floating point, ``code`` is an integer of any bits, ``index`` an integer in 0..``below`` - 1,
    ``below`` being an axis or an expression over axes. Inputs with the same ``optional`` word are
    left out (None) together in some cases. ``unread`` maps sizes to a mask of the last axes, true
    for padding: in every other case that holds 0xFF, a NaN in all formats.
    """
    check_word("role", role, ROLES, of=f"tensor({shape!r})")
    return TensorSpec(tuple(shape.split()), dtype, role, optional, below, unread)


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
    upstream: Upstream | None = None,
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
    another: garbage in one row leaves the others' bits alone. ``upstream`` emulates what the op's
    kernels are ported from: they are held against its accuracy (``harness.upstream``). Raises
    InvalidDeclaration.
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
            upstream=upstream,
        )
        check_op(declared)
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
    launches: Sequence[str] = (),
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
    run to run. ``launches`` names modules or packages whose launches show that it ran: the package
    of the function unless given. Raises InvalidDeclaration, InvalidClaim, or DuplicateDeclaration
    naming both places.
    """
    check_word("backend", backend, BACKENDS, of=f"a kernel of {op!r}")
    check_word("accumulates", accumulates, ACCUMULATIONS, of=f"a kernel of {op!r}")
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
            launches=(launches,) if isinstance(launches, str) else tuple(launches),
        )
        check_kernel(declared)
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
