"""The kernel that ends an upsampling layer on a CPU: FIR filter and activation in one pass."""

from typing import Any

from lightning_gan3d.networks.fused.kernels.activation import activated
from lightning_gan3d.networks.fused.kernels.filtering import clear, column_16, column_32, filtered
from lightning_gan3d.networks.fused.kernels.rows import BFLOAT16, BYTES, FLOAT32, Kind, read
from lightning_gan3d.simd import Float, Int, entry, fma, load, loop, simd


def _make_finish(kind: Kind) -> Any:
    @simd
    def finish(
        a: Int,
        b: Int,
        c: Int,
        d: Int,
        out: Int,
        scale: Int,
        shift: Int,
        noise: Float,
        clamp: Float,
        outer: Float,
        inner: Float,
        vectors: Int,
    ) -> None:
        with loop(vectors) as k:
            at = k * BYTES
            y = filtered([load(x + at) for x in (a, b, c, d)], outer, inner)
            y = fma(y, load(scale + at), load(shift + at) + noise.splat())
            kind.store(activated(y, clamp), out + k * kind.size)

    return finish


_finish_32, _finish_16 = _make_finish(FLOAT32), _make_finish(BFLOAT16)


@entry
def merge_rows(
    half: bool,
    ee: int,
    eo: int,
    oe: int,
    oo: int,
    out: int,
    scratch: int,
    zeros: int,
    scale: int,
    shift: int,
    noise: int,
    noise_step: int,
    strength: int,
    clamp: float,
    outer: float,
    inner: float,
    vectors: int,
    side: int,
    width: int,
    first: int,
    last: int,
) -> None:
    """Filter a transposed convolution's result, given by its four phases, and activate it.

    Of (2 side + 1) x (2 width + 1) pixels: `ee` those of even rows and columns, `eo` of even rows
    and odd columns, and so on. Written are output rows 2 first to 2 last, of 2 side x 2 width.
    `scratch` holds 2 width + 3 pixels of float32. The rest is as in
    `activation.activate`.
    """
    size = vectors * (BYTES // 2 if half else BYTES)
    pixel = vectors * BYTES
    long, short = size * (width + 1), size * width
    even, odd = scratch, scratch + pixel * (width + 1)  # odd columns lie between two zeros
    clear(odd, vectors)
    clear(odd + pixel * (width + 1), vectors)
    factor = read(strength)
    for i in range(first, last):
        above_e = oe + long * (i - 1) if i > 0 else zeros
        above_o = oo + short * (i - 1) if i > 0 else zeros
        below_e = oe + long * (i + 1) if i + 1 < side else zeros
        below_o = oo + short * (i + 1) if i + 1 < side else zeros
        e0, e1, e2 = ee + long * i, oe + long * i, ee + long * (i + 1)
        o0, o1, o2 = eo + short * i, oo + short * i, eo + short * (i + 1)
        for lower in range(2):
            many, few = vectors * (width + 1), vectors * width
            if lower:
                if half:
                    column_16(e0, e1, e2, below_e, even, outer, inner, many)
                    column_16(o0, o1, o2, below_o, odd + pixel, outer, inner, few)
                else:
                    column_32(e0, e1, e2, below_e, even, outer, inner, many)
                    column_32(o0, o1, o2, below_o, odd + pixel, outer, inner, few)
            elif half:
                column_16(above_e, e0, e1, e2, even, outer, inner, many)
                column_16(above_o, o0, o1, o2, odd + pixel, outer, inner, few)
            else:
                column_32(above_e, e0, e1, e2, even, outer, inner, many)
                column_32(above_o, o0, o1, o2, odd + pixel, outer, inner, few)
            start = 2 * width * (2 * i + lower)
            for j in range(width):
                a, b = odd + pixel * j, even + pixel * j
                c, d, e = a + pixel, b + pixel, a + 2 * pixel
                to = out + size * (start + 2 * j)
                n0 = factor * read(noise + noise_step * (start + 2 * j))
                n1 = factor * read(noise + noise_step * (start + 2 * j + 1))
                if half:
                    _finish_16(a, b, c, d, to, scale, shift, n0, clamp, outer, inner, vectors)
                    to += size
                    _finish_16(b, c, d, e, to, scale, shift, n1, clamp, outer, inner, vectors)
                else:
                    _finish_32(a, b, c, d, to, scale, shift, n0, clamp, outer, inner, vectors)
                    to += size
                    _finish_32(b, c, d, e, to, scale, shift, n1, clamp, outer, inner, vectors)
