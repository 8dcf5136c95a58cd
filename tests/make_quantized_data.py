#!/usr/bin/env python3
"""Makes tests/data/quantized: small checkpoints quantized as others do it, and what they must compute. Needs numpy, ml_dtypes (PyPI).

    fp8       qwen3-gqa5, one layer: F8_E4M3 in blocks of 128 x 128 (its rows of 160 and 288 end in partial ones), scales BF16 and F32
    awq-128   qwen3-hd64, one layer: AutoAWQ's GEMM packing in groups of 128, k_proj not converted
    awq-32    qwen3-gqa5, one layer: the same in groups of 32
    fp8-moe   qwen3moe, one layer, 8 of its experts: as fp8, each expert's matrices with scales of their own; the router not converted
    awq-moe   the same, as awq-32
Beside each: reference.json, prompts with greedy ids and a hash of each dequantized matrix (FNV-1a of its floats, read as 64-bit words),
and reference.f32, the logits after each prompt: both from numpy's dequantization, the logits in double precision.
"""
import json, math, os, struct
import ml_dtypes
import numpy as np
from make_forward_data import HERE, Model

OUT = os.path.join(HERE, '..', 'quantized')
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]  # AutoAWQ's: nibble i of a word holds row AWQ_ORDER[i] of eight
PROMPTS = [[5, 17, 9, 201, 33], [300, 2, 2, 77, 140, 8, 8, 250, 61, 19, 4], [1]]
# Those of experts are others: of most, two experts or two ids are as good as equal somewhere.
PROMPTS_OF_EXPERTS = [[5, 17, 9, 201, 33], [259, 109, 19, 44, 222, 214, 35, 123, 46, 282, 217], [205, 281, 142]]


