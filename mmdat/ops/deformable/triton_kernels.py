"""Triton kernels of deformable attention; :mod:`.triton` imports them when they first run.

The queries of a program are a tile, a rectangle of the map, so that where they look in the bias
table is computed for each row and each column, and not for each query. Logits are in base 2. The
table is the one that ``prepare`` packs; ``rows`` and ``columns`` are its ``Axis``. Locations and
the table as it is given are contiguous, queries, keys, values and outputs have strides.
"""

import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]

from .triton import Axis

# Adding this to a small float32 rounds it to an integer, which then stands in the last bits of the
# sum: at this size a float32 has no digits left for a fraction.
ROUNDER = tl.constexpr(1.5 * 2**23)
ROUNDER_BITS = tl.constexpr(0x4B400000)
# Rows of a window of the table that a program takes at a time.
WINDOW_BLOCK = tl.constexpr(4)
# Kernels are not compiled anew for other sizes of the map; in tuples, sizes would be special.
SIZES = (
    'height',
    'width',
    'padded_height',
    'padded_width',
    'num_keys',
    'table_height',
    'table_width',
    'programs',
    'window_rows',
    'window_columns',
    'num_tiles',
    'tiles_per_program',
)


@triton.jit(do_not_specialize=SIZES)
def prepare(
    given: tl.tensor,
    table: tl.tensor,
    grad_table: tl.tensor | None,
    maxima: tl.tensor | None,
    table_height: int,
    table_width: int,
    num_heads: int,
    scale: float,
    margin: tl.constexpr,
    table_block: tl.constexpr,
) -> None:
    """Pad the bias table with zeros and pack each entry with the next one of its row into 64 bits;
    grid (blocks of entries).

    The other kernels wait for loads more than for anything else, and two entries take no longer
    than one.

    Args:
        given: Tensor[num_heads, table_height, table_width].
        table: Tensor[num_heads, padded_height, padded_width] in int64, which is written: pairs of
            float32, the first in the lower bits.
        grad_table: None, or Tensor like ``table``, which is filled with zeros.
        maxima: None, or Tensor[3] in int32, which is filled with zeros.
        scale: Factor of the entries.
        margin: Zeros on each side.
    """
    entry = tl.program_id(0) * table_block + tl.arange(0, table_block)
    padded_height, padded_width = table_height + 2 * margin, table_width + 2 * margin
    head = entry // padded_width // padded_height
    row = entry // padded_width % padded_height - margin
    column = entry % padded_width - margin
    in_row = (head < num_heads) & (row >= 0) & (row < table_height)
    given += (head * table_height + row) * table_width + column
    first = tl.load(given, in_row & (column >= 0) & (column < table_width), 0.0)
    second = tl.load(given + 1, in_row & (column >= -1) & (column < table_width - 1), 0.0)
    first = (scale * first.to(tl.float32)).to(tl.int32, bitcast=True).to(tl.int64)
    second = (scale * second.to(tl.float32)).to(tl.int32, bitcast=True).to(tl.int64)
    tl.store(table + entry, first & 0xFFFFFFFF | second << 32, head < num_heads)
    if grad_table is not None:
        tl.store(grad_table + entry, 0, head < num_heads)
        tl.store(maxima + entry, 0, entry < 3)


