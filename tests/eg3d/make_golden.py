"""Write golden.npz: what the official code makes of the inputs of `CASES` and `PHASES`, thinned.

And published.json: the options of the commands that its models were trained with.

    EG3D_CHECKOUT=path/to/eg3d python tests/eg3d/make_golden.py

The checkout is NVlabs/eg3d at commit 7cf1fd1; its code runs on a CPU in float32, and its draws are
replaced as `reference.py` says. Nothing of it is stored but numbers.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from reference import (
    CASES,
    PHASES,
    PUBLISHED,
    Case,
    discriminator_kwargs,
    generator_kwargs,
    labels,
    latents,
    official_discriminator,
    official_generator,
    official_options,
    official_schedules,
    run_official,
    run_official_phase,
    run_official_stylegan2,
    thinned,
)

FILE = Path(__file__).with_name("golden.npz")
OPTIONS = Path(__file__).with_name("published.json")


def main() -> None:
    """Run every case."""
    torch.set_num_threads(1)
    arrays: dict[str, np.ndarray] = {}
    networks: dict[int, tuple[torch.nn.Module, torch.nn.Module]] = {}
    for case in CASES:
        if case.resolution not in networks:
            networks[case.resolution] = (
                official_generator(generator_kwargs(case.resolution)),
                official_discriminator(discriminator_kwargs(case.resolution)),
            )
        inputs = latents(case.batch), labels(case.resolution, case.batch)
        out = run_official(
            *networks[case.resolution], *inputs, case.psi, case.noise_mode, case.rendering
        )
        for name, tensor in thinned(out).items():
            arrays[f"{case.name}/{name}"] = tensor.numpy()
        report(case, out)
    for phase in PHASES:
        loss, gradient = run_official_phase(phase)
        few = thinned({"gradient": gradient})["gradient"]
        arrays |= {f"{phase}/loss": loss.numpy(), f"{phase}/gradient": few.numpy()}
    arrays["schedules"] = np.array(official_schedules())
    for c_dim in (0, 25):
        found = run_official_stylegan2(c_dim)
        for name, tensor in thinned(found).items():
            arrays[f"stylegan2-{c_dim}/{name}"] = tensor.numpy()
    np.savez_compressed(FILE, **arrays)
    with tempfile.TemporaryDirectory() as folder:
        options = {preset: official_options(preset, Path(folder)) for preset in PUBLISHED}
    OPTIONS.write_text(json.dumps(options, indent=1) + "\n")
    print(f"{FILE}: {FILE.stat().st_size / 1000:.0f} kB")


def report(case: Case, out: dict[str, torch.Tensor]) -> None:
    """Say how much of the picture is empty, so that depth is tested both ways."""
    empty = float((out["opacity"] <= 0.01).float().mean())
    print(f"{case.name}: {empty:.0%} of the rays meet nothing")


if __name__ == "__main__":
    main()
