"""NVFP4's GEMM in the CuTe DSL for sm100 and sm103: block-scaled products in tensor memory.

Tiling: a block of six warps owns one output tile of 128 rows by ``block_n`` columns and walks all
of k in steps of 256. Blocks are numbered along m first, so that those which run together share
weights in L2. Tiles up to 128 columns wide leave room for two blocks on a multiprocessor: one
multiplies while the other stores.

Layout: codes ``[m, k/2]`` and ``[n, k/2]`` lie two a byte, even k in the low nibble, rows one after
another. Scales lie in the layout 128x4: the scales of 128 rows and 64 elements of k are 512 bytes,
word ``r%32 * 4 + r//32`` holding the four of row r, and those of a step follow each other. ``y`` is
contiguous. Codes, scales, ``bias`` and ``y`` begin at multiples of 16 bytes.

In shared memory, one stage of a ring is a step: 128 bytes of codes a row, 16-byte pieces swizzled
by row (128B), and the tiles of scales as they were. In tensor memory (128 lanes by 32-bit columns)
a product of 64 elements of k takes four columns of scales for 128 rows, one for 32, which lie in
all four quarters of the lanes. Columns: ``block_n`` of accumulators, 16 of scales of activations,
16 of weights for each 128 rows. A tile 64 columns wide that begins in the middle of a tile of
scales finds its own two columns further.

Order of operations:

1. Warp 5 asks for the codes and scales of a step by TMA, into a free stage.
2. Warp 4 waits for a stage, copies its scales to tensor memory (``tcgen05.cp``) and issues four
   products of 64 (``tcgen05.mma``, kind ``mxf4nvf4.block_scale``), accumulated in fp32. Tensor
   cores execute both in the order in which one thread issued them, so that all steps share the
   same columns for scales. A stage is free when its products are done.
3. When all products are done, warps 0 to 3 read accumulators, a row a thread and 32 columns at a
   time. In fp32: ``* alpha``, ``+ bias``; one rounding to the output dtype, to infinity where it
   overflows; 16 bytes a store, none beyond m and n.

What lies beyond: TMA reads zeros for codes beyond m, n and k and for tiles of scales beyond the
last, so that whatever a step holds beyond k adds 0 * 0. Padding *inside* the last tile of scales
comes as it is, and zero times NaN is NaN. In rows beyond m and n that reaches only accumulators
which are not stored. In columns it would reach all: where k is no multiple of 64, the last tile
has two columns of padding, and warp 4 clears them in shared memory before it copies them.

Scales are read as *unsigned* E4M3: the sign bit of a block scale must be zero.
"""

# Annotations are types to the DSL, so they must not become strings.

import cutlass
from cuda.bindings import driver
from cutlass import Constexpr, Int32, Int64, Uint8, cute, pipeline
from cutlass.cute.nvgpu import cpasync, tcgen05
from cutlass.experimental.primitives import tcgen05_fence
from cutlass.memory import SmemAllocator, TmemAllocator
from cutlass.utils.blackwell_helpers import make_smem_layout_a, make_smem_layout_b
from cutlass.utils.blockscaled_layout import (
    make_smem_layout_sfa,
    make_smem_layout_sfb,
    make_tmem_layout_sfa,
    make_tmem_layout_sfb,
)

CODE = cutlass.Float4E2M1FN
SCALE = cutlass.Float8E4M3FN
DTYPES = {"float16": cutlass.Float16, "bfloat16": cutlass.BFloat16}

BLOCK_M = 128  # rows of a block-scaled product of one block
BLOCK_K = 256  # of a step
OCTETS = BLOCK_K // 2  # the widest row that is swizzled
PRODUCT_K = 64  # of one instruction
PRODUCTS = BLOCK_K // PRODUCT_K
SHARED_BY = 16  # elements that share a scale
SCALE_ROWS = 128  # of a tile of scales, which is one word of four scales a row
SCALE_COLUMNS = PRODUCTS * 4  # of tensor memory, for a step and 128 rows
CHUNK = 32  # columns of accumulators that a thread holds at once
VECTOR = 8  # outputs of a store of 16 bytes