@triton.jit(do_not_specialize=SIZES)
def attend(
    query: tl.tensor,
    key: tl.tensor,
    value: tl.tensor,
    locations: tl.tensor,
    table: tl.tensor,
    out: tl.tensor,
    lse: tl.tensor,
    query_strides: tl.tuple,
    key_strides: tl.tuple,
    value_strides: tl.tuple,
    out_strides: tl.tuple,
    height: int,
    width: int,
    padded_height: int,
    padded_width: int,
    rows: tl.tuple,
    columns: tl.tuple,
    num_keys: int,
    num_heads: int,
    heads_per_group: int,
    scale: float,
    head_dim: tl.constexpr,
    value_dim: tl.constexpr,
    head_block: tl.constexpr,
    value_block: tl.constexpr,
    tile_height: tl.constexpr,
    tile_width: tl.constexpr,
    key_block: tl.constexpr,
    precision: tl.constexpr,
) -> None:
    """Attend from a tile of queries to all keys; grid (tiles, batch * num_heads).

    Args:
        out: Tensor[batch, num_heads, height, width, value_dim], which is written.
        lse: Tensor[batch, num_heads, tiles, tile_height * tile_width], the log-sum-exp, which is
            written; infinity for queries that are not on the map, so that they have no weights.
    """
    batch, head = _batch_and_head(num_heads)
    rows, columns = _axis(height, padded_height, rows), _axis(width, padded_width, columns)
    query, key, value, locations, table, out = _at_head(
        query,
        key,
        value,
        locations,
        table,
        out,
        query_strides,
        key_strides,
        value_strides,
        out_strides,
        rows,
        columns,
        batch,
        head,
        num_keys,
        num_heads,
        heads_per_group,
    )

    first_row, first_column = _tile_start(tl.program_id(0), width, tile_height, tile_width)
    y, x, on_map = _positions(first_row, first_column, height, width, tile_height, tile_width)
    head_dims = tl.arange(0, head_block)
    value_dims = tl.arange(0, value_block)
    q = _load_queries(query, query_strides, y, x, on_map, head_dims, head_dim)
    # Finite before the first key, since -inf - -inf would be NaN.
    row_max = tl.full([tile_height * tile_width], -1e30, tl.float32)
    row_sum = tl.zeros([tile_height * tile_width], tl.float32)
    acc = tl.zeros([tile_height * tile_width, value_block], tl.float32)
    for start in range(0, num_keys, key_block):
        keys, known = _keys(start, num_keys, key_block)
        k = _load_keys(key, key_strides, keys, num_keys, head_dims, head_dim)
        v = _load_keys(value, value_strides, keys, num_keys, value_dims, value_dim)
        key_y, key_x = _load_locations(locations, known)
        bias, _, _ = _bias(
            key_y,
            key_x,
            table,
            first_row,
            first_column,
            rows,
            columns,
            tile_height,
            tile_width,
            key_block,
        )
        logits = tl.dot(q, k.T, input_precision=precision) * scale + _as_logits(bias)
        logits = tl.where((keys < num_keys)[None, :], logits, float('-inf'))
        new_row_max = tl.maximum(row_max, tl.max(logits, 1))
        weights = tl.exp2(logits - new_row_max[:, None])
        alpha = tl.exp2(row_max - new_row_max)
        row_sum = row_sum * alpha + tl.sum(weights, 1)
        acc = tl.dot(weights.to(v.dtype), v, acc * alpha[:, None], input_precision=precision)
        row_max = new_row_max
    _store_queries(out, out_strides, acc / row_sum[:, None], y, x, on_map, value_dims, value_dim)
    row_lse = tl.where(on_map, row_max + tl.log2(row_sum), float('inf'))
    tl.store(lse + _in_tile_order(tile_height, tile_width), row_lse)


@triton.jit(do_not_specialize=SIZES)
def deltas(
    out: tl.tensor,
    grad_out: tl.tensor,
    value: tl.tensor,
    delta: tl.tensor,
    maxima: tl.tensor,
    out_strides: tl.tuple,
    grad_strides: tl.tuple,
    value_strides: tl.tuple,
    height: int,
    width: int,
    num_keys: int,
    num_heads: int,
    value_dim: tl.constexpr,
    value_block: tl.constexpr,
    tile_height: tl.constexpr,
    tile_width: tl.constexpr,
    key_block: tl.constexpr,
) -> None:
    """Compute delta = rowsum(grad_out * out) of a tile of queries; grid (tiles, batch * num_heads).

    Args:
        delta: Tensor[batch, num_heads, tiles, tile_height * tile_width], which is written; 0 for
            queries that are not on the map.
        maxima: Tensor[3], the largest magnitudes in ``grad_out``, ``delta`` and ``value``: float32,
            as the integers that have the same bits and order, but for NaN, which is the largest.
    """
    batch, head = _batch_and_head(num_heads)
    first_row, first_column = _tile_start(tl.program_id(0), width, tile_height, tile_width)
    y, x, on_map = _positions(first_row, first_column, height, width, tile_height, tile_width)
    dims = tl.arange(0, value_block)
    out = _at(out, out_strides, batch, head)
    grad_out = _at(grad_out, grad_strides, batch, head)
    values = _load_queries(out, out_strides, y, x, on_map, dims, value_dim).to(tl.float32)
    grad = _load_queries(grad_out, grad_strides, y, x, on_map, dims, value_dim).to(tl.float32)
    row_delta = tl.sum(grad * values, 1)
    tl.store(delta + _in_tile_order(tile_height, tile_width), row_delta)
    tl.atomic_max(maxima, tl.max(tl.max(_magnitude_bits(grad), 1), 0), sem='relaxed')
    tl.atomic_max(maxima + 1, tl.max(_magnitude_bits(row_delta), 0), sem='relaxed')
    # The programs of a head share its keys.
    value = _at(value, value_strides, batch, head)
    start, step = tl.program_id(0) * key_block, tl.num_programs(0) * key_block
    for first_key in range(start, num_keys, step):
        keys = first_key + tl.arange(0, key_block)
        v = _load_keys(value, value_strides, keys, num_keys, dims, value_dim).to(tl.float32)
        tl.atomic_max(maxima + 2, tl.max(tl.max(_magnitude_bits(v), 1), 0), sem='relaxed')


