"""What compressed-tensors 0.20 makes of a weight as pack-quantized, for gen_pack_quantized.py and
check_integers.py.

nibble computes in f32 whatever the weights' type, as the package does for f32 weights; of f16 and
bf16 ones the package rounds quotients to that type before it rounds them to integers, which moves
codes near ties: 0.65 % of INT4's and 10 % of INT8's, of normal bf16 weights in groups of 128, whose
relative MSE is then 0.012292 instead of 0.012280, and 4.99e-5 instead of 4.22e-5. So the package is
given f32 here, with steps of the weights' type. It makes zero points of steps before that rounding;
nibble, as the package would in the weights' type, of the steps that are stored, which
zero_points_of does. A group of zeros has the type's epsilon as its step there, and 1 here.
"""
import torch
from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.utils import calculate_qparams

PARTS = ("weight_packed", "weight_scale", "weight_zero_point", "weight_shape")


def args_of(bits, group, symmetric):
    """group: 0 for the row."""
    kind = dict(strategy="group", group_size=group) if group else dict(strategy="channel")
    return QuantizationArgs(num_bits=bits, type="int", symmetric=symmetric, dynamic=False, **kind)


def ranges_of(w, args):
    x = w.float().unflatten(-1, (-1, args.group_size or w.shape[-1]))
    return x.amin(-1), x.amax(-1)


def zero_points_of(low, steps, args):
    half = 1 << args.num_bits - 1
    z = torch.clamp(-half - low.clamp(max=0) / steps.float(), -half, half - 1)
    return torch.round(z).to(torch.int8)


def qparams_of(w, args):
    low, high = ranges_of(w, args)
    steps, zeros = calculate_qparams(low, high, args)
    none = (low == 0) & (high == 0)
    steps[none], zeros[none] = 1, 0
    if args.symmetric:
        return steps.to(w.dtype), zeros
    rounded = zero_points_of(low, steps.to(w.dtype), args)
    rounded[none] = 0
    if w.dtype == torch.float32:
        assert torch.equal(rounded, zeros), "the package's zero points are others"
    return steps.to(w.dtype), rounded


def compress(w, args, steps, zeros):
    state = {"weight": w.float(), "weight_scale": steps, "weight_zero_point": zeros}
    made = PackedQuantizationCompressor.compress(
        state, QuantizationScheme(targets=["Linear"], weights=args))
    return {part: made[part] for part in PARTS if part in made}


def decompress(parts, args):
    """f32 of the parts: the package's own would round to the steps' type."""
    state = dict(parts, weight_scale=parts["weight_scale"].float())
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    return PackedQuantizationCompressor.decompress(state, scheme)["weight"]


def quotients(w, args, steps):
    x = w.float().unflatten(-1, (-1, args.group_size or w.shape[-1]))
    return (x / steps.float().unsqueeze(-1)).flatten(-2)


def ties(w, args, steps):
    """Elements so near a tie that adding a zero point in f32 could turn them."""
    y = quotients(w, args, steps)
    return ((y - torch.floor(y) - 0.5).abs() < 1e-4)
