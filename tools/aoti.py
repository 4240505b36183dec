"""A UNet compiled ahead of time by AOTInductor: a full and a shallow network, cut from one exported program, in a file.

It (.pt2) holds the models "full", which returns the output and the feature of a branch, and "shallow", which takes that
feature as its last input; and `extra/deepcache.json`, which the C++ library reads before it loads any native code.
"""

import json
from dataclasses import dataclass

import torch
import torch._inductor
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.exc import InvalidCxxCompiler
from torch._inductor.package import load_package
from torch._inductor.utils import fresh_cache
from torch.export.pt2_archive._package import package_pt2
from torch.fx.graph import CodeGen

from families import Size
from loading import UsageError
from tracing import difference, prompt_length, round_weights, share

FORMAT_VERSION = 1
FAMILIES = ("stable-diffusion", "stable-diffusion-xl", "class-conditional", "unconditional")
# Without dynamic_threads, the number of threads of the exporting process would be compiled in.
COMPILER_OPTIONS = {"freezing": True, "cpp.dynamic_threads": True, "aot_inductor.package": True}
# That compiled code has where the processor does, and that PyTorch's "AVX2" and "AVX512" say nothing of.
INSTRUCTIONS = ("avx512_vnni", "avx512_vbmi", "avx512_bf16", "avx512_fp16")
aten = torch.ops.aten
CONVOLUTIONS = (aten.conv1d.default, aten.conv2d.default, aten.conv3d.default)
PRODUCTS = {aten.matmul.default: 0, aten.mm.default: 0, aten.bmm.default: 0, aten.baddbmm.default: 1}  # first operand


@dataclass(frozen=True)
class Options:
    cache_branch_id: int = 0
    size: tuple[int, int] | None = None  # of the pictures, height and width in pixels; none: the model's own
    batch: int | None = None  # of the UNet; none: a picture's, two under guidance
    keep_torchscript: bool = False  # the traced UNet stays in the package, beside the compiled one


# ---- What is asked for


def picture_stride(pipe):
    """What the sides of pictures must be multiples of, and how much larger they are than the UNet's samples."""
    vae = pipe.components.get("vae")
    if vae is not None:
        scale = 2 ** (len(vae.config.block_out_channels) - 1)
        return scale, scale
    return 2 ** (len(pipe.unet.config.block_out_channels) - 1), 1


