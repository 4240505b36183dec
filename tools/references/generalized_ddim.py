"""A plain model of the sampler of DDIM's own code, which DeepCache's DDPM experiments use, as a diffusers scheduler.

The arithmetic is that of ermongroup/ddim: betas in float64, kept in float32; even or quadratic spacing; a step leads to
the next timestep of the run, the last one to the image itself, timestep -1, where alpha is 1; noise is drawn at every
step, whatever eta.
"""

import diffusers
import numpy
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin, SchedulerOutput
from diffusers.utils.torch_utils import randn_tensor


class GeneralizedDDIMScheduler(SchedulerMixin, ConfigMixin):
    init_noise_sigma = 1.0
    add_noise = diffusers.DDPMScheduler.add_noise

    @register_to_config
    def __init__(
        self,
        num_train_timesteps=1000,
        beta_start=0.0001,
        beta_end=0.02,
        beta_schedule="linear",
        trained_betas=None,
        skip_type="uniform",
    ):
        if trained_betas is not None:
            betas = numpy.array(trained_betas)
        elif beta_schedule == "scaled_linear":  # "quad" there
            betas = numpy.linspace(beta_start**0.5, beta_end**0.5, num_train_timesteps) ** 2
        else:
            betas = numpy.linspace(beta_start, beta_end, num_train_timesteps)
        self.alphas_cumprod = (1 - torch.from_numpy(betas).float()).cumprod(dim=0)

    def set_timesteps(self, steps):
        train = self.config.num_train_timesteps
        if self.config.skip_type == "uniform":
            sequence = list(range(0, train, train // steps))
        else:
            sequence = [int(root**2) for root in numpy.linspace(0, numpy.sqrt(0.8 * train), steps)]
        self.timesteps = torch.tensor(sequence[::-1])
        self.next_timesteps = [*sequence[::-1][1:], -1]
        self.index = 0

    def set_begin_index(self, index):
        self.index = index

    def scale_model_input(self, sample, timestep):
        return sample

    def alpha(self, timestep):
        return self.alphas_cumprod[timestep] if timestep >= 0 else torch.ones(())

    def step(self, model_output, timestep, sample, eta=0.0, use_clipped_model_output=False, generator=None):
        assert timestep == self.timesteps[self.index]
        alpha, alpha_next = self.alpha(int(timestep)), self.alpha(self.next_timesteps[self.index])
        self.index += 1
        original = (sample - model_output * (1 - alpha).sqrt()) / alpha.sqrt()
        sigma = eta * ((1 - alpha / alpha_next) * (1 - alpha_next) / (1 - alpha)).sqrt()
        noise = randn_tensor(sample.shape, generator=generator, dtype=sample.dtype)
        direction = (1 - alpha_next - sigma**2).sqrt()
        return SchedulerOutput(alpha_next.sqrt() * original + sigma * noise + direction * model_output)
