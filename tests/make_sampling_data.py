#!/usr/bin/env python3
"""Writes tests/data/sampling.json: what a row of logits becomes, and with which probability each id is drawn, by the very code of
transformers. Needs numpy and transformers' wheel (pip download --no-deps transformers==4.57.1), of which one file is read:

    make_sampling_data.py transformers-4.57.1-py3-none-any.whl

Its logits processors are written for torch; here they run on numpy in double, under the few names of torch that they use. Frequency
and presence penalties, which transformers has not, are OpenAI's formula (platform.openai.com/docs: "Frequency and presence penalties").
"""
import ast
import json
import os
import sys
import types
import zipfile

import numpy as np

CLASSES = ["TemperatureLogitsWarper", "TopPLogitsWarper", "TopKLogitsWarper", "TypicalLogitsWarper", "MinPLogitsWarper",
           "RepetitionPenaltyLogitsProcessor", "SequenceBiasLogitsProcessor"]
VOCAB = 320


class Tensor(np.ndarray):
    """The methods of torch.Tensor that the processors call."""

    def softmax(self, dim):
        e = np.exp(self - np.max(np.asarray(self), axis=dim, keepdims=True))
        return (e / np.sum(np.asarray(e), axis=dim, keepdims=True)).view(Tensor)

    def cumsum(self, dim):
        return np.cumsum(np.asarray(self), axis=dim).view(Tensor)

    def sum(self, dim):
        return np.sum(np.asarray(self), axis=dim).view(Tensor)

    def nansum(self, dim, keepdim):
        return np.nansum(np.asarray(self), axis=dim, keepdims=keepdim).view(Tensor)

    def max(self, dim, keepdim):
        return np.max(np.asarray(self), axis=dim, keepdims=keepdim).view(Tensor), None

    def gather(self, dim, index):
        return np.take_along_axis(np.asarray(self), np.asarray(index), axis=dim).view(Tensor)

    def scatter(self, dim, index, source):
        out = np.array(self)
        np.put_along_axis(out, np.asarray(index), np.asarray(source), axis=dim)
        return out.view(Tensor)

    def masked_fill(self, mask, value):
        return np.where(mask, value, self).view(Tensor)

    def clamp_(self, max):
        np.minimum(self, max, out=self)
        return self

    def view(self, *shape):
        return np.reshape(self, shape) if isinstance(shape[0], int) else np.ndarray.view(self, *shape)

    def dim(self):
        return self.ndim

    def size(self, axis):
        return self.shape[axis]


def tensor(values, **_):
    return np.array(values, dtype=np.float64 if np.asarray(values).dtype.kind == "f" else np.int64).view(Tensor)


def sort(x, descending):
    order = np.argsort(-np.asarray(x) if descending else np.asarray(x), axis=-1, kind="stable")
    return np.take_along_axis(np.asarray(x), order, -1).view(Tensor), order.view(Tensor)


def make_torch():
    torch = types.SimpleNamespace(
        LongTensor=Tensor, FloatTensor=Tensor, Tensor=Tensor, float=np.float64, tensor=tensor, sort=sort,
        argsort=lambda x, descending, dim: sort(x, descending)[1],
        softmax=lambda x, dim: x.softmax(dim), abs=np.abs, exp=np.exp, where=lambda c, a, b: np.where(c, a, b).view(Tensor),
        gather=lambda x, dim, index: x.gather(dim, index),
        topk=lambda x, k: (sort(x, True)[0][..., :k], None),
        zeros=lambda shape, **_: np.zeros(shape).view(Tensor), zeros_like=lambda x: np.zeros(x.shape).view(Tensor))
    torch.nn = types.SimpleNamespace(functional=types.SimpleNamespace(log_softmax=lambda x, dim: np.log(x.softmax(dim))))
    return torch


def load_processors(wheel):
    source = zipfile.ZipFile(wheel).read("transformers/generation/logits_process.py").decode()
    names = {"torch": make_torch(), "np": np, "LogitsProcessor": object, "add_start_docstrings": lambda *_: lambda f: f,
             "LOGITS_PROCESSOR_INPUTS_DOCSTRING": ""}
    prelude = "from __future__ import annotations\n"
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) and node.name in CLASSES:
            exec(prelude + ast.get_source_segment(source, node), names)
    return names


