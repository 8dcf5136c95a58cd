#!/usr/bin/env python3
"""Makes what the loader's tests read, from the data that others made:

    tests/make_loader_data.py ../shared

tests/data/quants.bin          each type's blocks, then the floats ggml decodes them to (see the table in test_loader_dequant.c); for
                               those that ggml has not, what numpy and ml_dtypes decode (both from PyPI)
tests/data/tiny-qwen3-F16.head the first bytes of tiny-qwen3-F16.gguf, up to the data; the test puts the weights behind them
tests/fuzz/seeds/*             the smallest valid files of each format, and a few that are nearly valid
"""
import json
import os
import struct
import sys

import ml_dtypes
import numpy as np

here = os.path.dirname(os.path.abspath(__file__))
DIM, HEADS, KV_HEADS, HEAD, FFN, VOCAB = 32, 2, 1, 16, 32, 8


def write(name, data):
    path = os.path.join(here, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as f:
        f.write(data)


# Our own blocks (loader/dequant.c says what they are): 1024 values each, decoded by others.
def fp8_blocks():
    """All codes but the two that are no number, under scales of 2^-4, 0.37, ...: one for each 128 columns."""
    codes = np.resize(np.array([c for c in range(256) if c & 127 != 127], np.uint8), 1024).reshape(32, 32)
    scales = np.repeat(np.array([0.0625, 0.37, -1.5, 3e-5, 1e-3, 7, 0, 123.456], np.float32), 4)
    values = codes.view(ml_dtypes.float8_e4m3fn).astype(np.float32) * scales[:, None]
    return b"".join(s.tobytes() + c.tobytes() for s, c in zip(scales, codes)), values.astype("<f4").tobytes()


def nibbles(q):
    return (q[:16] | q[16:] << 4).astype(np.uint8).tobytes()


def awq_blocks():
    rng = np.random.default_rng(5)
    q = rng.integers(0, 16, (32, 32))
    zeros = np.repeat(np.array([7, 8, 0, 15, 3, 12, 8, 1]), 4)
    scales = np.repeat(np.array([0.01, 1, -0.3, 2e-5, 6e-8, 0, 100, 0.02]).astype(np.float16), 4)
    values = scales[:, None].astype(np.float32) * (q - zeros[:, None]).astype(np.float32)
    return b"".join(struct.pack("<eH", s, z) + nibbles(r) for s, z, r in zip(scales, zeros, q)), values.astype("<f4").tobytes()


def iq2_blocks():
    rng = np.random.default_rng(6)
    blocks, values = b"", []
    for scale in np.array([0.01, -1, 3e-5, 8e-4]).astype(np.float16):
        q, sign, s = rng.integers(0, 4, 256), rng.integers(0, 2, 256), rng.integers(0, 16, 16)
        pairs, signs = np.zeros(64, np.uint8), np.zeros(32, np.uint8)
        for i in range(256):
            pairs[i // 128 * 32 + i % 32] |= q[i] << i % 128 // 32 * 2
            signs[i % 32] |= sign[i] << i // 32
        blocks += pairs.tobytes() + signs.tobytes() + (s[0::2] | s[1::2] << 4).astype(np.uint8).tobytes() + scale.tobytes()
        sizes = np.array([8, 25, 43, 60])[q] * (1 - 2 * sign) * np.repeat(2 * s + 1, 16)
        values.append(np.float32(scale) / np.float32(8) * sizes.astype(np.float32))
    return blocks, np.concatenate(values).astype("<f4").tobytes()


def quants(shared):
    table = json.load(open(shared + "/golden/quants.json"))
    blocks = open(shared + "/golden/quants.bin", "rb").read()
    floats = open(shared + "/golden/quants.f32", "rb").read()
    out = b""
    ours = {"FP8": fp8_blocks(), "AWQ": awq_blocks(), "IQ2": iq2_blocks()}
    for name in ("F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS",
                 "MXFP4", "FP8", "AWQ", "IQ2", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1_S", "IQ1_M", "TQ1_0", "TQ2_0",
                 "NVFP4"):
        if name in ours:
            out += b"".join(ours[name])
            continue
        e = table[name]
        out += blocks[e["offset"]:][:e["blocks"] * e["bytes"]]
        out += floats[e["expected_offset"]:][:4 * e["blocks"] * e["block"]]
    write("data/quants.bin", out)


# ---- the smallest model ------------------------------------------------------------------------------------------------

GGML = {"F32": (0, 1, 4), "F16": (1, 1, 2), "BF16": (30, 1, 2), "Q8_0": (8, 32, 34), "Q4_0": (2, 32, 18),
        "F8_E4M3": (None, 1, 1), "I32": (None, 1, 4), "IQ2_XXS": (16, 256, 66), "IQ2_XS": (17, 256, 74), "IQ2_S": (22, 256, 82),
        "IQ3_XXS": (18, 256, 98), "IQ3_S": (21, 256, 110), "IQ1_S": (19, 256, 50), "IQ1_M": (29, 256, 56), "TQ1_0": (34, 256, 54),
        "TQ2_0": (35, 256, 66), "NVFP4": (40, 64, 36)}
MODEL = [("token_embd", "model.embed_tokens", (VOCAB, DIM)), ("output_norm", "model.norm", (DIM,))]
LAYER = [
    ("attn_norm", "input_layernorm", (DIM,)), ("attn_q", "self_attn.q_proj", (HEADS * HEAD, DIM)),
    ("attn_k", "self_attn.k_proj", (KV_HEADS * HEAD, DIM)), ("attn_v", "self_attn.v_proj", (KV_HEADS * HEAD, DIM)),
    ("attn_q_norm", "self_attn.q_norm", (HEAD,)), ("attn_k_norm", "self_attn.k_norm", (HEAD,)),
    ("attn_output", "self_attn.o_proj", (DIM, HEADS * HEAD)), ("ffn_norm", "post_attention_layernorm", (DIM,)),
    ("ffn_gate", "mlp.gate_proj", (FFN, DIM)), ("ffn_up", "mlp.up_proj", (FFN, DIM)), ("ffn_down", "mlp.down_proj", (DIM, FFN)),
]
NAMES = MODEL + [("blk.0." + g, "model.layers.0." + h, shape) for g, h, shape in LAYER]
# The same with a mixture of experts, in the three forms that they come in.
EXPERTS, EXPERT_FFN = 2, 64
DENSE = NAMES[:-3] + [("blk.0.ffn_gate_inp", "model.layers.0.mlp.gate", (EXPERTS, DIM))]
STACKS = DENSE + [("blk.0.ffn_gate_exps", None, (EXPERTS, EXPERT_FFN, DIM)), ("blk.0.ffn_up_exps", None, (EXPERTS, EXPERT_FFN, DIM)),
                  ("blk.0.ffn_down_exps", None, (EXPERTS, DIM, EXPERT_FFN))]
SINGLES = DENSE + [("", "model.layers.0.mlp.experts.%d.%s_proj" % (e, m), (DIM, EXPERT_FFN) if m == "down" else (EXPERT_FFN, DIM))
                   for e in range(EXPERTS) for m in ("gate", "up", "down")]
FUSED = DENSE + [("", "model.layers.0.mlp.experts.gate_up_proj", (EXPERTS, 2 * EXPERT_FFN, DIM)),
                 ("", "model.layers.0.mlp.experts.down_proj", (EXPERTS, DIM, EXPERT_FFN))]
TOKENS = ["a", "b", "ab", "\u0120", "\u0120a", "<|im_end|>", "<think>"]
MERGES = [["a", "b"], ["\u0120", "a"]]
REGEX = r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|\s+(?!\S)|\s+"


def size_of(shape, dtype):
    n = 1
    for d in shape:
        n *= d
    _, elements, size = GGML[dtype]
    return n // elements * size


def string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def entry(key, kind, value):
    pack = {"u32": (4, "<I"), "f32": (6, "<f"), "bool": (7, "<B"), "u16": (2, "<H"), "i32": (5, "<i")}
    if kind == "str":
        return string(key) + struct.pack("<I", 8) + string(value)
    if kind == "strs":
        return string(key) + struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(string, value))
    if kind == "i32s":
        return string(key) + struct.pack("<IIQ", 9, 5, len(value)) + struct.pack("<%di" % len(value), *value)
    number, form = pack[kind]
    return string(key) + struct.pack("<I", number) + struct.pack(form, value)


def gguf(matrix_types, more=(), alignment=32, dim=DIM, architecture="qwen3", names=NAMES):
    """The types go round the matrices; rows that are no whole blocks of theirs become Q4_0."""
    numbers = [("context_length", 64), ("embedding_length", dim), ("block_count", 1), ("feed_forward_length", FFN),
               ("attention.head_count", HEADS), ("attention.head_count_kv", KV_HEADS), ("attention.key_length", HEAD)]
    entries = [entry("general.architecture", "str", architecture)]
    entries += [entry(architecture + "." + k, "u32", v) for k, v in numbers]
    entries += [entry(architecture + ".rope.freq_base", "f32", 1e6), entry("tokenizer.ggml.model", "str", "gpt2"),
                entry("tokenizer.ggml.pre", "str", "qwen2"), entry("tokenizer.ggml.tokens", "strs", TOKENS),
                entry("tokenizer.ggml.token_type", "i32s", [1, 1, 1, 1, 1, 3, 4]),
                entry("tokenizer.ggml.merges", "strs", [" ".join(m) for m in MERGES]),
                entry("tokenizer.ggml.eos_token_id", "u32", 5), entry("tokenizer.chat_template", "str", "{{ x }}")]
    entries += [entry(*m) for m in more]
    table, data = b"", b""
    turn = 0
    for name, _, shape in names:
        wide = name.split(".")[-1] in ("attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up", "token_embd")
        if dim != DIM and (wide or name.endswith(("attn_norm", "ffn_norm", "output_norm"))):
            shape = shape[:-1] + (dim,)
        elif dim != DIM and len(shape) == 2:
            shape = (dim, shape[1])
        dtype = matrix_types[turn % len(matrix_types)] if len(shape) > 1 else "F32"
        turn += wide
        if shape[-1] % GGML[dtype][1]:
            dtype = "Q4_0"
        dims = shape[::-1]
        table += string(name + ".weight") + struct.pack("<I%dQIQ" % len(dims), len(dims), *dims, GGML[dtype][0], len(data))
        data += bytes(size_of(shape, dtype))
        data += bytes(-len(data) % alignment)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(names), len(entries)) + b"".join(entries) + table
    return head + bytes(-len(head) % alignment) + data