@triton.jit(do_not_specialize=SIZES)
def query_gradients(
    query: tl.tensor,
    key: tl.tensor,
    value: tl.tensor,
    locations: tl.tensor,
    table: tl.tensor,
    grad_out: tl.tensor,
    lse: tl.tensor,
    delta: tl.tensor,
    grad_query: tl.tensor,
    grad_query_strides: tl.tuple,
    grad_scale: float,
    query_strides: tl.tuple,
    key_strides: tl.tuple,
    value_strides: tl.tuple,
    out_strides: tl.tuple,
    height: int,
    width: int,
    padded_height: int,
    padded_width: int,
    rows: tl.tuple,
    columns: tl.tuple,
    num_keys: int,
    num_heads: int,
    heads_per_group: int,
    scale: float,
    head_dim: tl.constexpr,
    value_dim: tl.constexpr,
    head_block: tl.constexpr,
    value_block: tl.constexpr,
    tile_height: tl.constexpr,
    tile_width: tl.constexpr,
    key_block: tl.constexpr,
    precision: tl.constexpr,
) -> None:
    """Compute the gradient of a tile of queries; grid (tiles, batch * num_heads).

    Args:
        lse: As :func:`attend` writes it.
        delta: As :func:`deltas` writes it.
        grad_query: Tensor[batch, num_heads, height, width, head_dim], which is written.
        grad_scale: Factor of the products of queries and keys; ``scale`` is in base 2.
    """
    batch, head = _batch_and_head(num_heads)
    rows, columns = _axis(height, padded_height, rows), _axis(width, padded_width, columns)
    query, key, value, locations, table, grad_out = _at_head(
        query,
        key,
        value,
        locations,
        table,
        grad_out,
        query_strides,
        key_strides,
        value_strides,
        out_strides,
        rows,
        columns,
        batch,
        head,
        num_keys,
        num_heads,
        heads_per_group,
    )
    grad_query = _at(grad_query, grad_query_strides, batch, head)

    first_row, first_column = _tile_start(tl.program_id(0), width, tile_height, tile_width)
    y, x, on_map = _positions(first_row, first_column, height, width, tile_height, tile_width)
    head_dims = tl.arange(0, head_block)
    value_dims = tl.arange(0, value_block)
    q = _load_queries(query, query_strides, y, x, on_map, head_dims, head_dim)
    grad = _load_queries(grad_out, out_strides, y, x, on_map, value_dims, value_dim)
    row_lse = tl.load(lse + _in_tile_order(tile_height, tile_width))
    row_delta = tl.load(delta + _in_tile_order(tile_height, tile_width))
    acc = tl.zeros([tile_height * tile_width, head_block], tl.float32)
    for start in range(0, num_keys, key_block):
        keys, known = _keys(start, num_keys, key_block)
        k = _load_keys(key, key_strides, keys, num_keys, head_dims, head_dim)
        v = _load_keys(value, value_strides, keys, num_keys, value_dims, value_dim)
        key_y, key_x = _load_locations(locations, known)
        bias, _, _ = _bias(
            key_y,
            key_x,
            table,
            first_row,
            first_column,
            rows,
            columns,
            tile_height,
            tile_width,
            key_block,
        )
        logits = tl.dot(q, k.T, input_precision=precision) * scale + _as_logits(bias)
        logits = tl.where((keys < num_keys)[None, :], logits, float('-inf'))
        weights = tl.exp2(logits - row_lse[:, None])
        grad_weights = tl.dot(grad, v.T, input_precision=precision)
        grad_logits = weights * (grad_weights - row_delta[:, None])
        acc = tl.dot(grad_logits.to(k.dtype), k, acc, input_precision=precision)
    _store_queries(
        grad_query, grad_query_strides, acc * grad_scale, y, x, on_map, head_dims, head_dim
    )


