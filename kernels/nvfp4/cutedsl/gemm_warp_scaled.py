"""NVFP4's GEMM in the CuTe DSL for sm120: block-scaled products of a warp, codes as they are.

The instruction is ``mma.sync.m16n8k64`` of kind ``mxf4nvf4.block_scale.scale_vec::4X`` (PTX ISA,
"Block Scaling for mma.sync" and "Matrix Fragments for mma.m16n8k64"), which takes 64 along k and a
scale for each 16 of them. `kernels.nvfp4.warp_scaled_policy` has the tilings.

Tiling: a block owns one output tile of ``rows`` by ``columns`` and walks all of k in steps of
``spans`` times 128, that is 64 bytes of codes a row, through ``stages`` stages in shared memory.
Its warps are ``warps_m`` by ``warps_n``. Tiles are numbered in bands of ``band`` tile rows, so that
blocks that run together share weights in L2.

Layout in global memory: codes ``[m, k/2]`` and ``[n, k/2]`` lie two a byte, even k in the low
nibble; rows lie a multiple of 16 bytes apart, and begin at such. Scales lie in the layout 128x4,
from a multiple of 16 bytes on: 64 along k of 128 rows are 512 bytes, a word of four scales a row,
and those of the rows r, r + 32, r + 64 and r + 96 lie together. ``y`` is contiguous. Offsets are 64
bit.

Layout in shared memory: a stage has the codes of ``rows`` then ``columns`` rows, a step each, in
pieces of 16 bytes whose order turns with the row, so that the eight rows of a matrix of
``ldmatrix`` use all banks once. Then, for each 64 along k, the scales of ``rows`` and then of
``columns`` rows, as they lie in global memory: groups of the words of rows 32 apart. A group is
copied at once, and loaded at once: of one word in tiles of up to 32 rows, of two in those of 64, of
four in those of 128. Of these last, rows 8 apart would use the same banks, so every other eight of
them are turned by two places.

Fragments: a warp's products lie 32 rows apart where a group has several words, so that one load
brings the scales of all of them. ``ldmatrix`` takes 8 rows by 16 bytes, 32 codes along k each: the
thread q of quad g gets bytes 4q to 4q + 3 of row g, the 8 codes that the instruction wants of it.
Of the scales, the instruction reads those of row g from the first thread of quad g and those of row
g + 8 from the second, and those of column g from the first: selectors are 0. Other threads load the
same words, to no use.

What lies beyond: codes beyond m, n and k and scales of steps beyond k are copied as zeros. Padding
inside the last word of scales comes as it is, and zero times NaN is NaN: where k is no multiple of
64, the upper half of the last words is masked once they are loaded. In rows beyond m and n padding
of scales reaches only sums that are not stored.

Order of operations: products accumulate in fp32 on tensor cores, 64 along k each, in one chain.
Then, in fp32: ``* alpha``, ``+ bias``; one rounding to the output dtype, to infinity where it
overflows. Scales are read as *unsigned* E4M3: the sign bit of a block scale must be zero.
"""
# Annotations are types to the DSL, so they must not become strings.

from dataclasses import dataclass

import cutlass
from cutlass import Constexpr, Float32, Int32, Int64, Uint16, Uint32, cute
from cutlass.cute.arch import inline_ptx

SPAN = 64  # bytes of codes of a row that are 128 along k: two products
UNIT = 16  # bytes of codes that are copied at once, and of a row of a matrix
TILE = 512  # bytes of scales of 128 rows and 64 along k
LANES = 32  # rows of such a tile whose words lie 16 bytes apart
MULTIPLY = (
    "mma.sync.aligned.m16n8k64.row.col.kind::mxf4nvf4.block_scale.scale_vec::4X"
    ".f32.e2m1.e2m1.f32.ue4m3 {{$w0}, {$w1}, {$w2}, {$w3}}, {{$r0}, {$r1}, {$r2}, {$r3}}, "
    "{{$r4}, {$r5}}, {{$r6}, {$r7}, {$r8}, {$r9}}, {$r10}, {0, 0}, {$r11}, {0, 0};"
)


