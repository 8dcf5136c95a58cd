#!/bin/sh
# app_embed.sh PUMICE: `pumice embed` and `pumice rerank` from outside, against tests/make_embed_data.py's vectors and scores: the
# bundled model with what an embedding model's tokenizer.json has more, and with a token that a reranker answers with.
set -u
pumice=$1
. "${0%/*}/expect.sh"
data=${0%/*}/data
model=$data/tiny-qwen3

"$pumice" devices >"$out" 2>"$err"
[ $? != 3 ] || { cat "$err" && exit 77; }

# changed NAME SED-SCRIPT: the bundled model with another tokenizer.json.
changed() {
    mkdir "$tmp/$1"
    cp "$model"/*.json "$tmp/$1"
    ln -s "$(cd "$model" && pwd)/model.safetensors" "$tmp/$1"
    sed -i "$2" "$tmp/$1/tokenizer.json"
}
changed embedding 's/"post_processor": null/"post_processor": {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A"}}, {"SpecialToken": {"id": "<|endoftext|>"}}]}/'
changed reranker 's/"content": "<|fim_pad|>"/"content": "yes"/'
embedding=$tmp/embedding reranker=$tmp/reranker

# numbers ROW N: N floats of the golden, from row ROW of 256 on; the same of stdout or of FILE.
numbers() {
    od -An -v -tf4 -j$(($1 * 1024)) -N$(($2 * 4)) -w4 "$data/embed.f32"
}
printed() {
    tr -d '[]' <"$out" | tr ',' '\n'
}
# near: are two columns the same within two thousandths of the largest?
near() {
    paste "$tmp/want" "$tmp/got" | awk 'NF != 2 { bad = 1 } { d = $1 - $2; if (d < 0) d = -d; if (d > most) most = d
        if ($1 > top) top = $1; if (-$1 > top) top = -$1 } END { exit bad || NR == 0 || most > 0.002 * top }' ||
        bad "not the golden's vectors" "$1"
}

# Seven documents and three queries, in every way to give them.
cat >"$tmp/texts.jsonl" <<'TEXTS'
"How many r's in strawberry?"
"Paris is the capital of France."
"x"
""
"D\u00fcnya \u011f 世界 \ud83d\ude00 2026"

"two\nlines\tand <|im_end|> inside"
TEXTS
awk 'BEGIN { printf "\""; for (i = 0; i < 60; i++) printf "%sword%d", i ? " " : "", i; print "\"" }' >>"$tmp/texts.jsonl"
numbers 0 1792 >"$tmp/want"
expect 0 '[' '' "$pumice" embed "$embedding" -f "$tmp/texts.jsonl" --jsonl --precision f32
[ "$(wc -l <"$out")" = 7 ] || bad "not a line a text" "--jsonl"
printed >"$tmp/got"
near "--jsonl"
in=$tmp/texts.jsonl
expect 0 '' '' "$pumice" embed "$embedding" --jsonl --raw "$tmp/raw"
in=/dev/null
od -An -v -tf4 -w4 "$tmp/raw" >"$tmp/got"
near "--raw"

printf "How many r's in strawberry?\r\nParis is the capital of France.\nx" >"$tmp/lines"
numbers 7 768 >"$tmp/want"
in=$tmp/lines
expect 0 '[' '' "$pumice" embed "$embedding" --instruct "Given a question, find its answer"
printed >"$tmp/got"
near "--instruct"
expect 0 '[' '' "$pumice" embed "$model" --eos --instruct "Given a question, find its answer" -f -
printed >"$tmp/got"
near "--eos"
in=/dev/null
numbers 5 256 >"$tmp/want"
printf 'two\nlines\tand <|im_end|> inside\n' >"$tmp/text"
expect 0 '[' '' "$pumice" embed "$embedding" -f "$tmp/text"
printed >"$tmp/got"
near "-f FILE"

# As GGUF it keeps what goes behind a text.
expect 0 '*' '*' "$pumice" quantize "$embedding" "$tmp/embedding.gguf" F32
expect 0 '[' '' "$pumice" embed "$tmp/embedding.gguf" -f "$tmp/text"
printed >"$tmp/got"
near "GGUF"

# The first 40 numbers, of length 1 again; without the end another vector.
numbers 1 40 | awk '{ x[NR] = $1; s += $1 * $1 } END { for (i = 1; i <= NR; i++) printf "%.9g\n", x[i] / sqrt(s) }' >"$tmp/want"
expect 0 '[' '' "$pumice" embed "$embedding" -p "Paris is the capital of France." --dims 40
printed >"$tmp/got"
near "--dims"
cp "$out" "$tmp/with"
expect 0 '[' '' "$pumice" embed "$embedding" -p "Paris is the capital of France." --dims 40 --no-eos
! cmp -s "$out" "$tmp/with" || bad "--no-eos changes nothing" "--no-eos"

expect 2 "" "--dims 257: the model's vectors have 256" "$pumice" embed "$embedding" -p x --dims 257
expect 2 "" "--dims 0: wanted" "$pumice" embed "$embedding" -p x --dims 0
expect 2 "" "-p is a text by itself" "$pumice" embed "$embedding" -p x -f "$tmp/text"
expect 2 "" "--eos and --no-eos at once" "$pumice" embed "$embedding" -p x --eos --no-eos
expect 2 "" "no texts in standard input" "$pumice" embed "$embedding"
expect 2 "" "a text without tokens" "$pumice" embed "$model" -p ""
printf 'a\n\nb\n' >"$tmp/lines"
in=$tmp/lines
expect 2 "" "line 2: a text without tokens" "$pumice" embed "$model"
printf '"a"\nb\n' >"$tmp/lines"
expect 2 "" "line 2: not JSON" "$pumice" embed "$embedding" --jsonl
printf '"a"\n7\n' >"$tmp/lines"
expect 2 "" "line 2: not a string" "$pumice" embed "$embedding" --jsonl
printf 'a\nb\377\n' >"$tmp/lines"
expect 2 "" "line 2: the text is not UTF-8" "$pumice" embed "$embedding"
awk 'BEGIN { for (i = 0; i < 3000; i++) printf "q " }' >"$tmp/lines"
expect 1 "" "the model takes 2048" "$pumice" embed "$embedding"
in=/dev/null
expect 1 "" "/missing: No such file" "$pumice" embed "$embedding" -f "$tmp/missing"
expect 1 "" "without a tokenizer" "$pumice" embed "$data/checkpoints/qwen3-gqa5" -p x
expect 1 "" "/missing/raw" "$pumice" embed "$embedding" -p x --raw "$tmp/missing/raw"
"$pumice" embed "$embedding" -f "$tmp/texts.jsonl" --jsonl 2>"$err" | head -c 3 >"$out"
[ ! -s "$err" ] || bad "a reader that went away is no failure" "| head -c 3"

# scores FILE: "index score" of each line, in order of the index.
scores() {
    awk '{ print $2, $1 }' "$out" | sort -n
}
printf '0 0.998880\n1 0.015852\n2 0.436535\n3 0.085592\n' >"$tmp/scores"
close_to() {
    scores | paste "$tmp/scores" - | awk '{ d = $2 - $4; if (NF != 4 || $1 != $3 || d > 0.005 || d < -0.005) exit 1 }' ||
        bad "not the golden's scores" "$1"
    [ "$(awk '{ printf "%s", $2 }' "$out")" = 0231 ] || bad "the best does not come first" "$1"
}
query="What is the capital of France?"
expect 0 "Paris is" "" "$pumice" rerank "$reranker" -q "$query" "Paris is the capital of France." "How to count letters" yes ""
close_to "DOC..."
cp "$out" "$tmp/one"
printf 'Paris is the capital of France.\nHow to count letters\nyes\n\n' >"$tmp/docs"
same "$(cat "$tmp/one")" "$pumice" rerank "$reranker" --query "$query" --docs "$tmp/docs"
sed 's/.*/"&"/' "$tmp/docs" >"$tmp/docs.jsonl"
in=$tmp/docs.jsonl
same "$(cat "$tmp/one")" "$pumice" rerank "$reranker" -q "$query" --docs - --jsonl
in=/dev/null
expect 0 '"relevance_score":' "" "$pumice" rerank "$reranker" -q "$query" --json a b
expect 0 '*' "" "$pumice" rerank "$reranker" -q "$query" --instruct "Find lies" "Paris is the capital of France." \
    "How to count letters" yes ""
! cmp -s "$out" "$tmp/one" || bad "--instruct changes nothing" "--instruct"

# Text that closes the user's turn changes the question, unless it is told to be plain.
expect 0 '<|im_end|>' "" "$pumice" rerank "$reranker" -q "$query" "a<|im_end|>"
cp "$out" "$tmp/special"
expect 0 '<|im_end|>' "" "$pumice" rerank "$reranker" -q "$query" --plain "a<|im_end|>"
! cmp -s "$out" "$tmp/special" || bad "--plain changes nothing" "--plain"

expect 1 "" 'no token "yes": it is no reranker' "$pumice" rerank "$model" -q x a b
expect 1 "" "without a tokenizer" "$pumice" rerank "$data/checkpoints/qwen3-gqa5" -q x a
expect 2 "" "--query is missing" "$pumice" rerank "$reranker" a b
expect 2 "" "no documents: give DOC" "$pumice" rerank "$reranker" -q x
expect 2 "" "not both" "$pumice" rerank "$reranker" -q x --docs "$tmp/docs" a
expect 2 "" "--jsonl tells what --docs is" "$pumice" rerank "$reranker" -q x --jsonl a
expect 2 "" "no documents in" "$pumice" rerank "$reranker" -q x --docs -
refuses_bytes "not UTF-8" "$pumice" rerank "$reranker" -q x "$(printf 'a\377')"
expect 2 "" "line 1: not JSON" "$pumice" rerank "$reranker" -q x --docs "$tmp/docs" --jsonl
expect 1 "" "/missing: No such file" "$pumice" rerank "$reranker" -q x --docs "$tmp/missing"
expect 0 "[DOC...]" "" "$pumice" rerank --help
expect 0 "--instruct" "" "$pumice" embed --help
exit $failed
