#!/bin/sh
# app_look.sh PUMICE: `pumice tokenize` and `pumice template`, which need no device.
set -u
pumice=$1
. "${0%/*}/expect.sh"
model=${0%/*}/data/tiny-qwen3
ids="1255 279 198 440 376 369 333 289 955 30 1256 198 1255 284 198" # of golden.json

same "<|im_start|>user
How many r's in strawberries?<|im_end|>
<|im_start|>assistant" "$pumice" template "$model" -p "How many r's in strawberries?"
"$pumice" template "$model" -p "How many r's in strawberries?" >"$tmp/prompt" 2>/dev/null
in=$tmp/prompt
same "$ids" "$pumice" tokenize "$model"
in=/dev/null
same "$ids" "$pumice" tokenize "$model" -f "$tmp/prompt"
same "$ids" "$pumice" tokenize "$model/tokenizer.json" -f "$tmp/prompt"
same "" "$pumice" tokenize "$model" -p ""
printf '"a\\u0000b"\n\n"" \n' >"$tmp/strings"
same "$("$pumice" tokenize "$model" -p a | sed 's/.*/[&/'),$(printf '\0' | "$pumice" tokenize "$model"),$("$pumice" tokenize "$model" -p b)]
[]" "$pumice" tokenize "$model" --jsonl -f "$tmp/strings"
echo '{"messages": [{"role": "user", "content": "hi"}], "tools": [{"a":1,"b":"x,\"y:z\\\\"}], "enable_thinking": false}' >"$tmp/chat"
expect 0 '{\"a\": 1, \"b\": \"x,\\\"y:z\\\\\"}' "" "$pumice" template "$model" --jsonl -f "$tmp/chat"

# What jinja2 and the tokenizers library gave, all of it.
if command -v python3 >/dev/null; then
    expect 0 "" "" python3 "${0%/*}/look.py" "$pumice" "$model" ${PM_QWEN3_TOKENIZER:+"$PM_QWEN3_TOKENIZER"}
else
    echo "no python3: the goldens were not compared"
fi

# bad FILE-TEXT "in stderr" COMMAND: a line that is not what the command takes.
bad_line() {
    printf '%s\n' "$1" >"$tmp/bad"
    expect 2 "" "$2" "$pumice" "$3" "$model" --jsonl -f "$tmp/bad"
}
bad_line '"a" b' "line 1: not JSON from byte 4" tokenize
bad_line '"a' "line 1: not JSON" tokenize
bad_line '5' "line 1: not a string" tokenize
bad_line '[]' "line 1: not an object" template
bad_line '{}' 'line 1: there are no "messages"' template
bad_line '{"messages": 5}' '"messages" is not an array' template
bad_line '{"messages": [{"content": "x"}]}' "a message has no role" template
bad_line '{"messages": [{"role": "user", "content": 5}]}' '"content" is not a string' template
bad_line '{"messages": [{"role": "nobody", "content": "x"}]}' "line 1: " template
bad_line '{"messages": [{"role": "assistant", "tool_calls": [{}]}]}' "a tool call has no name" template
expect 2 "" "it goes with neither" "$pumice" tokenize "$model" -p x --jsonl
expect 2 "" "MODEL is missing" "$pumice" tokenize
expect 1 "" "No such file" "$pumice" tokenize "$tmp/missing" -p x
refuses_bytes "invalid" "$pumice" tokenize "$model" -p "$(printf 'a\377')"
expect 0 "--jsonl" "" "$pumice" tokenize --help
expect 0 "enable_thinking" "" "$pumice" template --help
exit $failed
