"""What correct results use of the budget: tallies over variants of ops and over plain products."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import torch

from harness import calibration, registry, strategies, variants
from harness import device as devices
from harness.budget import UNIT_ROUNDOFF, Budget, Expected
from harness.explore import Search, explore
from harness.reference import dtype_of, output_dtype
from suites.calibrate.products import Data, Method, data, methods

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.budget import Constants
    from harness.case import Case
    from harness.declare import Op
    from harness.judge import Judgement
    from harness.variants import Variant

MODES: Final = ("fp32", "tensor_core")
LENGTHS: Final = (16, 64, 256, 1024, 4096, 16384, 65536, 131072)
CHAIN_FROM: Final = 1024  # from here on the linear term rules one-signed sums on tensor cores
# Long axes, but few elements, so that thousands of results take a minute.
LIMITS: Final = strategies.Limits(axis=4096, elements=2**16)
SIZE: Final = {"cpu": 48, "cuda": 128}  # rows and columns of plain products
UNMEASURED: Final = -1.0


@dataclass(frozen=True)
class Rejection:
    """A correct result that the budget refused."""

    source: str
    case: str
    words: str


@dataclass
class Tally:
    """Correct results of one accumulation mode, and what the budget said of them."""

    accumulates: str
    constants: Constants
    results: int = 0
    worst: float = 0.0  # of float32 sums, in units of the budget
    sources: dict[str, float] = field(default_factory=dict)
    rejected: list[Rejection] = field(default_factory=list)
    of_roots: dict[int, list[float]] = field(default_factory=dict)  # by length
    of_chains: dict[int, list[float]] = field(default_factory=dict)

    @classmethod
    def at(cls, arch: str, accumulates: str) -> Tally:
        """An empty tally at the constants in force."""
        return cls(accumulates, calibration.constants(arch, accumulates))

    def add(self, source: str, case: str, share: float, words: str) -> None:
        """Count one result; ``share`` of the budget, or UNMEASURED; ``words`` if rejected."""
        self.results += 1
        self.worst = max(self.worst, share)
        self.sources[source] = max(self.sources.get(source, UNMEASURED), share)
        if words:
            self.rejected.append(Rejection(source, case, words))

    def quantiles(self) -> dict[str, float]:
        """Of the largest error of each product, in units of the rule's two terms.

        ``sqrt_at_1024`` is the largest at that length: how the rule extrapolates.
        """
        found = {}
        for name, by_length in (("sqrt", self.of_roots), ("chain", self.of_chains)):
            values = [value for each in by_length.values() for value in each]
            if values:
                ordered = torch.tensor(values, dtype=torch.float64)
                for part in (0.5, 0.9, 0.99, 1.0):
                    found[f"{name}_{part:g}"] = float(ordered.quantile(part))
            found |= {f"{name}_at_{k}": max(each) for k, each in by_length.items()}
        return found


def of_variants(
    tallies: dict[str, Tally], device: torch.device, *, results: int, seed: int
) -> None:
    """Judge about ``results`` results of the variants of every op, on generated cases."""
    registry.load_all(("references", "kernels", "suites.variants"))
    for module, error in registry.load_errors().items():
        msg = f"{module} did not load, so its variants would be missing: {error}"
        raise ImportError(msg) from error
    ops = sorted({found.op for found in registry.variants()})
    cells = [(registry.op(name), dtype) for name in ops for dtype in registry.op(name).dtypes]
    for op, dtype in cells:
        found = [v for v in variants.of(op.name) if v.runs_on(device)]
        examples = math.ceil(results / len(cells) / len(found))
        kernels = [kernel for kernel in registry.kernels() if kernel.op == op.name]
        kernel = kernels[0] if kernels else found[0].kernel

        def check(case: Case, op: Op = op, found: list[Variant] = found) -> None:
            for variant, judgement in variants.judge_each(op, found, case, device).items():
                share = _share(op, case, judgement)
                words = "; ".join(judgement.problems)
                tallies[variant.accumulates].add(str(variant), case.id, share, words)

        explore(
            strategies.cases(op, kernel, dtype=dtype, limits=LIMITS),
            Search(check),
            examples=examples,
            run_seed=zlib.crc32(f"{seed}/{op.name}/{dtype}".encode()),
            scope="",
            database=None,
        )


def _share(op: Op, case: Case, judgement: Judgement) -> float:
    """The largest share of the budget that a float32 output of sums used, if it has one."""
    params = op.param_values(dict(case.params))
    return max(
        (
            compared.worst
            for name, compared in judgement.comparisons.items()
            if compared.oracle == "budget"
            and op.outputs[name].sums_over
            and output_dtype(op.outputs[name], dtype_of(case.dtype), params) is torch.float32
        ),
        default=UNMEASURED,
    )


def of_products(
    tallies: dict[str, Tally],
    device: torch.device,
    *,
    seed: int,
    lengths: Sequence[int] = LENGTHS,
) -> None:
    """Judge plain products of all lengths, kinds of data and methods."""
    generator = torch.Generator().manual_seed(seed)
    found = methods(device)
    for k in lengths:
        for dtype in (torch.bfloat16, torch.float16):
            for given in data(SIZE[device.type], k, dtype, generator):
                _measure(tallies, given, [m for m in found if k <= m.max_k], device)


def _measure(
    tallies: dict[str, Tally], given: Data, found: list[Method], device: torch.device
) -> None:
    a, b = given.a.to(device), given.b.to(device)
    k = a.shape[1]
    left, right = a.double(), b.double()
    truth = Expected(left @ right, left.abs() @ right.abs(), left.square() @ right.square())
    scale = partial_sums(truth) if given.independent else truth.magnitude
    for method in found:
        tally = tallies[method.accumulates]
        budget = Budget(
            dtype=torch.float32,
            terms_summed=k,
            tensor_core=method.accumulates == "tensor_core",
            constants=tally.constants,
        )
        case = f"{given.kind}, {given.a.dtype}, {a.shape[0]} x {b.shape[1]} x {k}"
        try:
            error = (method.multiply(a, b).double() - truth.value).abs()
            devices.synchronize(device)
        except Exception as raised:  # noqa: BLE001 - classified and reported, never swallowed
            words = f"raised {type(raised).__name__}: {str(raised)[:200]}"
            tally.add(method.name, case, UNMEASURED, words)
            continue
        share = float((error / budget.allowed(truth.value, scale)).max())
        words = "" if share <= 1 else f"{share:.3g} x its budget"
        tally.add(method.name, case, share, words)
        relative = float((error / (UNIT_ROUNDOFF * scale)).max())
        tally.of_roots.setdefault(k, []).append(relative / math.sqrt(k))
        if given.kind == "positive" and k >= CHAIN_FROM and budget.tensor_core:
            steps = math.ceil(k / tally.constants.chain_depth)
            tally.of_chains.setdefault(k, []).append(relative / steps)


def partial_sums(truth: Expected) -> torch.Tensor:
    """The scale of partial sums of terms of random sign, as the reference module has it."""
    if truth.squares is None:
        return truth.magnitude
    return torch.minimum(truth.magnitude, truth.value.abs() + 3 * truth.squares.sqrt())
