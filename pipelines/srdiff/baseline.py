"""`srdiff-baseline`: the published sampler, step by step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import ClassVar

import torch

from pipelines.contract import Observer, Precision, stage
from pipelines.diffusion.arithmetic import arithmetic
from pipelines.srdiff.checkpoint import Checkpoint
from pipelines.srdiff.model import SRDiff
from pipelines.srdiff.options import BaselineOptions
from pipelines.srdiff.pipeline import Inputs, SRDiffPipeline
from pipelines.srdiff.rrdb import condition
from pipelines.srdiff.sampling import Noise, to_picture
from pipelines.work import note_call, replayed


class SRDiffBaseline(SRDiffPipeline[BaselineOptions]):
    """Everything recomputed in every step, as the published program does.

    Precision fp16 is autocast; the sample and the arithmetic of the steps are float32.
    """

    name: ClassVar[str] = "srdiff-baseline"
    version: ClassVar[str] = "1"
    Options: ClassVar[type] = BaselineOptions
    maps: ClassVar[float] = 7.0

    def _build(self, checkpoint: Checkpoint, device: torch.device, precision: Precision) -> None:
        self._model = SRDiff(checkpoint, device)
        self._tables = {name: table.to(device) for name, table in checkpoint.buffers.items()}

    def _sample(
        self, inputs: Inputs, seeds: Sequence[int], observe: Observer | None
    ) -> Iterator[torch.Tensor]:
        assert self._device is not None
        autocast_on = self._device if self._precision is Precision.FP16 else None
        for seed in seeds:
            with arithmetic(autocast_on=autocast_on, tune=False):
                picture = self._sample_one(inputs, seed, observe)
            yield picture

    def _sample_one(self, inputs: Inputs, seed: int, observe: Observer | None) -> torch.Tensor:
        with stage("encode"):
            features = self._model.encode(inputs.lr)
            self._model.encoder_picture(features)  # as published: computed, never used
        with stage("unet"):
            place = "cpu" if self.options.noise == "cpu" else inputs.lr_up.device
            noise = Noise(seed, inputs.lr_up, place)
            x = noise.draw()
            for t in range(self.config.timesteps - 1, -1, -1):
                watch = observe if t == self.config.timesteps - 1 else None
                run = partial(self._step, x, t, features, noise, watch)
                x = replayed(("step", x.shape), run)
        with stage("postprocess"):
            return to_picture(x.float(), inputs.lr_up)

    def _step(
        self,
        x: torch.Tensor,
        t: int,
        features: list[torch.Tensor],
        noise: Noise,
        observe: Observer | None,
    ) -> torch.Tensor:
        """x_t -> x_{t-1} in the published operators: six gathers, exp, mask and all."""
        note_call("unet")
        steps = torch.full((1,), t, device=x.device, dtype=torch.long)
        eps = self._model.unet(x, steps, condition(features))
        if observe is not None:
            observe("eps", eps)
        x0 = self._at("sqrt_recip_alphas_cumprod", steps) * x
        x0 = x0 - self._at("sqrt_recipm1_alphas_cumprod", steps) * eps
        x0 = x0.clamp(-1.0, 1.0)
        mean = self._at("posterior_mean_coef1", steps) * x0
        mean = mean + self._at("posterior_mean_coef2", steps) * x
        self._at("posterior_variance", steps)
        log_variance = self._at("posterior_log_variance_clipped", steps)
        drawn = noise.draw()
        mask = (1 - (steps == 0).float()).reshape(1, 1, 1, 1)
        x_before: torch.Tensor = mean + mask * (0.5 * log_variance).exp() * drawn
        return x_before

    def _at(self, table: str, steps: torch.Tensor) -> torch.Tensor:
        return self._tables[table].gather(-1, steps).reshape(1, 1, 1, 1)
