#!/usr/bin/env python3
"""look.py PUMICE MODEL [TOKENIZER.json]: `pumice template` and `pumice tokenize` give what jinja2 and the tokenizers library gave."""
import json, os, subprocess, sys

data = os.path.join(os.path.dirname(os.path.abspath(__file__)), "data")


def look(command, path, lines):
    text = "".join(json.dumps(line) + "\n" for line in lines)
    done = subprocess.run([sys.argv[1], command, path, "--jsonl"], input=text, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def compare(command, path, lines, want):
    got = look(command, path, lines)
    bad = [i for i in range(len(want)) if i >= len(got) or got[i] != want[i]]
    if bad or len(got) != len(want):
        sys.exit(f"FAILED: pumice {command}: {len(bad)} of {len(want)} differ, the first is {bad[:1]}")


chats = json.load(open(f"{data}/qwen3-chat.json"))
compare("template", sys.argv[2], [{"messages": c["messages"], **c["args"]} for c in chats], [c["text"] for c in chats])
if len(sys.argv) > 3:
    texts = json.load(open(f"{data}/qwen3-tokens.json"))  # U+E000 stands for zero there
    compare("tokenize", sys.argv[3], [t["text"].replace("\ue000", "\0") for t in texts], [t["ids"] for t in texts])
