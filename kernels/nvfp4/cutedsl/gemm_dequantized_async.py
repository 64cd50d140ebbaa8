"""NVFP4's GEMM in the CuTe DSL for many rows on sm90: products run while threads dequantize.

A sibling of ``gemm_dequantized.py``, where warps dequantize in registers what they multiply, one
after the other. Here tensor cores read fp16 from shared memory by themselves (``wgmma``), while the
threads that asked them to dequantize the next step. It runs on sm90 alone.
`kernels.nvfp4.cutedsl_policy` has its tilings and computes its launch.

Tiling: a block of two warpgroups owns one output tile of 128 rows by ``columns``, 128 or 256, of
which each warpgroup multiplies 64 rows. A step is 64 along k: 32 bytes of codes and 4 scales a row.
While a step is multiplied, each thread dequantizes its share of the next one into the next of
``buffers`` buffers and loads that of the one after. Then it waits for the products that read the
buffer after next: with two buffers those of this step, with three those of the step before, so that
tensor cores have work while threads meet. A barrier begins the next step. Tiles are numbered in
bands of ``band`` tile rows, so that blocks that run together share weights in L2.

Layout in global memory: codes ``[m, k/2]`` and ``[n, k/2]`` lie two a byte, even k in the low
nibble; rows lie a multiple of 16 bytes apart, and begin at such. Scales lie in the layout 128x4;
those of blocks beyond k do not count. Rows beyond m and n are the last row again, and are not
stored. ``y`` is contiguous. Offsets are 64 bit.

Layout in shared memory: buffers of ``rows`` rows, then those of ``columns`` rows, each row a step
in fp16, 128 bytes. The place of 16 bytes in a row is their number XOR the row's, modulo 8: what
``wgmma`` calls K-major with a swizzle of 128 bytes, and what keeps stores free of bank conflicts.

Fragments: a sum does not care in which order k comes. A unit of 16 bytes of codes becomes 64 bytes
of fp16, each of its four words 16 of them, in the order 0, 2, 4, 6, 1, 3, 5, 7, for rows and
columns alike.

Exactness: the bits of an E2M1 code, shifted into those of an E4M3 number, are 2^-6 of its value,
subnormal ones included, and a scale is an E4M3 number. The product of the two, in fp16, is 2^-6 of
the dequantized number: at most 6 bits, a multiple of 2^-16 and at most 42, so that fp16 holds each
one.

Order of operations: products accumulate in fp32 on tensor cores, one chain along k. Then, in fp32:
``* 2^12 * alpha``, ``+ bias``; one rounding to the output dtype, to infinity where it overflows.
"""
# Annotations are types to the DSL, so they must not become strings.

from dataclasses import dataclass

import cutlass
from cutlass import Constexpr, Float16, Float32, Int32, Int64, Uint16, Uint32, cute
from cutlass.cute.arch import inline_ptx
from cutlass.cute.nvgpu import OperandMajorMode, warpgroup

SPAN = 32  # bytes of codes of a row in a step
UNIT = 16  # bytes that a thread loads and dequantizes at once
WORDS = UNIT // 4
ALONG = 64  # numbers of a row in a step
ROW = 128  # bytes of those in fp16
CHUNK = 16  # bytes of fp16 that a word of codes becomes
SWIZZLED = 1024  # bytes after which the order of chunks is the same again
SCALE_ROWS = 128  # of a tile of scales; the threads of a block load a unit each of so many rows
THREADS = 2 * SCALE_ROWS
TO_VALUE = 2.0**12  # either operand is 2^-6 of its value
BYTE_SIGNS, BYTE_SIZES = 0x8080_8080, 0x1C1C_1C1C  # of codes that are E4M3 numbers


def choose(condition, if_true, if_false):
    """One of two values of the same type."""
    return type(if_true)(cutlass.select_(condition, if_true, if_false))


def load_global(address, count, offset=0):
    """1 or 4 words of global memory, which no one writes."""
    words = ".v4" if count == 4 else ""
    named = ", ".join(f"{{$w{index}}}" for index in range(count))
    loaded = inline_ptx(
        f"ld.global.nc{words}.b32 {f'{{{named}}}' if words else named}, [{{$r0}}+{offset}];",
        write_only_types=[Uint32] * count,
        read_only_args=[address],
    )
    return loaded if words else [loaded]


