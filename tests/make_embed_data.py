#!/usr/bin/env python3
"""Makes the goldens of embedding and ranking, in double precision. Needs numpy and tokenizers (PyPI); run by hand.

The forward pass is make_forward_data.py's, which is checked there against the logits that transformers computed; checked here: the
greedy ids that transformers drew of tiny-qwen3. Ids come from the tokenizers library. Stored:
  tests/data/checkpoints/qwen3-gqa5/hidden.f32   for each case of golden.json: what the last norm gives of the last token, then the
                                                 mean over all tokens
  tests/data/embed.json   texts, their ids with tiny-qwen3's tokenizer.json and <|endoftext|> put behind them by TemplateProcessing
                          (as Qwen3-Embedding's has it), queries, ids of the reranker's question, the score of its answer
  tests/data/embed.f32    the vectors of these texts: last token, length 1
"""
import json
import os

import numpy as np
from tokenizers import Tokenizer

from make_forward_data import Model

DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'data')
TINY = os.path.join(DATA, 'tiny-qwen3')
TEXTS = ["How many r's in strawberry?", 'Paris is the capital of France.', 'x', '', 'Dünya ğ 世界 \U0001f600 2026',
         'two\nlines\tand <|im_end|> inside', ' '.join(f'word{i}' for i in range(60))]
TASK = 'Given a question, find its answer'
QUERIES = TEXTS[:3]
QUERY = 'What is the capital of France?'
DOCUMENTS = ['Paris is the capital of France.', 'How to count letters', 'yes', '']
POST = {'type': 'TemplateProcessing',
        'single': [{'Sequence': {'id': 'A', 'type_id': 0}}, {'SpecialToken': {'id': '<|endoftext|>', 'type_id': 0}}],
        'pair': [{'Sequence': {'id': 'A', 'type_id': 0}}, {'Sequence': {'id': 'B', 'type_id': 0}}],
        'special_tokens': {'<|endoftext|>': {'id': '<|endoftext|>', 'ids': [1254], 'tokens': ['<|endoftext|>']}}}
# Its vocabulary has "no"; a token that the tiny model never meets becomes "yes". The tests do the same.
RENAMED = {'<|fim_pad|>': 'yes'}
PREFIX = ('<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct provided. '
          'Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n')
SUFFIX = '<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n'
USUAL = 'Given a web search query, retrieve relevant passages that answer the query'


def unit(v):
    return v / np.sqrt((v * v).sum())


def hidden_of_checkpoint():
    folder = os.path.join(DATA, 'checkpoints', 'qwen3-gqa5')
    model, out = Model(folder, False), []
    for case in json.load(open(folder + '/golden.json'))['cases']:
        hidden = model.hidden(case['ids'], [])
        out += [hidden[-1], hidden.mean(0)]
    np.array(out).astype('<f4').tofile(folder + '/hidden.f32')


def check_tiny(model):
    cases = json.load(open(TINY + '/golden.json'))['cases']
    for case in cases[:4]:
        _, ids, margin = model.greedy(case['ids'], len(case['greedy']))
        assert ids == case['greedy'], margin


def texts(model):
    with_end = json.load(open(TINY + '/tokenizer.json'))
    with_end['post_processor'] = POST
    tokenizer = Tokenizer.from_str(json.dumps(with_end))
    rows, vectors = [], []
    for text in TEXTS + [f'Instruct: {TASK}\nQuery:{query}' for query in QUERIES]:
        ids = tokenizer.encode(text).ids
        rows.append({'text': text, 'ids': ids})
        vectors.append(unit(model.hidden(ids, [])[-1]))
    np.array(vectors).astype('<f4').tofile(DATA + '/embed.f32')
    return rows


def ranked(model):
    renamed = json.load(open(TINY + '/tokenizer.json'))
    for token in renamed['added_tokens']:
        token['content'] = RENAMED.get(token['content'], token['content'])
    tokenizer = Tokenizer.from_str(json.dumps(renamed))
    yes, no = tokenizer.token_to_id('yes'), tokenizer.token_to_id('no')
    rows = []
    for document in DOCUMENTS:
        middle = f'<Instruct>: {USUAL}\n<Query>: {QUERY}\n<Document>: {document}'
        ids = sum((tokenizer.encode(piece).ids for piece in (PREFIX, middle, SUFFIX)), [])
        logits = model.logits(ids, [])
        rows.append({'document': document, 'ids': ids, 'score': float(1 / (1 + np.exp(logits[no] - logits[yes])))})
    return {'query': QUERY, 'yes': yes, 'no': no, 'documents': rows}


if __name__ == '__main__':
    hidden_of_checkpoint()
    tiny = Model(TINY, False)
    check_tiny(tiny)
    rows = texts(tiny)
    data = {'task': TASK, 'n_documents': len(TEXTS), 'texts': rows, 'rerank': ranked(tiny)}
    with open(DATA + '/embed.json', 'w') as f:
        json.dump(data, f, ensure_ascii=False)
        f.write('\n')
