"""Cases: one point of an op's domain for one kernel, and the id that alone reproduces it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness import registry

if TYPE_CHECKING:
    from harness.declare import Op

DEFAULT = "default"  # the config that the kernel's own policy chooses
FIXED = ("dtype", "without", "values", "layout", "config", "seed")


class InvalidCase(ValueError):
    """A case id that names no kernel, lacks a field, or lies outside the op's domain."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """Sizes by axis, labels of parameters, groups of optional inputs left out, and the rest."""

    kernel: str
    sizes: tuple[tuple[str, int], ...]
    dtype: str
    params: tuple[tuple[str, str], ...] = ()
    without: tuple[str, ...] = ()
    values: str = "normal"
    layout: str = "contiguous"
    config: str = DEFAULT
    seed: int = 0

    @property
    def id(self) -> str:
        """One shell word from which ``parse`` makes this case again."""
        fields = [f"{axis}={value}" for axis, value in self.sizes]
        fields.append(f"dtype={self.dtype}")
        fields += [f"{name}={label}" for name, label in self.params]
        if self.without:
            fields.append(f"without={'+'.join(self.without)}")
        fields += [f"values={self.values}", f"layout={self.layout}"]
        fields += [f"config={self.config}", f"seed={self.seed}"]
        return f"{self.kernel}/{','.join(fields)}"

    @property
    def size_of(self) -> dict[str, int]:
        """Sizes by axis."""
        return dict(self.sizes)

    def op(self) -> Op:
        """The op that the case is a point of."""
        return registry.op(registry.kernel(self.kernel).op)


def kernel_of(case_id: str) -> str:
    """The kernel's name at the head of a case id or probe id."""
    return case_id.split("/", 1)[0]


def parse(text: str) -> Case:
    """The case of that id; raises InvalidCase naming the field, or UnknownName for its kernel."""
    kernel, _, rest = text.partition("/")
    op = registry.op(registry.kernel(kernel).op)
    given = _fields(text, rest)
    needed = {*op.domain.sizes, *op.params, *FIXED} - {"without"}
    if wrong := needed.symmetric_difference(given) - {"without"}:
        msg = f"case={text!r}: missing or unknown fields {sorted(wrong)}; needed: {sorted(needed)}"
        raise InvalidCase(msg)
    case = Case(
        kernel=kernel,
        sizes=tuple((axis, _integer(text, given[axis])) for axis in op.domain.sizes),
        dtype=given["dtype"],
        params=tuple((name, given[name]) for name in op.params),
        without=tuple(given["without"].split("+")) if "without" in given else (),
        values=given["values"],
        layout=given["layout"],
        config=given["config"],
        seed=_integer(text, given["seed"]),
    )
    _check(case, op)
    return case


def _fields(text: str, rest: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in rest.split(",")]
    if bad := [name for name, sign, _ in pairs if not sign]:
        msg = f"case={text!r}: {bad[0]!r} is not of the form name=value"
        raise InvalidCase(msg)
    names = [name for name, _, _ in pairs]
    if twice := [name for name in names if names.count(name) > 1]:
        msg = f"case={text!r}: {twice[0]!r} is given twice"
        raise InvalidCase(msg)
    return {name: value for name, _, value in pairs}


def _integer(text: str, word: str) -> int:
    if not word.isdecimal():
        msg = f"case={text!r}: {word!r} is not a whole number"
        raise InvalidCase(msg)
    return int(word)


def _check(case: Case, op: Op) -> None:
    from harness.buffers import LAYOUTS
    from harness.values import families_of

    reasons = list(op.domain.refusals(case.size_of))
    configs = (DEFAULT, *registry.kernel(case.kernel).configs)
    choices = {"dtype": (case.dtype, op.dtypes), "config": (case.config, configs)}
    choices |= {"values": (case.values, tuple(families_of(op))), "layout": (case.layout, LAYOUTS)}
    reasons += [
        f"without={g!r} is not in {list(op.groups)}" for g in case.without if g not in op.groups
    ]
    choices |= {name: (label, tuple(op.params[name])) for name, label in case.params}
    reasons += [f"{k}={v!r} is not in {list(ok)}" for k, (v, ok) in choices.items() if v not in ok]
    if reason := op.excludes.get(case.values):
        reasons.append(f"{op.name} excludes values={case.values!r}: {reason}")
    if reasons:
        msg = f"case={case.id!r}: {'; '.join(reasons)}"
        raise InvalidCase(msg)
