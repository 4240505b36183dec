from diffusers import SchedulerMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from diffusers.utils.torch_utils import randn_tensor

from compvis import DDIM, make_alphas_cumprod
from scheduler_cases.common import HALF_TYPES, case

NAMES = {"compvis_ddim": "CompVisDDIMScheduler"}
LDM = {"beta_start": 0.0015, "beta_end": 0.0195, "beta_schedule": "scaled_linear"}


class CompVisDDIMScheduler(SchedulerMixin, ConfigMixin):
    """The model of CompVis's DDIM (compvis.py) behind diffusers' interface, with its names of noise schedules."""

    init_noise_sigma = 1.0

    @register_to_config
    def __init__(self, num_train_timesteps=1000, beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear"):
        schedule = {"scaled_linear": "linear", "linear": "sqrt_linear"}[beta_schedule]
        self.alphas_cumprod = make_alphas_cumprod(num_train_timesteps, beta_start, beta_end, schedule)

    def set_timesteps(self, steps):
        try:
            DDIM(self.alphas_cumprod, steps, eta=0.0)
        except IndexError as error:
            raise ValueError(f"no run of {steps} steps") from error
        self.steps = steps
        self.timesteps = DDIM(self.alphas_cumprod, steps, eta=0.0).timesteps.flip(0)

    def scale_model_input(self, sample, _):
        return sample

    def step(self, model_output, timestep, sample, eta=0.0, generator=None):
        ddim, x = DDIM(self.alphas_cumprod, self.steps, eta), sample.float()
        index = ddim.timesteps.tolist().index(timestep)
        noise = randn_tensor(x.shape, generator=generator)
        return SchedulerOutput(ddim.step(index, x, model_output.float(), noise).to(sample.dtype))

    def add_noise(self, original, noise, timesteps):
        alphas = self.alphas_cumprod.to(original.dtype)[timesteps].view(-1, 1, 1, 1)
        return alphas.sqrt() * original + (1 - alphas).sqrt() * noise


CLASSES = {"CompVisDDIMScheduler": CompVisDDIMScheduler}


def cases():
    for steps in (1, 2, 4, 7, 20, 50, 100, 150, 200, 250, 500):  # of 150, 167 are made
        yield case(f"compvis_ddim {steps}", "compvis_ddim", LDM, steps)
    for steps, eta in (20, 1.0), (20, 0.3), (150, 0.5):
        yield case(f"compvis_ddim {steps} eta {eta}", "compvis_ddim", LDM, steps, eta=eta, seeds=[7])
    yield case("compvis_ddim eta, a seed for each item", "compvis_ddim", LDM, 12, eta=1.0, seeds=[3, 2**40 + 1])
    yield case("compvis_ddim noise without eta", "compvis_ddim", LDM, 10, seeds=[7])
    yield case("compvis_ddim from the middle", "compvis_ddim", LDM, 20, first=8)
    yield case("compvis_ddim defaults", "CompVisDDIMScheduler", {"_class_name": "CompVisDDIMScheduler"}, 8)
    yield case("compvis_ddim linear", "compvis_ddim", {**LDM, "beta_schedule": "linear"}, 20)
    yield case("compvis_ddim 120 timesteps", "compvis_ddim", {**LDM, "num_train_timesteps": 120}, 12)
    for dtype in HALF_TYPES:
        yield case(f"compvis_ddim {dtype}", "compvis_ddim", LDM, 20, dtype=dtype)
        yield case(f"compvis_ddim {dtype} eta", "compvis_ddim", LDM, 10, dtype=dtype, eta=1.0, seeds=[9])


def timesteps():
    yield "compvis_ddim", LDM
    yield "compvis_ddim", {**LDM, "num_train_timesteps": 250}


def add_noise():
    yield "compvis_ddim", LDM, None, [0, 999]
    yield "compvis_ddim", LDM, 10, [500]