def safetensors(dtype, names=NAMES):
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for _, name, shape in names:
        size = size_of(shape, dtype)
        header[name if len(shape) == 3 else name + ".weight"] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + bytes(at)


def tokenizer_with_end():
    out = tokenizer(True)
    out["post_processor"] = {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A"}},
                                                                      {"SpecialToken": {"id": "<|im_end|>"}}]}
    return out


def quantized(kind):
    """A matrix' parts, for the configs that fuzz/safetensors.c takes by the size of the file: 2 times the kind, modulo 8."""
    names = []
    for _, name, shape in NAMES:
        rows, cols = shape if len(shape) == 2 else (0, 0)
        if not name.endswith("_proj"):
            names.append((name + ".weight", "BF16", shape))
        elif kind == 1:
            names += [(name + ".weight", "F8_E4M3", shape), (name + ".weight_scale_inv", "BF16", ((rows + 15) // 16, 1))]
        else:
            names += [(name + ".qweight", "I32", (cols, rows // 8)), (name + ".qzeros", "I32", (1, rows // 8)),
                      (name + ".scales", "F16", (1, rows))]
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, dtype, shape in names:
        size = size_of(shape, dtype)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    while (8 + len(text) + at) % 8 != 2 * kind:
        text += b" "
    return struct.pack("<Q", len(text)) + text + bytes(at)


def tokenizer(pairs):
    added = [{"id": i, "content": TOKENS[i], "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": i == 5} for i in (5, 6)]
    return {
        "added_tokens": added, "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": REGEX}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}]},
        "post_processor": {"type": "ByteLevel"}, "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "byte_fallback": False, "vocab": {t: i for i, t in enumerate(TOKENS[:5])},
                  "merges": MERGES if pairs else [" ".join(m) for m in MERGES]},
    }


