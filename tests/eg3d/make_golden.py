"""Write golden.npz, the official code's outputs for `CASES` and `PHASES`, thinned.

And published.json, the options of the published commands.

    EG3D_CHECKOUT=path/to/eg3d python tests/eg3d/make_golden.py

The checkout is NVlabs/eg3d at commit 7cf1fd1; its code runs on a CPU in float32, with the draws of
`reference.py`. Only numbers are stored.
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
        actual = run_official_stylegan2(c_dim)
        for name, tensor in thinned(actual).items():
            arrays[f"stylegan2-{c_dim}/{name}"] = tensor.numpy()
    np.savez_compressed(FILE, **arrays)
    with tempfile.TemporaryDirectory() as folder:
        options = {preset: official_options(preset, Path(folder)) for preset in PUBLISHED}
    OPTIONS.write_text(json.dumps(options, indent=1) + "\n")
    print(f"{FILE}: {FILE.stat().st_size / 1000:.0f} kB")


def report(case: Case, out: dict[str, torch.Tensor]) -> None:
    """Print the share of empty rays, for depth is compared differently there."""
    empty = float((out["opacity"] <= 0.01).float().mean())
    print(f"{case.name}: {empty:.0%} of the rays are empty")


if __name__ == "__main__":
    main()
