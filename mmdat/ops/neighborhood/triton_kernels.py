"""Triton kernels of neighborhood attention; :mod:`.triton` imports them when they first run.

A program takes a square tile of the map and the ``side`` x ``block_width`` positions around it that
its windows reach, some rows at a time. The map lies in the middle of its tiles, so that the windows
of a tile, also those that a border moved, never begin more than ``kernel_size // 2`` before it.
Logits are in base 2. The bias table is a contiguous Tensor[num_heads, 2 * kernel_size - 1,
2 * kernel_size - 1] in float32.
"""

import math

import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]

LOG2_E = tl.constexpr(math.log2(math.e))
# A kernel is not compiled anew for each size of the map.
SIZES = ['num_heads', 'height', 'width']


@triton.jit(do_not_specialize=SIZES)
def attend(
    query: tl.tensor,
    key: tl.tensor,
    value: tl.tensor,
    table: tl.tensor,
    out: tl.tensor,
    lse: tl.tensor,
    strides: tl.tuple,
    num_heads: int,
    height: int,
    width: int,
    scale: float,
    kernel_size: tl.constexpr,
    tile: tl.constexpr,
    span: tl.constexpr,
    block_rows: tl.constexpr,
    block_width: tl.constexpr,
    head_dim: tl.constexpr,
    head_block: tl.constexpr,
    precision: tl.constexpr,
) -> None:
    """Attend from a tile of queries to their windows; grid (tiles, batch * num_heads).

    Args:
        out: Tensor[batch, num_heads, height, width, head_dim], which is written.
        lse: Tensor[batch, num_heads, height, width], the log-sum-exp, which is written.
    """
    index = tl.program_id(1).to(tl.int64)
    batch, head = index // num_heads, index % num_heads
    query = _at(query, strides.query, batch, head)
    key = _at(key, strides.key, batch, head)
    value = _at(value, strides.value, batch, head)
    out = _at(out, strides.out, batch, head)
    lse += index * height * width
    table += head * (2 * kernel_size - 1) * (2 * kernel_size - 1)

    first_y, first_x = _tile_start(tl.program_id(0), height, width, tile)
    y, x = _positions(first_y, first_x, tile * tile, tile)
    dims = tl.arange(0, head_block)
    q = _load(query, strides.query, y, x, height, width, dims, head_dim)
    # Finite before the first key, since -inf - -inf would be NaN.
    row_max = tl.full([tile * tile], -1e30, tl.float32)
    row_sum = tl.zeros([tile * tile], tl.float32)
    acc = tl.zeros([tile * tile, head_block], tl.float32)
    for row in range(0, span, block_rows):
        key_y, key_x = _positions(
            first_y - kernel_size // 2 + row,
            first_x - kernel_size // 2,
            block_rows * block_width,
            block_width,
        )
        k = _load(key, strides.key, key_y, key_x, height, width, dims, head_dim)
        v = _load(value, strides.value, key_y, key_x, height, width, dims, head_dim)
        logits = tl.dot(q, k.T, input_precision=precision) * scale + _bias(
            table,
            y[:, None],
            x[:, None],
            key_y[None, :],
            key_x[None, :],
            height,
            width,
            kernel_size,
        )
        new_row_max = tl.maximum(row_max, tl.max(logits, 1))
        weights = tl.exp2(logits - new_row_max[:, None])
        alpha = tl.exp2(row_max - new_row_max)
        row_sum = row_sum * alpha + tl.sum(weights, 1)
        acc = tl.dot(weights.to(v.dtype), v, acc * alpha[:, None], input_precision=precision)
        row_max = new_row_max
    acc /= row_sum[:, None]
    _store(out, strides.out, acc, y, x, height, width, dims, head_dim)
    tl.store(lse + y * width + x, row_max + tl.log2(row_sum), _on_map(y, x, height, width))