def config(new, experts=False):
    c = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": DIM, "num_hidden_layers": 1,
         "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD, "intermediate_size": FFN,
         "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "vocab_size": VOCAB, "tie_word_embeddings": True,
         "eos_token_id": [5, 3], "bos_token_id": None, "hidden_act": "silu", "use_sliding_window": False}
    if experts:
        c.update(architectures=["Qwen3MoeForCausalLM"], model_type="qwen3_moe", num_experts=EXPERTS, num_experts_per_tok=2,
                 moe_intermediate_size=EXPERT_FFN, norm_topk_prob=True, decoder_sparse_step=1, mlp_only_layers=[])
    if new:
        c.update(dtype="bfloat16", layer_types=["full_attention"],
                 rope_parameters={"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 16})
    else:
        c.update(torch_dtype="bfloat16", rope_theta=1000000, rope_scaling={"type": "linear", "factor": 2.0})
    return c


def seeds():
    for dtype in ("F32", "Q8_0", "Q4_0"):
        write("fuzz/seeds/gguf/%s" % dtype, gguf([dtype]))
    write("fuzz/seeds/gguf/IQ2", gguf(["IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"], dim=256))
    write("fuzz/seeds/gguf/IQ1", gguf(["IQ1_S", "IQ1_M", "TQ1_0", "TQ2_0", "NVFP4"], dim=256))
    write("fuzz/seeds/gguf/NVFP4", gguf(["NVFP4"], dim=64))
    write("fuzz/seeds/gguf/yarn", gguf(["Q4_0"], [
        ("qwen3.rope.scaling.type", "str", "yarn"), ("qwen3.rope.scaling.factor", "f32", 4.0),
        ("qwen3.rope.scaling.original_context_length", "u32", 16), ("general.alignment", "u32", 64),
        ("general.sampling.temp", "f32", 0.6), ("split.count", "u16", 1)], alignment=64))
    write("fuzz/seeds/gguf/embedding", gguf("F32", [("qwen3.pooling_type", "u32", 3), ("tokenizer.ggml.add_eos_token", "bool", 1)]))
    write("fuzz/seeds/gguf/experts", gguf(["Q4_0"], [
        ("qwen3moe.expert_count", "u32", EXPERTS), ("qwen3moe.expert_used_count", "u32", 2),
        ("qwen3moe.expert_feed_forward_length", "u32", EXPERT_FFN), ("qwen3moe.expert_gating_func", "u32", 1),
        ("qwen3moe.expert_weights_norm", "bool", 1)], architecture="qwen3moe", names=STACKS))
    write("fuzz/seeds/gguf/bare", b"GGUF" + struct.pack("<IQQ", 3, 0, 0))
    write("fuzz/seeds/safetensors/BF16", safetensors("BF16"))
    write("fuzz/seeds/safetensors/F32", safetensors("F32"))
    write("fuzz/seeds/safetensors/head", safetensors("F16", NAMES + [("output", "lm_head", (VOCAB, DIM))]))
    write("fuzz/seeds/safetensors/experts", safetensors("BF16", SINGLES))
    write("fuzz/seeds/safetensors/experts-fused", safetensors("BF16", FUSED))
    for name, kind in (("FP8", 1), ("AWQ", 2), ("AWQ-32", 3)):
        write("fuzz/seeds/safetensors/" + name, quantized(kind))
    write("fuzz/seeds/safetensors/empty", struct.pack("<Q", 2) + b"{}")
    texts = {
        "config-new": (0, config(True)), "config-old": (0, config(False)),
        "config-experts": (0, config(True, True)),
        "generation": (1, {"do_sample": True, "eos_token_id": [5, 3], "pad_token_id": 3, "temperature": 0.6, "top_k": 20,
                           "top_p": 0.95, "min_p": 0.05}),
        "config-fp8": (0, dict(config(True), quantization_config={"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]})),
        "config-awq": (0, dict(config(False), quantization_config={"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm",
                                                                    "zero_point": True, "modules_to_not_convert": None})),
        "tokenizer-pairs": (2, tokenizer(True)), "tokenizer-strings": (2, tokenizer(False)),
        "tokenizer-end": (2, tokenizer_with_end()),
        "tokenizer-config": (3, {"add_bos_token": False, "chat_template": "{{ x }}"}),
        "tokenizer-config-list": (3, {"chat_template": [{"name": "default", "template": "{{ x }}"}]}),
        "tokenizer-config-eos": (3, {"add_eos_token": True, "eos_token": {"content": "<|im_end|>"}}),
        "pooling": (5, {"pooling_mode_mean_tokens": False, "pooling_mode_lasttoken": True}),
        "index": (4, {"metadata": {"total_size": 12}, "weight_map": {"a": "model-00001-of-00002.safetensors",
                                                                     "b": "model-00002-of-00002.safetensors"}}),
    }
    for name, (kind, value) in texts.items():
        write("fuzz/seeds/json/" + name, bytes([kind]) + json.dumps(value, separators=(",", ":")).encode())
    write("fuzz/seeds/json/nested", bytes([0]) + b"[" * 900 + b"]" * 900)


def gguf_head(shared):
    data = open(shared + "/models/tiny-qwen3-gguf/tiny-qwen3-F16.gguf", "rb").read()
    write("data/tiny-qwen3-F16.head", data[:(43189 + 31) // 32 * 32])  # where its tensor table ends


if __name__ == "__main__":
    shared = sys.argv[1]
    quants(shared)
    gguf_head(shared)
    seeds()
