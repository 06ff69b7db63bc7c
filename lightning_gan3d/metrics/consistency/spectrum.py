"""Sharpness and contrast of views: measured, and imposed on other views.

Blurred or pale views agree better than sharp ones. Views of known objects, made as blurred and as
pale, say how well such views can agree: the ceiling at equal sharpness and contrast.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

STEEPEST, LARGEST = -40.0, math.log(4.0)
"""Bounds of the logarithm of a filter's gain at Nyquist's frequency, relative to the lowest one."""


class Amplitude(NamedTuple):
    """Root mean square of views about the mean colour of their item."""

    contrast: float
    """Of all frequencies."""
    detail: float
    """Of frequencies above half of Nyquist's."""


def amplitude_of(views: Float[Tensor, "v m c n n"]) -> Amplitude:
    """Return the amplitude of the v views of m items, all frequencies together and detail alone."""
    return _amplitude(_power(views), 0.0)


def match(
    known: Float[Tensor, "v m c n n"],
    views: Float[Tensor, "v m c n n"],
    mask: Float[Tensor, "v m 1 n n"] | None = None,
) -> Float[Tensor, "v m c n n"]:
    """Make each known item as sharp and as contrasty as the view item of its index."""
    items = [slice(i, i + 1) for i in range(known.shape[1])]
    matched = [
        with_amplitude(known[:, i], amplitude_of(views[:, i]), None if mask is None else mask[:, i])
        for i in items
    ]
    return torch.cat(matched, dim=1)


def with_amplitude(
    views: Float[Tensor, "v m c n n"],
    target: Amplitude,
    mask: Float[Tensor, "v m 1 n n"] | None = None,
) -> Float[Tensor, "v m c n n"]:
    """Blur or sharpen views in [0, 1] by a Gaussian, and scale their contrast; clips to [0, 1].

    The result has the target's amplitudes. A filter that follows the spectrum more closely would
    ring across silhouettes. With a mask, views are blurred alike inside it, but nothing bleeds into
    it, so its outline stays sharp; and they are not sharpened.
    """
    power = _power(views)
    low, high = STEEPEST, LARGEST if mask is None else 0.0
    for _ in range(50):  # the share of detail grows with the slope
        slope = (low + high) / 2
        result = _amplitude(power, slope)
        if result.detail * target.contrast < target.detail * result.contrast:
            low = slope
        else:
            high = slope
    gain = target.contrast / max(result.contrast, 1e-12)
    n = views.shape[-1]
    response = torch.exp(slope * (_frequency(n, views.device) / n).square())

    def smooth(x: Tensor) -> Tensor:
        filtered: Tensor = torch.fft.irfft2(
            _transform(x) * response, s=(2 * n, 2 * n), norm="ortho"
        )
        return filtered[..., :n, :n]

    deviation = views - _mean(views)
    filtered = smooth(deviation)
    if mask is not None:
        inside = smooth(deviation * mask) / smooth(mask).clamp(min=1e-3)
        filtered = torch.where(mask > 0, inside, filtered)
    return (gain * filtered + _mean(views)).clamp(0, 1)


def _amplitude(power: Float[Tensor, " r"], slope: float) -> Amplitude:
    """Amplitude after a filter with gain exp(slope f^2), f in Nyquist's frequency."""
    n = len(power) - 1
    squared = torch.linspace(0, 1, n + 1, device=power.device).square()
    filtered = power * torch.exp(2 * slope * squared)
    return Amplitude(float(filtered.sum().sqrt()), float(filtered[n // 2 :].sum().sqrt()))


def _power(views: Float[Tensor, "v m c n n"]) -> Float[Tensor, " r"]:
    """Power at radial frequencies 0 to n, in 1 / 2n cycles per pixel; n is Nyquist's frequency.

    The corners of the spectrum count to the last. The sum is the mean square of the views.
    """
    n = views.shape[-1]
    spectrum = _transform(views - _mean(views)).abs().square().mean(dim=(0, 1, 2)) / (2 * n) ** 2
    spectrum[:, 1:-1] *= 2  # stored once for two conjugate coefficients
    ring = _frequency(n, views.device).round().long().flatten()
    power = torch.zeros(n + 1, device=views.device)
    return power.index_add_(0, ring, spectrum.flatten())


def _mean(views: Tensor) -> Tensor:
    return views.mean(dim=(0, 3, 4), keepdim=True)


def _transform(x: Tensor) -> Tensor:
    """Fourier transform of images continued by reflection, so that borders are no edges."""
    x = torch.cat([x, x.flip(-1)], dim=-1)
    spectrum: Tensor = torch.fft.rfft2(torch.cat([x, x.flip(-2)], dim=-2), norm="ortho")
    return spectrum


def _frequency(n: int, device: torch.device) -> Float[Tensor, "rows columns"]:
    """Radial frequency of each coefficient of `_transform`, at most n."""
    rows = torch.fft.fftfreq(2 * n, 1 / (2 * n), device=device)
    columns = torch.fft.rfftfreq(2 * n, 1 / (2 * n), device=device)
    return torch.hypot(rows[:, None], columns).clamp(max=n)
