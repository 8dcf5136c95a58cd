#!/usr/bin/env python3
"""peer_experts.py PUMICE PEER: greedy ids of a mixture of experts (tests/data/checkpoints/qwen3moe) against llama-server. Called by peer.sh.

`pumice quantize` writes the checkpoint as GGUF in several types. Our ids of each file must be the peer's; of the types that hold the
checkpoint exactly, also those of double precision (reference.json). Where weights are quantized the peer has its own llama-quantize's
F32 of our file, as peer.py says. The peer wants a vocabulary, so a made-up one comes along, and with it an id that ends a text: where
a GGUF file names none, llama.cpp takes 11 for it, and stops there or, told to ignore ends, never draws it.
"""
import json
import os
import subprocess
import sys
import tempfile

import peer

SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'data', 'checkpoints', 'qwen3moe')
EXACT, QUANTIZED = ['F32', 'BF16'], ['Q8_0', 'Q4_0', 'Q5_1', 'IQ4_NL', 'MXFP4']
END = 380  # is in no golden
PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def tokenizer(vocab_size):
    """Byte-level BPE: the alphabet of 256 bytes, and pairs of its first letters to fill up."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(b) for b in plain] + [chr(256 + i) for i in range(256 - len(plain))]
    pairs = [[a, b] for a in letters[:12] for b in letters[:12]][:vocab_size - len(letters)]
    split = {'type': 'Split', 'pattern': {'Regex': PATTERN}, 'behavior': 'Isolated', 'invert': False}
    bytes_of = {'type': 'ByteLevel', 'add_prefix_space': False, 'trim_offsets': False, 'use_regex': False}
    return {'version': '1.0', 'added_tokens': [], 'normalizer': {'type': 'NFC'}, 'decoder': bytes_of,
            'pre_tokenizer': {'type': 'Sequence', 'pretokenizers': [split, bytes_of]},
            'model': {'type': 'BPE', 'vocab': {t: i for i, t in enumerate(letters + [a + b for a, b in pairs])}, 'merges': pairs}}


def make_model(folder):
    os.symlink(os.path.join(SOURCE, 'model.safetensors'), os.path.join(folder, 'model.safetensors'))
    with open(os.path.join(SOURCE, 'config.json')) as f:
        config = json.load(f)
    for name, content in ('config.json', config | {'eos_token_id': END}), ('tokenizer.json', tokenizer(config['vocab_size'])):
        with open(os.path.join(folder, name), 'w') as f:
            json.dump(content, f)


def files_of(folder, kind):
    """Ours, and what the peer is given of it."""
    ours, full = os.path.join(folder, kind + '.gguf'), os.path.join(folder, kind + '-F32.gguf')
    peer.pumice('quantize', folder, ours, kind)
    if kind in EXACT:
        return ours, ours
    subprocess.run([os.path.join(peer.PEER, 'llama-quantize'), '--allow-requantize', ours, full, 'F32'], check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return ours, full


def compare(folder, kind, cases):
    peer.MODEL, full = files_of(folder, kind)
    server = peer.Server(peer.PEER, full, [])
    equal = close = failed = 0
    try:
        for case in cases:
            ids, n = case['ids'], len(case['greedy'])
            ours, theirs = peer.our_greedy(ids, n), peer.complete(server, ids, n)['tokens']
            same = peer.count_equal(ours, theirs)
            if same == n and (kind not in EXACT or ours == case['greedy']):
                equal += 1
            elif same < min(len(ours), len(theirs)) and peer.at_difference(server, ids + theirs[:same], ours[same], theirs[same]) <= peer.CLOSE:
                close += 1
            else:
                failed += 1
                print(f'    {kind}, prompt of {len(ids)}: ours {ours}, peer {theirs}, double precision {case["greedy"]}', file=sys.stderr)
    finally:
        server.close()
    beside = ' (and to double precision)' if kind in EXACT else ''
    print(f'qwen3moe {kind}, {len(cases)} prompts|{equal} equal to the end{beside}, {close} differ where two logits are within '
          f'{peer.CLOSE}, {failed} differ otherwise')
    return failed == 0


if __name__ == '__main__':
    peer.PUMICE, peer.PEER = map(os.path.abspath, sys.argv[1:])
    with open(os.path.join(SOURCE, 'reference.json')) as f:
        cases = json.load(f)['cases']
    with tempfile.TemporaryDirectory() as folder:
        make_model(folder)
        right = [compare(folder, kind, cases) for kind in EXACT + QUANTIZED]
    sys.exit(0 if all(right) else 1)
