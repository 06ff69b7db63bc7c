import numpy as np
import pytest

pytest.importorskip("numba")

from lightning_gan3d.simd import (
    WIDTH,
    entry,
    exp,
    expm1,
    helper,
    leaky_relu,
    log,
    sigmoid,
    simd,
    sine,
    sine_cosine,
    softplus,
)
from lightning_gan3d.simd.vector import Int, load, store


@simd
def all_of_them(x: Int, y: Int, row: Int) -> None:
    v = load(x)
    results = exp(v), expm1(v), softplus(v), sigmoid(v), leaky_relu(v, 0.2)
    results = *results, sine(v), *sine_cosine(v), log(v)
    for i, result in enumerate(results):
        store(result, y + row * i)


@helper
def one_vector(x, y, row):
    all_of_them(x, y, row)


@entry
def maths(x: np.ndarray, y: np.ndarray) -> None:
    for i in range(0, x.size, WIDTH):
        one_vector(x.ctypes.data + 4 * i, y.ctypes.data + 4 * i, 4 * x.size)


def evaluate(x: np.ndarray) -> dict[str, np.ndarray]:
    padded = np.zeros(-(-x.size // 16) * 16, np.float32)
    padded[: x.size] = x
    y = np.empty((9, padded.size), np.float32)
    maths(padded, y)
    names = ("exp", "expm1", "softplus", "sigmoid", "leaky_relu", "sine", "sin", "cos", "log")
    return dict(zip(names, y[:, : x.size], strict=True))


EXPECTED = {
    "exp": (np.exp, (-87, 88), 2e-7),
    "expm1": (np.expm1, (-87, 88), 3e-7),
    "softplus": (lambda x: np.logaddexp(0, x), (-87, 1e6), 4e-7),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), (-87, 1e3), 4e-7),
    "leaky_relu": (lambda x: np.where(x > 0, x, 0.2 * x), (-1e30, 1e30), 1e-7),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_relative_error_against_float64(name):
    function, (low, high), bound = EXPECTED[name]
    wide = np.linspace(low, high, 200_001)
    near_zero = np.geomspace(1e-12, 1, 20_000)
    x = np.concatenate([wide, near_zero, -near_zero, np.linspace(-20, 20, 100_001)])
    x = x.astype(np.float32)
    exact = function(x.astype(np.float64))
    np.testing.assert_allclose(evaluate(x)[name], exact, rtol=bound, atol=0)


@pytest.mark.parametrize(("name", "function"), [("sine", np.sin), ("sin", np.sin), ("cos", np.cos)])
def test_error_of_sines_against_float64(name, function):
    near = np.linspace(-40, 40, 400_001)
    wide = np.geomspace(1, 2e6, 200_001)
    multiples = np.arange(-3000, 3000) * np.pi / 2
    x = np.concatenate([near, wide, -wide, multiples]).astype(np.float32)
    exact = function(x.astype(np.float64))
    np.testing.assert_allclose(evaluate(x)[name], exact, rtol=0, atol=1.5e-7)


def test_error_of_logarithm_against_float64():
    x = np.geomspace(2e-38, 3e38, 400_001).astype(np.float32)
    x = np.concatenate([x, np.linspace(0.5, 2, 100_001, dtype=np.float32)])
    exact = np.log(x.astype(np.float64))
    error = abs(evaluate(x)["log"] - exact)
    assert (error <= 2e-7 * np.maximum(1, abs(exact))).all()


def test_sines_of_small_angles_keep_their_relative_precision():
    x = np.geomspace(1e-12, 1e-2, 20_000).astype(np.float32)
    np.testing.assert_allclose(evaluate(x)["sine"], np.sin(x.astype(np.float64)), rtol=1.2e-7)


def test_values_beyond_the_range_are_finite_and_monotonic():
    actual = evaluate(np.array([-np.inf, -1e4, -87, 88, 1e4, np.inf], np.float32))
    for name in ("exp", "sigmoid"):
        assert np.isfinite(actual[name]).all()
        assert (np.diff(actual[name]) >= 0).all()
    assert actual["softplus"][-2] == 1e4


@pytest.mark.parametrize("bits", [0x7FC00000, 0x7F800001, 0xFFC00001, 0x7FFFFFFF])
def test_nan_stays_nan(bits):
    nan = np.array([bits], np.uint32).view(np.float32)
    assert all(np.isnan(y).all() for y in evaluate(nan).values())
