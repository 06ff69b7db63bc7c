"""Print the agreement with the official code as the tables of docs/eg3d.md.

    EG3D_CHECKOUT=path/to/eg3d python tests/eg3d/agreement.py

Full width, random weights, float32 on one thread of a CPU; takes minutes.
"""

import ours
import reference
import torch
from reference import CASES, PHASES

FULL = {"channel_base": 32768, "channel_max": 512}
TENSORS = ("ws", "planes", "image_raw", "depth", "opacity", "image", "logits")


def main() -> None:
    """Run every case on both sides."""
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}\n")
    print(f"| image | psi | noise | rendered at | {' | '.join(TENSORS)} |")
    print("|---|---|---|---|" + "---|" * len(TENSORS))
    for resolution in sorted({case.resolution for case in CASES}):
        g_kwargs = reference.generator_kwargs(resolution, **FULL)
        d_kwargs = reference.discriminator_kwargs(resolution, **FULL)
        theirs = reference.official_generator(g_kwargs), reference.official_discriminator(d_kwargs)
        mine = ours.generator(g_kwargs), ours.discriminator(d_kwargs)
        for case in (c for c in CASES if c.resolution == resolution):
            inputs = reference.latents(case.batch), reference.labels(resolution, case.batch)
            settings = case.psi, case.noise_mode, case.rendering
            expected = reference.run_official(*theirs, *inputs, *settings)
            actual = ours.run(*mine, *inputs, *settings)
            errors = ours.relative_errors(actual, expected)
            row = " | ".join(f"{errors[name]:.1e}" for name in TENSORS)
            print(
                f"| {resolution}² | {case.psi:g} | {case.noise_mode} | {case.rendering}² | {row} |",
                flush=True,
            )
    print("\n| phase | loss | its gradient |\n|---|---|---|")
    for phase in PHASES:
        pairs = zip(ours.run_phase(phase), reference.run_official_phase(phase), strict=True)
        loss, gradient = (float((a - b).norm() / b.norm()) for a, b in pairs)
        print(f"| {phase} | {loss:.1e} | {gradient:.1e} |", flush=True)


if __name__ == "__main__":
    main()
