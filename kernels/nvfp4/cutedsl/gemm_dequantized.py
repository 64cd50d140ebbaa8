"""NVFP4's GEMM in the CuTe DSL: operands dequantized to fp16 in registers, exactly, and multiplied.

It runs wherever tensor cores multiply fp16 (sm80 on). Where an arch converts E4M3 to fp16 it does
so; elsewhere bits are shifted to their places, which takes a third more instructions in all.
`kernels.nvfp4.cutedsl_policy` has its tilings and computes its launch.

Tiling: a block owns one output tile of ``rows`` by ``columns``. Its warps form ``slices`` groups of
``warps_m`` by ``warps_n``; the groups share out the steps along k in turn, each with ``stages``
stages of its own in shared memory and a barrier of its own (none but the warp's where a group is
one warp), and their sums are added at the end, in order. A step is ``spans`` times 128 along k, 64
bytes of codes a row. Tiles are numbered in bands of ``band`` tile rows, so that blocks that run
together share weights in L2.

Layout in global memory: codes ``[m, k/2]`` and ``[n, k/2]`` lie two a byte, even k in the low
nibble; rows lie a multiple of 16 bytes apart, and begin at such. Scales lie in the layout 128x4;
those of blocks beyond k are not read. ``y`` is contiguous. Offsets are 64 bit.

Layout in shared memory: a stage has the codes of ``rows`` then ``columns`` rows, a step each, in
quarters or halves of 32 bytes whose order turns with the row, which keeps the loads of 8 bytes a
thread free of bank conflicts; then the scales of each of those rows.

Fragments: a sum does not care in which order k comes. Of 64 along k the thread t of a quad takes
the 16 codes of the scale block t, 8 bytes that lie together, for rows and columns alike. The words
of these are shifted and masked into eight pairs of fp16 numbers, which are the thread's part of
four products of 16 along k.

Exactness, by conversion: the bits of an E2M1 code, shifted into those of an E4M3 number, are 2^-6
of its value, subnormal ones included, and a scale is an E4M3 number. The product of the two, in
fp16, is 2^-6 of the dequantized number: at most 6 bits, a multiple of 2^-16 and at most 42, so that
fp16 holds each one.

Exactness, by shifts: the bits of a code, shifted into those of an fp16 number, are 2^-14 of its
value, and those of a scale 2^-8 of its. Scales are multiplied by 2^14; the product of the two is
then 2^-8 of the dequantized number: a multiple of 2^-18 and at most 10.5.

Order of operations: products accumulate in fp32 on tensor cores, one chain a slice; slices are
added in order. Then, in fp32: ``* 2^12 * alpha`` (by shifts ``2^16``), ``+ bias``; one rounding to
the output dtype, to infinity where it overflows.
"""
# Annotations are types to the DSL, so they must not become strings.

from dataclasses import dataclass

import cutlass
from cutlass import Constexpr, Float16, Float32, Int32, Int64, Uint16, Uint32, cute
from cutlass.cute.arch import inline_ptx
from cutlass.cute.nvgpu import warp

SPAN = 64  # bytes of codes of a row that are 128 along k
SCALES = 8  # scales of those
UNIT = 16  # bytes that are copied at once
SIGNS = 0x8000_8000
BYTE_SIGNS, BYTE_SIZES = 0x8080_8080, 0x1C1C_1C1C  # of codes that are E4M3 numbers


def choose(condition, if_true, if_false):
    """One of two values of the same type."""
    return type(if_true)(cutlass.select_(condition, if_true, if_false))


def copy_16(place, address, octets):
    """Begin to copy 16 bytes to shared memory, the last ``16 - octets`` of them as zeros."""
    inline_ptx(
        "cp.async.cg.shared.global [{$r0}], [{$r1}], 16, {$r2};",
        read_only_args=[place, address, octets],
    )


