"""Whole text-to-image runs of a peer, one for each line read, as `pipeline_bench` does them: "INTERVAL BATCH"."""

import argparse
import sys
import time

PROMPT = "red heart"


def diffusers_runs(args):
    """Eager; cached by the original of DeepCache, at branch 0."""
    import torch
    from DeepCache import DeepCacheSDHelper
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    torch.set_num_threads(args.threads)
    pipe = StableDiffusionPipeline.from_pretrained(args.folder, torch_dtype=getattr(torch, args.dtype))
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    helper = DeepCacheSDHelper(pipe=pipe)

    def run(interval, batch):
        if interval > 1:
            helper.set_params(cache_interval=interval, cache_branch_id=0)
            helper.enable()
        pipe(
            PROMPT,
            height=args.height,
            width=args.width,
            num_inference_steps=args.steps,
            guidance_scale=7.5,
            num_images_per_prompt=batch,
        )
        if interval > 1:
            helper.disable()

    return run


def openvino_runs(args):
    """OpenVINO GenAI, of this size alone, which is its fastest. It has no cache for UNets."""
    import openvino_genai

    pipe = openvino_genai.Text2ImagePipeline(args.folder)
    pipe.reshape(1, args.height, args.width, 7.5)
    pipe.compile(
        "CPU",
        INFERENCE_PRECISION_HINT={"float32": "f32", "bfloat16": "bf16"}[args.dtype],
        INFERENCE_NUM_THREADS=args.threads,
        PERFORMANCE_HINT="LATENCY",
    )

    def run(interval, batch):
        if (interval, batch) != (1, 1):
            raise SystemExit(f"it is compiled for interval 1 and batch 1, got {interval} and {batch}")
        pipe.generate(PROMPT, height=args.height, width=args.width, num_inference_steps=args.steps)

    return run


def ggml_runs(args):
    """stable-diffusion.cpp, of the diffusers folder. It has no cache for UNets."""
    import stable_diffusion_cpp

    pipe = stable_diffusion_cpp.StableDiffusion(
        model_path=args.folder,
        n_threads=args.threads,
        wtype={"float32": "f32", "bfloat16": "bf16"}[args.dtype],
        verbose=False,
    )

    def run(interval, batch):
        if interval != 1:
            raise SystemExit(f"it has interval 1 alone, got {interval}")
        pipe.generate_image(
            PROMPT,
            width=args.width,
            height=args.height,
            cfg_scale=7.5,
            sample_steps=args.steps,
            sample_method="ddim_trailing",
            batch_count=batch,
        )

    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peer", choices=["diffusers", "openvino", "ggml"])
    parser.add_argument("folder", help="of diffusers, or as openvino_folder.py makes it")
    parser.add_argument("--dtype", required=True, choices=["float32", "bfloat16"])
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--height", type=int, required=True)
    parser.add_argument("--width", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    args = parser.parse_args()
    run = {"diffusers": diffusers_runs, "openvino": openvino_runs, "ggml": ggml_runs}[args.peer](args)
    print("ready", flush=True)
    for line in sys.stdin:
        interval, batch = map(int, line.split())
        start = time.perf_counter()
        run(interval, batch)
        print(1000 * (time.perf_counter() - start), flush=True)


if __name__ == "__main__":
    main()
