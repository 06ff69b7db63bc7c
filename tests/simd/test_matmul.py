import numpy as np
import pytest

pytest.importorskip("numba")

from lightning_gan3d.simd import FEW_ROWS, ROWS, WIDTH, entry, matmul


@entry
def multiply(
    a: np.ndarray, transposed: bool, b: np.ndarray, start: np.ndarray, add: bool, out: np.ndarray
) -> None:
    row, step = 4 * a.shape[1], 4
    if transposed:
        row, step = step, row
    width = 4 * out.shape[1]
    begin, begin_row = (out.ctypes.data, width) if add else (start.ctypes.data, 0)
    matmul(
        a.ctypes.data,
        row,
        step,
        b.ctypes.data,
        4 * b.shape[1],
        b.shape[0],
        begin,
        begin_row,
        out.ctypes.data,
        width,
        out.shape[0],
        out.shape[1] // WIDTH,
    )


@pytest.mark.parametrize("vectors", [1, 2, 3])
@pytest.mark.parametrize("inner", [0, 1, 5, 64])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("rows", [2 * ROWS, FEW_ROWS, ROWS + FEW_ROWS])
def test_products_plus_a_bias_or_the_output(inner, vectors, transposed, rows):
    rng = np.random.default_rng(inner)
    a = rng.standard_normal((inner, rows) if transposed else (rows, inner)).astype(np.float32)
    b = rng.standard_normal((inner, vectors * WIDTH)).astype(np.float32)
    bias, out = rng.standard_normal((2, rows, vectors * WIDTH)).astype(np.float32)
    product = (a.T if transposed else a).astype(np.float64) @ b
    before = out.copy()
    multiply(a, transposed, b, bias, True, out)
    np.testing.assert_allclose(out, product + before, atol=2e-5)
    multiply(a, transposed, b, bias, False, out)
    np.testing.assert_allclose(out, product + bias[0], atol=2e-5)