def choose(condition, if_true, if_false):
    """One of two values of the same type."""
    return type(if_true)(cutlass.select_(condition, if_true, if_false))


def copy(place, address, size, octets, wanted):
    """Begin to copy ``size`` bytes to shared memory, all but the first ``octets`` as zeros."""
    cached = "cg" if size == UNIT else "ca"
    inline_ptx(
        f"cp.async.{cached}.shared.global [{{$r0}}], [{{$r1}}], {size}, {{$r2}};",
        read_only_args=[place, address, octets],
        predicate=wanted,
    )


def load_matrices(place):
    """Four matrices of 8 rows by 16 bytes; each eight threads give the places of one's rows."""
    return inline_ptx(
        "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{$w0}, {$w1}, {$w2}, {$w3}}, [{$r0}];",
        write_only_types=[Uint32] * 4,
        read_only_args=[place],
    )


def load_words(place, count):
    """1, 2 or 4 words of shared memory."""
    if count == 1:
        return [
            inline_ptx(
                "ld.shared.b32 {$w0}, [{$r0}];", write_only_types=[Uint32], read_only_args=[place]
            )
        ]
    named = ", ".join(f"{{$w{index}}}" for index in range(count))
    return inline_ptx(
        f"ld.shared.v{count}.b32 {{{named}}}, [{{$r0}}];",
        write_only_types=[Uint32] * count,
        read_only_args=[place],
    )


def load_16(address):
    """Two bytes of global memory."""
    loaded = inline_ptx(
        "ld.global.b16 {$w0}, [{$r0}];", write_only_types=[Uint16], read_only_args=[address]
    )
    return Uint32(loaded)