@triton.jit(do_not_specialize=SIZES)
def query_gradients(
    query: tl.tensor,
    key: tl.tensor,
    value: tl.tensor,
    table: tl.tensor,
    out: tl.tensor,
    lse: tl.tensor,
    grad_out: tl.tensor,
    delta: tl.tensor,
    grad_query: tl.tensor,
    strides: tl.tuple,
    num_heads: int,
    height: int,
    width: int,
    scale: float,
    grad_scale: float,
    kernel_size: tl.constexpr,
    tile: tl.constexpr,
    span: tl.constexpr,
    block_rows: tl.constexpr,
    block_width: tl.constexpr,
    head_dim: tl.constexpr,
    head_block: tl.constexpr,
    precision: tl.constexpr,
) -> None:
    """Compute the gradient of a tile of queries; grid (tiles, batch * num_heads).

    Args:
        delta: Tensor[batch, num_heads, height, width], rowsum(grad_out * out), which is written
            for the other kernels.
        grad_query: Tensor[batch, num_heads, height, width, head_dim], which is written.
        grad_scale: Factor of the products of queries and keys; ``scale`` is in base 2.
    """
    index = tl.program_id(1).to(tl.int64)
    batch, head = index // num_heads, index % num_heads
    query = _at(query, strides.query, batch, head)
    key = _at(key, strides.key, batch, head)
    value = _at(value, strides.value, batch, head)
    out = _at(out, strides.out, batch, head)
    grad_out = _at(grad_out, strides.grad_out, batch, head)
    grad_query = _at(grad_query, strides.grad_query, batch, head)
    lse += index * height * width
    delta += index * height * width
    table += head * (2 * kernel_size - 1) * (2 * kernel_size - 1)

    first_y, first_x = _tile_start(tl.program_id(0), height, width, tile)
    y, x = _positions(first_y, first_x, tile * tile, tile)
    on_map = _on_map(y, x, height, width)
    dims = tl.arange(0, head_block)
    q = _load(query, strides.query, y, x, height, width, dims, head_dim)
    grad = _load(grad_out, strides.grad_out, y, x, height, width, dims, head_dim)
    o = _load(out, strides.out, y, x, height, width, dims, head_dim)
    row_delta = tl.sum(grad.to(tl.float32) * o.to(tl.float32), 1)
    tl.store(delta + y * width + x, row_delta, on_map)
    row_lse = tl.load(lse + y * width + x, on_map, float('inf'))
    acc = tl.zeros([tile * tile, head_block], tl.float32)
    for row in range(0, span, block_rows):
        key_y, key_x = _positions(
            first_y - kernel_size // 2 + row,
            first_x - kernel_size // 2,
            block_rows * block_width,
            block_width,
        )
        k = _load(key, strides.key, key_y, key_x, height, width, dims, head_dim)
        v = _load(value, strides.value, key_y, key_x, height, width, dims, head_dim)
        logits = tl.dot(q, k.T, input_precision=precision) * scale + _bias(
            table,
            y[:, None],
            x[:, None],
            key_y[None, :],
            key_x[None, :],
            height,
            width,
            kernel_size,
        )
        weights = tl.exp2(logits - row_lse[:, None])
        grad_weights = tl.dot(grad, v.T, input_precision=precision)
        grad_logits = weights * (grad_weights - row_delta[:, None])
        acc = tl.dot(grad_logits.to(k.dtype), k, acc, input_precision=precision)
    acc *= grad_scale
    _store(grad_query, strides.grad_query, acc, y, x, height, width, dims, head_dim)


