#!/usr/bin/env python3
"""random_gguf.py OUT.gguf [SHAPE]: a Qwen3 model of random F16 weights and no tokenizer, for timing. Needs Python alone.

SHAPE: a name below, or DIM,FFN,LAYERS,HEADS,KV_HEADS,VOCAB (heads of 128). The peer's llama-quantize --pure makes other types of
it. The weights are normal with a deviation of 0.02: no value is special, and no kernel may be faster or slower for them.
"""
import array
import random
import struct
import sys

SHAPES = {
    "tiny": (256, 768, 2, 4, 2, 1024),
    "0.6b": (1024, 3072, 28, 16, 8, 151936),
    "1.7b": (2048, 6144, 28, 16, 8, 151936),
    "4b": (2560, 9728, 36, 32, 8, 151936),
}
F32, F16, ALIGN, HEAD = 0, 1, 32, 128


def text(s):
    return struct.pack("<Q", len(s)) + s.encode()


def key(name, value):
    kinds = {int: (4, "<I"), float: (6, "<f")}
    if isinstance(value, str):
        return text(name) + struct.pack("<I", 8) + text(value)
    kind, form = kinds[type(value)]
    return text(name) + struct.pack("<I", kind) + struct.pack(form, value)


def list_tensors(dim, ffn, layers, heads, kv, vocab):
    yield "token_embd.weight", (dim, vocab), F16
    yield "output_norm.weight", (dim,), F32
    for i in range(layers):
        for name, dims in (
            ("attn_q", (dim, heads * HEAD)),
            ("attn_k", (dim, kv * HEAD)),
            ("attn_v", (dim, kv * HEAD)),
            ("attn_output", (heads * HEAD, dim)),
            ("ffn_gate", (dim, ffn)),
            ("ffn_up", (dim, ffn)),
            ("ffn_down", (ffn, dim)),
        ):
            yield f"blk.{i}.{name}.weight", dims, F16
        for name, n in (("attn_norm", dim), ("ffn_norm", dim), ("attn_q_norm", HEAD), ("attn_k_norm", HEAD)):
            yield f"blk.{i}.{name}.weight", (n,), F32


def describe(dim, ffn, layers, heads, kv, vocab):
    return [
        ("general.architecture", "qwen3"),
        ("general.name", "random weights"),
        ("general.file_type", 1),
        ("qwen3.block_count", layers),
        ("qwen3.context_length", 40960),
        ("qwen3.embedding_length", dim),
        ("qwen3.feed_forward_length", ffn),
        ("qwen3.attention.head_count", heads),
        ("qwen3.attention.head_count_kv", kv),
        ("qwen3.attention.key_length", HEAD),
        ("qwen3.attention.value_length", HEAD),
        ("qwen3.rope.freq_base", 1000000.0),
        ("qwen3.attention.layer_norm_rms_epsilon", 1e-6),
        ("qwen3.vocab_size", vocab),
        ("tokenizer.ggml.model", "no_vocab"),
    ]


def count(dims):
    n = 1
    for d in dims:
        n *= d
    return n


def write(path, shape):
    keys, tensors = describe(*shape), list(list_tensors(*shape))
    rng = random.Random(1)
    pool = struct.pack("<1000003e", *(rng.gauss(0, 0.02) for _ in range(1000003)))  # a prime: rows do not repeat
    with open(path, "wb") as out:
        out.write(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)))
        out.write(b"".join(key(*k) for k in keys))
        offset = 0
        for name, dims, kind in tensors:
            out.write(text(name) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}Q", *dims))
            out.write(struct.pack("<IQ", kind, offset))
            offset += -(-count(dims) * (4 if kind == F32 else 2) // ALIGN) * ALIGN
        out.write(bytes(-out.tell() % ALIGN))
        at = 0
        for _, dims, kind in tensors:
            if kind == F32:
                out.write(array.array("f", [1.0] * count(dims)).tobytes())
            else:
                left = count(dims) * 2
                while left > 0:
                    piece = pool[at : at + left]
                    out.write(piece)
                    left -= len(piece)
                    at = (at + len(piece)) % len(pool)
            out.write(bytes(-out.tell() % ALIGN))


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3:
        sys.exit(__doc__)
    name = sys.argv[2] if len(sys.argv) > 2 else "0.6b"
    write(sys.argv[1], SHAPES.get(name) or tuple(int(n) for n in name.split(",")))
