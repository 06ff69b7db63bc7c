"""Images to latents, cameras and tuned generators."""