@triton.jit(do_not_specialize=SIZES)
def key_gradients(
    query: tl.tensor,
    key: tl.tensor,
    value: tl.tensor,
    table: tl.tensor,
    lse: tl.tensor,
    grad_out: tl.tensor,
    delta: tl.tensor,
    grad_key: tl.tensor,
    grad_value: tl.tensor,
    strides: tl.tuple,
    num_heads: int,
    height: int,
    width: int,
    scale: float,
    grad_scale: float,
    kernel_size: tl.constexpr,
    tile: tl.constexpr,
    block_rows: tl.constexpr,
    block_width: tl.constexpr,
    head_dim: tl.constexpr,
    head_block: tl.constexpr,
    precision: tl.constexpr,
) -> None:
    """Compute the gradients of a tile of keys and values; grid (tiles, batch * num_heads).

    Args:
        grad_key: Tensor[batch, num_heads, height, width, head_dim], which is written.
        grad_value: Tensor[batch, num_heads, height, width, head_dim], which is written.
    """
    index = tl.program_id(1).to(tl.int64)
    batch, head = index // num_heads, index % num_heads
    query = _at(query, strides.query, batch, head)
    key = _at(key, strides.key, batch, head)
    value = _at(value, strides.value, batch, head)
    grad_out = _at(grad_out, strides.grad_out, batch, head)
    grad_key = _at(grad_key, strides.grad_key, batch, head)
    grad_value = _at(grad_value, strides.grad_value, batch, head)
    lse += index * height * width
    delta += index * height * width
    table += head * (2 * kernel_size - 1) * (2 * kernel_size - 1)

    first_y, first_x = _tile_start(tl.program_id(0), height, width, tile)
    key_y, key_x = _positions(first_y, first_x, tile * tile, tile)
    dims = tl.arange(0, head_block)
    k = _load(key, strides.key, key_y, key_x, height, width, dims, head_dim)
    v = _load(value, strides.value, key_y, key_x, height, width, dims, head_dim)
    key_acc = tl.zeros([tile * tile, head_block], tl.float32)
    value_acc = tl.zeros([tile * tile, head_block], tl.float32)
    top, bottom = _queries_of_keys(first_y, height, tile, kernel_size)
    left, right = _queries_of_keys(first_x, width, tile, kernel_size)
    for row in range(top, bottom, block_rows):
        for column in range(left, right, block_width):
            y, x = _positions(row, column, block_rows * block_width, block_width)
            on_map = _on_map(y, x, height, width)
            q = _load(query, strides.query, y, x, height, width, dims, head_dim)
            grad = _load(grad_out, strides.grad_out, y, x, height, width, dims, head_dim)
            # Infinity outside the map, so that queries that do not exist have no weights.
            row_lse = tl.load(lse + y * width + x, on_map, float('inf'))
            row_delta = tl.load(delta + y * width + x, on_map, 0.0)
            logits = tl.dot(k, q.T, input_precision=precision) * scale + _bias(
                table,
                y[None, :],
                x[None, :],
                key_y[:, None],
                key_x[:, None],
                height,
                width,
                kernel_size,
            )
            weights = tl.exp2(logits - row_lse[None, :])
            value_acc = tl.dot(weights.to(grad.dtype), grad, value_acc, input_precision=precision)
            grad_weights = tl.dot(v, grad.T, input_precision=precision)
            grad_logits = weights * (grad_weights - row_delta[None, :])
            key_acc = tl.dot(grad_logits.to(q.dtype), q, key_acc, input_precision=precision)
    key_acc *= grad_scale
    _store(grad_key, strides.grad_key, key_acc, key_y, key_x, height, width, dims, head_dim)
    _store(grad_value, strides.grad_value, value_acc, key_y, key_x, height, width, dims, head_dim)