def resolve_size(pipe, family, options):
    """The sizes that the UNet is compiled for. @throws UsageError"""
    stride, scale = picture_stride(pipe)
    if options.size:
        height, width = options.size
        if height % stride or width % stride:
            raise UsageError(f"--size must be of multiples of {stride} pixels for this model, got {height}x{width}")
    else:
        sides = pipe.unet.config.sample_size
        if not sides:
            raise UsageError("the model doesn't say its size (sample_size): give --size")
        height, width = (side * scale for side in ([sides, sides] if isinstance(sides, int) else sides))
    batch = options.batch or (1 if family.name == "unconditional" else 2)
    return Size(batch, height // scale, width // scale, prompt_length(pipe))


def check_options(pipe, family, options, dtype):
    """All that can be wrong, said before anything is computed. @throws UsageError"""
    if family.name not in FAMILIES:
        raise UsageError(f"--backend aoti compiles UNets of {', '.join(FAMILIES)}; this is a {family.name}")
    if dtype not in ("float32", "bfloat16"):
        raise UsageError(f"--backend aoti compiles for CPUs, in float32 or bfloat16; got {dtype}")
    branches = sum(len(block.resnets) for block in pipe.unet.up_blocks)
    if not 0 <= options.cache_branch_id < branches:
        raise UsageError(f"--cache-branch-id must be 0 to {branches - 1} for this UNet, got {options.cache_branch_id}")
    resolve_size(pipe, family, options)
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise UsageError(f"--backend aoti needs a C++ compiler, g++ or the one that CXX names: {error}") from error


# ---- The cut


def skip_concatenations(graph):
    """`cat` along dimension 1 of two tensors that are computed from sample or timestep, counted back from the
    output, as src/core/graph_cut.cpp has it."""
    changing = {node for node in graph.nodes if node.op == "placeholder" and node.name in ("sample", "timestep")}

    def is_one(node):
        if node.target != aten.cat.default or len(node.args) < 2 or node.args[1] != 1:
            return False
        return len(node.args[0]) == 2 and all(changing & needed([operand]) for operand in node.args[0])

    return [node for node in graph.nodes if is_one(node)][::-1]


def needed(nodes, cached=None):
    """The nodes that compute these, if `cached` needn't be computed."""
    found, open_nodes = set(), list(nodes)
    while open_nodes:
        node = open_nodes.pop()
        if node is not cached and node not in found:
            found.add(node)
            open_nodes.extend(node.all_input_nodes)
    return found


def feature_of(concatenation):
    """The operand that comes from the deep layers: the one that the other isn't computed from."""
    first, second = concatenation.args[0]
    return second if first in needed([second]) else first


def cut(program, inputs, branch):
    """Full and shallow programs, and the shallow one's example inputs."""
    modules = []
    for shallow in False, True:
        module = program.module()
        graph = module.graph
        feature, output = feature_of(skip_concatenations(graph)[branch]), graph.output_node()
        if shallow:
            with graph.inserting_after([node for node in graph.nodes if node.op == "placeholder"][-1]):
                cached = graph.placeholder("cached_feature")
            feature.replace_all_uses_with(cached)
        else:
            output.args = ((*output.args[0], feature),)
        graph.set_codegen(CodeGen())  # the exported one unpacks the old inputs
        graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
        modules.append(torch.fx.GraphModule(module, graph))
    full, shallow = modules
    # Compiled networks read their inputs with the strides that they were compiled for.
    with_feature = (*inputs, full(*inputs)[1].contiguous())
    return torch.export.export(full, inputs), torch.export.export(shallow, with_feature), with_feature


# ---- What is known of the branches without running them


def multiply_accumulates(node):
    """Of an operator, and their kind, as src/core/macs.cpp counts them."""
    if node.target in CONVOLUTIONS:
        weight = node.args[1].meta["val"]
        return "weights", node.meta["val"].numel() * (weight.numel() // weight.shape[0])
    if node.target in (aten.linear.default, aten.addmm.default):
        inner = node.args[node.target == aten.addmm.default].meta["val"].shape[-1]
        return "weights", node.meta["val"].numel() * inner
    if node.target in PRODUCTS:
        first = PRODUCTS[node.target]
        left, right = (node.args[i].meta["val"] for i in (first, first + 1))
        return "attention" if right.dim() > 2 else "weights", node.meta["val"].numel() * left.shape[-1]
    if node.target == aten.scaled_dot_product_attention.default:
        query, key, value = (argument.meta["val"] for argument in node.args[:3])
        return "attention", query.numel() // query.shape[-1] * key.shape[-2] * (key.shape[-1] + value.shape[-1])
    return "weights", 0


def count(nodes):
    macs = {"weights": 0, "attention": 0}
    for kind, number in map(multiply_accumulates, nodes):
        macs[kind] += number
    return macs


def module_path(node):
    return [path for path, _ in node.meta.get("nn_module_stack", {}).values()]


def branch_name(concatenation):
    """Of the submodule that is called with the concatenation, such as "up_blocks.3.resnets.2"."""
    own = module_path(concatenation)
    inner = [path for path in module_path(next(iter(concatenation.users))) if path not in own]
    return (inner or own)[0 if inner else -1]


def describe(program, inputs, branch):
    """What the C++ library must know of a file: for which inputs it was compiled, and what each branch would save."""
    graph = program.graph
    output = [graph.output_node()]
    names = [node.name for node in graph.nodes if node.name in program.graph_signature.user_inputs]
    branches = [
        {
            "name": branch_name(concatenation),
            "feature_shape": list(feature_of(concatenation).meta["val"].shape),
            "cached_step": count(needed(output, feature_of(concatenation))),
        }
        for concatenation in skip_concatenations(graph)
    ]
    return {
        "format_version": FORMAT_VERSION,
        "torch": torch.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "instructions": [name for name in INSTRUCTIONS if torch.cpu.get_capabilities().get(name)],
        "cache_branch_id": branch,
        "inputs": [
            {"name": name, "dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)}
            for name, tensor in zip(names, inputs, strict=True)
        ],
        "full_step": count(needed(output)),
        "branches": branches,
    }


# ---- The file


def compile_unet(module, inputs, branch, file, stage=lambda _: None):
    """Writes `file`, for inputs of these shapes and dtypes alone.

    @param stage  is told what begins
    """
    stage(f"{file.name}: exporting")
    program = torch.export.export(module, inputs)
    full, shallow, with_feature = cut(program, inputs, branch)
    files = {}
    with fresh_cache():  # or the weights would stay in the compiler's cache
        for name, part, example in ("full", full, inputs), ("shallow", shallow, with_feature):
            stage(f"{file.name}: compiling the {name} network")
            files[name] = torch._inductor.aot_compile(part.module(), example, options=COMPILER_OPTIONS)
        stage(f"{file.name}: saving")
        package_pt2(
            str(file), aoti_files=files, extra_files={"deepcache.json": json.dumps(describe(program, inputs, branch))}
        )


def expected_output(network, pipe, inputs):
    """What the pipeline's UNet gives, in float32, and by which share of its largest value a compiled one may be off.

    A compiled network keeps in float32 what Python rounds to bfloat16 after each operator. So both are off the exact
    output, and not by the same.
    """
    output = network.reference(pipe, *inputs)[0]
    if output.dtype == torch.float32:
        return output, None
    round_weights(pipe.unet, torch.float32)
    exact = network.reference(pipe, *(tensor.float() for tensor in inputs))[0]
    round_weights(pipe.unet, output.dtype)  # they were so rounded: coming back is exact
    return exact, 2 * share(output, exact)


def check_unet(file, inputs, expected, allowed):
    """The largest difference between the file's networks and the expected output.

    @throws CheckError if it is more than `allowed`, or than rounding
    """
    output, feature = load_package(str(file), "full")(*inputs)
    (cached,) = load_package(str(file), "shallow")(*inputs, feature.contiguous())
    steps = {"a full step": output, "a cached step on its feature": cached}
    return max(
        difference(actual.to(expected.dtype), expected, f"{file.name}: {what}", allowed)
        for what, actual in steps.items()
    )


def write_unet(pipe, family, out, options, stage):
    """Compiles the UNet of a package that is being written; returns its file and the largest difference.

    @throws CheckError
    """
    network = next(network for network in family.networks if network.file == "unet/model.pt")
    file, inputs = out / "unet/model.pt2", network.inputs(pipe, resolve_size(pipe, family, options))
    compile_unet(network.module(pipe).eval(), inputs, options.cache_branch_id, file, stage)
    stage(f"{file.name}: checking")
    worst = check_unet(file, inputs, *expected_output(network, pipe, inputs))
    if not options.keep_torchscript:
        (out / network.file).unlink()
    return file, worst
