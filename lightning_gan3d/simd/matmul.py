"""Matrix product of run-time sizes, in blocks of registers."""

from typing import Annotated, Any, NamedTuple

from lightning_gan3d.simd.decorators import helper, simd
from lightning_gan3d.simd.processor import MANY_REGISTERS, WIDTH
from lightning_gan3d.simd.vector import Int, Registers, broadcast, fma, load, loop, store

ROWS = 8 if MANY_REGISTERS else 4
"""Rows of a block."""
FEW_ROWS = 4
"""Rows of a smaller block at the end; callers pad rows to a multiple of it."""
COLUMNS = 2
"""Vectors of a block: ROWS * COLUMNS sums, COLUMNS operands and one factor fit the registers."""


class Product(NamedTuple):
    """Addresses of out = start + a b in bytes, with the bytes from row to row.

    `a_step` and `b_step` are the bytes between the `inner` steps of the sum. The columns of `b`,
    `start` and `out` are contiguous.
    """

    a: Any
    a_row: Any
    a_step: Any
    b: Any
    b_step: Any
    inner: Any
    start: Any
    start_row: Any
    out: Any
    out_row: Any


def _emit(p: Product, rows: int, columns: int) -> None:
    """Emit out[i, j] = start[i, j] + sum_k a[i, k] b[k, j] for a block of columns in vectors."""
    sums = [
        Registers([load(p.start + p.start_row * i + 4 * WIDTH * j) for j in range(columns)])
        for i in range(rows)
    ]
    a_rows = [p.a + p.a_row * i for i in range(rows)]
    with loop(p.inner) as k:
        here = p.b + p.b_step * k
        operands = [load(here + 4 * WIDTH * j) for j in range(columns)]
        for i in range(rows):
            factor = broadcast(a_rows[i] + p.a_step * k)
            for j in range(columns):
                sums[i][j] = fma(factor, operands[j], sums[i][j])
    for i in range(rows):
        for j in range(columns):
            store(sums[i][j], p.out + p.out_row * i + 4 * WIDTH * j)


@simd
def _wide(product: Annotated[Product, Int]) -> None:
    _emit(product, ROWS, COLUMNS)


@simd
def _narrow(product: Annotated[Product, Int]) -> None:
    _emit(product, ROWS, 1)


@simd
def _wide_end(product: Annotated[Product, Int]) -> None:
    _emit(product, FEW_ROWS, COLUMNS)


@simd
def _narrow_end(product: Annotated[Product, Int]) -> None:
    _emit(product, FEW_ROWS, 1)


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
    """Compute out = start + a b for `rows` rows and `vectors` vectors of columns.

    Rows are padded to FEW_ROWS. The first arguments are those of `Product`. Exchange `a_row` and
    `a_step` to multiply by the transpose of `a`. `start` may be `out`, to add to it, or a row with
    start_row=0, a bias.
    """
    for i in range(0, rows, ROWS):
        at, begin, end = a + a_row * i, start + start_row * i, out + out_row * i
        for j in range(0, vectors, COLUMNS):
            c = 4 * WIDTH * j
            product = Product(
                at, a_row, a_step, b + c, b_step, inner, begin + c, start_row, end + c, out_row
            )
            if i + ROWS <= rows:
                if j + COLUMNS <= vectors:
                    _wide(product)
                else:
                    _narrow(product)
            elif j + COLUMNS <= vectors:
                _wide_end(product)
            else:
                _narrow_end(product)
