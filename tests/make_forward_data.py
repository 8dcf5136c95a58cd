#!/usr/bin/env python3
"""Makes tests/data/checkpoints/*/reference.{f32,json}: what the checkpoints compute in double precision. Needs numpy; run by hand.

The goldens beside them (golden.json, logits.f32) come from transformers in float32, but from a model that had been cast to bfloat16
as a whole, which rounds the inverse rotary frequencies too. This file is a second opinion, written from the papers' formulas: in full
precision it is what the engine must compute, with rounded frequencies it must reproduce transformers' numbers. Checked here, stored:
  reference.f32   logits of the last position of each case, frequencies in full precision
  reference.json  the cases of golden.json with the greedy ids of full precision
  half.f32        as logits.f32, but with keys and values rounded to half precision; of models with experts. A choice of experts is a
                  step: where two are almost equal (least margins are printed), the rounding of a cache decides, and the result is
                  another one (in qwen3moe's case of 64 ids by 0.5 % of the largest logit), however exact the arithmetic
  q8_0.f32        as reference.f32, with keys and values rounded as a KV cache in Q8_0 holds them
"""
import json, math, os, struct
import numpy as np

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'data', 'checkpoints')
NAMES = ['qwen3-gqa5', 'qwen3-hd64', 'qwen3-yarn', 'qwen3moe']


def round_bf16(x):
    u = x.astype(np.float32).view(np.uint32)
    return ((u + 0x7FFF + (u >> 16 & 1)) & np.uint32(0xFFFF0000)).view(np.float32).astype(np.float64)


def load(folder):
    with open(folder + '/model.safetensors', 'rb') as f:
        head = json.loads(f.read(struct.unpack('<Q', f.read(8))[0]))
        data = f.read()
    tensors = {}
    for name, t in head.items():
        if name == '__metadata__':
            continue
        assert t['dtype'] == 'BF16'
        begin, end = t['data_offsets']
        bits = np.frombuffer(data[begin:end], np.uint16).astype(np.uint32) << 16
        tensors[name] = bits.view(np.float32).reshape(t['shape']).astype(np.float64)
    return json.load(open(folder + '/config.json')), tensors


