#!/usr/bin/env python3
"""peer.py PUMICE PEER MODEL FULL: greedy tokens and embeddings of a real model against llama-server on the CPU. Called by peer.sh.

MODEL is what Pumice reads, FULL the same weights as F32: the peer would round activations to 8 bits before it multiplies them with
quantized weights, and then it is the peer's rounding that is compared. Both keep their cache in F32. Python 3 alone. Each line of
stdout is a row of peer.sh's table, "what|result"; the exit code is 1 when one failed.
"""
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request

PROMPTS = [
    'The capital of France is', 'Once upon a time there was a', 'def fibonacci(n):\n', 'Water boils at 100 degrees because',
    'The three primary colors are', 'In 1969, Neil Armstrong', 'Q: What is 12 + 30?\nA:', 'Dear Sir or Madam,\n\n',
    '<|im_start|>user\nWhat is gravity?<|im_end|>\n<|im_start|>assistant\n', "Les élèves de l'école",
]
N_TOKENS, CLOSE = 64, 1e-2


class Server:
    """llama-server on a free port, until closed."""

    def __init__(self, peer, model, more):
        with socket.socket() as s:
            s.bind(('127.0.0.1', 0))
            self.url = f'http://127.0.0.1:{s.getsockname()[1]}'
        self.log = tempfile.TemporaryFile()
        port = self.url.rsplit(':', 1)[1]
        command = [os.path.join(peer, 'llama-server'), '-m', model, '--host', '127.0.0.1', '--port', port, '--device', 'none',
                   '-c', '2048', '-np', '1', '-t', str(max(1, (os.cpu_count() or 1) // 2)), '-fa', 'off', '-ctk', 'f32', '-ctv', 'f32', '--no-webui', *more]
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        for _ in range(1200):
            if self.process.poll() is not None:
                raise SystemExit('llama-server ended: ' + self.tail())
            try:
                with urllib.request.urlopen(self.url + '/health') as answer:
                    if answer.status == 200:
                        return
            except OSError:
                pass
            time.sleep(0.25)
        raise SystemExit('llama-server does not answer: ' + self.tail())

    def tail(self):
        self.log.seek(0)
        return self.log.read()[-500:].decode(errors='replace')

    def ask(self, path, body):
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), {'Content-Type': 'application/json'})
        with urllib.request.urlopen(request, timeout=900) as answer:
            return json.load(answer)

    def close(self):
        self.process.terminate()
        self.process.wait()


def pumice(*args):
    return subprocess.run([PUMICE, *args], check=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True).stdout


def our_greedy(ids, n):
    return [int(x) for x in pumice('run', MODEL, '--ids', ','.join(map(str, ids)), '-n', str(n), '--temp', '0', '--print-ids',
                                   '--precision', 'f32').split()]


def our_logits(ids):
    with tempfile.NamedTemporaryFile() as f:
        pumice('run', MODEL, '--ids', ','.join(map(str, ids)), '-n', '0', '--dump-logits', f.name, '--precision', 'f32')
        data = f.read()
    return struct.unpack(f'<{len(data) // 4}f', data)


def complete(server, ids, n):
    return server.ask('/completion', {'prompt': ids, 'n_predict': n, 'temperature': 0, 'top_k': 1, 'seed': 1, 'cache_prompt': False,
                                      'n_probs': 5, 'return_tokens': True})


def count_equal(ours, theirs):
    n = 0
    while n < min(len(ours), len(theirs)) and ours[n] == theirs[n]:
        n += 1
    return n


def at_difference(server, ids, ours, theirs):
    """Both sides' logits of the two ids, as gaps: logits differ as log-probabilities do."""
    logits = our_logits(ids)
    top = complete(server, ids, 1)['completion_probabilities'][0]['top_logprobs']
    logprobs = {t['id']: t['logprob'] for t in top}
    gap = logits[ours] - logits[theirs]
    their_gap = logprobs[theirs] - logprobs[ours] if ours in logprobs and theirs in logprobs else float('inf')
    print(f'    ours {ours} {logits[ours]:.5f}, {theirs} {logits[theirs]:.5f}; peer {theirs} leads by {their_gap:.5f}', file=sys.stderr)
    return max(gap, their_gap)


def greedy(server):
    equal = close = failed = n_tokens = 0
    for prompt in PROMPTS:
        ids = server.ask('/tokenize', {'content': prompt, 'add_special': False, 'parse_special': True})['tokens']
        same_ids = [int(x) for x in pumice('tokenize', MODEL, '-p', prompt).split()] == ids
        ours, theirs = our_greedy(ids, N_TOKENS), complete(server, ids, N_TOKENS)['tokens']
        n = count_equal(ours, theirs)
        n_tokens += n
        ended = n == len(ours) == len(theirs) or (n == min(len(ours), len(theirs)) and abs(len(ours) - len(theirs)) <= 1
                                                  and max(len(ours), len(theirs)) < N_TOKENS)  # who keeps the id that ends
        print(f'    {prompt!r}: {n} of {len(theirs)} tokens equal', file=sys.stderr)
        if not same_ids:
            failed += 1
        elif ended:
            equal += 1
        elif n < min(len(ours), len(theirs)) and at_difference(server, ids + theirs[:n], ours[n], theirs[n]) <= CLOSE:
            close += 1
        else:
            failed += 1
    print(f'greedy tokens, {len(PROMPTS)} prompts|{equal} equal to the end ({n_tokens} tokens), {close} differ where two logits are '
          f'within {CLOSE}, {failed} differ otherwise')
    return failed == 0


def embeddings(server):
    texts = [p for p in PROMPTS if '<|' not in p]
    lines = pumice_lines(texts)
    worst = 1.0
    for text, ours in zip(texts, lines):
        theirs = server.ask('/v1/embeddings', {'input': text, 'encoding_format': 'float'})['data'][0]['embedding']
        dot = sum(a * b for a, b in zip(ours, theirs))
        worst = min(worst, dot / (sum(a * a for a in ours) * sum(b * b for b in theirs)) ** 0.5)
    print(f'embeddings, {len(texts)} texts|least cosine {worst:.7f}')
    return worst > 1 - 1e-5


def pumice_lines(texts):
    text = ''.join(json.dumps(t) + '\n' for t in texts)
    out = subprocess.run([PUMICE, 'embed', MODEL, '--jsonl', '--precision', 'f32'], input=text, check=True, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, text=True).stdout
    return [json.loads(line) for line in out.splitlines()]


def with_server(more, what):
    server = Server(PEER, FULL, more)
    try:
        return what(server)
    finally:
        server.close()


if __name__ == '__main__':
    PUMICE, PEER, MODEL, FULL = map(os.path.abspath, sys.argv[1:])
    right = [with_server(['--embedding', '--pooling', 'last'], embeddings), with_server([], greedy)]
    sys.exit(0 if all(right) else 1)
