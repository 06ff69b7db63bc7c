"""Where the middle square of an image is: one function, so that pixels and labels agree."""


def centre_square(width: int, height: int, side: int | None = None) -> tuple[float, float, int]:
    """Return left, top and side of the middle square, in pixels; left and top may be halves.

    `side`: up to the image's shorter side, which is taken for None.
    """
    side = min(width, height) if side is None else side
    return (width - side) / 2, (height - side) / 2, side