def frequencies(c):
    """Inverse frequencies and the factor on cos and sin; YaRN: arXiv 2309.00071, section 3.2 and 3.4."""
    d = c['head_dim']
    rope = c.get('rope_parameters') or {'rope_type': 'default', 'rope_theta': c['rope_theta']}
    base = rope['rope_theta']
    inv = base ** -(np.arange(0, d, 2) / d)
    if rope['rope_type'] == 'default':
        return inv, 1.0
    assert rope['rope_type'] == 'yarn'
    s, length = rope['factor'], rope['original_max_position_embeddings']
    dim = lambda turns: d * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(base))
    low, high = max(math.floor(dim(32)), 0), min(math.ceil(dim(1)), d - 1)
    ramp = np.clip((np.arange(d // 2) - low) / (high - low), 0, 1)
    return inv * (1 - ramp) + inv / s * ramp, 0.1 * math.log(s) + 1


def round_q8_0(x):
    """Multiples from -127 to 127 of a scale of 32 elements, which is a half of 256 times as much (host/ops.h)."""
    blocks = x.reshape(*x.shape[:-1], -1, 32)
    scale = (np.abs(blocks).max(-1, keepdims=True) * 256 / 127).astype(np.float16).astype(np.float64) / 256
    return (np.clip(np.round(blocks / scale), -127, 127) * scale).reshape(x.shape)


def norm(x, gain, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * gain


def glu(h, gate, up, down):
    g = h @ gate.T
    return (g / (1 + np.exp(-g)) * (h @ up.T)) @ down.T


class Model:
    def __init__(self, folder, bf16, round_kv=lambda x: x):
        self.round_kv = round_kv
        self.c, self.t = load(folder)
        inv, self.factor = frequencies(self.c)
        self.inv = round_bf16(inv) if bf16 else inv
        self.route_margin = math.inf # the least by which an expert was chosen before the next best

    def rotate(self, x, positions):
        angle = positions[:, None] * self.inv[None]
        cos, sin = (np.cos(angle) * self.factor)[:, None], (np.sin(angle) * self.factor)[:, None]
        a, b = np.split(x, 2, -1)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    def experts(self, h, w):
        """Softmax, the greatest, renormalised; each row takes its experts."""
        c, out = self.c, np.zeros_like(h)
        score = h @ w('mlp.gate').T
        p = np.exp(score - score.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        order = np.argsort(-p, -1, 'stable')
        used = order[:, :c['num_experts_per_tok']]
        for row, chosen in enumerate(used):
            self.route_margin = min(self.route_margin, score[row, chosen[-1]] - score[row, order[row, len(chosen)]])
            total = p[row, chosen].sum() if c['norm_topk_prob'] else 1
            for e in chosen:
                out[row] += p[row, e] / total * glu(h[row], *(w(f'mlp.experts.{e}.{m}_proj') for m in ('gate', 'up', 'down')))
        return out

    def hidden(self, ids, cache):
        """What the last norm gives of ids, which follow what the cache holds; it grows."""
        c, t = self.c, self.t
        heads, kv_heads, d, eps = c['num_attention_heads'], c['num_key_value_heads'], c['head_dim'], c['rms_norm_eps']
        n, past = len(ids), cache[0][0].shape[0] if cache else 0
        positions = past + np.arange(n)
        x = t['model.embed_tokens.weight'][ids]
        for i in range(c['num_hidden_layers']):
            w = lambda name: t[f'model.layers.{i}.{name}.weight']
            h = norm(x, w('input_layernorm'), eps)
            q = self.rotate(norm((h @ w('self_attn.q_proj').T).reshape(n, heads, d), w('self_attn.q_norm'), eps), positions)
            k = self.rotate(norm((h @ w('self_attn.k_proj').T).reshape(n, kv_heads, d), w('self_attn.k_norm'), eps), positions)
            v = (h @ w('self_attn.v_proj').T).reshape(n, kv_heads, d)
            k, v = self.round_kv(k), self.round_kv(v)
            if past:
                k, v = np.concatenate([cache[i][0], k]), np.concatenate([cache[i][1], v])
                cache[i] = (k, v)
            else:
                cache.append((k, v))
            group = heads // kv_heads
            score = np.einsum('qhd,khd->hqk', q, np.repeat(k, group, 1)) / math.sqrt(d)
            score = np.where(np.arange(past + n)[None, None] <= positions[None, :, None], score, -np.inf)
            p = np.exp(score - score.max(-1, keepdims=True))
            p /= p.sum(-1, keepdims=True)
            x = x + np.einsum('hqk,khd->qhd', p, np.repeat(v, group, 1)).reshape(n, heads * d) @ w('self_attn.o_proj').T
            h = norm(x, w('post_attention_layernorm'), eps)
            x = x + (self.experts(h, w) if 'num_experts_per_tok' in c
                     else glu(h, w('mlp.gate_proj'), w('mlp.up_proj'), w('mlp.down_proj')))
        return norm(x, t['model.norm.weight'], eps)

    def logits(self, ids, cache):
        """Of the last of ids."""
        head = self.t['model.embed_tokens.weight' if self.c['tie_word_embeddings'] else 'lm_head.weight']
        return self.hidden(ids, cache)[-1] @ head.T

    def greedy(self, ids, n):
        """The first logits, n ids, and the least by which one of them beat the next best."""
        cache, out, margin, first, feed = [], [], math.inf, None, ids
        for _ in range(n):
            logits = self.logits(feed, cache)
            first = logits if first is None else first
            second, best = np.sort(logits)[-2:]
            margin = min(margin, best - second)
            out.append(int(logits.argmax()))
            feed = [out[-1]]
        return first, out, margin


def make(name):
    folder = os.path.join(HERE, name)
    golden = json.load(open(folder + '/golden.json'))
    theirs = np.fromfile(folder + '/logits.f32', '<f4').reshape(-1, golden['vocab_size'])
    exact, rounded, q8_0 = Model(folder, False), Model(folder, True), Model(folder, False, round_q8_0)
    logits, q8_0_logits, cases = [], [], []
    for case, their in zip(golden['cases'], theirs):
        n = len(case['greedy'])
        first, ids, margin = exact.greedy(case['ids'], n)
        again, again_ids, again_margin = rounded.greedy(case['ids'], n)
        error = np.abs(again - their).max() / np.abs(their).max()
        assert error < 2e-5 and again_ids == case['greedy'], (name, error)
        print(f"{name} {len(case['ids'])} ids: rounded vs transformers {error:.1e}, exact vs transformers "
              f"{np.abs(first - their).max() / np.abs(their).max():.1e}, least margin {min(margin, again_margin):.1e}")
        assert margin > 1e-3 and again_margin > 1e-3  # no ties: the tests may want the very ids
        logits.append(first)
        q8_0_logits.append(q8_0.logits(case['ids'], []))
        print(f"  a Q8_0 cache: {np.abs(q8_0_logits[-1] - first).max() / np.abs(first).max():.1e}")
        cases.append({'ids': case['ids'], 'greedy': ids})
    np.array(logits).astype('<f4').tofile(folder + '/reference.f32')
    if exact.route_margin < math.inf:
        print(f'{name}: experts were chosen by {exact.route_margin:.1e}, with rounded frequencies by {rounded.route_margin:.1e}')
        half = [Model(folder, True, lambda x: x.astype(np.float16).astype(np.float64)).logits(case['ids'], [])
                for case in golden['cases']]
        np.array(half).astype('<f4').tofile(folder + '/half.f32')
    np.array(q8_0_logits).astype('<f4').tofile(folder + '/q8_0.f32')
    with open(folder + '/reference.json', 'w') as f:
        f.write('{"cases": [\n ' + ',\n '.join(json.dumps(case) for case in cases) + '\n]}\n')


if __name__ == '__main__':
    for name in NAMES:
        make(name)
