"""Kernels of :mod:`.triton`, which is what imports them, when they first run.

The queries of a program are a tile, a rectangle of the map, so that a key's place in the table and
its weights are computed for each row and each column, and not for each query. Logits are exponents
of 2.
"""

import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]

# A float32 of this size has no digits left for a fraction, and its last bits are an integer.
ROUNDER = tl.constexpr(1.5 * 2**23)
ROUNDER_BITS = tl.constexpr(0x4B400000)


@triton.jit
def attend(
    query: tl.tensor,
    key: tl.tensor,
    value: tl.tensor,
    locations: tl.tensor,
    table: tl.tensor,
    out: tl.tensor,
    log_sums: tl.tensor,
    strides: tl.tuple,
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
) -> None:
    """Attend from a tile of queries to all keys; grid (tiles, batch * num_heads)."""
    batch, head = _batch_and_head(num_heads)
    query, key, value, locations, table, out = _at_head(
        query,
        key,
        value,
        locations,
        table,
        out,
        strides,
        rows,
        columns,
        batch,
        head,
        heads_per_group,
    )
    log_sums += (batch * num_heads + head) * rows.size * columns.size

    first_row, first_column = _tile_start(tl.program_id(0), columns, tile_height, tile_width)
    y, x, on_map = _positions(first_row, first_column, rows, columns, tile_height, tile_width)
    head_dims = tl.arange(0, head_block)
    value_dims = tl.arange(0, value_block)
    q = _load_queries(query, strides.query, y, x, on_map, head_dims, head_dim)
    # Without a key yet: a finite peak, for -inf - -inf is no number.
    peaks = tl.full([tile_height * tile_width], -1e30, tl.float32)
    sums = tl.zeros([tile_height * tile_width], tl.float32)
    totals = tl.zeros([tile_height * tile_width, value_block], tl.float32)
    for start in range(0, num_keys, key_block):
        keys = start + tl.arange(0, key_block)
        k = _load_keys(key, strides.key, keys, num_keys, head_dims, head_dim)
        v = _load_keys(value, strides.value, keys, num_keys, value_dims, value_dim)
        key_y, key_x = _load_locations(locations, strides.locations, keys, num_keys)
        bias = _bias(
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
        logits = tl.dot(q, k.T, input_precision='ieee') * scale + bias
        logits = tl.where((keys < num_keys)[None, :], logits, float('-inf'))
        new_peaks = tl.maximum(peaks, tl.max(logits, 1))
        weights = tl.exp2(logits - new_peaks[:, None])
        fading = tl.exp2(peaks - new_peaks)
        sums = sums * fading + tl.sum(weights, 1)
        totals = tl.dot(weights.to(v.dtype), v, totals * fading[:, None], input_precision='ieee')
        peaks = new_peaks
    _store_queries(out, strides.out, totals / sums[:, None], y, x, on_map, value_dims, value_dim)
    tl.store(log_sums + y * columns.size + x, peaks + tl.log2(sums), on_map)


@triton.jit
def query_gradients(
    query: tl.tensor,
    key: tl.tensor,
    value: tl.tensor,
    locations: tl.tensor,
    table: tl.tensor,
    grad_out: tl.tensor,
    log_sums: tl.tensor,
    means: tl.tensor,
    grad_query: tl.tensor,
    grad_query_strides: tl.tuple,
    grad_scale: float,
    strides: tl.tuple,
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
) -> None:
    """Of a tile of queries; grid (tiles, batch * num_heads)."""
    batch, head = _batch_and_head(num_heads)
    query, key, value, locations, table, grad_out = _at_head(
        query,
        key,
        value,
        locations,
        table,
        grad_out,
        strides,
        rows,
        columns,
        batch,
        head,
        heads_per_group,
    )
    grad_query = _at(grad_query, grad_query_strides, batch, head)
    log_sums += (batch * num_heads + head) * rows.size * columns.size
    means += (batch * num_heads + head) * rows.size * columns.size

    first_row, first_column = _tile_start(tl.program_id(0), columns, tile_height, tile_width)
    y, x, on_map = _positions(first_row, first_column, rows, columns, tile_height, tile_width)
    head_dims = tl.arange(0, head_block)
    value_dims = tl.arange(0, value_block)
    q = _load_queries(query, strides.query, y, x, on_map, head_dims, head_dim)
    grad = _load_queries(grad_out, strides.out, y, x, on_map, value_dims, value_dim)
    log_sum = tl.load(log_sums + y * columns.size + x, on_map, 0.0)
    mean = tl.load(means + y * columns.size + x, on_map, 0.0)
    totals = tl.zeros([tile_height * tile_width, head_block], tl.float32)
    for start in range(0, num_keys, key_block):
        keys = start + tl.arange(0, key_block)
        k = _load_keys(key, strides.key, keys, num_keys, head_dims, head_dim)
        v = _load_keys(value, strides.value, keys, num_keys, value_dims, value_dim)
        key_y, key_x = _load_locations(locations, strides.locations, keys, num_keys)
        bias = _bias(
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
        logits = tl.dot(q, k.T, input_precision='ieee') * scale + bias
        logits = tl.where((keys < num_keys)[None, :], logits, float('-inf'))
        weights = tl.exp2(logits - log_sum[:, None])
        grad_weights = tl.dot(grad, v.T, input_precision='ieee')
        grad_logits = weights * (grad_weights - mean[:, None])
        totals = tl.dot(grad_logits.to(k.dtype), k, totals, input_precision='ieee')
    _store_queries(
        grad_query, grad_query_strides, totals * grad_scale, y, x, on_map, head_dims, head_dim
    )


@triton.jit
def key_gradients(
    query: tl.tensor,
    key: tl.tensor,
    value: tl.tensor,
    locations: tl.tensor,
    table: tl.tensor,
    grad_out: tl.tensor,
    log_sums: tl.tensor,
    means: tl.tensor,
    grad_key: tl.tensor,
    grad_value: tl.tensor,
    grad_places: tl.tensor,
    grad_table: tl.tensor,
    window_rows: int,
    window_columns: int,
    num_tiles: int,
    tiles_per_program: int,
    window_block: tl.constexpr,
    strides: tl.tuple,
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
) -> None:
    """Of a block of keys and of the table, from some tiles; grid (key blocks, batch * num_heads,
    programs that share the tiles).

    Args:
        grad_key: Tensor[programs, batch, num_heads, num_keys, head_dim], without the scale.
        grad_value: Tensor[programs, batch, num_heads, num_keys, value_dim].
        grad_places: Tensor[programs, batch, num_heads, num_keys, 2], of the queries' places.
        grad_table: Like ``table``, but in float32, which is added to.
        window_rows: Entries of the table that a tile of queries reaches from any key.
    """
    batch, head = _batch_and_head(num_heads)
    query, key, value, locations, table, grad_out = _at_head(
        query,
        key,
        value,
        locations,
        table,
        grad_out,
        strides,
        rows,
        columns,
        batch,
        head,
        heads_per_group,
    )
    log_sums += (batch * num_heads + head) * rows.size * columns.size
    means += (batch * num_heads + head) * rows.size * columns.size
    grad_table += head * rows.padded_size * columns.padded_size

    keys = tl.program_id(0) * key_block + tl.arange(0, key_block)
    head_dims = tl.arange(0, head_block)
    value_dims = tl.arange(0, value_block)
    k = _load_keys(key, strides.key, keys, num_keys, head_dims, head_dim)
    v = _load_keys(value, strides.value, keys, num_keys, value_dims, value_dim)
    key_y, key_x = _load_locations(locations, strides.locations, keys, num_keys)
    key_totals = tl.zeros([key_block, head_block], tl.float32)
    value_totals = tl.zeros([key_block, value_block], tl.float32)
    y_totals = tl.zeros([key_block, tile_height, window_block], tl.float32)
    x_totals = tl.zeros([key_block, tile_height, window_block], tl.float32)
    first_tile = tl.program_id(2) * tiles_per_program
    for tile in range(first_tile, tl.minimum(first_tile + tiles_per_program, num_tiles)):
        first_row, first_column = _tile_start(tile, columns, tile_height, tile_width)
        y, x, on_map = _positions(first_row, first_column, rows, columns, tile_height, tile_width)
        q = _load_queries(query, strides.query, y, x, on_map, head_dims, head_dim)
        grad = _load_queries(grad_out, strides.out, y, x, on_map, value_dims, value_dim)
        # No weights where there are no queries.
        log_sum = tl.load(log_sums + y * columns.size + x, on_map, float('inf'))
        mean = tl.load(means + y * columns.size + x, on_map, 0.0)

        bias = _bias(
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
        logits = tl.dot(k, q.T, input_precision='ieee') * scale + bias.T
        logits = tl.where((keys < num_keys)[:, None], logits, float('-inf'))
        weights = tl.exp2(logits - log_sum[None, :])
        value_totals = tl.dot(weights.to(grad.dtype), grad, value_totals, input_precision='ieee')
        grad_weights = tl.dot(v, grad.T, input_precision='ieee')
        grad_logits = weights * (grad_weights - mean[None, :])
        key_totals = tl.dot(grad_logits.to(q.dtype), q, key_totals, input_precision='ieee')

        # A key's tile falls into a small window of the table. Summed there along one axis and then
        # the other, far fewer additions to the table remain than there are logits.
        grad_bias = tl.reshape(grad_logits, [key_block, tile_width, tile_height])
        start_y = _places(key_y, first_row, rows).to(tl.int32)
        start_x = _places(key_x, first_column, columns).to(tl.int32)
        place_y = _places(key_y[:, None], first_row + tl.arange(0, tile_height)[None, :], rows)
        place_x = _places(key_x[:, None], first_column + tl.arange(0, tile_width)[None, :], columns)
        for row in range(0, window_rows, window_block):
            entry_y = start_y[:, None] + row + tl.arange(0, window_block)[None, :]
            row_hats, row_slopes = _hats(place_y[:, :, None] - entry_y[:, None, :])
            for column in range(window_columns):
                entry_x = start_x[:, None] + column
                distances = place_x - entry_x
                by_row = tl.sum(grad_bias * tl.maximum(1 - tl.abs(distances), 0.0)[:, :, None], 1)
                # As a query moves on, its bias follows the entry behind it instead of this one.
                between = tl.where((distances >= 0) & (distances < 1), 1.0, 0.0)
                between_by_row = tl.sum(grad_bias * between[:, :, None], 1)
                # A window may end behind the table, where there is nothing to read.
                inside = (entry_y < rows.padded_size) & (entry_x < columns.padded_size)
                cell = entry_y * columns.padded_size + entry_x
                pair = tl.load(table + cell, inside, 0)[:, None, :]
                y_totals += _first(pair) * by_row[:, :, None] * row_slopes
                x_totals += (_second(pair) - _first(pair)) * between_by_row[:, :, None] * row_hats
                grad_entry = tl.sum(by_row[:, :, None] * row_hats, 1)  # (keys, window_block)
                # Often no query looks at the last entries of a window.
                tl.atomic_add(
                    grad_table + cell, grad_entry, inside & (grad_entry != 0), sem='relaxed'
                )

    first = (
        tl.program_id(2).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    ) * num_keys + keys
    _store_keys(grad_key, key_totals, first, keys, num_keys, head_dims, head_dim)
    _store_keys(grad_value, value_totals, first, keys, num_keys, value_dims, value_dim)
    tl.store(grad_places + first * 2, tl.sum(tl.sum(y_totals, 2), 1), keys < num_keys)
    tl.store(grad_places + first * 2 + 1, tl.sum(tl.sum(x_totals, 2), 1), keys < num_keys)


@triton.jit
def _batch_and_head(num_heads: int) -> tuple:
    # 64 bits, as offsets into a large batch need.
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
    strides: tl.tuple,
    rows: tl.tuple,
    columns: tl.tuple,
    batch: tl.tensor,
    head: tl.tensor,
    heads_per_group: int,
) -> tuple:
    """Pointers to what a head of a sample reads and writes."""
    return (
        _at(query, strides.query, batch, head),
        _at(key, strides.key, batch, head),
        _at(value, strides.value, batch, head),
        _at(locations, strides.locations, batch, head // heads_per_group),
        table + head * rows.padded_size * columns.padded_size,
        _at(out, strides.out, batch, head),
    )


@triton.jit
def _at(pointer: tl.tensor, strides: tl.tuple, batch: tl.tensor, head: tl.tensor) -> tl.tensor:
    return pointer + batch * strides[0] + head * strides[1]


@triton.jit
def _tile_start(
    tile: tl.tensor, columns: tl.tuple, tile_height: tl.constexpr, tile_width: tl.constexpr
) -> tuple:
    """Its first row and column."""
    tiles_per_row = tl.cdiv(columns.size, tile_width)
    return tile // tiles_per_row * tile_height, tile % tiles_per_row * tile_width


@triton.jit
def _positions(
    first_row: tl.tensor,
    first_column: tl.tensor,
    rows: tl.tuple,
    columns: tl.tuple,
    tile_height: tl.constexpr,
    tile_width: tl.constexpr,
) -> tuple:
    """Row, column and whether they are on the map, of each query of a tile, column by column."""
    index = tl.arange(0, tile_height * tile_width)
    y, x = first_row + index % tile_height, first_column + index // tile_height
    return y, x, (y < rows.size) & (x < columns.size)


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
    """(queries, dims), zero outside."""
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
    offsets = (y * strides[2] + x * strides[3])[:, None] + (dims * strides[4])[None, :]
    tl.store(pointer + offsets, values, inside[:, None] & (dims < num_dims)[None, :])


@triton.jit
def _load_keys(
    pointer: tl.tensor,
    strides: tl.tuple,
    keys: tl.tensor,
    num_keys: int,
    dims: tl.tensor,
    num_dims: tl.constexpr,
) -> tl.tensor:
    """(keys, dims), zero outside."""
    offsets = (keys * strides[2])[:, None] + (dims * strides[3])[None, :]
    return tl.load(pointer + offsets, (keys < num_keys)[:, None] & (dims < num_dims)[None, :], 0.0)


@triton.jit
def _store_keys(
    pointer: tl.tensor,
    values: tl.tensor,
    rows: tl.tensor,
    keys: tl.tensor,
    num_keys: int,
    dims: tl.tensor,
    num_dims: tl.constexpr,
) -> None:
    """Write (keys, dims) to the rows of a contiguous tensor."""
    tl.store(
        pointer + rows[:, None] * num_dims + dims[None, :],
        values,
        (keys < num_keys)[:, None] & (dims < num_dims)[None, :],
    )


@triton.jit
def _load_locations(pointer: tl.tensor, strides: tl.tuple, keys: tl.tensor, num_keys: int) -> tuple:
    """Of keys, y and x."""
    pointer += keys * strides[2]
    return (
        tl.load(pointer, keys < num_keys, 0.0).to(tl.float32),
        tl.load(pointer + strides[3], keys < num_keys, 0.0).to(tl.float32),
    )


@triton.jit
def _places(locations: tl.tensor, queries: tl.tensor, axis: tl.tuple) -> tl.tensor:
    """Where queries look in the padded table, in entries, from keys at locations.

    Far outside it is as well to look at the border, where there are two zeros.
    """
    places = axis.origin - axis.factor * locations + axis.step * queries
    return tl.minimum(tl.maximum(places, 0.0), axis.last_place)


@triton.jit
def _split(places: tl.tensor) -> tuple:
    """The entry before a place, and the weight of the one behind. A place on an entry may get the
    one before it, with weight 1.
    """
    # Rounds by an addition, as a GPU converts to integers and back at a fraction of the speed.
    rounded = places - 0.5 + ROUNDER
    return rounded.to(tl.int32, bitcast=True) - ROUNDER_BITS, places - (rounded - ROUNDER)


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
) -> tl.tensor:
    """(queries, keys) for a tile of queries."""
    places = _places(key_y[:, None], first_row + tl.arange(0, tile_height)[None, :], rows)
    row, row_weight = _split(places[None, :, :])
    places = _places(key_x[None, :], first_column + tl.arange(0, tile_width)[:, None], columns)
    column, column_weight = _split(places[:, :, None])
    # (tile_width, key_block, tile_height): Triton deals the threads of a warp out to the first axes
    # of what is read, so that they read close to each other, and a thread has a key's rows.
    upper = table + (row * columns.padded_size + column)
    lower = tl.load(upper + columns.padded_size)
    upper = tl.load(upper)
    above = _first(upper) + column_weight * (_second(upper) - _first(upper))
    below = _first(lower) + column_weight * (_second(lower) - _first(lower))
    bias = above + row_weight * (below - above)
    return tl.reshape(tl.permute(bias, 0, 2, 1), [tile_width * tile_height, key_block])


@triton.jit
def _hats(distances: tl.tensor) -> tuple:
    """How much of an entry of the table a query takes that lies ``distances`` behind it, and how
    that changes as the query moves on.
    """
    slopes = tl.where(distances >= 0, -1.0, 1.0)
    slopes = tl.where((distances >= -1) & (distances < 1), slopes, 0.0)
    return tl.maximum(1 - tl.abs(distances), 0.0), slopes


@triton.jit
def _first(pairs: tl.tensor) -> tl.tensor:
    return pairs.to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def _second(pairs: tl.tensor) -> tl.tensor:
    return (pairs >> 32).to(tl.int32).to(tl.float32, bitcast=True)