WRITERS = 4  # warps; each reaches 32 lanes of tensor memory
MMA_WARP = 4
TMA_WARP = 5
THREADS = 32 * 6


class Tiling:
    """What the kernel is compiled for: a tile's columns, stages of the ring, and dtypes."""

    def __init__(self, block_n, stages, bias, out) -> None:
        self.block_n, self.stages = block_n, stages
        self.bias, self.out = DTYPES.get(bias), DTYPES[out]
        self.tile = (BLOCK_M, block_n, BLOCK_K)
        self.scale_tiles = max(1, block_n // SCALE_ROWS)  # that hold the scales of its weights
        codes = (BLOCK_M + block_n) * OCTETS
        self.stage_bytes = codes + (1 + self.scale_tiles) * SCALE_ROWS * BLOCK_K // SHARED_BY
        used = block_n + (1 + self.scale_tiles) * SCALE_COLUMNS
        self.columns = 1 << (used - 1).bit_length()  # of tensor memory: a power of two


def instruction(t):
    """The instruction: 128 rows, a tile's columns and 64 of k, operands in shared memory."""
    shape = (BLOCK_M, t.block_n, PRODUCT_K)
    one, shared = tcgen05.CtaGroup.ONE, tcgen05.OperandSource.SMEM
    return cute.make_tiled_mma(tcgen05.MmaMXF4NVF4Op(SCALE, shape, one, shared))


def codes_load(codes, rows, k, tile_rows):
    """A load of one step's codes of ``tile_rows`` rows; a row is a multiple of 16 bytes."""
    octets = cute.assume(k // 2, 16)
    everything = cute.make_tensor(codes, cute.make_layout((rows, octets), stride=(octets, 1)))
    box = (tile_rows, OCTETS)
    swizzled = tcgen05.make_smem_layout_atom(tcgen05.SmemLayoutAtomKind.K_SW128, Uint8)
    shared = cute.tile_to_shape(swizzled, box, order=(0, 1))
    return cpasync.make_tiled_tma_atom(cpasync.CopyBulkTensorTileG2SOp(), everything, shared, box)[
        0
    ]


def scales_load(scales, rows, k, tiles):
    """A load of the scales of one step and ``tiles`` times 128 rows, as words of four."""
    high, wide = cute.ceil_div(rows, SCALE_ROWS), cute.ceil_div(k, PRODUCT_K)
    words = cute.make_tensor(
        cute.recast_ptr(scales, dtype=Int32),
        cute.make_layout((SCALE_ROWS, wide, high), stride=(1, SCALE_ROWS, wide * SCALE_ROWS)),
    )
    box = (SCALE_ROWS, PRODUCTS, tiles)
    shared = cute.make_layout(box)
    return cpasync.make_tiled_tma_atom(cpasync.CopyBulkTensorTileG2SOp(), words, shared, box)[0]


@cute.kernel
def gemm(
    a_load: cute.CopyAtom,
    w_load: cute.CopyAtom,
    as_load: cute.CopyAtom,
    ws_load: cute.CopyAtom,
    alpha: cute.Pointer,
    bias: cute.Pointer,
    y: cute.Pointer,
    m: Int32,
    n: Int32,
    k: Int32,
    t: Constexpr,
):
    """One tile of y, by six warps."""
    tile_row, tile_col, _ = cute.arch.block_idx()
    warp = cute.arch.make_warp_uniform(cute.arch.warp_idx())
    steps = cute.ceil_div(k, BLOCK_K)

    memory = SmemAllocator()
    ring = memory.allocate_array(Int64, 2 * t.stages)
    done = memory.allocate_array(Int64, 1)
    mma = instruction(t)
    a_layout = make_smem_layout_a(mma, t.tile, CODE, t.stages)
    w_layout = make_smem_layout_b(mma, t.tile, CODE, t.stages)
    a_stages = memory.allocate_tensor(CODE, a_layout.outer, 1024, swizzle=a_layout.inner)
    w_stages = memory.allocate_tensor(CODE, w_layout.outer, 1024, swizzle=w_layout.inner)
    as_layout = cute.make_layout((SCALE_ROWS, PRODUCTS, 1, t.stages))
    ws_layout = cute.make_layout((SCALE_ROWS, PRODUCTS, t.scale_tiles, t.stages))
    as_stages = memory.allocate_tensor(Int32, as_layout, 1024)
    ws_stages = memory.allocate_tensor(Int32, ws_layout, 1024)

    if warp == TMA_WARP:
        for load in (a_load, w_load, as_load, ws_load):
            cpasync.prefetch_descriptor(load)
    if warp == MMA_WARP:
        with cute.arch.elect_one():
            cute.arch.mbarrier_init(done, 1)
    one = pipeline.CooperativeGroup(pipeline.Agent.Thread)
    # Ends with a barrier of the block, behind which `done` is ready, too.
    producer, consumer = pipeline.PipelineTmaUmma.create(
        barrier_storage=ring,
        num_stages=t.stages,
        producer_group=one,
        consumer_group=one,
        tx_count=t.stage_bytes,
    ).make_participants()
    tensor_memory = TmemAllocator(
        barrier_for_retrieve=pipeline.NamedBarrier(barrier_id=1, num_threads=THREADS - 32)
    )

    if warp == TMA_WARP:
        a_tiles = cute.local_tile(places_of_codes(m, k), (BLOCK_M, OCTETS), (tile_row, None))
        w_tiles = cute.local_tile(places_of_codes(n, k), (t.block_n, OCTETS), (tile_col, None))
        as_box, ws_box = (SCALE_ROWS, PRODUCTS, 1), (SCALE_ROWS, PRODUCTS, t.scale_tiles)
        ws_row = tile_col * t.block_n // (SCALE_ROWS * t.scale_tiles)
        as_tiles = cute.local_tile(places_of_scales(m, k), as_box, (0, None, tile_row))
        ws_tiles = cute.local_tile(places_of_scales(n, k), ws_box, (0, None, ws_row))
        a_from, a_to = partition(a_load, a_tiles, octets_of(a_stages, a_layout, BLOCK_M, t))
        w_from, w_to = partition(w_load, w_tiles, octets_of(w_stages, w_layout, t.block_n, t))
        as_from, as_to = partition(as_load, as_tiles, as_stages)
        ws_from, ws_to = partition(ws_load, ws_tiles, ws_stages)
        for step in cutlass.range(steps, unroll=1):
            stage = producer.acquire_and_advance()
            at, full = (None, stage.index), stage.barrier
            cute.copy(a_load, a_from[None, step], a_to[at], tma_bar_ptr=full)
            cute.copy(w_load, w_from[None, step], w_to[at], tma_bar_ptr=full)
            cute.copy(as_load, as_from[None, step], as_to[at], tma_bar_ptr=full)
            cute.copy(ws_load, ws_from[None, step], ws_to[at], tma_bar_ptr=full)
        producer.tail()

    if warp == MMA_WARP:
        tensor_memory.wait_for_alloc()
        tcgen05_fence("after_thread_sync")
        columns = tensor_memory.retrieve_ptr(cutlass.Float32)
        within = tile_col * t.block_n % SCALE_ROWS
        stages = (a_stages, w_stages, as_stages, ws_stages)
        multiply(mma, consumer, stages, columns, within, k, t)
        with cute.arch.elect_one():
            tcgen05.commit(done)

    if warp < WRITERS:
        tensor_memory.allocate(t.columns)
        tensor_memory.wait_for_alloc()
        columns = tensor_memory.retrieve_ptr(cutlass.Float32)
        tensor_memory.relinquish_alloc_permit()
        write(mma, done, columns, alpha, bias, y, m, n, t)
        tcgen05_fence("before_thread_sync")
        pipeline.NamedBarrier(barrier_id=2, num_threads=32 * WRITERS).arrive_and_wait()
        tcgen05_fence("after_thread_sync")
        tensor_memory.free(columns)


@cute.jit
def multiply(mma, consumer, stages, columns, within, k, t):
    """Issue the products of all steps; weights begin ``within`` rows into their tile of scales."""
    a_stages, w_stages, as_stages, ws_stages = stages
    as_layout = make_smem_layout_sfa(mma, t.tile, SHARED_BY, t.stages)
    ws_layout = make_smem_layout_sfb(mma, t.tile, SHARED_BY, t.stages)
    as_held = make_tmem_layout_sfa(mma, t.tile, SHARED_BY, cute.select(as_layout, [0, 1, 2]))
    ws_held = make_tmem_layout_sfb(mma, t.tile, SHARED_BY, cute.select(ws_layout, [0, 1, 2]))
    as_columns = columns + t.block_n
    ws_columns = as_columns + SCALE_COLUMNS
    as_copy, as_from, as_to = scales_copy(as_stages, as_layout, as_columns, as_held)
    ws_copy, ws_from, ws_to = scales_copy(ws_stages, ws_layout, ws_columns, ws_held)
    acc = accumulators(mma, columns, t)
    a_used, w_used = mma.make_fragment_A(a_stages), mma.make_fragment_B(w_stages)
    as_used = cute.make_tensor(cute.recast_ptr(as_columns, dtype=SCALE), as_held)
    ws_used = cute.make_tensor(cute.recast_ptr(ws_columns + within // 32, dtype=SCALE), ws_held)
    steps = cute.ceil_div(k, BLOCK_K)
    for step in cutlass.range(steps, unroll=1):
        stage = consumer.wait_and_advance()
        if step == steps - 1 and k % PRODUCT_K != 0:
            clear_padding(as_stages, k, stage.index)
            clear_padding(ws_stages, k, stage.index)
            cute.arch.fence_proxy("async.shared", space="cta")
            cute.arch.sync_warp()
        scales = (None, None, None, None, stage.index)
        cute.copy(as_copy, as_from[scales], as_to)
        cute.copy(ws_copy, ws_from[scales], ws_to)
        for product in cutlass.range_constexpr(PRODUCTS):
            mma.set(tcgen05.Field.ACCUMULATE, True if product else step != 0)
            a = [a_used[None, None, product, stage.index], as_used[None, None, product]]
            w = [w_used[None, None, product, stage.index], ws_used[None, None, product]]
            cute.gemm(mma, acc, a, w, acc)
        stage.release()


@cute.jit
def write(mma, done, columns, alpha, bias, y, m, n, t):
    """Wait for the accumulators; finish and store them."""
    thread, _, _ = cute.arch.thread_idx()
    tile_row, tile_col, _ = cute.arch.block_idx()
    acc = accumulators(mma, columns, t)
    chunks = cute.flat_divide(acc[(None, None), 0, 0], (BLOCK_M, CHUNK))
    read = tcgen05.make_tmem_copy(
        cute.make_copy_atom(tcgen05.Ld32x32bOp(tcgen05.Repetition.x32), cutlass.Float32),
        chunks[None, None, 0, 0],
    )
    share = read.get_slice(thread)
    held = share.partition_S(chunks)
    places = share.partition_D(cute.make_identity_tensor((BLOCK_M, CHUNK)))
    values = cute.make_rmem_tensor(places.shape, cutlass.Float32)
    row = tile_row * BLOCK_M + places[0][0]
    factor = alpha.load()
    cute.arch.mbarrier_wait(done, 0)
    tcgen05_fence("after_thread_sync")
    for chunk in cutlass.range_constexpr(t.block_n // CHUNK):
        cute.copy(read, held[None, None, None, 0, chunk], values)
        cute.arch.fence_view_async_tmem_load()
        if row < m:
            for part in cutlass.range_constexpr(CHUNK // VECTOR):
                vector = (tile_col * t.block_n + chunk * CHUNK) // VECTOR + part
                if vector * VECTOR < n:
                    store(values, part, factor, bias, y, m, n, row, vector, t)


def places_of_codes(rows, k):
    """What TMA is told for each byte of codes: its place in the row, then the row."""
    places = cute.make_identity_tensor((k // 2, rows))
    return cute.make_tensor(places.iterator, cute.select(places.layout, [1, 0]))


def places_of_scales(rows, k):
    """The same for each word of scales: its place in the tile, the tile along k, along rows."""
    tiles = cute.ceil_div(k, PRODUCT_K), cute.ceil_div(rows, SCALE_ROWS)
    return cute.make_identity_tensor((SCALE_ROWS, *tiles))


def octets_of(stages, layout, rows, t):
    """Codes in shared memory as bytes: ``[rows, bytes, stages]``."""
    octets = cute.make_layout((rows, OCTETS, t.stages), stride=(OCTETS, 1, rows * OCTETS))
    return cute.make_tensor(cute.recast_ptr(stages.iterator, layout.inner, dtype=Uint8), octets)


def partition(load, tiles, stages):
    """Where a load reads, by step, and where it writes, by stage."""
    box = cute.rank(stages) - 1
    target, source = cpasync.tma_partition(
        load,
        0,
        cute.make_layout(1),
        cute.group_modes(stages, 0, box),
        cute.group_modes(tiles, 0, box),
    )
    return source, target


def accumulators(mma, base, t):
    """Accumulators begin at the first column: lane r, column c holds row r, column c."""
    shape = mma.partition_shape_C((BLOCK_M, t.block_n))
    return cute.make_tensor(base, mma.make_fragment_C(shape).layout)


def scales_copy(stages, layout, columns, columns_layout):
    """A copy of a stage's scales to tensor memory: the operation, sources by stage, target."""
    source = cute.make_tensor(cute.recast_ptr(stages.iterator, dtype=SCALE), layout)
    target = cute.make_tensor(cute.recast_ptr(columns, dtype=SCALE), columns_layout)
    source, target = cute.filter_zeros(source), cute.filter_zeros(target)
    atom = cute.make_copy_atom(tcgen05.Cp4x32x128bOp(tcgen05.CtaGroup.ONE), SCALE)
    copy = tcgen05.make_s2t_copy(atom, target)
    mine = copy.get_slice(0)
    source = mine.partition_S(tcgen05.append_s2t_broadcast_mode(atom.op, source))
    return copy, tcgen05.get_s2t_smem_desc_tensor(copy, source), mine.partition_D(target)


@cute.jit
def clear_padding(stages, k, stage):
    """Clear the last two of each word's scales in the last tile that k reaches; a warp's work."""
    lane = cute.arch.lane_idx()
    last = k % BLOCK_K // PRODUCT_K
    for tile in cutlass.range_constexpr(cute.size(stages, mode=[2])):
        for part in cutlass.range_constexpr(SCALE_ROWS // 32):
            word = (part * 32 + lane, last, tile, stage)
            stages[word] = stages[word] & 0xFFFF


@cute.jit
def store(values, part, factor, bias, y, m, n, row, vector, t):
    """Finish and store the ``part``-th eight of a thread's accumulators."""
    eight = cute.local_tile(cute.coalesce(values), (VECTOR,), (part,)).load() * factor
    if cutlass.const_expr(t.bias is not None):
        addends = cute.make_tensor(cute.recast_ptr(bias, dtype=t.bias), cute.make_layout(n))
        eight = eight + cute.local_tile(addends, (VECTOR,), (vector,)).load().to(cutlass.Float32)
    out = cute.make_rmem_tensor((1, VECTOR), t.out)
    out.store(eight.to(t.out).reshape((1, VECTOR)))
    row_length = cute.assume(Int64(n), VECTOR)
    outputs = cute.make_tensor(
        cute.recast_ptr(y, dtype=t.out), cute.make_layout((m, row_length), stride=(row_length, 1))
    )
    cute.autovec_copy(out, cute.local_tile(outputs, (1, VECTOR), (row, vector)))


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
    k: Int32,
    stream: driver.CUstream,
    BLOCK_N: Constexpr,
    STAGES: Constexpr,
    BIAS: Constexpr,
    OUT: Constexpr,
):
    """Describe what TMA reads, and launch a block for each tile of y."""
    t = Tiling(BLOCK_N, STAGES, BIAS, OUT)
    gemm(
        codes_load(codes, m, k, BLOCK_M),
        codes_load(wcodes, n, k, BLOCK_N),
        scales_load(ascales, m, k, 1),
        scales_load(wscales, n, k, t.scale_tiles),
        alpha,
        bias,
        y,
        m,
        n,
        k,
        t,
    ).launch(
        grid=[cute.ceil_div(m, BLOCK_M), cute.ceil_div(n, BLOCK_N), 1],
        block=[THREADS, 1, 1],
        stream=stream,
    )
