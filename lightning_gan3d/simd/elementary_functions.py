"""Exponentials and activations of vectors, by polynomials. Errors are relative to float64.

The coefficients minimise the largest relative error over the interval (Remez's criterion, by
iteratively reweighted least squares).
"""

import math

from lightning_gan3d.simd.vector import Vec, absolute, fma, maximum, minimum, reciprocal, select

LOWEST, HIGHEST = -87.0, 88.0
"""Arguments are clamped to these, so that exp stays normal and finite."""
_ROUND = 12582912.0 + 127  # adding 1.5 * 2^23 leaves the nearest integer in the low bits; biased
_LOG2E, _LOG2E_REST = 1.44269502162933349609375, 1.925963033500e-08
_EXP2M1 = (
    0.6931471879,
    0.2402264979,
    0.05550357433,
    0.009618237495,
    0.001339073569,
    0.0001540351266,
)
"""(2^f - 1) / f for |f| <= 1/2; relative error 1.1e-8."""
_LOG1P = (
    0.9999999699,
    -0.4999949315,
    0.3331909692,
    -0.2484298273,
    0.19106008,
    -0.1366324725,
    0.07822595849,
    -0.02950523757,
    0.005232692846,
)
"""log(1 + e) / e for 0 <= e <= 1; relative error 3.0e-8."""
_NEAREST = 12582912.0
"""1.5 * 2^23; adding it leaves the nearest integer in the low bits."""
_PI = (3.1415927410125732, -8.742277657347586e-08)
"""Two float32 whose sum is pi, with error 4e-15."""
_SINE = (-0.166666605, 0.00833308817, -0.000198111127, 2.60893266e-06)
"""(sin(r) / r - 1) / r^2 in r^2 for |r| <= pi / 2; relative error of sin(r) 5e-9."""
_COSINE = (-0.499999995, 0.0416666407, -0.00138884035, 2.47618862e-05, -2.60771053e-07)
"""(cos(r) - 1) / r^2 in r^2 for |r| <= pi / 2; error of cos(r) 2.4e-10."""


def _polynomial(coefficients: tuple[float, ...], x: Vec) -> Vec:
    *rest, last = coefficients
    value = Vec(x.builder, x.like(last))
    for c in reversed(rest):
        value = fma(value, x, c)
    return value


def _power(x: Vec) -> tuple[Vec, Vec]:
    """Return 2^n and exp(x) / 2^n - 1, in [-0.3, 0.42]; x within the range of exponents."""
    shifted = fma(x, _LOG2E, _ROUND)
    n = shifted - _ROUND
    f = fma(x, _LOG2E_REST, fma(x, _LOG2E, -n))
    scale = (shifted.as_ints() << 23).as_floats()
    return scale, f * _polynomial(_EXP2M1, f)


def exp(x: Vec) -> Vec:
    """Return e^x with relative error 2e-7, for x clamped to [-87, 88]."""
    scale, rest = _power(minimum(maximum(x, LOWEST), HIGHEST))
    return fma(scale, rest, scale)


def expm1(x: Vec) -> Vec:
    """Return e^x - 1 with relative error 3e-7, near 0 too, for x clamped to [-87, 88]."""
    scale, rest = _power(minimum(maximum(x, LOWEST), HIGHEST))
    return fma(scale, rest, scale - 1.0)


def softplus(x: Vec) -> Vec:
    """Return log(1 + e^x) with relative error 4e-7, for x >= -87."""
    scale, rest = _power(maximum(-absolute(x), LOWEST))
    e = fma(scale, rest, scale)
    return fma(_polynomial(_LOG1P, e), e, maximum(x, 0.0))


def sigmoid(x: Vec) -> Vec:
    """Return 1 / (1 + e^-x) with relative error 4e-7, for x >= -87."""
    return reciprocal(exp(-x) + 1.0)


def _reduce(x: Vec) -> tuple[Vec, Vec]:
    """Return x - n pi in [-pi/2, pi/2], and the sign bit of (-1)^n."""
    shifted = fma(x, 1 / math.pi, _NEAREST)
    n = shifted - _NEAREST
    r = x
    for part in _PI:
        r = fma(n, -part, r)
    return r, shifted.as_ints() << 31


def _flip(x: Vec, sign: Vec) -> Vec:
    return (x.as_ints() + sign).as_floats()


def sine(x: Vec) -> Vec:
    """Return sin(x) with error 1.2e-7, for |x| < 2e6."""
    r, sign = _reduce(x)
    return _flip(fma(_polynomial(_SINE, r * r) * (r * r), r, r), sign)


def sine_cosine(x: Vec) -> tuple[Vec, Vec]:
    """Return sin(x) and cos(x) with error 1.5e-7, for |x| < 2e6."""
    r, sign = _reduce(x)
    square = r * r
    sin = fma(_polynomial(_SINE, square) * square, r, r)
    return _flip(sin, sign), _flip(fma(_polynomial(_COSINE, square), square, 1.0), sign)


def leaky_relu(x: Vec, slope: float) -> Vec:
    """Return x, or slope x for negative x."""
    return select(x > 0.0, x, x * slope)


def log(x: Vec) -> Vec:
    """Return the logarithm, with error 2e-7 relative to max(1, |log x|), for normal x > 0."""
    bits = x.as_ints()
    exponent = ((bits >> 23) - 127).to_floats()
    e = ((bits & 0x7FFFFF) + 0x3F800000).as_floats() - 1.0
    result = fma(exponent, math.log(2), e * _polynomial(_LOG1P, e))
    return select(x > 0.0, result, x)  # NaN stays
