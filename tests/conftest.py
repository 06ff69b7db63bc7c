"""Every test checks every annotated type and shape: jaxtyping's import hook with beartype.

The hook is installed before our packages are imported, hence the imports below code.
"""

import functools
import inspect
import os
from types import CodeType
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import jaxtyping  # threads first
from beartype import beartype
from jaxtyping._storage import pop_shape_memo, push_shape_memo

_checked: set[CodeType] = set()


def _check(function: Any) -> Any:
    """Check the annotations of a function or dataclass at each call.

    It replaces `jaxtyping.jaxtyped`, which checks arguments twice per call and decorates a nested
    function again at each call of the outer one; that took half the time of the training tests.
    Here a nested function is checked only the first time that it is defined.
    """
    if inspect.isclass(function):
        if "__dataclass_fields__" in vars(function):
            function.__init__ = _check(function.__init__)
        return function
    again = "<locals>" in function.__qualname__ and function.__code__ in _checked
    if again or not function.__annotations__:
        return function
    _checked.add(function.__code__)
    # A quoted name is imported for mypy alone, or defined further down.
    hints = {k: Any if isinstance(v, str) else v for k, v in function.__annotations__.items()}
    function.__annotations__ = hints
    checked = beartype(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        push_shape_memo({})
        try:
            return checked(*args, **kwargs)
        finally:
            pop_shape_memo()

    return call


jaxtyping.jaxtyped = lambda **_: _check  # type: ignore[assignment]  # the decorator of the hook
jaxtyping.install_import_hook(
    ["lightning_gan3d", "representations", "renderers"], "beartype.beartype"
)

import torch  # noqa: E402  # the hook first

torch.set_num_threads(1)
