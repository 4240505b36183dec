"""One step of a peer's UNet for each line that is read, as `unet_bench --serve` does it: see ../compare_steps.py."""

import argparse
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def make_inputs(args, dtype):
    torch.manual_seed(0)
    sample = torch.randn(args.batch, 4, *args.latent_size)
    return sample.to(dtype), torch.tensor(500), torch.randn(args.batch, *args.text).to(dtype)


def diffusers_step(args):
    """Eager, as its pipelines run it."""
    from full_size import make_unet

    dtype = getattr(torch, args.dtype)
    torch.set_default_dtype(dtype)
    unet = make_unet(args.model).eval().requires_grad_(False)
    inputs = make_inputs(args, dtype)
    torch.set_num_threads(args.threads)

    def step():
        with torch.inference_mode():
            unet(*inputs, return_dict=False)

    return step


def openvino_step(args):
    """Of this size alone, which is OpenVINO's fastest; its latency hint takes the processor's cores for one request."""
    import openvino

    module = torch.jit.load(args.unet).eval()
    inputs = make_inputs(args, torch.float32)
    core = openvino.Core()
    shapes = [list(tensor.shape) for tensor in inputs]
    with torch.inference_mode():
        network = openvino.convert_model(module, example_input=inputs, input=shapes)
    del module
    precision = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}[args.dtype]
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": args.threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = core.compile_model(network, "CPU", settings).create_infer_request()
    arrays = [tensor.numpy() for tensor in inputs]
    return lambda: request.infer(arrays, share_inputs=True)


def size(text):
    height, width = text.split("x")
    return int(height), int(width)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peer", choices=["diffusers", "openvino"])
    parser.add_argument("--model", required=True, help="a key of full_size.UNETS")
    parser.add_argument("--unet", required=True, help="the same, traced by make_unet.py in float32")
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--latent-size", type=size, required=True)
    parser.add_argument("--text", type=size, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    args = parser.parse_args()
    step = {"diffusers": diffusers_step, "openvino": openvino_step}[args.peer](args)
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        step()
        print(1000 * (time.perf_counter() - start), flush=True)


if __name__ == "__main__":
    main()
