"""`@simd`: from a function that emits instructions to one that kernels can call."""

import inspect
from collections.abc import Callable
from typing import Any

from numba import types
from numba.extending import intrinsic

from lightning_gan3d.simd.vector import Float, Int

_TYPES = {Int: types.int64, Float: types.float32, None: types.void}


def simd(emit: Callable[..., Any]) -> Any:
    """Make `emit` callable in kernels.

    Its parameters are annotated `Int` (addresses, counts) or `Float`; it returns `Int`, `Float` or
    None. The code is inlined where it is called, so that large ones belong into one `helper`.
    """
    notes = inspect.get_annotations(emit)
    returned = _TYPES[notes.pop("return")]
    parameters = [_TYPES[kind] for kind in notes.values()]
    signature = returned(*parameters)

    def typing(_context: Any, *_given: Any) -> Any:
        return signature, lower

    def lower(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        builder.function.attributes.add("noinline")
        wrapped = (kind(builder, x) for kind, x in zip(notes.values(), args, strict=True))
        result = emit(*wrapped)
        return context.get_dummy_value() if result is None else result.value

    names = ["context", *notes]
    place = inspect.Parameter.POSITIONAL_OR_KEYWORD
    named = [inspect.Parameter(n, place) for n in names]
    typing.__signature__ = inspect.Signature(named)  # type: ignore[attr-defined]  # read by numba
    typing.__name__ = emit.__name__
    typing.__doc__ = emit.__doc__
    return intrinsic(typing)
