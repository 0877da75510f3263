"""Parts that diffusion super-resolution pipelines really share."""