@triton.jit(do_not_specialize=SIZES)
def key_gradients(
    query: tl.tensor,
    key: tl.tensor,
    value: tl.tensor,
    locations: tl.tensor,
    table: tl.tensor,
    grad_out: tl.tensor,
    lse: tl.tensor,
    delta: tl.tensor,
    grad_key: tl.tensor,
    grad_value: tl.tensor,
    grad_coordinates: tl.tensor,
    grad_table: tl.tensor,
    maxima: tl.tensor,
    table_scale: tl.tensor,
    window_rows: int,
    window_columns: int,
    num_tiles: int,
    tiles_per_program: int,
    query_strides: tl.tuple,
    key_strides: tl.tuple,
    value_strides: tl.tuple,
    out_strides: tl.tuple,
    height: int,
    width: int,
    padded_height: int,
    padded_width: int,
    rows: tl.tuple,
    columns: tl.tuple,
    num_keys: int,
    num_heads: int,
    heads_per_group: int,
    scale: float,
    head_dim: tl.constexpr,
    value_dim: tl.constexpr,
    head_block: tl.constexpr,
    value_block: tl.constexpr,
    tile_height: tl.constexpr,
    tile_width: tl.constexpr,
    key_block: tl.constexpr,
    precision: tl.constexpr,
) -> None:
    """Compute what some tiles of queries add to the gradients of a block of keys and of the table;
    grid (key blocks, batch * num_heads, programs that share the tiles).

    Args:
        lse: As :func:`attend` writes it.
        delta: As :func:`deltas` writes it.
        grad_key: Tensor[programs, batch, num_heads, num_keys, head_dim], without the scale.
        grad_value: Tensor[programs, batch, num_heads, num_keys, value_dim].
        grad_coordinates: Tensor[programs, batch, num_heads, num_keys, 2], the gradient of where the
            queries look in the table, summed over the queries.
        grad_table: Tensor[num_heads, padded_height, padded_width] in int64, which is added to:
            unlike those of floating-point numbers, sums of integers do not depend on their order.
        maxima: As :func:`deltas` writes it.
        table_scale: Tensor[] in float32, a power of two, which is written: the factor of what is
            added to ``grad_table``.
        window_rows: Rows of the table that a tile of queries reaches from any key.
        window_columns: The same of columns.
        num_tiles: Tiles of the map.
        tiles_per_program: How many tiles a program takes.
    """
    batch, head = _batch_and_head(num_heads)
    rows, columns = _axis(height, padded_height, rows), _axis(width, padded_width, columns)
    query, key, value, locations, table, grad_out = _at_head(
        query,
        key,
        value,
        locations,
        table,
        grad_out,
        query_strides,
        key_strides,
        value_strides,
        out_strides,
        rows,
        columns,
        batch,
        head,
        num_keys,
        num_heads,
        heads_per_group,
    )
    lse += (batch * num_heads + head) * num_tiles * tile_height * tile_width
    delta += (batch * num_heads + head) * num_tiles * tile_height * tile_width
    # No sum in the table exceeds 62 bits: the gradient of a logit is at most its weight times this
    # bound, and the weights of a query are 1 together. A bound that is NaN or infinite makes the
    # whole gradient of the table such.
    bound = value_dim * tl.load(maxima) * tl.load(maxima + 2) + tl.load(maxima + 1)
    bound = tl.where(bound < 2.0**-60, 2.0**-60, bound)
    num_queries = tl.num_programs(1) // num_heads * rows.size * columns.size
    scale_of_table = tl.exp2(tl.floor(62 - tl.log2(bound * num_queries.to(tl.float32))))
    tl.store(table_scale, scale_of_table)
    grad_table += head * rows.padded_size * columns.padded_size

    keys, known = _keys(tl.program_id(0) * key_block, num_keys, key_block)
    head_dims = tl.arange(0, head_block)
    value_dims = tl.arange(0, value_block)
    k = _load_keys(key, key_strides, keys, num_keys, head_dims, head_dim)
    v = _load_keys(value, value_strides, keys, num_keys, value_dims, value_dim)
    key_y, key_x = _load_locations(locations, known)
    key_acc = tl.zeros([key_block, head_block], tl.float32)
    value_acc = tl.zeros([key_block, value_block], tl.float32)
    y_acc = tl.zeros([key_block, tile_height], tl.float32)
    x_acc = tl.zeros([key_block, tile_height], tl.float32)
    first_tile = tl.program_id(2) * tiles_per_program
    for tile in range(first_tile, tl.minimum(first_tile + tiles_per_program, num_tiles)):
        first_row, first_column = _tile_start(tile, width, tile_height, tile_width)
        y, x, on_map = _positions(first_row, first_column, height, width, tile_height, tile_width)
        q = _load_queries(query, query_strides, y, x, on_map, head_dims, head_dim)
        grad = _load_queries(grad_out, out_strides, y, x, on_map, value_dims, value_dim)
        in_tile = tile * tile_height * tile_width + tl.arange(0, tile_height * tile_width)
        row_lse, row_delta = tl.load(lse + in_tile), tl.load(delta + in_tile)

        bias, row_slope, column_slope = _bias(
            key_y,
            key_x,
            table,
            first_row,
            first_column,
            rows,
            columns,
            tile_height,
            tile_width,
            key_block,
        )
        logits = tl.dot(k, q.T, input_precision=precision) * scale + _as_logits(bias).T
        logits = tl.where((keys < num_keys)[:, None], logits, float('-inf'))
        weights = tl.exp2(logits - row_lse[None, :])
        value_acc = tl.dot(weights.to(grad.dtype), grad, value_acc, input_precision=precision)
        grad_weights = tl.dot(v, grad.T, input_precision=precision)
        grad_logits = weights * (grad_weights - row_delta[None, :])
        key_acc = tl.dot(grad_logits.to(q.dtype), q, key_acc, input_precision=precision)

        # (key_block, tile_width, tile_height), of which a thread has all columns of some rows.
        grad_bias = tl.reshape(grad_logits, [key_block, tile_width, tile_height])
        y_acc += tl.sum(grad_bias * tl.permute(row_slope, 1, 0, 2), 1)
        x_acc += tl.sum(grad_bias * tl.permute(column_slope, 1, 0, 2), 1)

        # From a key, the tile reaches a small window of the table. Summed there along one axis and
        # then the other, far fewer additions to the table remain than there are logits.
        table_y = _coordinates(key_y[:, None], first_row + tl.arange(0, tile_height)[None, :], rows)
        table_x = _coordinates(
            key_x[:, None], first_column + tl.arange(0, tile_width)[None, :], columns
        )
        start_y = _coordinates(key_y, first_row, rows).to(tl.int32)
        start_x = _coordinates(key_x, first_column, columns).to(tl.int32)
        for row in range(0, window_rows, WINDOW_BLOCK):
            entry_y = (start_y + row)[:, None] + tl.arange(0, WINDOW_BLOCK)[None, :]
            row_hats = _hats(table_y[:, :, None] - entry_y[:, None, :])
            for column in range(window_columns):
                entry_x = start_x[:, None] + column
                by_row = tl.sum(grad_bias * _hats(table_x - entry_x)[:, :, None], 1)
                grad_entry = tl.sum(by_row[:, :, None] * row_hats, 1)  # (keys, WINDOW_BLOCK)
                # The window may end behind the padded table. Zeros are not added: often no query
                # looks at the last entries of the window.
                inside = (entry_y < rows.padded_size) & (entry_x < columns.padded_size)
                tl.atomic_add(
                    grad_table + entry_y * columns.padded_size + entry_x,
                    (grad_entry * scale_of_table).to(tl.int64),
                    inside & (grad_entry != 0),
                    sem='relaxed',
                )

    # The program has sums of its own.
    program = tl.program_id(2).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    grad_key += program * num_keys * head_dim
    grad_value += program * num_keys * value_dim
    _store_keys(grad_key, (0, 0, head_dim, 1), key_acc, keys, num_keys, head_dims, head_dim)
    _store_keys(grad_value, (0, 0, value_dim, 1), value_acc, keys, num_keys, value_dims, value_dim)
    grad_coordinates += 2 * (program * num_keys + keys)
    tl.store(grad_coordinates, tl.sum(y_acc, 1), keys < num_keys)
    tl.store(grad_coordinates + 1, tl.sum(x_acc, 1), keys < num_keys)


