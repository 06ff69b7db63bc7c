"""Compiles kernels for a GPU that need not be there, with the arguments of their launches."""

import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

HOPPER = GPUTarget("cuda", 90, 32)
TYPES = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.uint8: "*u8",
    torch.int16: "*i16",
    torch.int32: "*i32",
}
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


class Usage(NamedTuple):
    """Of a kernel: registers and bytes of stack of a thread, shared memory of a program."""

    name: str
    registers: int
    stack: int
    shared: int
    ptx: str


class Recorder:
    """Stands in for a kernel: compiles it where it would be launched."""

    def __init__(self, kernel: Any, usages: list[Usage]) -> None:
        self.kernel, self.usages = kernel, usages

    def __getitem__(self, grid: Any) -> Any:
        def launch(*args: Any, num_warps: int = 4, num_stages: int = 3, **constants: Any) -> None:
            schedule = {"num_warps": num_warps, "num_stages": num_stages}
            self.usages.append(compile_kernel(self.kernel, args, constants, schedule))

        return launch


def compile_kernel(
    kernel: Any, args: tuple[Any, ...], constants: dict[str, Any], schedule: dict[str, int]
) -> Usage:
    """Compile as a launch would: addresses and integers are known to be multiples of 16 or 1."""
    values = dict(zip(kernel.arg_names, args, strict=False)) | constants
    assert set(values) == set(kernel.arg_names), set(kernel.arg_names) ^ set(values)
    assert set(constants) == {x.name for x in kernel.params if x.is_constexpr}
    fixed: dict[Any, Any] = {}
    attributes: dict[Any, Any] = {}

    def describe(value: Any, path: tuple[int, ...]) -> Any:
        if isinstance(value, tuple):
            types = [describe(x, (*path, i)) for i, x in enumerate(value)]
            return type(value)(*types) if hasattr(value, "_fields") else tuple(types)
        if value is None or (isinstance(value, int) and value == 1):
            fixed[path] = value
            return "constexpr"
        whole = isinstance(value, int) and value % 16 == 0
        if whole or isinstance(value, torch.Tensor):
            attributes[path] = [["tt.divisibility", 16]]
        if isinstance(value, torch.Tensor):
            return TYPES[value.dtype]
        return "i32" if isinstance(value, int) else "fp32"

    signature = {}
    for i, name in enumerate(kernel.arg_names):
        if name in constants:
            fixed[(i,)] = values[name]
            signature[name] = "constexpr"
        else:
            signature[name] = describe(values[name], (i,))
    source = ASTSource(kernel, signature=signature, constexprs=fixed, attrs=attributes)
    built = triton.compile(source, target=HOPPER, options=schedule)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(built.asm["cubin"])
        file.flush()
        report = subprocess.run(
            [CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    fields = dict(w.split(":") for w in report.splitlines()[-1].split() if w.count(":") == 1)
    return Usage(
        kernel.__name__,
        int(fields["REG"]),
        int(fields["STACK"]) + int(fields["LOCAL"]),
        built.metadata.shared,
        built.asm["ptx"],
    )
