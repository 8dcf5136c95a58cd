#!/bin/sh
# peer_quantize.sh PUMICE PEER [SMOLLM2.gguf]: files that pumice quantize wrote against llama.cpp, of which PEER is the folder that
# shared/peers/llama-cpp.sh made. By hand: it takes minutes.
# - ours read by theirs and theirs by ours: the same file, greedy, gives the same ids on both sides (32)
# - the same name of a mix gives the same number of bytes, and our file is no further from F16 than theirs: the mean KL divergence
#   of what is foreseen of a text is no greater, but for two standard errors. Perplexities stand beside it: of two files that are as
#   far from F16, one is some percent better by chance
set -u
pumice=$1 peer=$2 smollm2=${3:-}
. "${0%/*}/expect.sh"
here=$(cd "${0%/*}" && pwd)
[ -x "$peer/llama-quantize" ] || { echo "skipped: $peer has no llama-quantize" && exit 77; }
mesa=${XDG_CACHE_HOME:-$HOME/.cache}/pumice-build/mesa-26
[ -d "$mesa" ] || { echo "skipped: no $mesa: tests/drivers.sh BUILD mesa-26 fetches it" && exit 77; }

# What goes on with TEXT, without the end that the peer writes out: "[end of text]" and empty lines.
text_of() {
    sed 's/ \[end of text\]$//' "$1" | awk '{ a[NR] = $0 } END { while (NR && a[NR] == "") NR--; for (i = 1; i <= NR; i++) print a[i] }'
}

# The peer on its Vulkan backend in floats, for on the CPU it rounds activations to 8 bits.
in_floats() {
    VK_DRIVER_FILES=$mesa/usr/share/vulkan/icd.d/lvp_icd.json PEER_LIBS=$(echo "$mesa"/usr/lib/*-linux-gnu) GGML_VK_VISIBLE_DEVICES=0 \
        GGML_VK_DISABLE_F16=1 GGML_VK_DISABLE_COOPMAT=1 GGML_VK_DISABLE_INTEGER_DOT_PRODUCT=1 "$@" -ngl 99
}

# ids FILE TEXT: on both sides, the ids of the 32 tokens that follow. The peer sometimes loses its last words: it is asked again.
ids() {
    "$pumice" run "$1" --raw -p "$2" -n 32 --temp 0 --precision f32 >"$tmp/raw" 2>"$err" || bad "does not run" "$1"
    text_of "$tmp/raw" >"$tmp/ours"
    for _ in 1 2 3 4 5; do
        in_floats "$peer/llama-completion" -m "$1" -p "$2" -n 32 --temp 0 -no-cnv --no-display-prompt -ctk f32 -ctv f32 -fa off \
            >"$tmp/raw" 2>"$err" </dev/null || bad "the peer does not run it" "$1"
        text_of "$tmp/raw" >"$tmp/theirs"
        ! cmp -s "$tmp/ours" "$tmp/theirs" || break
    done
    for side in ours theirs; do
        "$pumice" tokenize "$1" -f "$tmp/$side" >"$tmp/$side.ids" 2>"$err" || bad "cannot be tokenized" "$side"
    done
    cmp -s "$tmp/ours.ids" "$tmp/theirs.ids" || {
        cp "$tmp/ours" "$out" && cp "$tmp/theirs" "$err" && bad "other ids than the peer's" "$1"
        return
    }
    echo "$(wc -w <"$tmp/ours.ids") ids are equal: ${1##*/}"
}

# foresee FILE ...: by the peer on the CPU, with what follows. Its log is written aside and may miss the end when the program is
# through: it is asked again.
foresee() {
    file=$1 wanted=$2
    shift 2
    for _ in 1 2 3 4 5; do
        "$peer/llama-perplexity" -m "$file" --device none "$@" >"$tmp/log" 2>&1
        ! grep -q "$wanted" "$tmp/log" || return
    done
    bad "the peer does not tell" "$wanted" <"$tmp/log"
}

# number NAME: what the line of this name in the log says, "1.25 0.03": a number and its standard error.
number() {
    sed -n "s/.*$1 *[:=] *\([0-9.]*\)[^0-9]*\([0-9.]*\).*/\1 \2/p" "$tmp/log"
}

# compare MODEL TEXT CTX PROMPT MIXES...: the model as F16, then each mix by both.
compare() {
    model=$1 text=$2 ctx=$3 prompt=$4
    shift 4
    "$pumice" quantize "$model" "$tmp/f16.gguf" F16 >"$out" 2>"$err" || bad "F16" "$model"
    ids "$tmp/f16.gguf" "$prompt"
    foresee "$tmp/f16.gguf" "Final estimate" -f "$text" -c "$ctx" --chunks 8 --kl-divergence-base "$tmp/base"
    whole=$(number "Final estimate: PPL")
    for mix in "$@"; do
        "$pumice" quantize "$tmp/f16.gguf" "$tmp/ours-$mix.gguf" "$mix" >"$out" 2>"$err" || bad "$mix" "$model"
        "$peer/llama-quantize" "$tmp/f16.gguf" "$tmp/theirs-$mix.gguf" "$mix" >"$out" 2>"$err" || bad "the peer's $mix" "$model"
        [ $(($(wc -c <"$tmp/ours-$mix.gguf") / 1024)) = $(($(wc -c <"$tmp/theirs-$mix.gguf") / 1024)) ] || bad "another size" "$mix"
        ids "$tmp/ours-$mix.gguf" "$prompt"
        ids "$tmp/theirs-$mix.gguf" "$prompt"
        for side in ours theirs; do
            foresee "$tmp/$side-$mix.gguf" "Mean  *KLD" -f "$text" -c "$ctx" --kl-divergence --kl-divergence-base "$tmp/base"
            number "Mean  *KLD" >"$tmp/$side.kld"
            number "Mean PPL(Q)" >"$tmp/$side.ppl"
        done
        echo "$mix of ${model##*/}: KL divergence and its error $(cat "$tmp/ours.kld"), the peer's file $(cat "$tmp/theirs.kld");" \
            "perplexity $(cat "$tmp/ours.ppl"), $(cat "$tmp/theirs.ppl"), F16 $whole"
        cat "$tmp/ours.kld" "$tmp/theirs.kld" | awk '{ kl[NR] = $1; error[NR] = $2 }
            END { exit !(NR == 2 && kl[1] > 0 && kl[2] > 0 && kl[1] <= kl[2] + 2 * sqrt(error[1] ^ 2 + error[2] ^ 2)) }' ||
            bad "further from F16 than the peer's" "$mix"
        rm "$tmp/ours-$mix.gguf" "$tmp/theirs-$mix.gguf"
    done
}

# In both models' format: what they were trained on, so that ids are no matter of chance.
chat() {
    printf '<|im_start|>user\n%s<|im_end|>\n<|im_start|>assistant' "$1"
}

compare "$here/data/tiny-qwen3" "$here/data/perplexity.txt" 64 "$(chat "Spell granite.")" ${MIXES:-Q8_0 Q6_K Q4_K_M Q4_0 Q3_K_M Q2_K IQ4_XS}
[ -z "$smollm2" ] || compare "$smollm2" "$here/../README.md" 256 "$(chat "Name the planets of the solar system.")" ${MIXES:-Q8_0 Q4_K_M Q4_0 Q3_K_M}
exit $failed