def store_pairs(place, pairs):
    """Four words to shared memory."""
    inline_ptx(
        "st.shared.v4.b32 [{$r0}], {{$r1}, {$r2}, {$r3}, {$r4}};", read_only_args=[place, *pairs]
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


def converted(pair):
    """Two E4M3 numbers as fp16 ones."""
    return inline_ptx(
        "cvt.rn.f16x2.e4m3x2 {$w0}, {$r0};", write_only_types=[Uint32], read_only_args=[pair]
    )


def converted_scale(word, index):
    """A byte of a word, which is E4M3, as fp16, twice."""
    twice = inline_ptx(
        "prmt.b32 {$w0}, {$r0}, 0, {$r1};",
        write_only_types=[Uint32],
        read_only_args=[word, index * 0x11],
    )
    return converted(Uint16(twice))


def converted_codes(word, scale):
    """The 8 codes of a word as four pairs of fp16 numbers, 2^-6 of their values."""
    even = ((word << 4) & Uint32(BYTE_SIGNS)) | ((word << 2) & Uint32(BYTE_SIZES))
    odd = (word & Uint32(BYTE_SIGNS)) | ((word >> 2) & Uint32(BYTE_SIZES))
    pairs = (even, even >> 16, odd, odd >> 16)
    return [times(converted(Uint16(pair)), scale) for pair in pairs]


@dataclass(frozen=True)
class Tiling:
    """The constants of a kernel, and what follows from them."""

    rows: int
    columns: int
    buffers: int
    band: int

    @property
    def units(self) -> int:
        """Units of a thread in a step."""
        return (self.rows + self.columns) // SCALE_ROWS

    @property
    def columns_from(self) -> int:
        """Where in shared memory the buffers of columns begin."""
        return self.buffers * self.rows * ROW


def place_of_unit(t, index, member, buffer):
    """Where in a buffer of shared memory a thread's first word of a unit lies."""
    row = member // 2
    chunk = member % 2 * WORDS ^ row & 7
    many, start = (t.rows, 0) if index == 0 else (t.columns, t.columns_from)
    above = max(index - 1, 0) * (SCALE_ROWS * ROW)
    return buffer * (many * ROW) + row * ROW + chunk * CHUNK + (start + above)


def origin_of_unit(operand, first, last, member, wide):
    """Where a thread's unit of an operand has its codes and its scales.

    The rows of a block's units begin at ``first``, a multiple of 128, and there is none beyond
    ``last``. A tile of scales has 128 rows: those beyond the last row are what nobody looks at.
    """
    codes, scales, codes_row = operand
    row = cutlass.min(first + member // 2, last)
    tile = cutlass.min(first // SCALE_ROWS, last // SCALE_ROWS)
    scales += Int64(tile) * (wide * SCALE_ROWS) + member // 2 % 32 * 16 + member // 64 * 4
    return codes + Int64(row) * codes_row, scales


def origins_of_units(t, inputs, member, row_0, column_0):
    """Where each of a thread's units begins: that of rows, then those of columns."""
    codes, wcodes, ascales, wscales, m, n, wide, codes_row, wcodes_row = inputs
    left, right = (codes, ascales, codes_row), (wcodes, wscales, wcodes_row)
    columns = range(0, t.columns, SCALE_ROWS)
    return [
        origin_of_unit(left, row_0, m - 1, member, wide),
        *(origin_of_unit(right, column_0 + each, n - 1, member, wide) for each in columns),
    ]


def load_unit(share, index, step):
    """Load a thread's unit of a step, or of the last one; beyond k scales are zeros.

    The codes there are those before them again, as any number times zero will do.
    """
    held, origins, half, steps, octets = share
    codes, scales = origins[index]
    along = step * SPAN + half * UNIT
    loaded = load_global(codes + cutlass.min(along, octets - UNIT), WORDS)
    for word in range(WORDS):
        held[word, index] = loaded[word]
    (word,) = load_global(scales + Int64(cutlass.min(step, steps - 1)) * 512, 1)
    held[WORDS, index] = choose(along < octets, word, Uint32(0))


def dequantize_unit(share, index, place):
    """Dequantize a thread's unit to shared memory."""
    held, _, half, _, _ = share
    scales = [converted_scale(held[WORDS, index], 2 * half + block) for block in range(2)]
    for word in range(WORDS):
        pairs = converted_codes(held[word, index], scales[word // 2])
        store_pairs(place ^ word * CHUNK, pairs)


def dequantize_step(t, share, shared, member, buffer, following):
    """Dequantize a thread's share of a step, and load that of another."""
    for index in range(t.units):
        dequantize_unit(share, index, shared + place_of_unit(t, index, member, buffer))
        load_unit(share, index, following)


def begin(t, share, shared, member):
    """Dequantize a thread's share of the first step, and load that of the second."""
    for index in range(t.units):
        load_unit(share, index, Int32(0))
    dequantize_step(t, share, shared, member, Int32(0), Int32(1))


def fence_stores():
    """Make this thread's stores to shared memory seen by what reads it asynchronously."""
    inline_ptx("fence.proxy.async.shared::cta;")


def products_of(t):
    """What multiplies a tile along 16 of k: a warpgroup has 64 rows and all columns."""
    operation = warpgroup.MmaF16BF16Op(
        Float16, Float32, (64, t.columns, 16),
        warpgroup.OperandSource.SMEM, OperandMajorMode.K, OperandMajorMode.K,
    )  # fmt: skip
    products = cute.make_tiled_mma(operation, (t.rows // 64, 1, 1))
    products.set(warpgroup.Field.ACCUMULATE, True)
    return products


def buffers_at(place, rows, count):
    """``count`` buffers of so many rows of fp16 in shared memory, as ``wgmma`` reads them."""
    atom = warpgroup.make_smem_layout_atom(warpgroup.SmemLayoutAtomKind.K_SW128, Float16)
    layout = cute.tile_to_shape(atom, (rows, ALONG, count), order=(0, 1, 2))
    pointer = cute.make_ptr(Float16, place, cute.AddressSpace.smem, assumed_align=SWIZZLED)
    return cute.make_tensor(cute.recast_ptr(pointer, layout.inner, Float16), layout.outer)


def multiply_step(products, sums, a, b, buffer):
    """Have the products of a step added, and go on meanwhile."""
    warpgroup.fence()
    for depth in range(ALONG // 16):
        left, right = a[None, None, depth, buffer], b[None, None, depth, buffer]
        cute.gemm(products, sums, left, right, sums)
    warpgroup.commit_group()


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


def store(sums, j, to, n, rows_left, factor, left, right, y_bf16):
    """Finish and store a thread's two columns of the ``j``-th 8, in both of its rows."""
    for below in (0, 8):
        first = 4 * j + below // 4
        word = rounded(
            sums[first] * TO_VALUE * factor + left,
            sums[first + 1] * TO_VALUE * factor + right,
            y_bf16,
        )
        inline_ptx(
            "st.global.b32 [{$r0}], {$r1};",
            read_only_args=[to + Int64(n) * (2 * below), word],
            predicate=rows_left > below,
        )


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
    """One tile of y."""
    member, _, _ = cute.arch.thread_idx()
    tile, _, _ = cute.arch.block_idx()
    lane = member % 32
    group = cute.arch.make_warp_uniform(member // 128)

    tile_rows = (m + t.rows - 1) // t.rows
    tile_columns = (n + t.columns - 1) // t.columns
    first = tile // (t.band * tile_columns) * t.band
    in_band = cutlass.min(tile_rows - first, Int32(t.band))
    place = tile % (t.band * tile_columns)
    row_0 = (first + place % in_band) * t.rows
    column_0 = place // in_band * t.columns
    addresses = (codes.toint(), wcodes.toint(), ascales.toint(), wscales.toint())
    inputs = (*addresses, m, n, wide, codes_row, wcodes_row)
    steps = (octets + SPAN - 1) // SPAN

    shared = Int32(cute.arch.get_dyn_smem(cutlass.Uint8, alignment=SWIZZLED).toint())
    products = products_of(t)
    mine = products.get_slice(group * 128)
    of_rows = buffers_at(shared, t.rows, t.buffers)
    of_columns = buffers_at(shared + t.columns_from, t.columns, t.buffers)
    a = products.make_fragment_A(mine.partition_A(of_rows))
    b = products.make_fragment_B(mine.partition_B(of_columns))
    sums = cute.make_rmem_tensor(mine.partition_shape_C((t.rows, t.columns)), Float32)
    sums.fill(0.0)
    origins = origins_of_units(t, inputs, member, row_0, column_0)
    held = cute.make_rmem_tensor((WORDS + 1, t.units), Uint32)
    share = (held, origins, member % 2, steps, octets)
    begin(t, share, shared, member)
    reading = Int32(0)
    for step in cutlass.range(steps, unroll=1):
        fence_stores()
        cute.arch.sync_threads()
        multiply_step(products, sums, a, b, reading)
        writing = choose(reading == t.buffers - 1, Int32(0), reading + 1)
        dequantize_step(t, share, shared, member, writing, step + 2)
        warpgroup.wait_group(t.buffers - 2)
        reading = writing
    warpgroup.wait_group(0)

    factor = cute.arch.load(alpha, Float32)
    row = row_0 + member // 32 * 16 + lane // 4
    for j in cutlass.range_constexpr(t.columns // 8):
        column = column_0 + 8 * j + 2 * (lane % 4)
        if column < n:
            left, right = Float32(-0.0), Float32(-0.0)  # which change no sum, not even -0
            if has_bias != 0:
                at = bias.toint() + Int64(column) * bias_column * 2
                left = widened(load_16(at), bias_bf16)
                right = widened(load_16(at + bias_column * 2), bias_bf16)
            to = y.toint() + (Int64(row) * n + column) * 2
            store(sums, j, to, n, m - row, factor, left, right, y_bf16)


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
    BUFFERS: Constexpr,
    BAND: Constexpr,
):
    """Launch one block; where the kernel is found on disk, none of this runs."""
    t = Tiling(ROWS, COLUMNS, BUFFERS, BAND)
    gemm(
        codes, wcodes, ascales, wscales, alpha, bias, y, m, n, octets, wide, codes_row, wcodes_row,
        bias_column, has_bias, bias_bf16, y_bf16, t,
    ).launch(grid=[1, 1, 1], block=[THREADS, 1, 1])  # fmt: skip