@dataclass(frozen=True)
class Side:
    """One operand's rows of a tile, and how the groups of their scales lie."""

    start: int  # its first row in a stage
    rows: int

    @property
    def words(self) -> int:
        """Words of a group: of rows 32 apart."""
        return max(1, self.rows // LANES)

    @property
    def groups(self) -> int:
        """Groups of 64 along k."""
        return min(LANES, self.rows)

    def turned(self, group):
        """The place of a group among them."""
        return group ^ (group >> 3 & 1) << 1 if self.words == 4 else group


@dataclass(frozen=True)
class Tiling:
    """The constants of a kernel, and what follows from them."""

    rows: int
    columns: int
    warps_m: int
    warps_n: int
    spans: int
    stages: int
    band: int

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * self.warps_m * self.warps_n

    @property
    def sides(self) -> tuple[Side, Side]:
        """Activations, and weights."""
        return Side(0, self.rows), Side(self.rows, self.columns)

    @property
    def tall(self) -> int:
        """Products of a warp within the first 32 of its rows; further ones lie 32 rows apart."""
        return self.sides[0].groups // self.warps_m // 16

    @property
    def broad(self) -> int:
        """Products of a warp within the first 32 of its columns."""
        return self.sides[1].groups // self.warps_n // 8

    @property
    def step(self) -> int:
        """Bytes of codes of a row in a step."""
        return self.spans * SPAN

    @property
    def parts(self) -> int:
        """Products of a step along k."""
        return 2 * self.spans

    @property
    def codes(self) -> int:
        """Bytes of codes of a stage, which its scales follow."""
        return (self.rows + self.columns) * self.step

    @property
    def scales(self) -> int:
        """Bytes of scales of 64 along k."""
        return (self.rows + self.columns) * 4

    @property
    def stage(self) -> int:
        """Bytes of a stage."""
        return self.codes + self.parts * self.scales


def place_of_codes(t, row, unit):
    """Where in a stage 16 bytes of codes lie: eight rows that follow each other use all banks."""
    turned = unit ^ row if t.spans == 2 else unit ^ (row >> 1)
    return row * t.step + (turned & (4 * t.spans - 1)) * UNIT


def place_of_scales(t, side, part, group):
    """Where in a stage a group of words of scales lies."""
    return t.codes + part * t.scales + side.start * 4 + side.turned(group) * (4 * side.words)


def shared_out(t, count, member):
    """A thread's share of ``count``: what it does, and on what condition, if any."""
    for first in range(0, count, t.threads):
        index = member + first
        yield index, (None if first + t.threads <= count else index < count)


def copy_codes(t, side, to, codes, stride, rows_left, octets, step, member):
    """Begin to copy a step of one operand's codes."""
    units = t.step // UNIT  # of a row
    for index, wanted in shared_out(t, side.rows * units, member):
        row, unit = index // units, index % units
        along = step * t.step + unit * UNIT
        inside = (row < rows_left) & (along < octets)
        place = to + place_of_codes(t, side.start + row, unit)
        copy(place, codes + Int64(row) * stride + along, UNIT, Int32(inside) * UNIT, wanted)


def copy_scales(t, side, to, scales, row_0, wide, octets, step, member):
    """Begin to copy a step of one operand's scales; tiles of 128 rows have ``wide * 128`` bytes."""
    size = 4 * side.words
    first = scales + Int64(row_0 // 128) * (wide * 128)
    first = first + row_0 % LANES * 16 + row_0 % 128 // LANES * 4
    for index, wanted in shared_out(t, t.parts * side.groups, member):
        part, group = index // side.groups, index % side.groups
        at = step * t.parts + part
        inside = at * (SPAN // 2) < octets
        place = to + place_of_scales(t, side, part, group)
        copy(place, first + Int64(at) * TILE + group * 16, size, Int32(inside) * size, wanted)


def copy_step(t, inputs, to, step, member, row_0, column_0):
    """Begin to copy a step; what lies beyond m, n or k becomes zeros."""
    codes, wcodes, ascales, wscales, m, n, octets, wide, codes_row, wcodes_row = inputs
    acts, weights = t.sides
    codes = codes + Int64(row_0) * codes_row
    wcodes = wcodes + Int64(column_0) * wcodes_row
    copy_codes(t, acts, to, codes, codes_row, m - row_0, octets, step, member)
    copy_codes(t, weights, to, wcodes, wcodes_row, n - column_0, octets, step, member)
    copy_scales(t, acts, to, ascales, row_0, wide, octets, step, member)
    copy_scales(t, weights, to, wscales, column_0, wide, octets, step, member)


def commit():
    """End a group of copies."""
    inline_ptx("cp.async.commit_group;")


def wait(t):
    """Wait for the oldest stage, all threads' parts of it."""
    inline_ptx(f"cp.async.wait_group {t.stages - 2};")
    cute.arch.sync_threads()


def scales_of(t, side, base, part, group, mask):
    """The scales of a thread's rows, 64 along k each: as many words as a group has."""
    words = load_words(base + place_of_scales(t, side, part, group), side.words)
    return [word & mask for word in words]


def weights_of(t, base, row, pair, lane):
    """A thread's codes of 8 columns and 128 along k: two words for each of two products."""
    words = load_matrices(base + place_of_codes(t, row + lane % 8, 4 * pair + lane // 8))
    return words[:2], words[2:]


def activations_of(t, base, row, part, lane):
    """A thread's codes of 16 rows and 64 along k."""
    return load_matrices(base + place_of_codes(t, row + lane % 16, 2 * part + lane // 16))


def multiply_span(t, sums, base, pair, warp_m, warp_n, lane, masks):
    """Add the products of 128 along k."""
    acts, weights = t.sides
    columns = warp_n * (8 * t.broad)
    right = [
        weights_of(t, base, weights.start + columns + 32 * far + 8 * near, pair, lane)
        for near in range(t.broad)
        for far in range(weights.words)
    ]
    for half in range(2):
        part, mask = 2 * pair + half, masks[half]
        right_scales = []
        for near in range(t.broad):
            right_scales += scales_of(t, weights, base, part, columns + 8 * near + lane // 4, mask)
        for near in range(t.tall):
            row = warp_m * (16 * t.tall) + 16 * near
            left_scales = scales_of(t, acts, base, part, row + lane // 4 + lane % 2 * 8, mask)
            for far in range(acts.words):
                left = activations_of(t, base, row + 32 * far, part, lane)
                for j in range(len(right)):
                    scales = left_scales[far], right_scales[j]
                    multiply(sums, near * acts.words + far, j, left, right[j][half], scales)


def multiply(sums, i, j, left, right, scales):
    """Add one product: 16 rows by 8 columns, 64 along k."""
    held = [sums[index, i, j] for index in range(4)]
    made = inline_ptx(
        MULTIPLY,
        write_only_types=[Uint32] * 4,
        read_only_args=[*left, *right, *held, *scales],
    )
    for index in range(4):
        sums[index, i, j] = made[index]


def rounded(low, high, y_bf16):
    """Two numbers in the output dtype, as a word."""
    bf16 = inline_ptx(
        "cvt.rn.bf16x2.f32 {$w0}, {$r0}, {$r1};",
        write_only_types=[Uint32],
        read_only_args=[high, low],
    )
    f16 = inline_ptx(
        "cvt.rn.f16x2.f32 {$w0}, {$r0}, {$r1};",
        write_only_types=[Uint32],
        read_only_args=[high, low],
    )
    return choose(y_bf16 != 0, bf16, f16)


def widened(bits, bf16):
    """A 16-bit number of either dtype in fp32."""
    f16 = inline_ptx(
        "cvt.f32.f16 {$w0}, {$r0};", write_only_types=[Float32], read_only_args=[Uint16(bits)]
    )
    return choose(
        bf16 != 0,
        inline_ptx(
            "mov.b32 {$w0}, {$r0};", write_only_types=[Float32], read_only_args=[bits << 16]
        ),
        f16,
    )


def store(t, sums, j, to, n, rows_left, factor, left, right, y_bf16):
    """Finish and store a thread's two columns of the products ``j``; ``to`` is in its first row."""
    words = t.sides[0].words
    for near in range(t.tall):
        for far in range(words):
            for lower in range(2):
                below, i = 16 * near + 32 * far + 8 * lower, near * words + far
                word = rounded(
                    sums[2 * lower, i, j] * factor + left,
                    sums[2 * lower + 1, i, j] * factor + right,
                    y_bf16,
                )
                inline_ptx(
                    "st.global.b32 [{$r0}], {$r1};",
                    read_only_args=[to + Int64(n) * (2 * below), word],
                    predicate=rows_left > below,
                )


@cute.kernel
def gemm(
    codes: cute.Pointer,
    wcodes: cute.Pointer,
    ascales: cute.Pointer,
    wscales: cute.Pointer,
    alpha: cute.Pointer,
    bias: cute.Pointer,
    y: cute.Pointer,
    m: Int32,
    n: Int32,
    octets: Int32,
    wide: Int32,
    codes_row: Int64,
    wcodes_row: Int64,
    bias_column: Int32,
    has_bias: Int32,
    bias_bf16: Int32,
    y_bf16: Int32,
    t: Constexpr,
):
    """One tile of y, by ``threads`` threads."""
    member, _, _ = cute.arch.thread_idx()
    tile, _, _ = cute.arch.block_idx()
    lane = member % 32
    warp = cute.arch.make_warp_uniform(member // 32)
    warp_m, warp_n = warp % t.warps_m, warp // t.warps_m

    tile_rows = (m + t.rows - 1) // t.rows
    tile_columns = (n + t.columns - 1) // t.columns
    first = tile // (t.band * tile_columns) * t.band
    in_band = cutlass.min(tile_rows - first, Int32(t.band))
    place = tile % (t.band * tile_columns)
    row_0 = (first + place % in_band) * t.rows
    column_0 = place // in_band * t.columns
    addresses = (codes.toint(), wcodes.toint(), ascales.toint(), wscales.toint())
    inputs = (*addresses, m, n, octets, wide, codes_row, wcodes_row)
    steps = (octets + t.step - 1) // t.step
    whole = octets // (SPAN // 2)  # products along k whose scales have no padding

    shared = Int32(cute.arch.get_dyn_smem(cutlass.Uint8, alignment=128).toint())
    for stage in cutlass.range_constexpr(t.stages - 1):
        copy_step(t, inputs, shared + stage * t.stage, Int32(stage), member, row_0, column_0)
        commit()
    acts, weights = t.sides
    held = (4, t.tall * acts.words, t.broad * weights.words)
    sums = cute.make_rmem_tensor(held, Float32)
    sums.fill(0.0)
    bits = cute.recast_tensor(sums, Uint32)
    stage = Int32(0)
    for step in cutlass.range(steps, unroll=1):
        wait(t)
        free = choose(stage == 0, Int32(t.stages - 1), stage - 1)
        copy_step(t, inputs, shared + free * t.stage, step + t.stages - 1, member, row_0, column_0)
        commit()
        base = shared + stage * t.stage
        for pair in cutlass.range_constexpr(t.spans):
            masks = [
                choose(step * t.parts + 2 * pair + half < whole, Uint32(0xFFFFFFFF), Uint32(0xFFFF))
                for half in range(2)
            ]
            multiply_span(t, bits, base, pair, warp_m, warp_n, lane, masks)
        stage = choose(stage == t.stages - 1, Int32(0), stage + 1)

    factor = cute.arch.load(alpha, Float32)
    row = row_0 + warp_m * (16 * t.tall) + lane // 4
    for near in cutlass.range_constexpr(t.broad):
        for far in cutlass.range_constexpr(weights.words):
            column = column_0 + warp_n * (8 * t.broad) + 8 * near + 32 * far + lane % 4 * 2
            if column < n:
                left, right = Float32(-0.0), Float32(-0.0)  # which change no sum, not even -0
                if has_bias != 0:
                    at = bias.toint() + Int64(column) * bias_column * 2
                    left = widened(load_16(at), bias_bf16)
                    right = widened(load_16(at + bias_column * 2), bias_bf16)
                to = y.toint() + (Int64(row) * n + column) * 2
                j = near * weights.words + far
                store(t, sums, j, to, n, m - row, factor, left, right, y_bf16)


@cute.jit
def nvfp4_gemm(
    codes: cute.Pointer,
    wcodes: cute.Pointer,
    ascales: cute.Pointer,
    wscales: cute.Pointer,
    alpha: cute.Pointer,
    bias: cute.Pointer,
    y: cute.Pointer,
    m: Int32,
    n: Int32,
    octets: Int32,
    wide: Int32,
    codes_row: Int64,
    wcodes_row: Int64,
    bias_column: Int32,
    has_bias: Int32,
    bias_bf16: Int32,
    y_bf16: Int32,
    ROWS: Constexpr,
    COLUMNS: Constexpr,
    WARPS_M: Constexpr,
    WARPS_N: Constexpr,
    SPANS: Constexpr,
    STAGES: Constexpr,
    BAND: Constexpr,
):
    """Launch one block; where the kernel is found on disk, none of this runs."""
    t = Tiling(ROWS, COLUMNS, WARPS_M, WARPS_N, SPANS, STAGES, BAND)
    gemm(
        codes, wcodes, ascales, wscales, alpha, bias, y, m, n, octets, wide, codes_row, wcodes_row,
        bias_column, has_bias, bias_bf16, y_bf16, t,
    ).launch(grid=[1, 1, 1], block=[t.threads, 1, 1])  # fmt: skip