@triton.jit(do_not_specialize=SIZES)
def add_up(
    key_sums: tl.tensor,
    value_sums: tl.tensor,
    coordinate_sums: tl.tensor,
    table_sums: tl.tensor,
    table_scale: tl.tensor,
    grad_key: tl.tensor,
    grad_value: tl.tensor,
    grad_locations: tl.tensor,
    grad_table: tl.tensor,
    key_strides: tl.tuple,
    value_strides: tl.tuple,
    num_keys: int,
    table_height: int,
    table_width: int,
    programs: int,
    num_heads: int,
    heads_per_group: int,
    key_scale: float,
    y_scale: float,
    x_scale: float,
    head_dim: tl.constexpr,
    value_dim: tl.constexpr,
    head_block: tl.constexpr,
    value_block: tl.constexpr,
    key_block: tl.constexpr,
    margin: tl.constexpr,
    table_block: tl.constexpr,
) -> None:
    """Add up what the programs of :func:`key_gradients` wrote, which describes the sums; grid
    (key blocks, batch * groups).

    Args:
        grad_key: Tensor[batch, num_heads, num_keys, head_dim], which is written.
        grad_value: Tensor[batch, num_heads, num_keys, value_dim], which is written.
        grad_locations: Tensor[batch, groups, num_keys, 2], which is written.
        grad_table: Tensor[num_heads, table_height, table_width], which is written.
        programs: How many programs share the queries.
        key_scale: Factor of the gradients of keys.
        y_scale: Factor of those of the rows where keys lie.
        x_scale: Factor of those of the columns.
    """
    keys, known = _keys(tl.program_id(0) * key_block, num_keys, key_block)
    head_dims = tl.arange(0, head_block)
    value_dims = tl.arange(0, value_block)
    y_sum, x_sum = tl.zeros([key_block], tl.float32), tl.zeros([key_block], tl.float32)
    num_batch_heads = tl.num_programs(1) * heads_per_group
    for head_of_group in range(heads_per_group):
        head = tl.program_id(1).to(tl.int64) * heads_per_group + head_of_group
        key_sum = tl.zeros([key_block, head_block], tl.float32)
        value_sum = tl.zeros([key_block, value_block], tl.float32)
        for program in range(programs):
            first_row = (program * num_batch_heads + head) * num_keys
            key_sum += _load_keys(
                key_sums + first_row * head_dim,
                (0, 0, head_dim, 1),
                keys,
                num_keys,
                head_dims,
                head_dim,
            )
            value_sum += _load_keys(
                value_sums + first_row * value_dim,
                (0, 0, value_dim, 1),
                keys,
                num_keys,
                value_dims,
                value_dim,
            )
            y, x = _load_locations(coordinate_sums + 2 * first_row, known)
            y_sum += y
            x_sum += x
        to_key = _at(grad_key, key_strides, head // num_heads, head % num_heads)
        to_value = _at(grad_value, value_strides, head // num_heads, head % num_heads)
        _store_keys(to_key, key_strides, key_sum * key_scale, keys, num_keys, head_dims, head_dim)
        _store_keys(to_value, value_strides, value_sum, keys, num_keys, value_dims, value_dim)
    location = grad_locations + 2 * (tl.program_id(1).to(tl.int64) * num_keys + keys)
    tl.store(location, y_sum * y_scale, keys < num_keys)
    tl.store(location + 1, x_sum * x_scale, keys < num_keys)

    # All programs share the entries of the table.
    scale = tl.load(table_scale)
    num_entries = num_heads * table_height * table_width
    first = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
    step = tl.num_programs(0) * tl.num_programs(1)
    for block in range(first, tl.cdiv(num_entries, table_block), step):
        entry = block * table_block + tl.arange(0, table_block)
        row = entry // table_width % table_height + margin
        column = entry % table_width + margin
        head = entry // table_width // table_height
        padded = (head * (table_height + 2 * margin) + row) * (table_width + 2 * margin) + column
        inside = entry < num_entries
        total = tl.load(table_sums + padded, inside, 0).to(tl.float32)
        tl.store(grad_table + entry, total / scale, inside)


@triton.jit
def _axis(size: int, padded_size: int, places: tl.tuple) -> tl.tuple:
    """Put together an axis that is passed in parts."""
    return Axis(size, padded_size, places[0], places[1], places[2], places[3])


@triton.jit
def _in_tile_order(tile_height: tl.constexpr, tile_width: tl.constexpr) -> tl.tensor:
    """Offsets of the program's queries in Tensor[batch, num_heads, tiles, queries of a tile]."""
    tile = tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    return tile * (tile_height * tile_width) + tl.arange(0, tile_height * tile_width)


@triton.jit
def _magnitude_bits(x: tl.tensor) -> tl.tensor:
    """Magnitudes of float32 as integers of the same order."""
    return x.to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def _batch_and_head(num_heads: int) -> tuple:
    """Sample and head of the program, in 64 bits, as offsets into a large batch need."""
    index = tl.program_id(1).to(tl.int64)
    return index // num_heads, index % num_heads


@triton.jit
def _at_head(
    query: tl.tensor,
    key: tl.tensor,
    value: tl.tensor,
    locations: tl.tensor,
    table: tl.tensor,
    out: tl.tensor,
    query_strides: tl.tuple,
    key_strides: tl.tuple,
    value_strides: tl.tuple,
    out_strides: tl.tuple,
    rows: tl.tuple,
    columns: tl.tuple,
    batch: tl.tensor,
    head: tl.tensor,
    num_keys: int,
    num_heads: int,
    heads_per_group: int,
) -> tuple:
    """Move pointers to the tensors of the operator to a head of a sample."""
    first_location = (batch * num_heads + head) // heads_per_group * num_keys
    return (
        _at(query, query_strides, batch, head),
        _at(key, key_strides, batch, head),
        _at(value, value_strides, batch, head),
        locations + first_location * 2,
        table + head * rows.padded_size * columns.padded_size,
        _at(out, out_strides, batch, head),
    )


@triton.jit
def _at(pointer: tl.tensor, strides: tl.tuple, batch: tl.tensor, head: tl.tensor) -> tl.tensor:
    """Move the pointer of a tensor to a head of a sample."""
    return pointer + batch * strides[0] + head * strides[1]


@triton.jit
def _tile_start(
    tile: tl.tensor, width: int, tile_height: tl.constexpr, tile_width: tl.constexpr
) -> tuple:
    """First row and first column of a tile on the map."""
    tiles_per_row = tl.cdiv(width, tile_width)
    return tile // tiles_per_row * tile_height, tile % tiles_per_row * tile_width


@triton.jit
def _positions(
    first_row: tl.tensor,
    first_column: tl.tensor,
    height: int,
    width: int,
    tile_height: tl.constexpr,
    tile_width: tl.constexpr,
) -> tuple:
    """Row and column of each query of a tile, column by column, and whether it is on the map."""
    index = tl.arange(0, tile_height * tile_width)
    y, x = first_row + index % tile_height, first_column + index // tile_height
    return y, x, (y < height) & (x < width)


@triton.jit
def _load_queries(
    pointer: tl.tensor,
    strides: tl.tuple,
    y: tl.tensor,
    x: tl.tensor,
    inside: tl.tensor,
    dims: tl.tensor,
    num_dims: tl.constexpr,
) -> tl.tensor:
    """Load (queries, dims), zero for those not on the map."""
    offsets = (y * strides[2] + x * strides[3])[:, None] + (dims * strides[4])[None, :]
    return tl.load(pointer + offsets, inside[:, None] & (dims < num_dims)[None, :], 0.0)


@triton.jit
def _store_queries(
    pointer: tl.tensor,
    strides: tl.tuple,
    values: tl.tensor,
    y: tl.tensor,
    x: tl.tensor,
    inside: tl.tensor,
    dims: tl.tensor,
    num_dims: tl.constexpr,
) -> None:
    """Store (queries, dims) of those that are on the map."""
    offsets = (y * strides[2] + x * strides[3])[:, None] + (dims * strides[4])[None, :]
    tl.store(pointer + offsets, values, inside[:, None] & (dims < num_dims)[None, :])


@triton.jit
def _keys(start: tl.tensor, num_keys: int, key_block: tl.constexpr) -> tuple:
    """A block of keys, and the same with the last one for those that there are not.

    Reading from these takes fewer registers and instructions than a mask.
    """
    keys = start + tl.arange(0, key_block)
    return keys, tl.minimum(keys, num_keys - 1)


@triton.jit
def _load_keys(
    pointer: tl.tensor,
    strides: tl.tuple,
    keys: tl.tensor,
    num_keys: int,
    dims: tl.tensor,
    num_dims: tl.constexpr,
) -> tl.tensor:
    """Load (keys, dims), zero behind the last key."""
    offsets = (keys * strides[2])[:, None] + (dims * strides[3])[None, :]
    return tl.load(pointer + offsets, (keys < num_keys)[:, None] & (dims < num_dims)[None, :], 0.0)


@triton.jit
def _store_keys(
    pointer: tl.tensor,
    strides: tl.tuple,
    values: tl.tensor,
    keys: tl.tensor,
    num_keys: int,
    dims: tl.tensor,
    num_dims: tl.constexpr,
) -> None:
    """Store (keys, dims) of those that there are."""
    offsets = (keys * strides[2])[:, None] + (dims * strides[3])[None, :]
    tl.store(pointer + offsets, values, (keys < num_keys)[:, None] & (dims < num_dims)[None, :])


@triton.jit
def _load_locations(pointer: tl.tensor, keys: tl.tensor) -> tuple:
    """Load y and x of keys that there are."""
    y, x = tl.load(pointer + 2 * keys), tl.load(pointer + 2 * keys + 1)
    return y.to(tl.float32), x.to(tl.float32)


@triton.jit
def _coordinates(locations: tl.tensor, queries: tl.tensor, axis: tl.tuple) -> tl.tensor:
    """Where queries look in the padded table, in entries, from keys at locations.

    Those that look beyond it look at its border instead, where there are two zeros; so do those
    from NaN, since a maximum is the other operand then.
    """
    # Not left to the compiler, so that all that ask for a place get the same number.
    coordinates = tl.fma(
        axis.step, queries.to(tl.float32), tl.fma(-axis.factor, locations, axis.origin)
    )
    return tl.minimum(tl.maximum(coordinates, 0.0), axis.last_coordinate)


@triton.jit
def _split(coordinates: tl.tensor) -> tuple:
    """Split coordinates into the entry before them and the weight of the one behind.

    For a coordinate on an entry it may be the entry before, and a weight of 1.
    """
    # Round by an addition, as a GPU converts to integers and back at a fraction of the speed.
    rounded = coordinates - 0.5 + ROUNDER
    entries = rounded.to(tl.int32, bitcast=True) - ROUNDER_BITS
    return entries, coordinates - (rounded - ROUNDER)


@triton.jit
def _bias(
    key_y: tl.tensor,
    key_x: tl.tensor,
    table: tl.tensor,
    first_row: tl.tensor,
    first_column: tl.tensor,
    rows: tl.tuple,
    columns: tl.tuple,
    tile_height: tl.constexpr,
    tile_width: tl.constexpr,
    key_block: tl.constexpr,
) -> tuple:
    """Interpolate the bias of a tile of queries and a block of keys, with its derivatives by the
    row and the column in the table, each (tile_width, key_block, tile_height).
    """
    y = _coordinates(key_y[:, None], first_row + tl.arange(0, tile_height)[None, :], rows)
    row, row_weight = _split(y[None, :, :])
    x = _coordinates(key_x[None, :], first_column + tl.arange(0, tile_width)[:, None], columns)
    column, column_weight = _split(x[:, :, None])
    # Neither NaN nor infinity is seen in coordinates, which are within the table.
    column_weight += (0 * (key_y + key_x))[None, :, None]
    # Triton spreads the threads of a warp over the first axes of what is loaded, so that they load
    # from close to each other, and a thread has a key's rows.
    upper = table + (row * columns.padded_size + column)
    lower = tl.load(upper + columns.padded_size)
    upper = tl.load(upper)
    above_slope, below_slope = _second(upper) - _first(upper), _second(lower) - _first(lower)
    above = _first(upper) + column_weight * above_slope
    below = _first(lower) + column_weight * below_slope
    row_slope = below - above
    column_slope = above_slope + row_weight * (below_slope - above_slope)
    return above + row_weight * row_slope, row_slope, column_slope


@triton.jit
def _as_logits(bias: tl.tensor) -> tl.tensor:
    """(tile_width, key_block, tile_height) -> (queries, keys)."""
    bias = tl.permute(bias, 0, 2, 1)
    return tl.reshape(bias, [bias.shape[0] * bias.shape[1], bias.shape[2]])


@triton.jit
def _hats(distances: tl.tensor) -> tl.tensor:
    """Weight of a table entry for a query, by the distance from one to the other."""
    return tl.maximum(1 - tl.abs(distances), 0.0)


@triton.jit
def _first(pairs: tl.tensor) -> tl.tensor:
    """First entry of each pair."""
    return pairs.to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def _second(pairs: tl.tensor) -> tl.tensor:
    """Second entry of each pair."""
    return (pairs >> 32).to(tl.int32).to(tl.float32, bitcast=True)