def adjust(tf, case, logits):
    scores, ids = tensor([logits]), tensor([case["prompt"] + case["drawn"]])
    if case["bias"]:
        bias = tf["SequenceBiasLogitsProcessor"](sequence_bias={(i,): float(b) for i, b in case["bias"]})
        scores = bias(ids, scores)
    if case["repeat"] != 1:
        scores = tf["RepetitionPenaltyLogitsProcessor"](penalty=case["repeat"])(ids, scores)
    for i in set(case["drawn"]):
        scores[0, i] -= case["drawn"].count(i) * case["frequency"] + case["presence"]
    return scores


def narrow(tf, case, scores):
    steps = {"temp": lambda: tf["TemperatureLogitsWarper"](case["temperature"]),
             "top-k": lambda: tf["TopKLogitsWarper"](case["top_k"]) if case["top_k"] else None,
             "top-p": lambda: tf["TopPLogitsWarper"](case["top_p"]) if case["top_p"] < 1 else None,
             "min-p": lambda: tf["MinPLogitsWarper"](case["min_p"]) if case["min_p"] > 0 else None,
             "typical-p": lambda: tf["TypicalLogitsWarper"](case["typical_p"]) if case["typical_p"] < 1 else None}
    for name in case["order"].split(","):
        step = steps[name]()
        if step:
            scores = step(None, scores)
    return np.asarray(scores.softmax(-1))[0]


def with_defaults(**case):
    usual = {"order": "temp,top-k,top-p,min-p,typical-p", "temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0,
             "typical_p": 1.0, "repeat": 1.0, "frequency": 0.0, "presence": 0.0, "bias": [], "prompt": [], "drawn": []}
    return {**usual, **case}


def cases(rng):
    llamacpp, vllm = "top-k,typical-p,top-p,min-p,temp", "temp,min-p,top-k,top-p,typical-p"
    prompt, drawn = [int(i) for i in rng.integers(0, VOCAB, 60)], [int(i) for i in rng.integers(0, 60, 40)]
    bias = [[3, 5.5], [7, -100.0], [200, 12.0], [5, 100.0]]
    filters = {"top_k": 50, "top_p": 0.9, "min_p": 0.02, "typical_p": 0.8}
    yield with_defaults()
    yield with_defaults(temperature=0.6, top_k=20, top_p=0.95)
    yield with_defaults(temperature=0.7, top_k=20, top_p=0.8, presence=1.5, drawn=drawn)
    yield with_defaults(min_p=0.1)
    yield with_defaults(typical_p=0.9)
    yield with_defaults(typical_p=0.2, temperature=0.5)
    yield with_defaults(typical_p=0.6, temperature=1.7)
    yield with_defaults(repeat=1.3, prompt=prompt, drawn=drawn)
    yield with_defaults(repeat=0.8, prompt=prompt)
    yield with_defaults(frequency=0.5, presence=-0.3, drawn=drawn, prompt=prompt)
    yield with_defaults(bias=bias[:3])
    yield with_defaults(bias=bias)
    yield with_defaults(temperature=1.5, **filters)
    yield with_defaults(temperature=1.5, order=llamacpp, **filters)
    yield with_defaults(temperature=1.5, order=vllm, **filters)
    yield with_defaults(temperature=1.3, order="typical-p,min-p,temp,top-p,top-k", repeat=1.2, frequency=0.2, presence=0.4,
                        bias=bias[:3], prompt=prompt, drawn=drawn, **filters)


def main():
    tf, rng = load_processors(sys.argv[1]), np.random.default_rng(7)
    logits = (3 * rng.standard_normal(VOCAB)).astype(np.float32)
    out = {"logits": [float(l) for l in logits], "cases": []}
    for case in cases(rng):
        f32 = {k: float(np.float32(v)) if isinstance(v, float) else v for k, v in case.items()}
        p = narrow(tf, f32, adjust(tf, f32, logits.astype(np.float64)))
        case["p"] = [[i, float("%.7g" % x)] for i, x in enumerate(p) if x > 0]
        out["cases"].append(case)
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "data", "sampling.json")
    with open(path, "w", encoding="utf-8") as f:
        f.write("{\"logits\": %s,\n \"cases\": [\n  %s\n]}\n" % (
            json.dumps(out["logits"]), ",\n  ".join(json.dumps(c) for c in out["cases"])))


main()
