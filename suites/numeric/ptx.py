"""PTX interpreted, a block at a time: what a kernel computes and touches, with no GPU.

As much of PTX as the kernels of ``kernels/*/cutedsl`` are compiled to; an instruction that is not
known here is named. Matrix products are in `ptx_mma`, those of warpgroups in `ptx_wgmma`, bank
conflicts in `ptx_banks`. Warps run in an order that a seed draws, each as far as it can. What is
not there yet cannot be mistaken for data: shared memory begins as 0xFF, and what `cp.async` copies
is 0xFF until the thread has waited for it; nothing else may be written there meanwhile. An access
outside the given buffers is an error, as is one that is not aligned, the use of a register that
nothing wrote, and a product of two fp16 numbers that fp16 does not hold.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from suites.numeric import ptx_mma, ptx_wgmma
from suites.numeric.ptx_banks import conflicts
from suites.numeric.ptx_memory import POISON
from suites.numeric.ptx_program import registers_of
from suites.numeric.ptx_values import (
    BITS,
    COMPARISONS,
    FLOATS,
    HALVES,
    INTEGERS,
    bits_of,
    number_of,
    rounded,
    types_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from suites.numeric.ptx_memory import Memory
    from suites.numeric.ptx_program import Instruction, Program
    from suites.numeric.ptx_values import Vector

WARP: Final = 32
# What a product is of: after the opcode and `sync.aligned`.
_F16: Final = ("m16n8k16", "row", "col", "f32", "f16", "f16", "f32")
_E2M1: Final = (
    *("m16n8k64", "row", "col", "kind::mxf4nvf4", "block_scale", "scale_vec::4X"),
    *("f32", "e2m1", "e2m1", "f32", "ue4m3"),
)


@dataclass
class Block:
    """One block of a launch, run to its end by `run`."""

    program: Program
    memory: Memory
    arguments: tuple[int, ...]
    index: int
    shared_bytes: int
    seed: int = 0
    products: int = 0
    conflicts: int = 0
    _registers: dict[str, Vector] = field(default_factory=dict)

    def __post_init__(self) -> None:
        threads = self.program.threads
        self._shared = np.full(self.shared_bytes, POISON, np.uint8)
        self._next = np.zeros(threads, np.int64)
        self._barrier = np.full(threads, -1)
        self._done = np.zeros(threads, np.bool_)
        self._coming = np.zeros(self.shared_bytes, np.int64)  # copies under way to each byte
        self._copies: list[list[list[tuple[int, Vector]]]] = [[[]] for _ in range(threads)]
        self._active = np.arange(threads)
        self._stores = ptx_wgmma.Stores(self.shared_bytes)
        self._under_way = [ptx_wgmma.Products() for _ in range(threads // WARP)]
        self._parameters = dict(zip(self.program.parameters, self.arguments, strict=True))

    def run(self) -> None:
        """Run all threads; raises RuntimeError that names the instruction at fault."""
        order = np.random.default_rng(self.seed)
        warps = np.arange(self.program.threads) // WARP
        with np.errstate(all="ignore"):
            while not self._done.all():
                ready = (self._barrier < 0) & ~self._done
                if not ready.any():
                    msg = "all threads wait at barriers"
                    raise RuntimeError(msg)
                mine = int(order.choice(np.unique(warps[ready])))
                self._run_warp(mine, int(order.integers(50, 5000)))

    def _run_warp(self, warp: int, steps: int) -> None:
        """Take so many steps, or fewer: those of its threads that are furthest back take each."""
        first = warp * WARP
        mine = slice(first, first + WARP)
        threads, at, together = self._active[:0], 0, False
        for _ in range(steps):
            if not together:
                able = (self._barrier[mine] < 0) & ~self._done[mine]
                if not able.any():
                    return
                at = int(self._next[mine][able].min())
                threads = np.nonzero(able & (self._next[mine] == at))[0] + first
                together = threads.size == np.count_nonzero(able)
            self._step(threads, at)
            together = together and self.program.code[at].goes_on
            at += 1

    def _step(self, threads: Vector, at: int) -> None:
        instruction = self.program.code[at]
        self._next[threads] = at + 1
        self._active = threads
        if instruction.guard:
            holds = self._register(instruction.guard.removeprefix("!"))[threads]
            self._active = threads[holds ^ instruction.guard.startswith("!")]
        if not self._active.size:
            return
        try:
            self._execute(instruction)
        except Exception as error:
            msg = f"{instruction.text}: {type(error).__name__}: {error}"
            raise RuntimeError(msg) from error

    def _execute(self, instruction: Instruction) -> None:
        words, operands = instruction.words, instruction.operands
        opcode, kind = words[0], words[-1]
        special: Callable[..., None] | None = getattr(self, instruction.method, None)
        if special is not None:
            special(words, operands)
        elif kind == "f32":
            x, y = (self._read(each, "b32").view(np.float32) for each in operands[1:])
            self._write(operands[0], FLOATS[opcode](x, y).view(np.uint32))
        elif opcode not in INTEGERS:
            msg = f"{opcode!r} is not known here; add it"
            raise NotImplementedError(msg)
        else:
            x = self._read(operands[1], kind)
            y = self._read(operands[2], "u32" if opcode in {"shl", "shr"} else kind)
            self._write(operands[0], bits_of(INTEGERS[opcode](x, y.astype(x.dtype))))

    # Operands

    def _read(self, operand: str, kind: str) -> Vector:
        """An operand's values in the active threads, as integers of a type of PTX."""
        dtype, seen_as = types_of(kind)
        count = self._active.size
        found: Vector
        if operand in self._registers:
            found = self._registers[operand][self._active]
        elif operand == "%tid.x":
            found = self._active.astype(dtype)
        elif operand == "%ctaid.x":
            found = np.full(count, self.index, dtype)
        elif operand.startswith("%"):
            found = self._register(operand)[self._active]
        elif operand.startswith("__dynamic_shmem"):
            found = np.zeros(count, dtype)
        else:
            found = np.full(count, number_of(operand, dtype), dtype)
        if found.dtype != dtype:
            msg = f"{operand} holds {found.dtype}, not {kind}"
            raise TypeError(msg)
        return found if seen_as is dtype else found.view(seen_as)

    def _register(self, name: str) -> Vector:
        """A register's values in all threads; one that nothing wrote holds whatever it likes."""
        if name not in self._registers:
            msg = f"{name} is read before anything has written it"
            raise ValueError(msg)
        return self._registers[name]

    def _write(self, register: str, values: Vector) -> None:
        if register not in self._registers:
            self._registers[register] = np.zeros(self.program.threads, values.dtype)
        self._registers[register][self._active] = values

    def _places(self, operand: str, size: int, kind: str) -> Vector:
        """The bytes ``[threads, size]`` that ``[register+offset]`` is an address of."""
        base, _, offset = operand.strip("[]").partition("+")
        start = self._read(base, kind).astype(np.int64) + int(offset or 0)
        if (start % size).any():
            msg = f"an address is no multiple of {size}"
            raise ValueError(msg)
        return np.asarray(start[:, None] + np.arange(size))

    def _shared_places(self, operand: str, size: int) -> Vector:
        places = self._places(operand, size, "u32")
        if places.min() < 0 or places.max() >= self.shared_bytes:
            msg = f"a place is outside {self.shared_bytes} bytes of shared memory"
            raise IndexError(msg)
        return places

    def _warps(self) -> Vector:
        """The active threads, a row a warp; all of a warp have to be there."""
        rows = self._active.reshape(-1, WARP)
        assert (rows % WARP == np.arange(WARP)).all(), "a warp is not whole"
        return rows

    # Instructions

    def _ret(self, *_: object) -> None:
        self._done[self._active] = True

    def _bra(self, _: object, operands: tuple[str, ...]) -> None:
        self._next[self._active] = self.program.labels[operands[0]]

    def _mov(self, words: tuple[str, ...], operands: tuple[str, ...]) -> None:
        kind = "b32" if words[-1] == "f32" else words[-1]
        if operands[1].startswith("{"):
            halves = [self._read(each, "b32") for each in registers_of(operands[1])]
            self._write(operands[0], np.stack(halves, 1).view(np.uint64)[:, 0])
        elif operands[0].startswith("{"):
            half = {"b32": np.uint16, "b64": np.uint32}[kind]
            both = self._read(operands[1], kind).view(half).reshape(-1, 2)
            for column, register in enumerate(registers_of(operands[0])):
                self._write(register, both[:, column].copy())
        else:
            self._write(operands[0], bits_of(self._read(operands[1], kind)))

    def _mul(self, words: tuple[str, ...], operands: tuple[str, ...]) -> None:
        kind = words[-1]
        if kind == "f16x2":
            x, y = (ptx_mma.halves(self._read(each, "b32")) for each in operands[1:])
            exact = x.astype(np.float64) * y.astype(np.float64)
            product = exact.astype(np.float16)
            whole = (product == exact) | ~np.isfinite(exact)
            assert whole.all(), "fp16 does not hold a product"
            self._write(operands[0], product.view(np.uint32).reshape(-1))
        elif kind == "f32":
            x, y = (self._read(each, "b32").view(np.float32) for each in operands[1:])
            self._write(operands[0], (x * y).view(np.uint32))
        else:
            x, y = (self._read(each, kind) for each in operands[1:])
            if words[1] == "wide":
                wide = {2: np.int32, 4: np.int64}[x.dtype.itemsize]
                x, y = x.astype(wide), y.astype(wide)
            self._write(operands[0], bits_of(x * y))

    def _mad(self, words: tuple[str, ...], operands: tuple[str, ...]) -> None:
        assert words[1] == "lo", words
        x, y, z = (self._read(each, words[-1]) for each in operands[1:])
        self._write(operands[0], bits_of(x * y + z))

    def _fma(self, _: object, operands: tuple[str, ...]) -> None:
        x, y, z = (
            self._read(each, "b32").view(np.float32).astype(np.float64) for each in operands[1:]
        )
        self._write(operands[0], (x * y + z).astype(np.float32).view(np.uint32))

    def _div(self, words: tuple[str, ...], operands: tuple[str, ...]) -> None:
        x, y = (self._read(each, words[-1]).astype(np.int64) for each in operands[1:])
        self._write(operands[0], bits_of((np.sign(x * y) * (abs(x) // abs(y))).astype(np.int32)))

    def _rem(self, words: tuple[str, ...], operands: tuple[str, ...]) -> None:
        x, y = (self._read(each, words[-1]).astype(np.int64) for each in operands[1:])
        self._write(operands[0], bits_of((np.sign(x) * (abs(x) % abs(y))).astype(np.int32)))

    def _neg(self, words: tuple[str, ...], operands: tuple[str, ...]) -> None:
        self._write(operands[0], bits_of(-self._read(operands[1], words[-1])))

    def _setp(self, words: tuple[str, ...], operands: tuple[str, ...]) -> None:
        x, y = (self._read(each, words[-1]) for each in operands[1:])
        self._write(operands[0], COMPARISONS[words[1]](x, y))

    def _selp(self, words: tuple[str, ...], operands: tuple[str, ...]) -> None:
        kind = "b32" if words[-1] == "f32" else words[-1]
        x, y = (self._read(each, kind) for each in operands[1:3])
        self._write(operands[0], bits_of(np.where(self._read(operands[3], "pred"), x, y)))

    def _cvt(self, words: tuple[str, ...], operands: tuple[str, ...]) -> None:
        to, origin = words[-2:]
        if origin == "e4m3x2":
            octets = torch.from_numpy(self._read(operands[1], "b16").view(np.uint8))
            numbers = octets.view(torch.float8_e4m3fn).to(torch.float16)
            self._write(operands[0], numbers.view(torch.uint32).numpy())
        elif to in {"f16x2", "bf16x2"}:
            high, low = (
                rounded(self._read(each, "b32"), to.removesuffix("x2"), words[1])
                for each in operands[1:]
            )
            pairs = torch.stack([low, high], 1).view(torch.uint32)
            self._write(operands[0], pairs.reshape(-1).numpy())
        elif to in HALVES:
            half = rounded(self._read(operands[1], "b32"), to, words[1])
            self._write(operands[0], half.view(torch.uint16).numpy())
        elif origin in HALVES:
            half = torch.from_numpy(self._read(operands[1], "b16").copy()).view(HALVES[origin])
            self._write(operands[0], half.float().numpy().view(np.uint32))
        else:
            values = self._register(operands[1])[self._active]
            values = values.astype(origin.replace("s", "int").replace("u", "uint"))
            values = values.astype(to.replace("s", "int").replace("u", "uint"))
            if values.dtype.itemsize == 1:  # a register has 16 bits at least
                values = values.astype(np.int16 if to == "s8" else np.uint16)
            self._write(operands[0], bits_of(values))

    def _prmt(self, _: object, operands: tuple[str, ...]) -> None:
        x, y, chosen = (self._read(each, "b32") for each in operands[1:])
        octets = np.stack([x, y], 1).view(np.uint8)
        places = np.stack([chosen >> 4 * i & 15 for i in range(4)], 1).astype(np.int64)
        found = np.take_along_axis(octets, places & 7, 1)
        signs = np.where(found >> 7, 0xFF, 0).astype(np.uint8)  # for eight bits, of a place above 7
        found = np.ascontiguousarray(np.where(places > 7, signs, found))
        self._write(operands[0], found.view(np.uint32)[:, 0])

    def _shfl(self, _: object, operands: tuple[str, ...]) -> None:
        rows = self._warps()
        lanes = self._read(operands[2], "u32").reshape(rows.shape).astype(np.int64)
        found = np.take_along_axis(self._register(operands[1])[rows], lanes, 1)
        self._write(operands[0].partition("|")[0], found.reshape(-1))

    def _ld_param(self, words: tuple[str, ...], operands: tuple[str, ...]) -> None:
        dtype = BITS[words[-1][1:]]
        value = self._parameters[operands[1].strip("[]")] & (2 ** int(words[-1][1:]) - 1)
        self._write(operands[0], np.full(self._active.size, value, dtype))

    def _ld_global(self, words: tuple[str, ...], operands: tuple[str, ...]) -> None:
        registers, bits = registers_of(operands[0]), words[-1][1:]
        places = self._places(operands[1], int(bits) // 8 * len(registers), "u64")
        assert self.memory.readable[places].all(), "a read outside of all buffers"
        found: Vector = self.memory.octets[places].view(BITS[bits])
        for column, register in enumerate(registers):
            self._write(register, found[:, column].copy())

    def _st_global(self, words: tuple[str, ...], operands: tuple[str, ...]) -> None:
        places = self._places(operands[0], int(words[-1][1:]) // 8, "u64")
        assert self.memory.writable[places].all(), "a write outside of what may be written"
        self.memory.octets[places] = self._read(operands[1], words[-1])[:, None].view(np.uint8)

    def _ld_shared(self, words: tuple[str, ...], operands: tuple[str, ...]) -> None:
        registers = registers_of(operands[0])
        bits = words[-1][1:]
        size = int(bits) // 8 * len(registers)
        places = self._shared_places(operands[1], size)
        self.conflicts += conflicts(places[:, 0], size)
        found: Vector = self._shared[places].view(BITS[bits])
        for column, register in enumerate(registers):
            values = found[:, column]
            self._write(register, values.astype(np.uint16) if bits == "8" else values.copy())

    def _st_shared(self, words: tuple[str, ...], operands: tuple[str, ...]) -> None:
        registers, bits = registers_of(operands[1]), words[-1][1:]
        size = int(bits) // 8 * len(registers)
        places = self._shared_places(operands[0], size)
        self.conflicts += conflicts(places[:, 0], size)
        assert not self._coming[places].any(), "a copy is under way to where this writes"
        values = np.stack([self._read(each, f"b{bits}") for each in registers], 1)
        self._shared[places] = values.view(np.uint8)
        self._stores.store(self._active, places)

    def _cp_async_cg(self, _: object, operands: tuple[str, ...]) -> None:
        size = int(operands[2])
        to = self._shared_places(operands[0], size)
        whole = np.full(self._active.size, size, np.uint32)
        much = (self._read(operands[3], "u32") if operands[3:] else whole).astype(np.int64)
        assert (much <= size).all(), "more than the whole"
        origin = self._places(operands[1], 1, "u64") + np.arange(size)
        wanted = np.arange(size) < much[:, None]
        assert (origin[wanted[:, 0], 0] % size == 0).all(), "an address that is not aligned"
        assert self.memory.readable[origin[wanted]].all(), "a copy from outside of all buffers"
        values = np.where(wanted, self.memory.octets[np.where(wanted, origin, 0)], 0)
        assert not self._coming[to].any(), "another copy is under way to this place"
        np.add.at(self._coming, to, 1)
        self._shared[to] = POISON
        for thread, place, row in zip(self._active, to[:, 0], values.astype(np.uint8), strict=True):
            self._copies[thread][-1].append((int(place), row))

    _cp_async_ca = _cp_async_cg

    def _cp_async_commit_group(self, *_: object) -> None:
        for thread in self._active:
            self._copies[thread].append([])

    def _cp_async_wait_group(self, _: object, operands: tuple[str, ...]) -> None:
        for thread in self._active:
            open_groups = self._copies[thread]
            while len(open_groups) - 1 > int(operands[0]):
                for place, row in open_groups.pop(0):
                    self._shared[place : place + row.size] = row
                    self._coming[place : place + row.size] -= 1

    def _bar(self, words: tuple[str, ...], operands: tuple[str, ...]) -> None:
        """Barriers of the block by number; those of a warp after them."""
        if words[1] == "warp":
            barriers, count = 16 + self._active // WARP, WARP
        else:
            barriers = self._read(operands[0], "u32").astype(np.int64)
            count = int(operands[1]) if len(operands) > 1 else self.program.threads
        self._barrier[self._active] = barriers
        for each in np.unique(barriers):
            waiting = np.nonzero(self._barrier == each)[0]
            assert len(waiting) <= count, "more threads at a barrier than it is for"
            if len(waiting) == count:
                self._barrier[waiting] = -1
                if count == self.program.threads:
                    self._stores.pass_barrier()

    def _fence(self, words: tuple[str, ...], _: object) -> None:
        assert words[1:] == ("proxy", "async", "shared::cta"), words
        self._stores.fence(self._active)

    def _wgmma(self, words: tuple[str, ...], operands: tuple[str, ...]) -> None:
        for row in self._warps():
            self._active = row
            warp = self._under_way[row[0] // WARP]
            if words[1] == "fence":
                warp.fenced = True
            elif words[1] == "commit_group":
                warp.commit()
            elif words[1] == "wait_group":
                for register, sums in warp.wait(self._shared, left=int(operands[0])).items():
                    self._write(register, sums.view(np.uint32))
            else:
                self._product(warp, words, operands)

    def _product(
        self, warp: ptx_wgmma.Products, words: tuple[str, ...], operands: tuple[str, ...]
    ) -> None:
        assert words[1:4] == ("mma_async", "sync", "aligned"), words
        assert operands[4:] == ("1", "1", "0", "0"), "a sign, or a transposed operand"
        assert self._read(operands[3], "pred").all(), "sums that are not added to"
        mine = int(self._active[0]) // WARP % 4 * 16
        a = self._operand(operands[1], slice(mine, mine + 16))
        b = self._operand(operands[2], slice(0, ptx_wgmma.columns_of(words[4:])))
        registers = registers_of(operands[0])
        warp.add(registers, lambda each: self._read(each, "b32").view(np.float32), a, b)
        for register in registers:
            self._write(register, np.full(WARP, ptx_wgmma.NOTHING, np.uint32))
        self.products += 1

    def _operand(self, descriptor: str, rows: slice) -> ptx_wgmma.Operand:
        """What a warp reads of the rows that a descriptor tells of."""
        (given,) = np.unique(self._read(descriptor, "b64"))
        places = ptx_wgmma.rows_of(int(given), rows.stop)[rows]
        self._stores.require_seen(places)
        return ptx_wgmma.Operand(places, self._shared[places])

    def _ldmatrix(self, words: tuple[str, ...], operands: tuple[str, ...]) -> None:
        """Each eight threads give a matrix's rows; thread 4 r + c gets word c of row r of each."""
        assert words[1:] == ("sync", "aligned", "m8n8", "x4", "shared", "b16"), words
        rows = self._warps()
        places = self._shared_places(operands[1], 16)
        self.conflicts += conflicts(places[:, 0], 16)
        matrices = self._shared[places].view(np.uint32).reshape(len(rows), 4, WARP)
        for i, register in enumerate(registers_of(operands[0])):
            self._write(register, matrices[:, i].reshape(-1))

    def _mma(self, words: tuple[str, ...], operands: tuple[str, ...]) -> None:
        rows = self._warps()
        a, b, c = (self._fragments(each, rows) for each in operands[1:4])
        if words[3:] == _F16:
            made = ptx_mma.of_halves(a, b)
        elif words[3:] == _E2M1:
            of_rows, of_columns = (self._fragments(each, rows)[0] for each in operands[4::2])
            of_rows = ptx_mma.scales_of_rows(of_rows, operands[5])
            made = ptx_mma.of_codes(
                a, b, of_rows, ptx_mma.scales_of_columns(of_columns, operands[7])
            )
        else:
            msg = f"a product of {'.'.join(words[3:])} is not known here; add it"
            raise NotImplementedError(msg)
        for i, register in enumerate(registers_of(operands[0])):
            place = (slice(None), *ptx_mma.place_of_sum(i))
            sums = (c[i].view(np.float32) + made[place]).astype(np.float32)
            self._write(register, sums.reshape(-1).view(np.uint32))
        self.products += len(rows)

    def _fragments(self, operand: str, rows: Vector) -> list[Vector]:
        """The words ``[warps, 32]`` of each register of an operand."""
        return [self._read(each, "b32").reshape(rows.shape) for each in registers_of(operand)]