@triton.jit(do_not_specialize=[*SIZES, 'num_tiles', 'tiles_per_program'])
def bias_gradients(
    query: tl.tensor,
    key: tl.tensor,
    value: tl.tensor,
    table: tl.tensor,
    lse: tl.tensor,
    grad_out: tl.tensor,
    delta: tl.tensor,
    grad_bias: tl.tensor,
    strides: tl.tuple,
    num_heads: int,
    height: int,
    width: int,
    num_tiles: int,
    tiles_per_program: int,
    scale: float,
    kernel_size: tl.constexpr,
    tile: tl.constexpr,
    blocks: tl.constexpr,
    block_rows: tl.constexpr,
    block_width: tl.constexpr,
    head_dim: tl.constexpr,
    head_block: tl.constexpr,
    precision: tl.constexpr,
) -> None:
    """Sum the gradient of the bias over some tiles, for a block of the positions around a tile;
    grid (blocks, num_heads, programs that share the tiles).

    Args:
        grad_bias: Tensor[programs, num_heads, tile * tile, blocks * block_rows, block_width] in
            float32, which is written.
        num_tiles: Tiles of the maps of all samples.
        tiles_per_program: How many tiles a program takes.
    """
    block, head = tl.program_id(0), tl.program_id(1)
    table += head * (2 * kernel_size - 1) * (2 * kernel_size - 1)
    tiles_per_map = tl.cdiv(height, tile) * tl.cdiv(width, tile)
    dims = tl.arange(0, head_block)
    acc = tl.zeros([tile * tile, block_rows * block_width], tl.float32)
    first_tile = tl.program_id(2) * tiles_per_program
    for number in range(first_tile, tl.minimum(first_tile + tiles_per_program, num_tiles)):
        batch = (number // tiles_per_map).to(tl.int64)
        first_y, first_x = _tile_start(number % tiles_per_map, height, width, tile)
        y, x = _positions(first_y, first_x, tile * tile, tile)
        key_y, key_x = _positions(
            first_y - kernel_size // 2 + block * block_rows,
            first_x - kernel_size // 2,
            block_rows * block_width,
            block_width,
        )
        on_map = _on_map(y, x, height, width)
        row = (batch * num_heads + head) * height * width + y * width + x
        row_lse = tl.load(lse + row, on_map, float('inf'))
        row_delta = tl.load(delta + row, on_map, 0.0)
        q = _load(
            _at(query, strides.query, batch, head),
            strides.query,
            y,
            x,
            height,
            width,
            dims,
            head_dim,
        )
        grad = _load(
            _at(grad_out, strides.grad_out, batch, head),
            strides.grad_out,
            y,
            x,
            height,
            width,
            dims,
            head_dim,
        )
        k = _load(
            _at(key, strides.key, batch, head),
            strides.key,
            key_y,
            key_x,
            height,
            width,
            dims,
            head_dim,
        )
        v = _load(
            _at(value, strides.value, batch, head),
            strides.value,
            key_y,
            key_x,
            height,
            width,
            dims,
            head_dim,
        )
        logits = tl.dot(q, k.T, input_precision=precision) * scale + _bias(
            table,
            y[:, None],
            x[:, None],
            key_y[None, :],
            key_x[None, :],
            height,
            width,
            kernel_size,
        )
        weights = tl.exp2(logits - row_lse[:, None])
        grad_weights = tl.dot(grad, v.T, input_precision=precision)
        acc += weights * (grad_weights - row_delta[:, None])

    queries = tl.arange(0, tile * tile)
    keys = tl.arange(0, block_rows * block_width)
    rows = (tl.program_id(2) * num_heads + head).to(tl.int64) * (tile * tile) + queries
    offsets = rows[:, None] * blocks + block
    tl.store(grad_bias + offsets * (block_rows * block_width) + keys[None, :], acc)


@triton.jit
def table_gradients(
    grad_bias: tl.tensor,
    grad_table: tl.tensor,
    kernel_size: tl.constexpr,
    tile: tl.constexpr,
    block_height: tl.constexpr,
    block_width: tl.constexpr,
) -> None:
    """Sum the gradient of the bias over the pairs that look at the same entry of the table;
    grid (rows of the table, num_heads).

    Args:
        grad_bias: Tensor[num_heads, tile * tile, block_height, block_width] in float32, by query
            and key.
        grad_table: Tensor[num_heads, 2 * kernel_size - 1, 2 * kernel_size - 1] in float32, which is
            written.
    """
    side: tl.constexpr = 2 * kernel_size - 1
    row, head = tl.program_id(0), tl.program_id(1)
    columns = tl.arange(0, block_width)
    queries = tl.arange(0, tile * tile)
    y, x = _positions(0, 0, tile * tile, tile)
    # The block begins kernel_size // 2 before the tile, the table kernel_size - 1 before a query.
    first: tl.constexpr = kernel_size // 2 - (kernel_size - 1)
    key_y = (y + row + first)[:, None]
    key_x = x[:, None] + columns[None, :] + first
    inside = (key_y >= 0) & (key_y < block_height) & (key_x >= 0) & (key_x < block_width)
    offsets = (queries[:, None] * block_height + key_y) * block_width + key_x
    grad_bias += head * (tile * tile * block_height * block_width)
    sums = tl.sum(tl.load(grad_bias + offsets, inside, 0.0), 0)
    tl.store(grad_table + (head * side + row) * side + columns, sums, columns < side)


@triton.jit
def _at(pointer: tl.tensor, strides: tl.tuple, batch: tl.tensor, head: tl.tensor) -> tl.tensor:
    """Move the pointer of a tensor to a head of a sample."""
    return pointer + batch * strides[0] + head * strides[1]


@triton.jit
def _tile_start(index: tl.tensor, height: int, width: int, tile: tl.constexpr) -> tuple:
    """First row and column of a tile, negative where tiles overhang the map."""
    rows, columns = tl.cdiv(height, tile), tl.cdiv(width, tile)
    return (
        index // columns * tile - (rows * tile - height) // 2,
        index % columns * tile - (columns * tile - width) // 2,
    )


@triton.jit
def _positions(
    first_y: tl.tensor, first_x: tl.tensor, count: tl.constexpr, columns: tl.constexpr
) -> tuple:
    """Row and column of each position of a block, row by row."""
    index = tl.arange(0, count)
    return first_y + index // columns, first_x + index % columns


@triton.jit
def _on_map(y: tl.tensor, x: tl.tensor, height: int, width: int) -> tl.tensor:
    """Whether positions (y, x) are on the map; tiles overhang it."""
    return (y >= 0) & (y < height) & (x >= 0) & (x < width)


@triton.jit
def _queries_of_keys(
    first: tl.tensor, size: int, tile: tl.constexpr, kernel_size: tl.constexpr
) -> tuple:
    """The first query along an axis whose window has a key of a tile, and the one behind the last.

    The windows of all queries near a border are those at the border.
    """
    last = first + tile - 1
    start = tl.where(first < kernel_size, 0, first - kernel_size // 2)
    stop = tl.where(last >= size - kernel_size, size, last + kernel_size // 2 + 1)
    return start, stop


@triton.jit
def _bias(
    table: tl.tensor,
    y: tl.tensor,
    x: tl.tensor,
    key_y: tl.tensor,
    key_x: tl.tensor,
    height: int,
    width: int,
    kernel_size: tl.constexpr,
) -> tl.tensor:
    """The bias of pairs of queries and keys in base 2; minus infinity outside the windows.

    Args:
        y: Rows of the queries, of a shape that broadcasts with that of ``key_y``.
    """
    side: tl.constexpr = 2 * kernel_size - 1
    # Queries outside the map, which have no weight, would read beside the table.
    y = tl.minimum(tl.maximum(y, 0), height - 1)
    x = tl.minimum(tl.maximum(x, 0), width - 1)
    inside = _in_window(y, key_y, height, kernel_size) & _in_window(x, key_x, width, kernel_size)
    entry = (key_y * side + key_x) - (y * side + x - (kernel_size - 1) * (side + 1))
    return LOG2_E * tl.load(table + entry, inside, float('-inf'))


@triton.jit
def _in_window(query: tl.tensor, key: tl.tensor, size: int, kernel_size: tl.constexpr) -> tl.tensor:
    """Whether keys are in the windows of queries, along an axis."""
    start = tl.minimum(tl.maximum(query - kernel_size // 2, 0), size - kernel_size)
    # What lies before the window is a large number without a sign.
    return (key - start).to(tl.uint32, bitcast=True) < kernel_size


@triton.jit
def _load(
    pointer: tl.tensor,
    strides: tl.tuple,
    y: tl.tensor,
    x: tl.tensor,
    height: int,
    width: int,
    dims: tl.tensor,
    num_dims: tl.constexpr,
) -> tl.tensor:
    """Load (positions, dims), zero outside the map."""
    offsets = (y * strides[2] + x * strides[3])[:, None] + (dims * strides[4])[None, :]
    mask = _on_map(y, x, height, width)[:, None] & (dims < num_dims)[None, :]
    return tl.load(pointer + offsets, mask, 0.0)


@triton.jit
def _store(
    pointer: tl.tensor,
    strides: tl.tuple,
    values: tl.tensor,
    y: tl.tensor,
    x: tl.tensor,
    height: int,
    width: int,
    dims: tl.tensor,
    num_dims: tl.constexpr,
) -> None:
    """Store (positions, dims) of those that are on the map."""
    offsets = (y * strides[2] + x * strides[3])[:, None] + (dims * strides[4])[None, :]
    mask = _on_map(y, x, height, width)[:, None] & (dims < num_dims)[None, :]
    tl.store(pointer + offsets, values, mask)
