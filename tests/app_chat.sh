#!/bin/sh
# app_chat.sh PUMICE: `pumice chat` with the bundled model, from outside: its golden conversations word for word, turns, commands,
# thinking, tools, files, bad input.
set -u
pumice=$1
. "${0%/*}/expect.sh"
model=${0%/*}/data/tiny-qwen3
strawberry="How many r's in strawberry?"
berries="<think>
s t r=1 a w b e r=2 r=3 y . So 3.
</think>

There are 3 r's in strawberry."

"$pumice" devices >"$out" 2>"$err"
[ $? != 3 ] || { cat "$err" && exit 77; }

# chat INPUT ARGS...: a chat through a pipe, greedy in floats.
chat() {
    printf '%s\n' "$1" >"$tmp/input"
    shift
    in=$tmp/input
    "$pumice" chat "$model" --temp 0 --precision f32 "$@" >"$out" 2>"$err" <"$in"
    rc=$?
    [ -z "${VK_INSTANCE_LAYERS:-}" ] || cat "$out" "$err"
}

# answers "whole of stdout" INPUT ARGS...
answers() {
    text=$1
    shift
    chat "$@"
    [ $rc = 0 ] || bad "exit code $rc, not 0" "chat: $*"
    [ "$text" = "$(cat "$out")" ] || bad "stdout is not '$text'" "chat: $*"
}

# told "in stderr": of the last chat.
told() {
    matches "$1" "$err" || bad "stderr lacks '$1'" "the last chat"
}

# ---- all conversations of golden.json ---------------------------------------------------------------------------------------

# Each case becomes a file that /load takes, and its text, without <|im_end|>, a line of what must come.
awk -v dir="$tmp" '
    /^  {/ { file = dir "/case" n++ ".json" }
    file != "" { line = $0; if (/^  }/) line = "  }"; print line >file }
    /^   "text": / { text = $0; sub(/^   "text": "/, "", text); sub(/<\|im_end\|>",?$/, "", text); gsub(/\\"/, "\"", text); print text }
    /^  }/ { close(file); file = "" }' "$model/golden.json" >"$tmp/texts"
[ "$(wc -l <"$tmp/texts")" = 31 ] || bad "not 31 conversations" "golden.json"
i=0
while [ $i -lt 31 ]; do
    echo "/load $tmp/case$i.json"
    i=$((i + 1))
done >"$tmp/loads"
printf '%b\n' "$(cat "$tmp/texts")" >"$tmp/expected"
chat "$(cat "$tmp/loads")"
[ $rc = 0 ] || bad "exit code $rc, not 0" "31 conversations"
cmp -s "$out" "$tmp/expected" || { diff "$tmp/expected" "$out" && :; bad "not word for word" "31 conversations"; }

# ---- turns --------------------------------------------------------------------------------------------------------------------

# The second turn is a golden conversation: thinking is not in the history.
answers "$berries
<think>

</think>

There are 2 r's in blueberries." "$strawberry
/stats
Then, how many r's in blueberries? /no_think
/stats"
told "prompt 15 new tokens (0 were there)"
told "prompt 31 new tokens (15 were there)"
told "end of turn"
answers "$berries
$berries
nakluv
$berries" "$strawberry
/retry
/no_think
Reverse the word vulkan.
/undo
/clear
/think
$strawberry"
answers "The capital of France is Paris." "What is the capital of France?" --think off
answers "The capital of France is Paris.
$berries" "/no_think
What is the capital of France?
/clear
/think
$strawberry
/quit
never said"

# Lines that are one text.
printf '<|im_start|>user\nReverse the\nword vulkan.<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n' >"$tmp/raw"
expect 0 '*' '*' "$pumice" run "$model" --raw -f "$tmp/raw" --temp 0 --precision f32
joined=$(cat "$out")
answers "$joined
$joined
$joined" 'Reverse the\
word vulkan.
/clear
"""Reverse the
word vulkan."""
/clear
"""
Reverse the
word vulkan.
"""' --think off

# ---- thinking ---------------------------------------------------------------------------------------------------------------

answers "There are 3 r's in strawberry." "$strawberry" --show-thinking hide
answers "There are 3 r's in strawberry." "$strawberry" --show-thinking fold
told "thought for 23 tokens"
told "greedy while thinking"
answers "There are 3 r's in strawberry.
$berries" "/set show-thinking hide
$strawberry
/set show-thinking plain
/retry"
chat "$strawberry" --show-thinking dim
[ "$(sed 's/\x1b\[[02]m//g' "$out")" = "s t r=1 a w b e r=2 r=3 y . So 3.

There are 3 r's in strawberry." ] || bad "not the dimmed text" "--show-thinking dim"
chat "$strawberry" --think-budget 6
grep -q "^Considering the limited time by the user" "$out" || bad "thinking was not ended" "--think-budget"
answers "$berries" "$strawberry" --think-budget 600
chat "$strawberry" --think off
! grep -q "greedy" "$err" || bad "a warning without thinking" "--think off"

# ---- tools ------------------------------------------------------------------------------------------------------------------

awk '/^   "tools": \[/ { inside = 1; print "["; next } inside && /^   \]/ { print "]"; exit } inside' "$model/golden.json" >"$tmp/tools.json"
answers "$(sed -n '30p' "$tmp/texts" | sed 's/\\n/\n/g')" "What is the weather in Paris?" --tools "$tmp/tools.json" --think off
answers 'call get_weather {"city": "Paris"}' "What is the weather in Paris?" --tools "$tmp/tools.json" --think off --show-thinking hide
answers "$(sed -n '29p' "$tmp/texts" | sed 's/\\n/\n/g')
$(sed -n '31p' "$tmp/texts" | sed 's/\\n/\n/g')" "What time is it in Asia/Shanghai?
/undo
/load $tmp/case30.json" --tools "$tmp/tools.json"
chat "What time is it in UTC?
/tool 10:42
/save $tmp/tool.json
/tool 10:43" --tools "$tmp/tools.json"
[ $rc = 1 ] || bad "exit code $rc, not 1" "a tool's answer that nobody waits for"
told "no call of a tool waits"
grep -q '"tool_calls":\[{"type":"function","function":{"name":"get_current_time","arguments":"{\\"timezone\\": \\"UTC\\"}"}}\]' "$tmp/tool.json" ||
    bad "the call was not saved" "/save"
grep -q '{"role":"tool","content":"10:42"}' "$tmp/tool.json" || bad "the tool's answer was not saved" "/save"
same "$("$pumice" run "$model" --temp 0 --think off -p "What is the weather in Paris?" --tools "$tmp/tools.json" 2>/dev/null)" \
    "$pumice" run "$model" --temp 0 --think off -p "What is the weather in Paris?" --tools "$tmp/tool.json"

# ---- files ------------------------------------------------------------------------------------------------------------------

chat "$strawberry
/save $tmp/saved.json"
told "2 messages saved"
answers "There are 2 r's in blueberries." "/load $tmp/saved.json
/no_think
Then, how many r's in blueberries?"
same '"<|im_start|>user\nHow many r'"'"'s in strawberry?<|im_end|>\n<|im_start|>assistant\n<think>\ns t r=1 a w b e r=2 r=3 y . So 3.\n</think>\n\nThere are 3 r'"'"'s in strawberry.<|im_end|>\n"' \
    "$pumice" template "$model" --jsonl -f "$tmp/saved.json"

# fails "in stderr" INPUT ARGS...: the line is told, and the chat goes on.
fails() {
    text=$1 input=$2
    shift 2
    chat "$input
/clear
/no_think
What is the capital of France?" "$@"
    [ $rc = 1 ] || bad "exit code $rc, not 1" "chat: $input"
    [ "$(tail -n 1 "$out")" = "The capital of France is Paris." ] || bad "the chat does not go on" "chat: $input"
    told "$text"
}
head -c 100 "$tmp/saved.json" >"$tmp/cut.json"
fails "cut.json: not JSON, at byte" "/load $tmp/cut.json"
echo '{"messages": [{"role": "nobody", "content": "x"}]}' >"$tmp/role.json"
fails "role.json: message 0 has the role 'nobody'" "/load $tmp/role.json"
echo '[]' >"$tmp/list.json"
fails 'list.json: not an object with "messages"' "/load $tmp/list.json"
printf '{"messages": [{"role": "user", "content": "a\377"}]}' >"$tmp/bytes.json"
fails "bytes.json: not UTF-8: invalid byte 0xFF at offset 44" "/load $tmp/bytes.json"
fails "missing.json: No such file" "/load $tmp/missing.json"
fails "/load wants a file's name" "/load"
fails "No such file" "/save $tmp/missing/file"

# ---- bad input --------------------------------------------------------------------------------------------------------------

fails "no command /foo" "/foo"
fails "/undo stands alone" "/undo now"
fails "nothing was said yet" "/retry"
fails 'nothing to set is called "heat"' "/set heat 5"
fails "wanted a number from 0" "/set temp hot"
fails "wants a name and a value" "/set temp"
fails "the text: not UTF-8: invalid byte 0xFF at offset 5" "$(printf 'hello\377')"
yes "how many words are there" | head -n 420000 | tr '\n' ' ' >"$tmp/long"
fails "the context has room for 2048: nothing was dropped; /undo or /clear makes room" "$(cat "$tmp/long")"
printf 'a\0b\n%s\n' "$strawberry" >"$tmp/input"
in=$tmp/input
expect 1 "There are 3 r's" "the text: a zero byte at offset 1" "$pumice" chat "$model" --temp 0
in=/dev/null
expect 0 "" "" "$pumice" chat "$model"
printf 'What is the capital of France?' >"$tmp/input" # no newline behind it
in=$tmp/input
same "The capital of France is Paris." "$pumice" chat "$model" --temp 0 --think off
in=/dev/null

# The answer is cut where the context ends, and told; then there is no room, and told.
chat "$strawberry
hello" --ctx 24
told "the context of 24 tokens is full, the answer was cut"
told "nothing was dropped"
answers "There are" "$strawberry" --stop " 3 r" --show-thinking hide
chat "$strawberry" -n 5
[ "$(cat "$out")" = "<think>
s t r" ] || bad "not 5 tokens" "-n 5"

expect 2 "" "MODEL is missing" "$pumice" chat
expect 1 "" "/missing: No such file" "$pumice" chat "$tmp/missing"
echo '[{"type": "function"}]' >"$tmp/nameless.json"
expect 1 "" "nameless.json: tool 1 has no function with a name" "$pumice" chat "$model" --tools "$tmp/nameless.json"
echo '{"a": 1}' >"$tmp/object.json"
expect 1 "" "object.json: not a list of tools" "$pumice" run "$model" -p hi --tools "$tmp/object.json"
echo '[' >"$tmp/broken.json"
expect 1 "" "broken.json: not JSON, at byte" "$pumice" run "$model" -p hi --tools "$tmp/broken.json"
echo '[]' >"$tmp/empty.json"
expect 1 "" "empty.json: an empty list of tools" "$pumice" run "$model" -p hi --tools "$tmp/empty.json"
expect 2 "" "goes with none of" "$pumice" run "$model" --ids 5 --tools "$tmp/tools.json"
expect 2 "" "goes with neither" "$pumice" run "$model" --raw -p x --tools "$tmp/tools.json"
expect 0 "" "answer 0 tokens" "$pumice" run "$model" -p x -n 0 --show-thinking dim
expect 2 "" "does not go with --show-thinking" "$pumice" run "$model" -p x --print-ids --show-thinking hide
expect 2 "" "wanted plain or dim or fold or hide" "$pumice" chat "$model" --show-thinking loudly
expect 0 "--tools" "" "$pumice" chat --help
[ "$(wc -l <"$out")" -le 24 ] && [ "$(awk 'length > 80' "$out" | wc -l)" = 0 ] || bad "help is larger than a screen" "chat --help"
expect 0 "--think-budget" "" "$pumice" run --help-all

# A model whose template is a stranger: what is used is told.
mkdir "$tmp/strange"
for file in config.json generation_config.json model.safetensors tokenizer.json; do
    ln -s "$(cd "$model" && pwd)/$file" "$tmp/strange/"
done
echo '{"chat_template": "{{ bos_token }}<|im_start|>{{ strange }}"}' >"$tmp/strange/tokenizer_config.json"
echo hi >"$tmp/input"
in=$tmp/input
expect 0 '*' "the model's chat template is a stranger: plain ChatML is used in its place, without tools" "$pumice" chat "$tmp/strange" -n 1
expect 1 "" "the model's chat template has no place for tools" "$pumice" chat "$tmp/strange" --tools "$tmp/tools.json"
echo '{}' >"$tmp/strange/tokenizer_config.json"
expect 1 "" "has no chat template that Pumice knows" "$pumice" chat "$tmp/strange"
# ---- a context that grows ---------------------------------------------------------------------------------------------------

# As long as the conversation fits into the training, nothing changes; then a line says what is done.
printf '%s\n' "$strawberry /no_think" "And in blueberries? /no_think" "And in raspberries? /no_think" >"$tmp/turns"
chat "$(cat "$tmp/turns")" -n 20 --rope-scale auto --yarn-orig-ctx 100
[ $rc = 0 ] || bad "exit code $rc, not 0" "--rope-scale auto"
[ "$(grep -c "needs a longer context: YaRN by 2 from here on, [1-9][0-9]* tokens are read again" "$err")" = 1 ] || bad "no one line about YaRN" "--rope-scale auto"
chat "$strawberry /no_think" -n 20 --rope-scale auto --yarn-orig-ctx 100
told ""

exit $failed
