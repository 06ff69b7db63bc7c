"""The product of matrices whose sizes are known when the kernel runs, in blocks of registers."""

from lightning_gan3d.simd.compile import helper
from lightning_gan3d.simd.intrinsic import simd
from lightning_gan3d.simd.target import MANY_REGISTERS, WIDTH
from lightning_gan3d.simd.vector import Int, Registers, broadcast, fma, load, loop, store

ROWS = 8 if MANY_REGISTERS else 4
"""Rows of a block: rows of a product are padded to a multiple of it."""
COLUMNS = 2
"""Vectors of a block: ROWS * COLUMNS sums, COLUMNS operands and one factor stay in registers."""


def emit_block(
    a: Int,
    a_row: Int,
    a_step: Int,
    b: Int,
    b_step: Int,
    inner: Int,
    start: Int,
    start_row: Int,
    out: Int,
    out_row: Int,
    columns: int,
) -> None:
    """Emit out[i, j] = start[i, j] + sum_k a[i, k] b[k, j] for ROWS rows and `columns` vectors.

    Of each matrix: the address of its first element, and the bytes from row to row or from step to
    step of the sum; the columns of `b`, `start` and `out` follow one another.
    """
    sums = [
        Registers([load(start + start_row * i + 4 * WIDTH * j) for j in range(columns)])
        for i in range(ROWS)
    ]
    a_rows = [a + a_row * i for i in range(ROWS)]
    with loop(inner) as k:
        here = b + b_step * k
        operands = [load(here + 4 * WIDTH * j) for j in range(columns)]
        for i in range(ROWS):
            factor = broadcast(a_rows[i] + a_step * k)
            for j in range(columns):
                sums[i][j] = fma(factor, operands[j], sums[i][j])
    for i in range(ROWS):
        for j in range(columns):
            store(sums[i][j], out + out_row * i + 4 * WIDTH * j)


@simd
def _wide(
    a: Int,
    a_row: Int,
    a_step: Int,
    b: Int,
    b_step: Int,
    inner: Int,
    start: Int,
    start_row: Int,
    out: Int,
    out_row: Int,
) -> None:
    emit_block(a, a_row, a_step, b, b_step, inner, start, start_row, out, out_row, COLUMNS)


@simd
def _narrow(
    a: Int,
    a_row: Int,
    a_step: Int,
    b: Int,
    b_step: Int,
    inner: Int,
    start: Int,
    start_row: Int,
    out: Int,
    out_row: Int,
) -> None:
    emit_block(a, a_row, a_step, b, b_step, inner, start, start_row, out, out_row, 1)


@helper
def matmul(
    a: int,
    a_row: int,
    a_step: int,
    b: int,
    b_step: int,
    inner: int,
    start: int,
    start_row: int,
    out: int,
    out_row: int,
    rows: int,
    vectors: int,
) -> None:
    """Compute out = start + a b for `rows` rows (padded to ROWS) and `vectors` vectors of columns.

    Addresses are in bytes; `*_row` and `*_step` are the bytes between rows, and between the `inner`
    steps of the sum: exchanged for `a`, they multiply by its transpose. `start` may be `out` (to
    add to it), or a row with start_row=0 (a bias). Columns of `b`, `start`, `out` are contiguous.
    """
    vector = 4 * WIDTH
    pairs = vectors // 2
    for i in range(0, rows, ROWS):
        at, begin, end = a + a_row * i, start + start_row * i, out + out_row * i
        for j in range(pairs):
            c = 2 * vector * j
            _wide(at, a_row, a_step, b + c, b_step, inner, begin + c, start_row, end + c, out_row)
        if vectors > 2 * pairs:
            c = 2 * vector * pairs
            _narrow(at, a_row, a_step, b + c, b_step, inner, begin + c, start_row, end + c, out_row)
