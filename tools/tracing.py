"""Networks traced to TorchScript files, and what is in these files compared with the modules that they come from."""

import copy
import hashlib
import warnings
import zipfile

import torch

from families import Size

# A traced network runs the same kernels as its module, so they agree bit for bit on most machines; where the executor
# orders an operation otherwise, the largest difference may be this share of the largest value.
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}


class CheckError(Exception):
    """The exported network doesn't do what the pipeline does: exit code 1."""


def weights(module):
    """Parameters and buffers by name."""
    return dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))


def cast(tensor, dtype):
    if tensor.is_floating_point():
        tensor.data = tensor.data.to(dtype)


def round_weights(module, dtype):
    """Casts floating-point parameters and buffers in place; integer buffers stay. The C++ loader does the same."""
    for tensor in weights(module).values():
        cast(tensor, dtype)


def prompt_length(pipe):
    tokenizer = pipe.components.get("tokenizer") or pipe.components.get("tokenizer_2")
    return tokenizer.model_max_length if tokenizer else 77  # a ControlNet has none; CLIP's takes 77


def trace_size(pipe):
    """A latent size that the UNet's strides don't divide.

    Such a trace takes the up-sampling path that reads its target size from the skip connection: it serves every size.
    """
    denoiser = pipe.components.get("unet") or pipe.components["controlnet"]
    stride = 2 ** (len(denoiser.config.block_out_channels) - 1)
    length = max(2, prompt_length(pipe) // 2)
    return Size(batch=2, height=2 * stride + 1, width=stride + 1, length=length, frames=3)


def check_sizes(pipe):
    """Other batch sizes, latent sizes (divisible or not), prompt lengths and numbers of frames than the traced ones."""
    longest = prompt_length(pipe)
    return Size(1, 16, 16, longest, 2), Size(3, 13, 17, 2, 1), Size(2, 12, 20, longest - 1, 4), Size(1, 9, 8, 5, 5)


def trace_network(network, pipe):
    """The network's trace, whose weights are the pipeline's own tensors."""
    module = network.module(pipe).eval()
    with warnings.catch_warnings():
        # It warns of the modules' shape checks; `check_network` shows that no shape is baked in.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        return torch.jit.trace(module, network.inputs(pipe, trace_size(pipe)), check_trace=False)


def save_network(traced, dtype, storage, file):
    """Saves a trace, and loads it again as the C++ loader does.

    The loaded weights are shown to be bit for bit those that were saved, and then take their place, in the pipeline
    too: so they are in memory once, which a large pipeline's must be.

    @throws CheckError if a weight in the file isn't what was saved
    """
    file.parent.mkdir(exist_ok=True)
    round_weights(traced, storage)  # they are so rounded already: coming back is exact
    traced.save(file)
    strip(file)
    saved = {name: digest(tensor) for name, tensor in weights(traced).items()}
    for tensor in weights(traced).values():
        tensor.data = tensor.data.new_empty(0)
    loaded = load_network(file)
    read = weights(loaded)
    for name in sorted(saved.keys() | read.keys()):
        if name not in read or digest(read[name]) != saved.get(name):
            raise CheckError(f"{file.parent.name}/{file.name}: read back, {name} isn't what was saved")
    for name, tensor in weights(traced).items():
        cast(read[name], dtype)
        tensor.data = read[name].data
    return loaded


def digest(tensor):
    """Equal for tensors of equal type, shape and bytes, and no others."""
    content = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    return tensor.dtype, tensor.shape, hashlib.sha256(content.numpy()).digest()


def strip(file):
    """Leaves out what running doesn't need: example inputs, and stack traces, which name this machine's folders.

    The archive's checksum goes too, being optional and of the whole: so equal weights give equal files on any machine.
    """
    lean = file.with_suffix(".lean")
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(lean, "w") as target:
        for entry in source.infolist():
            if not entry.filename.endswith((".debug_pkl", "/traced_inputs.pkl", "/.data/serialization_id")):
                target.writestr(copy.copy(entry), source.read(entry), entry.compress_type)
    lean.replace(file)


def load_network(file, dtype=None):
    loaded = torch.jit.load(file)
    if dtype:
        round_weights(loaded, dtype)
    return loaded


def share(actual, expected):
    """The largest difference as a share of the largest value."""
    return ((actual.double() - expected.double()).abs().max() / expected.double().abs().max()).item()


def difference(actual, expected, what, allowed=None):
    """The largest difference as a share of the largest value, 0 if bit-equal.

    @param allowed  of it; default: what rounding explains
    @throws CheckError if shapes or dtypes differ, or values by more
    """
    kinds = [f"{tensor.dtype} {list(tensor.shape)}" for tensor in (actual, expected)]
    if kinds[0] != kinds[1]:
        raise CheckError(f"{what}: got {kinds[0]}, the pipeline gives {kinds[1]}")
    if torch.equal(actual, expected):
        return 0.0
    got, allowed = share(actual, expected), allowed or TOLERANCE[expected.dtype]
    if not got <= allowed:  # nor a NaN
        raise CheckError(f"{what}: off the pipeline's by {got:.3g} of the largest value, allowed is {allowed:.3g}")
    return got


def check_network(network, pipe, loaded, stage):
    """The largest difference between the saved network and the pipeline's over `check_sizes`."""
    worst, sizes = 0.0, check_sizes(pipe)
    for i, size in enumerate(sizes):
        stage(f"{network.file}: checking size {i + 1} of {len(sizes)}")
        inputs = network.inputs(pipe, size)
        for actual, expected in zip(network.outputs(loaded(*inputs)), network.reference(pipe, *inputs), strict=True):
            worst = max(worst, difference(actual, expected, f"{network.file} at {size}"))
    return worst
