#!/usr/bin/env python3
"""Makes tests/data/quants-rmse.txt: how far llama-quantize's weights are from those it was given, for each type that we encode.

    tests/make_rmse_data.py PEER ../shared/models/tiny-qwen3-gguf/tiny-qwen3-F16.gguf

PEER is the folder of shared/peers/llama-cpp.sh. Needs gguf and numpy (PyPI). A line: type, tensor, root of the mean squared error.
The tensor "random" is numbers from a generator that test_loader_quant.c has too, put in the place of one of the model.
"""
import os
import subprocess
import sys
import tempfile

import gguf
import numpy as np

TYPES = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4"]
TENSORS = ["blk.0.ffn_down.weight", "blk.2.attn_q.weight", "blk.3.attn_v.weight"]
RANDOM = "blk.1.attn_k.weight"


def random_values(n):
    """Sums of four uniform numbers: bells, as weights are."""
    state, out = 1, np.zeros(n, np.float32)
    for i in range(n):
        total = 0
        for _ in range(4):
            state = (state * 1664525 + 1013904223) % 2**32
            total += state >> 16
        out[i] = (total - 131072) / 1048576
    return out.astype(np.float16)


def tensors(path):
    return {t.name: t for t in gguf.GGUFReader(path).tensors}


def main():
    peer, model = sys.argv[1:3]
    here = os.path.dirname(os.path.abspath(__file__))
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        source, result = folder + "/source.gguf", folder + "/result.gguf"
        data = bytearray(open(model, "rb").read())
        place = tensors(model)[RANDOM]
        data[place.data_offset:place.data_offset + place.n_bytes] = random_values(place.n_elements).tobytes()
        open(source, "wb").write(data)
        given = tensors(source)
        for name in TYPES:
            kind = "MXFP4_MOE" if name == "MXFP4" else name
            subprocess.run([peer + "/llama-quantize", "--pure", source, result, kind], check=True, capture_output=True)
            made = tensors(result)
            for tensor in TENSORS + [RANDOM]:
                t = made[tensor]
                assert t.tensor_type.name == name
                wanted = given[tensor].data.astype(np.float64)
                have = gguf.quants.dequantize(t.data, t.tensor_type).reshape(wanted.shape).astype(np.float64)
                rmse = np.sqrt(((have - wanted) ** 2).mean())
                lines.append(f"{name} {'random' if tensor == RANDOM else tensor} {rmse:.6e}\n")
    open(here + "/data/quants-rmse.txt", "w").writelines(lines)


main()
