"""Comparison on a GPU: one fused kernel reads each tensor once; what it suspects is read again.

Tiling: a program owns a band of 64 rows and some columns, and walks down it in steps of a few rows.
A thread owns neighbouring columns, so loads are vectors, and sums over rows stay in its registers
until the end of the band.

Order of work: bands are screened as on the CPU (`harness.compare_host`), in float32 but for what a
float64 reference needs, and a second kernel of one program adds up and looks at the worst tile. If
a band holds an element that was not cleared, a third kernel reads such bands again and judges them
exactly, in float64 if the reference or the output is, else in float32, and the sums are taken anew.
The three are apart because the registers of the others would cost the first the loads that it has
in flight: in one launch, with the sums in its last program, 8192 x 8192 took 86 us and not 80.

Where nothing but the rounding of two equal dtypes is allowed for, the screen takes every budget to
be the least within its binade: of elements that pass, the worst that is reported may then be up to
a sixteenth worse than another of the same output.

Memory: 64 bytes a program and 4 bytes a tile of 64 x 64, 128 KiB at 8192 x 8192.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
import triton

from harness.budget import mantissa_bits, smallest_subnormal
from harness.compare_blocks import Rule
from harness.compare_kernels import Fields, finish_kernel, judge_kernel, screen_kernel
from harness.device import on
from harness.launches import suspended
from harness.tally import CLEAR, LARGEST_STEP, SHARP, TILE, Operands, Tally

if TYPE_CHECKING:
    from torch import Tensor

_FIELD: Final = Fields()
_JUDGES: Final = 1024  # programs that look for bands to judge


@dataclass(frozen=True)
class Tuning:
    """How the work is cut: columns of a band, elements of a step, warps that share a band.

    ``stages`` is how many steps' loads are in flight; beyond 1 they pass through shared memory.
    ``registers`` is the most that a thread may have, None leaving it to the compiler.
    """

    columns: int
    step: int
    warps: int
    stages: int = 1
    registers: int | None = None


NARROW: Final = Tuning(columns=2048, step=8192, warps=8)
WIDE: Final = Tuning(columns=1024, step=1024, warps=4)


@dataclass(frozen=True)
class Pending:
    """A pass that was enqueued: its results, once the device is done."""

    operands: Operands
    rule: Rule
    block: int  # columns of a band
    programs: int  # of the first kernel: one a band
    given: tuple[tuple[Tensor, ...], tuple[int, ...], tuple[float, ...]]
    records: Tensor
    tiles: Tensor
    result: Tensor

    def tally(self) -> Tally:
        """Wait for the device and read what it counted; launches again if it suspects an element.

        Raises no error: what is wrong is in the counts.
        """
        found = self.result.tolist()
        if found[_FIELD.awaiting]:
            self.judge()
            self.finish()
            found = self.result.tolist()
        operands, budget = self.operands, self.operands.budget
        columns = operands.actual.shape[1]
        in_ulps = 2.0 ** (mantissa_bits(budget.dtype) - 1)
        counted, allowance = int(found[_FIELD.counted]), found[_FIELD.allowance]
        if not operands.reach_varies:
            allowance = counted * 4 * (budget.of_magnitude + budget.of_expected)
        worst, index, actual, expected = found[_FIELD.worst : _FIELD.worst + 4]
        return Tally(
            total=operands.actual.numel(),
            columns=columns,
            counted=counted,
            steps=found[_FIELD.steps] * in_ulps,
            steps_outward=found[_FIELD.outward] * in_ulps,
            squared_steps=found[_FIELD.squared_steps] * in_ulps**2,
            absolute=found[_FIELD.absolute] * in_ulps,
            squared=found[_FIELD.squared] * in_ulps**2,
            allowance=allowance * in_ulps,
            violations=int(found[_FIELD.violations]),
            mismatches=int(found[_FIELD.mismatches]),
            negative=bool(found[_FIELD.negative]),
            unbounded=bool(found[_FIELD.unbounded]),
            worst=worst,
            index=int(index),
            actual=actual,
            expected=expected,
            tiles=self.tiles,
        )

    def screen(self, tuning: Tuning) -> None:
        """Enqueue the pass that reads every element."""
        rows, columns = self.operands.actual.shape
        with on(self.tiles.device):
            screen_kernel[(self.programs,)](
                *self.given,
                self.records,
                self.tiles,
                rows,
                columns,
                RULE=self.rule,
                FIELD=_FIELD,
                EVEN=rows % TILE == 0 and columns % self.block == 0,
                STEP=max(1, min(TILE, triton.next_power_of_2(rows), tuning.step // self.block)),
                BLOCK=self.block,
                STAGES=tuning.stages,
                num_warps=tuning.warps,
                **({} if tuning.registers is None else {"maxnreg": tuning.registers}),
            )

    def finish(self) -> None:
        """Enqueue the sum over all bands and the search for the worst element, in one program."""
        with on(self.tiles.device):
            finish_kernel[(1,)](
                *self.given,
                self.records,
                self.tiles,
                self.result,
                self.programs,
                *self.operands.actual.shape,
                RULE=self.rule,
                FIELD=_FIELD,
                BLOCK=self.block,
                RECORDS=512,
                STEP=32,
                num_warps=16,
            )

    def judge(self) -> None:
        """Enqueue the exact judgement of the bands that await it."""
        with on(self.tiles.device):
            judge_kernel[(min(self.programs, _JUDGES),)](
                *self.given,
                self.records,
                self.tiles,
                *self.operands.actual.shape,
                RULE=self.rule,
                FIELD=_FIELD,
                STEP=16,
                BLOCK=self.block,
                num_warps=4,
            )


def measure(operands: Operands, tuning: Tuning | None = None) -> Tally:
    """Count ``operands`` in one pass on their device; no open scope sees the launches."""
    with suspended():
        return enqueue(operands, tuning).tally()


def enqueue(operands: Operands, tuning: Tuning | None = None) -> Pending:
    """Launch a pass over ``operands``, which must not be empty."""
    tuning = tuning or (WIDE if operands.wide else NARROW)
    (rows, columns), device = operands.actual.shape, operands.actual.device
    block = max(TILE, min(tuning.columns, triton.next_power_of_2(columns)))
    programs = math.ceil(rows / TILE) * math.ceil(columns / block)
    pending = Pending(
        operands,
        _rule(operands),
        block,
        programs,
        _given(operands),
        records=torch.empty(programs, _FIELD.width, dtype=torch.float32, device=device),
        tiles=torch.empty(math.ceil(rows / TILE), math.ceil(columns / TILE), device=device),
        result=torch.empty(_FIELD.width, dtype=torch.float64, device=device),
    )
    pending.screen(tuning)
    pending.finish()
    return pending


def _given(
    operands: Operands,
) -> tuple[tuple[Tensor, ...], tuple[int, ...], tuple[float, ...]]:
    """What every kernel takes: tensors, strides and factors (`harness.compare_kernels`)."""
    optional = (operands.magnitude, operands.near_ties)
    tensors = (
        operands.actual,
        operands.expected,
        *(operands.actual if tensor is None else tensor for tensor in optional),
    )
    budget = operands.budget
    factors = (*_parts(budget.of_magnitude), *_parts(budget.of_expected))
    return tensors, tuple(stride for tensor in tensors for stride in tensor.stride()), factors


def _rule(operands: Operands) -> Rule:
    kind = torch.float64 if operands.wide else torch.float32
    bias = 1023 if operands.wide else 127
    dtype, reference = operands.budget.dtype, operands.expected.dtype
    ulp = 2.0 ** (1 - mantissa_bits(dtype))
    own_ulp = 2.0 ** (1 - mantissa_bits(reference)) if operands.reference_is_rounded else 0.0
    smallest = [torch.finfo(t).smallest_normal for t in (dtype, reference)]
    form = ("<d", "<q") if operands.wide else ("<f", "<i")
    return Rule(
        float64=operands.wide,
        magnitude=operands.magnitude is not None,
        near_ties=operands.near_ties is not None,
        rounds=operands.steps_need_rounding,
        flat=_is_flat(operands, ulp),
        own=own_ulp / 2,
        own_ulp=own_ulp,
        own_least=_exponent(max(smallest)) + bias,
        ulp=ulp,
        magic=1.5 * ulp / torch.finfo(kind).eps,
        least=_exponent(smallest[0]) + bias,
        subnormal=struct.unpack(form[1], struct.pack(form[0], smallest_subnormal(dtype)))[0],
        beyond=2.0 ** _exponent(torch.finfo(dtype).max),
        clear=CLEAR,
        sharp=SHARP * ulp,
        most=LARGEST_STEP * ulp,
    )


def _is_flat(operands: Operands, ulp: float) -> bool:
    """Whether what accumulates within a binade is less than a sixteenth of an ulp of the output."""
    reach = 4 * (operands.budget.of_magnitude + operands.budget.of_expected)
    varies = operands.wide or operands.reach_varies or operands.steps_need_rounding
    return not varies and reach < ulp / 16


def _exponent(value: float) -> int:
    return math.frexp(value)[1] - 1


def _parts(value: float) -> tuple[float, float]:
    """``value`` as the sum of two float32."""
    high = struct.unpack("<f", struct.pack("<f", value))[0]
    return high, value - high