def fp8(w, scale_type):
    rows, cols = w.shape
    codes, scales = np.zeros(w.shape, ml_dtypes.float8_e4m3fn), np.zeros((-(-rows // 128), -(-cols // 128)), scale_type)
    exact = np.zeros(w.shape, np.float32)
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            at = np.s_[128 * i:128 * i + 128, 128 * j:128 * j + 128]
            scales[i, j] = scale_type(np.abs(w[at]).max() / 448 * 1.01)
            codes[at] = (w[at] / np.float32(scales[i, j])).astype(ml_dtypes.float8_e4m3fn)
            exact[at] = codes[at].astype(np.float32) * np.float32(scales[i, j])
    return {'weight': codes, 'weight_scale_inv': scales}, exact


def pack_awq(q):
    """(n, rows) of 0..15 -> (n, rows / 8) of int32"""
    words = np.zeros((q.shape[0], q.shape[1] // 8), np.uint32)
    for i, row in enumerate(AWQ_ORDER):
        words |= q[:, row::8].astype(np.uint32) << np.uint32(4 * i)
    return words.view(np.int32)


def awq(w, group):
    t = w.T.reshape(w.shape[1] // group, group, w.shape[0])  # (groups, group, rows)
    low, high = np.minimum(t.min(1), 0), np.maximum(t.max(1), 0)
    scales = np.maximum((high - low) / 15, 1e-5).astype(np.float16)
    zeros = np.clip(np.round(-low / scales.astype(np.float32)), 0, 15).astype(np.int32)
    q = np.clip(np.round(t / scales[:, None].astype(np.float32)) + zeros[:, None], 0, 15).astype(np.int32)
    exact = (q - zeros[:, None]).astype(np.float32) * scales[:, None].astype(np.float32)
    return ({'qweight': pack_awq(q.reshape(w.shape[1], w.shape[0])), 'qzeros': pack_awq(zeros), 'scales': scales},
            exact.reshape(w.shape[1], w.shape[0]).T.copy())


NAMES = {'float8_e4m3fn': 'F8_E4M3', 'bfloat16': 'BF16', 'float16': 'F16', 'float32': 'F32', 'int32': 'I32'}


def write_safetensors(path, tensors):
    head, data = {}, b''
    for name, t in tensors.items():
        head[name] = {'dtype': NAMES[t.dtype.name], 'shape': list(t.shape), 'data_offsets': [len(data), len(data) + t.nbytes]}
        data += t.tobytes()
    text = json.dumps(head, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % 8)
    open(path, 'wb').write(struct.pack('<Q', len(text)) + text + data)


def fnv(t):
    h = 0xcbf29ce484222325
    for word in np.frombuffer(t.astype('<f4').tobytes(), '<u8').tolist():
        h = (h ^ word) * 0x100000001b3 & 0xffffffffffffffff
    return '%016x' % h


def keep_experts(m, n):
    """The first n experts."""
    m.c['num_local_experts'] = n
    m.t = {k: v for k, v in m.t.items() if '.experts.' not in k or int(k.split('.experts.')[1].split('.')[0]) < n}
    for key in m.t:
        if key.endswith('mlp.gate.weight'):
            m.t[key] = m.t[key][:n]


def make(name, source, quantize, quantization, plain, n_experts=0, prompts=PROMPTS):
    m = Model(os.path.join(HERE, source), False)
    m.c['num_hidden_layers'] = 1
    if n_experts:
        keep_experts(m, n_experts)
    m.c['quantization_config'] = quantization
    for key in ('layer_types', 'architectures'):
        if key in m.c:
            m.c[key] = m.c[key][:1]
    stored, hashes = {}, {}
    m.t = {k: v for k, v in m.t.items() if 'layers.' not in k or 'layers.0.' in k}
    for key, w in m.t.items():
        if key.endswith('_proj.weight') and not any(p in key for p in plain):
            parts, exact = quantize(key, w.astype(np.float32))
            stored.update({key[:-6] + part: t for part, t in parts.items()})
            m.t[key] = exact.astype(np.float64)
            hashes[key] = fnv(exact)
        else:
            stored[key] = w.astype(ml_dtypes.bfloat16)
    folder = os.path.join(OUT, name)
    os.makedirs(folder, exist_ok=True)
    write_safetensors(folder + '/model.safetensors', stored)
    json.dump(m.c, open(folder + '/config.json', 'w'), indent=1)
    cases, logits = [], []
    for ids in prompts:
        first, greedy, margin = m.greedy(ids, 8)
        assert margin > 1e-3 and m.route_margin > 1e-3, (name, margin, m.route_margin)  # no ties, of ids or experts
        cases.append({'ids': ids, 'greedy': greedy})
        logits.append(first)
        print(f'{name}: {len(ids)} ids, least margin {margin:.1e} of {np.abs(first).max():.2f}, of the experts {m.route_margin:.1e}')
    np.array(logits).astype('<f4').tofile(folder + '/reference.f32')
    json.dump({'cases': cases, 'hashes': hashes}, open(folder + '/reference.json', 'w'), indent=1)


FP8 = {'quant_method': 'fp8', 'fmt': 'e4m3', 'activation_scheme': 'dynamic', 'weight_block_size': [128, 128]}


def awq_of(group, plain):
    return {'quant_method': 'awq', 'bits': 4, 'group_size': group, 'zero_point': True, 'version': 'gemm',
            'modules_to_not_convert': plain or None}


if __name__ == '__main__':
    both = lambda key, w: fp8(w, np.float32 if 'mlp' in key else ml_dtypes.bfloat16)
    make('fp8', 'qwen3-gqa5', both, FP8, [])
    for group, source, plain in ((128, 'qwen3-hd64', ['k_proj']), (32, 'qwen3-gqa5', [])):
        make(f'awq-{group}', source, lambda key, w: awq(w, group), awq_of(group, plain), plain)
    make('fp8-moe', 'qwen3moe', both, FP8 | {'modules_to_not_convert': ['model.layers.0.mlp.gate', 'lm_head']}, [], 8, PROMPTS_OF_EXPERTS)
    make('awq-moe', 'qwen3moe', lambda key, w: awq(w, 32), awq_of(32, ['mlp.gate']), ['mlp.gate.'], 8, PROMPTS_OF_EXPERTS)