def copy_4(place, address, octets):
    """Begin to copy 4 bytes to shared memory, the last ``4 - octets`` of them as zeros."""
    inline_ptx(
        "cp.async.ca.shared.global [{$r0}], [{$r1}], 4, {$r2};",
        read_only_args=[place, address, octets],
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


def times(x, y):
    """The products of two pairs of fp16 numbers."""
    return inline_ptx(
        "mul.rn.f16x2 {$w0}, {$r0}, {$r1};", write_only_types=[Uint32], read_only_args=[x, y]
    )


def to_scale(pair):
    """``pair`` times 2^14; as an operand of its own the constant would be taken for an integer."""
    factor = inline_ptx("mov.b32 {$w0}, 0x74007400;", write_only_types=[Uint32])
    return times(pair, factor)


def shifted_scale(word, quad):
    """A byte of a word, which is E4M3, as fp16, 2^6 of its value, twice."""
    wide = inline_ptx(  # the byte, in the lower half of either half
        "prmt.b32 {$w0}, {$r0}, 0, {$r1};",
        write_only_types=[Uint32],
        read_only_args=[word, quad * 0x101 + 0x4040],
    )
    bits = ((wide << 7) & Uint32(0x3F80_3F80)) | ((wide << 8) & Uint32(SIGNS))
    nan = (wide & Uint32(0x7F)) == Uint32(0x7F)
    return to_scale(choose(nan, Uint32(0x7E00_7E00), bits))


def shifted_codes(word, scale):
    """The 8 codes of a word as four pairs of fp16 numbers, 2^-8 of their values."""
    pairs = []
    for index in range(4):
        signs = word << (12 - 4 * index)
        sizes = word << (9 - 4 * index) if index < 3 else word >> 3
        pairs.append(times((signs & Uint32(SIGNS)) | (sizes & Uint32(0x0E00_0E00)), scale))
    return pairs


def converted(pair):
    """Two E4M3 numbers as fp16 ones."""
    return inline_ptx(
        "cvt.rn.f16x2.e4m3x2 {$w0}, {$r0};", write_only_types=[Uint32], read_only_args=[pair]
    )


def converted_scale(word, quad):
    """A byte of a word, which is E4M3, as fp16, twice."""
    twice = inline_ptx(
        "prmt.b32 {$w0}, {$r0}, 0, {$r1};",
        write_only_types=[Uint32],
        read_only_args=[word, quad * 0x11],
    )
    return converted(Uint16(twice))


def converted_codes(word, scale):
    """The 8 codes of a word as four pairs of fp16 numbers, 2^-6 of their values."""
    even = ((word << 4) & Uint32(BYTE_SIGNS)) | ((word << 2) & Uint32(BYTE_SIZES))
    odd = (word & Uint32(BYTE_SIGNS)) | ((word >> 2) & Uint32(BYTE_SIZES))
    pairs = (even, even >> 16, odd, odd >> 16)
    return [times(converted(Uint16(pair)), scale) for pair in pairs]


def row_of_scales(row, wide):
    """Where in the layout 128x4 the scales of a row begin, ``wide`` being the blocks of a row."""
    return Int64(row // 128) * (wide * 128) + row % 32 * 16 + row % 128 // 32 * 4


@dataclass(frozen=True)
class Tiling:
    """The constants of a kernel, and what follows from them."""

    rows: int
    columns: int
    warps_m: int
    warps_n: int
    slices: int
    spans: int
    stages: int
    band: int
    converts: bool

    @property
    def to_value(self) -> float:
        """What makes of a product of dequantized numbers that of their values."""
        return 2.0**12 if self.converts else 2.0**16

    @property
    def threads(self) -> int:
        """Threads of a slice."""
        return 32 * self.warps_m * self.warps_n

    @property
    def tall(self) -> int:
        """Products of a warp along m."""
        return self.rows // self.warps_m // 16

    @property
    def broad(self) -> int:
        """Products of a warp along n."""
        return self.columns // self.warps_n // 8

    @property
    def at_once(self) -> bool:
        """Whether a whole step is unrolled, with its scales loaded ahead: registers allow it."""
        return self.tall * self.broad <= 8

    @property
    def step(self) -> int:
        """Bytes of codes of a row in a step."""
        return self.spans * SPAN

    @property
    def codes(self) -> int:
        """Bytes of codes of a stage, which its scales follow."""
        return (self.rows + self.columns) * self.step

    @property
    def stage(self) -> int:
        """Bytes of a stage."""
        return self.codes + (self.rows + self.columns) * self.spans * SCALES


def swizzled(t, row, part):
    """The place of 32 bytes of a row: four rows that follow each other use all banks once."""
    turned = part ^ row if t.spans == 2 else part ^ (row >> 1)
    return row * t.step + (turned & (2 * t.spans - 1)) * (SPAN // 2)


def copy_codes(t, to, start, address, stride, rows_left, whole, member):
    """Begin to copy a step of codes to the rows from ``start`` on of the stage ``to``."""
    units = t.step // UNIT  # of a row
    count = (t.columns if start else t.rows) * units // t.threads
    for i in range(count):
        row = member // units + i * (t.threads // units)
        much = choose(row < rows_left, whole, Int32(0))
        unit = member % units
        place = to + swizzled(t, start + row, unit // 2) + unit % 2 * UNIT
        copy_16(place, address + i * (t.threads // units) * stride, much)


def copy_scales(t, to, start, row_0, address, wide, much, member):
    """Begin to copy a step of scales to the rows from ``start`` on of a stage."""
    words = 2 * t.spans  # of 4 scales a row
    for i in range((t.columns if start else t.rows) * words // t.threads):
        row = member // words + i * (t.threads // words)
        place = to + (start + row) * (t.spans * SCALES)
        copy_4(place, address + row_of_scales(row_0 + row, wide), much)


def copy_step(t, inputs, base, step, member, row_0, column_0):
    """Begin to copy a step; what lies beyond m, n or k becomes zeros."""
    codes, wcodes, ascales, wscales, m, n, octets, wide, codes_row, wcodes_row = inputs
    unit = member % (t.step // UNIT)
    row = member // (t.step // UNIT)
    whole = choose(step * t.step + unit * UNIT < octets, Int32(UNIT), Int32(0))
    along = Int64(step) * t.step + unit * UNIT
    a_rows, w_rows = Int64(row_0 + row), Int64(column_0 + row)
    left = (m - row_0, n - column_0)
    copy_codes(t, base, 0, codes + a_rows * codes_row + along, codes_row, left[0], whole, member)
    copy_codes(
        t, base, t.rows, wcodes + w_rows * wcodes_row + along, wcodes_row, left[1], whole, member
    )
    # Four scales belong to 32 bytes of codes. Rows beyond m and n have scales, which are padding:
    # those rows are multiplied and not stored.
    word = member % (2 * t.spans)
    at = step * (2 * t.spans) + word
    much = cutlass.min(cutlass.max(octets // 8 - at * 4, Int32(0)), Int32(4))
    to = base + t.codes + word * 4
    along = Int64(at) * 512
    copy_scales(t, to, 0, row_0, ascales + along, wide, much, member)
    copy_scales(t, to, t.rows, column_0, wscales + along, wide, much, member)


def commit():
    """End a group of copies."""
    inline_ptx("cp.async.commit_group;")


def wait(t, slice_):
    """Wait for the slice's oldest stage, all of its threads' parts."""
    inline_ptx(f"cp.async.wait_group {t.stages - 2};")
    if t.threads == 32:
        inline_ptx("bar.warp.sync 0xffffffff;")
    else:
        inline_ptx(f"bar.sync {{$r0}}, {t.threads};", read_only_args=[slice_ + 1])


def words_of(t, base, row, part, count):
    """``count`` words of the scales of a row, from that of ``part`` on."""
    return load_words(base + t.codes + row * (t.spans * SCALES) + part * 4, count)


def pairs_of(t, base, word, row, part, quad):
    """A thread's 16 codes of a row and 64 along k, dequantized: eight pairs of fp16 numbers."""
    low, high = load_words(base + swizzled(t, row, part) + quad * 8, 2)
    if t.converts:
        scale = converted_scale(word, quad)
        return [*converted_codes(low, scale), *converted_codes(high, scale)]
    scale = shifted_scale(word, quad)
    return [*shifted_codes(low, scale), *shifted_codes(high, scale)]


def multiply_step(t, atom, sums, base, rows, columns, quad):
    """Add the products of a step, all of its scales loaded ahead."""
    parts = 2 * t.spans
    mine = [rows + 8 * i for i in range(2 * t.tall)] + [columns + 8 * j for j in range(t.broad)]
    words = [words_of(t, base, row, 0, parts) for row in mine]
    for part in range(parts):
        multiply(t, atom, sums, base, part, rows, columns, quad, [word[part] for word in words])


def multiply_part(t, atom, sums, base, part, rows, columns, quad):
    """Add products of 64 along k."""
    mine = [rows + 8 * i for i in range(2 * t.tall)] + [columns + 8 * j for j in range(t.broad)]
    words = [words_of(t, base, row, part, 1)[0] for row in mine]
    multiply(t, atom, sums, base, part, rows, columns, quad, words)


def multiply(t, atom, sums, base, part, rows, columns, quad, words):
    """Add products of 64 along k; ``rows`` and ``columns`` are the thread's first in a stage.

    ``words`` has the four scales of each of its rows, then of its columns.
    """
    a = cute.make_rmem_tensor((8, t.tall, 4), Float16)
    a_pairs = cute.recast_tensor(a, Uint32)
    for i in range(t.tall):
        upper = pairs_of(t, base, words[2 * i], rows + 16 * i, part, quad)
        lower = pairs_of(t, base, words[2 * i + 1], rows + 16 * i + 8, part, quad)
        for depth in range(4):
            a_pairs[0, i, depth] = upper[2 * depth]
            a_pairs[1, i, depth] = lower[2 * depth]
            a_pairs[2, i, depth] = upper[2 * depth + 1]
            a_pairs[3, i, depth] = lower[2 * depth + 1]
    for j in range(t.broad):
        b = cute.make_rmem_tensor((4, 4), Float16)
        b_pairs = cute.recast_tensor(b, Uint32)
        right = pairs_of(t, base, words[2 * t.tall + j], columns + 8 * j, part, quad)
        for depth in range(4):
            b_pairs[0, depth] = right[2 * depth]
            b_pairs[1, depth] = right[2 * depth + 1]
        for depth in range(4):
            for i in range(t.tall):
                total = sums[None, i, j]
                cute.mma_atom_call(atom, total, a[None, i, depth], b[None, depth], total)


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


def store(t, sums, j, to, n, rows_left, factor, left, right, y_bf16):
    """Finish and store a thread's two columns of the products ``j``."""
    for i in range(t.tall):
        for lower in range(2):
            below = 16 * i + 8 * lower
            word = rounded(
                sums[2 * lower, i, j] * t.to_value * factor + left,
                sums[2 * lower + 1, i, j] * t.to_value * factor + right,
                y_bf16,
            )
            inline_ptx(
                "st.global.b32 [{$r0}], {$r1};",
                read_only_args=[to + Int64(n) * (2 * below), word],
                predicate=rows_left > below,
            )


def place_of_sum(t, heap, index, slice_):
    """Where in shared memory a thread's sum of a slice lies."""
    return heap + (slice_ * (4 * t.tall * t.broad) + index) * (4 * t.threads)


def hand_over(t, sums, heap, slice_):
    """Write a slice's sums to shared memory."""
    for index in range(4 * t.tall * t.broad):
        inline_ptx(
            "st.shared.f32 [{$r0}], {$r1};",
            read_only_args=[place_of_sum(t, heap, index, slice_), sums[index]],
        )


def take_over(t, sums, heap, other):
    """Add the sums of another slice."""
    for index in range(4 * t.tall * t.broad):
        loaded = inline_ptx(
            "ld.shared.f32 {$w0}, [{$r0}];",
            write_only_types=[Float32],
            read_only_args=[place_of_sum(t, heap, index, other)],
        )
        sums[index] = sums[index] + loaded


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
    """One tile of y, by ``slices`` times ``threads`` threads."""
    thread, _, _ = cute.arch.thread_idx()
    tile, _, _ = cute.arch.block_idx()
    member = thread % t.threads
    slice_ = cute.arch.make_warp_uniform(thread // t.threads)
    group, quad = thread % 32 // 4, thread % 4
    warp_m = member // 32 % t.warps_m
    warp_n = member // (32 * t.warps_m)

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
    rounds = (steps + t.slices - 1) // t.slices

    shared = cute.arch.get_dyn_smem(cutlass.Uint8, alignment=16)
    mine = Int32(shared.toint()) + slice_ * (t.stages * t.stage)
    for stage in cutlass.range_constexpr(t.stages - 1):
        copy_step(
            t, inputs, mine + stage * t.stage, stage * t.slices + slice_, member, row_0, column_0
        )
        commit()
    atom = cute.make_mma_atom(warp.MmaF16BF16Op(Float16, Float32, (16, 8, 16)))
    sums = cute.make_rmem_tensor((4, t.tall, t.broad), Float32)
    sums.fill(0.0)
    my_rows = warp_m * (t.tall * 16) + group
    my_columns = t.rows + warp_n * (t.broad * 8) + group
    stage = Int32(0)
    for round_ in cutlass.range(rounds, unroll=1):
        wait(t, slice_)
        free = choose(stage == 0, Int32(t.stages - 1), stage - 1)
        step = (round_ + t.stages - 1) * t.slices + slice_
        copy_step(t, inputs, mine + free * t.stage, step, member, row_0, column_0)
        commit()
        base = mine + stage * t.stage
        if cutlass.const_expr(t.at_once):
            multiply_step(t, atom, sums, base, my_rows, my_columns, quad)
        else:
            for part in cutlass.range(2 * t.spans, unroll=1):
                multiply_part(t, atom, sums, base, part, my_rows, my_columns, quad)
        stage = choose(stage == t.stages - 1, Int32(0), stage + 1)

    if cutlass.const_expr(t.slices > 1):
        inline_ptx("cp.async.wait_group 0;")
        cute.arch.sync_threads()
        # After the last step no stage is read: sums take their place.
        heap = Int32(shared.toint()) + 4 * member
        if slice_ > 0:
            hand_over(t, sums, heap, slice_)
        cute.arch.sync_threads()
        if slice_ == 0:
            for other in cutlass.range(1, t.slices, unroll=1):
                take_over(t, sums, heap, other)
    if slice_ == 0:
        factor = cute.arch.load(alpha, Float32)
        row = row_0 + warp_m * (t.tall * 16) + group
        for j in cutlass.range_constexpr(t.broad):
            column = column_0 + warp_n * (t.broad * 8) + 8 * j + 2 * quad
            if column < n:
                left, right = Float32(-0.0), Float32(-0.0)  # which change no sum, not even -0
                if has_bias != 0:
                    at = bias.toint() + Int64(column) * bias_column * 2
                    left = widened(load_16(at), bias_bf16)
                    right = widened(load_16(at + bias_column * 2), bias_bf16)
                to = y.toint() + (Int64(row) * n + column) * 2
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
    SLICES: Constexpr,
    SPANS: Constexpr,
    STAGES: Constexpr,
    BAND: Constexpr,
    CONVERTS: Constexpr,
):
    """Launch one block; where the kernel is found on disk, none of this runs."""
    t = Tiling(ROWS, COLUMNS, WARPS_M, WARPS_N, SLICES, SPANS, STAGES, BAND, CONVERTS == 1)
    gemm(
        codes, wcodes, ascales, wscales, alpha, bias, y, m, n, octets, wide, codes_row, wcodes_row,
        bias_column, has_bias, bias_bf16, y_bf16, t,
    ).launch(grid=[1, 1, 1], block=[t.threads * t.slices, 1, 1])  # fmt: skip
