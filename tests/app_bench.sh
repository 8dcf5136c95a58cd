#!/bin/sh
# app_bench.sh PUMICE-BENCH: the bench with the bundled model and, as the peer, a program that says what llama-bench would.
set -u
bench=$1
. "${0%/*}/expect.sh"
model=${0%/*}/data/tiny-qwen3

"$bench" -m "$model" -p 4 -n 0 -r 1 >"$out" 2>"$err"
[ $? != 3 ] || { cat "$err" && exit 77; }

# cells ROW COLUMN: of the last Markdown table, counted from its end, as scripts read llama-bench's.
cells() {
    grep '^|' "$out" | sed -n "$1p" | awk -F '|' -v c="$2" '{ gsub(/^ +| +$/, "", $(NF - c)); print $(NF - c) }'
}
rate='^[0-9]+\.[0-9][0-9] ± [0-9]+\.[0-9][0-9]$'

# ---- tokens -------------------------------------------------------------------------------------------------------------------

expect 0 '*' '*' "$bench" -m "$model" -p 8,16 -n 4 -d 0,32 -r 2
got=$(for row in 3 4 5 6 7 8; do cells $row 2; done | tr '\n' ',')
[ "$got" = "pp8,pp16,tg4,pp8 @ d32,pp16 @ d32,tg4 @ d32," ] || bad "the tests are $got" "-p 8,16 -n 4 -d 0,32"
for row in 3 4 5 6 7 8; do
    cells $row 1 | grep -qE "$rate" || bad "no rate in row $row" "-p 8,16 -n 4 -d 0,32"
done
[ "$(grep -c '^|' "$out")" = 8 ] || bad "not six rows" "-p 8,16 -n 4 -d 0,32"

# JSON: the numbers follow from the samples.
expect 0 '*' '*' "$bench" -m "$model" -p 8 -n 4 -r 3 -o json
for field in model_filename model_type model_size n_prompt n_gen n_depth avg_ns stddev_ns avg_ts samples_ns samples_ts build_commit \
    gpu_info backends test_time driver_name driver_info device_uuid n_gpu_layers type_k; do
    [ "$(grep -c "\"$field\":" "$out")" = 2 ] || bad "not two rows with $field" "-o json"
done
tr -d '\n\t ' <"$out" | sed 's/{/\n/g' | awk '
    /"samples_ns"/ {
        match($0, /"n_prompt":[0-9]+/); tokens = substr($0, RSTART + 11, RLENGTH - 11)
        match($0, /"n_gen":[0-9]+/); tokens += substr($0, RSTART + 8, RLENGTH - 8)
        match($0, /"samples_ns":\[[^]]*/); n = split(substr($0, RSTART + 14, RLENGTH - 14), ns, ",")
        match($0, /"avg_ts":[0-9.e+]+/); avg = substr($0, RSTART + 9, RLENGTH - 9)
        for (i = 1; i <= n; i++) sum += tokens * 1e9 / ns[i] / n
        if (n != 3 || sum / avg > 1.000001 || avg / sum > 1.000001) exit 1
        rows++; sum = 0
    }
    END { exit rows != 2 }' || bad "avg_ts is not the mean of the samples' rates" "-o json"

# Sweeps, prompts with answers, batches, and more than one model.
expect 0 '*' '*' "$bench" -m "$model" -m "$model" -p 8-32*2 -n 2-4+2 -b 1,3 -pg 8,4 -d 0-16+16 -r 1
tests="pp8,pp16,pp32,tg2,tg2 b3,tg4,tg4 b3,pp8+tg4,"
deep=$(echo "$tests" | sed 's/,/ @ d16,/g')
all=$(for row in 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18; do cells $row 2; done | tr '\n' ',')
[ "$all" = "$tests$deep" ] || bad "the tests are $all" "-p 8-32*2"
[ "$(grep -c '^|' "$out")" = 36 ] || bad "not two tables of sixteen rows" "two models"

expect 0 '*' '*' "$bench" -m "$model" -p 8-8 -n 4 -b 2 -pg 8,4 -r 2 -ctk q8_0 -ctv q8_0 -o jsonl
[ "$(wc -l <"$out")" = 3 ] || bad "not three lines" "-o jsonl"
grep -q '| Vulkan ' "$err" || bad "no line of the device" "-o jsonl"
[ "$(grep -c '"type_k":"q8_0","type_v":"q8_0"' "$out")" = 3 ] || bad "no type of the cache" "-o jsonl"
[ "$(grep -c '"shader_hash":"[0-9a-f]\{64\}"' "$out")" = 3 ] || bad "no hash of the kernels" "-o jsonl"
[ "$(grep -c '"ttft_ms":[0-9.]*,' "$out")" = 1 ] || bad "no time to the first id of the answer" "-o jsonl"
awk -F '"avg_ns":|"avg_ts":|"n_seqs":|"min_ts":|"max_ts":|"median_ts":' '
    { n = $0 ~ /"n_prompt":8,"n_gen":4/ ? 12 : $0 ~ /"n_gen":4/ ? 8 : 8
      if (!($5 + 0 <= $7 + 0 && $7 + 0 <= $6 + 0 && $5 + 0 > 0)) exit 1
      x = $2 * $3 / 1e9 / n # the mean of rates is a little above the rate of the mean
      if (x < 0.999 || x > 2) exit 1 }' "$out" || bad "min, median and max are out of order, or tokens are counted wrong" "-o jsonl"

expect 0 '*' '*' "$bench" -m "$model" -p 8 -n 4 -r 1 -o csv
awk -F ',' 'NR == 1 { n = NF } END { exit NR != 3 || n < 60 }' "$out" || bad "not a head and two rows" "-o csv"
grep -q '^format,engine,build_commit,.*,model_filename,model_type,model_size,.*,n_prompt,n_gen,n_depth,test_time,avg_ns,stddev_ns,avg_ts,stddev_ts,' \
    "$out" || bad "the names are not llama-bench's" "-o csv"
if command -v python3 >/dev/null; then
    python3 -c 'import csv, sys
rows = list(csv.DictReader(open(sys.argv[1])))
assert [(r["n_prompt"], r["n_gen"]) for r in rows] == [("8", "0"), ("0", "4")] and all(None not in r for r in rows)' "$out" ||
        bad "no CSV" "-o csv"
    expect 0 'CREATE TABLE IF NOT EXISTS llama_bench' '*' "$bench" -m "$model" -p 8 -n 4 -r 1 -o sql
    python3 -c 'import sqlite3, sys
db = sqlite3.connect(":memory:")
db.executescript(open(sys.argv[1]).read())
rows = db.execute("SELECT n_prompt, n_gen, avg_ts > 0, typeof(max_ts), ttft_ms FROM llama_bench").fetchall()
assert rows == [(8, 0, 1, "real", None), (0, 4, 1, "real", None)], rows' "$out" || bad "no SQL" "-o sql"
fi

# A model without a file: the shapes and bytes of the real one, the same ids at each run.
expect 0 '*' '*' "$bench" --synthetic qwen3-0.6b:q4_k_m -p 2 -n 0 -r 1 -o jsonl --no-proof
grep -q '"model_type":"qwen3 0.6B Q4_K","model_size":[0-9]*,"model_n_params":596049920' "$out" || bad "other dimensions" --synthetic
expect 2 "" "there are synthetic:NAME:TYPE" "$bench" --synthetic qwen3-5b:q4_k_m
expect 2 "" "there are synthetic:NAME:TYPE" "$bench" --synthetic qwen3-4b:q4_z
expect 2 "" "there are synthetic:NAME:TYPE" "$bench" --synthetic qwen3-4b

# ---- proof --------------------------------------------------------------------------------------------------------------------

# The bundled model's types, heads in odd groups, experts, biases: each against a forward pass that shares no code with kernels.
for one in tiny-qwen3 checkpoints/llama checkpoints/qwen2 checkpoints/qwen3-yarn checkpoints/qwen3moe quantized/fp8; do
    expect 0 '*' '*' "$bench" -m "${0%/*}/data/$one" -p 4 -n 0 -r 1 -o jsonl
    grep -q '"proof":"ok","greedy_match":1,' "$out" || bad "no proof" "$one"
    awk -F '"kl_vs_ref":|"logits_error":' '{ exit !($2 + 0 < 1e-5 && $3 + 0 < 1e-3) }' "$out" || bad "far from the reference" "$one"
    grep -q '"variants":\["embed_[^]]*matvec_[^]]*attend_' "$out" || bad "no variants" "$one"
    grep -q '"self_test":"\([0-9]*\) of \1"' "$out" || bad "no verdict of the self-test" "$one"
done
expect 0 '*' '*' "$bench" -m "$model" -p 4 -n 0 -r 1 -ctk q8_0
grep -q '^proof ok: 13 of 13 greedy tokens' "$out" || bad "no proof" "-ctk q8_0"
expect 0 '*' '*' "$bench" -m "$model" -p 4 -n 0 -r 1 -o jsonl --no-proof
grep -q '"proof":null,"greedy_match":null,"kl_vs_ref":null' "$out" || bad "a proof all the same" --no-proof
if PM_BREAK=embed_bf16=crash PM_SELFTEST=0 PUMICE_CACHE='' "$bench" -m "$model" -p 4 -n 0 -r 1 >"$out" 2>"$err"; then
    echo "a build without PM_BREAK: no kernel is broken"
else
    for kernel in 'embed_*' 'matvec_*' rope_store_f16 attend_f16; do
        expect 0 '*' 'computes what is wrong' env "PM_BREAK=$kernel=wrong" PM_SELFTEST=0 "$bench" -m "$model" -p 4 -n 0 -r 1 -o jsonl
        grep -q '"proof":"failed"' "$out" || bad "a proof of what is wrong" "$kernel"
    done
    expect 0 'proof FAILED: ' 'computes what is wrong' env PM_BREAK=attend_f16=wrong PM_SELFTEST=0 "$bench" -m "$model" -p 4 -n 0 -r 1
fi

# ---- ceilings -----------------------------------------------------------------------------------------------------------------

expect 0 '*' '*' "$bench" --ceilings -o jsonl
for name in read_bandwidth write_bandwidth copy_bandwidth host_to_device device_to_host fma_f32 launch submit; do
    awk -F '"value":|"stddev":|"min":|"max":' -v name="\"ceiling\":\"$name\"" '
        index($0, name) { n++; if (!($2 + 0 > 0 && $4 + 0 <= $2 + 0 && $2 + 0 <= $5 + 0)) exit 1 }
        END { exit n != 1 }' "$out" || bad "no sensible $name" --ceilings
done
grep -q '"ceiling":"barrier","value":[0-9.e-]*,"unit":"us"' "$out" || bad "no barrier" --ceilings
[ "$(grep -c '"row":"ceiling"' "$out")" = "$(wc -l <"$out")" ] || bad "other rows" --ceilings
expect 0 '| copy_bandwidth ' '*' "$bench" --ceilings
if PM_BREAK=embed_bf16=crash PM_SELFTEST=0 PUMICE_CACHE='' "$bench" -m "$model" -p 4 -n 0 -r 1 >"$out" 2>"$err"; then
    :
else
    PUMICE_CACHE=$tmp/broken expect 0 '| fma_f32 ' 'no variant of the kernel ceiling_f32 is right' \
        env PM_BREAK=ceiling_f32=wrong "$bench" --ceilings
    grep -q '^| fma_f32 *| *unknown' "$out" || bad "a rate of what is wrong" --ceilings
fi

# ---- operations ---------------------------------------------------------------------------------------------------------------

"$bench" -m "$model" --ops -p 1,8 >"$out" 2>"$err"
if [ $? = 0 ]; then
    for kernel in embed matvec rope_store attend sample; do
        [ "$(grep -c "^| 1  *| $kernel" "$out")" -ge 1 ] || bad "no row of $kernel" "--ops"
    done
    grep -q '^| 8  *| ' "$out" || bad "no pass of 8 rows" "--ops"
    grep -q '^| read_bandwidth' "$out" || bad "no ceilings" "--ops"
    expect 0 '*' '*' "$bench" -m "$model" --ops -p 1 -o jsonl
    # the arithmetic of a product is that of its shape, its rate that of its time, its percent that of the ceiling
    awk -F '"shape":"|"avg_ns":|"flops":|"tflops":|"bw_percent":|"bw_GBps":|"flops_percent":' '
        /"ceiling":"read_bandwidth"/ { sub(/.*"value":/, ""); memory = $0 + 0 }
        /"kernel":"matvec/ {
            split($2, s, /x| /); n++
            if ($5 + 0 != 2 * s[1] * s[2] * s[4]) exit 1
            x = $5 / $3 / 1e3 / $6; y = 100 * $4 / memory / $7
            if (x < 0.999 || x > 1.001 || y < 0.999 || y > 1.001) exit 1
        }
        END { exit n < 4 }' "$out" || bad "no rates of products" "--ops -o jsonl"
    grep -q '"kernel":"matvec_bf16","where":"feed-forward","variant":"matvec_bf16:[0-9,]*","type":"BF16"' "$out" || bad "no variant" "--ops"
    grep -q '"bound":"memory"' "$out" || bad "nothing is bound by memory" "--ops"
    [ "$(grep -c '"row":"op"' "$out")" -ge 8 ] || bad "no rows of kernels" "--ops"
else
    grep -q "has no timestamps" "$err" || bad "no success" "--ops"
fi

# ---- for long, presets, devices, power ------------------------------------------------------------------------------------------

# The windows' rates are the samples; cold is the first, kept the mean of the last quarter.
expect 0 '*' '*' "$bench" -m "$model" -p 0 -n 4 --sustain 1s -o jsonl --no-proof
tr -d '[]' <"$out" | awk -F '"sustain_s":|"cold_ts":|"sustained_ts":|"throttle_s":|"window_ts":|"preset":' '{
        n = split($6, w, ",") - 1 # and nothing behind the last comma
        q = n >= 4 ? int(n / 4) : 1
        for (i = n - q + 1; i <= n; i++) kept += w[i] / q
        low = n; while (low > 0 && w[low] < 0.95 * w[1]) low--
        told = ($5 ~ /^null/) ? n : $5 + 0
        if (n < 1 || n > 20 || $2 + 0 < 0.4 || $3 + 0 != w[1] + 0 || kept / $4 > 1.0001 || $4 / kept > 1.0001) exit 1
        if ((low == n) != ($5 ~ /^null/)) exit 1
    }' || bad "cold, kept and windows do not fit together" --sustain
expect 0 'slower from' '*' "$bench" -m "$model" -p 4 -n 0 --sustain 0.1 --no-proof
expect 2 "" "wanted seconds" "$bench" -m "$model" --sustain long

expect 0 'it mixes' '*' "$bench" -m "$model" --preset qwen -n 4 -r 1 --no-proof
[ "$(cells 3 2)" = "pp1+tg4" ] && [ "$(grep -c '^|' "$out")" = 3 ] || bad "not the one row that fits" "--preset qwen"
expect 0 '"preset":"qwen","qwen_ts":' '*' "$bench" -m "$model" --preset qwen -n 4 -r 1 -o jsonl --no-proof
expect 2 "" "has no room for a prompt of 1 and 2048 new tokens" "$bench" -m "$model" --preset qwen

n=$("$bench" -m "$model" --compare-devices -p 4 -n 0 -r 1 -o jsonl --no-proof 2>"$err" | grep -c '"test_time"')
[ "$n" -ge 1 ] || bad "no device" --compare-devices
swiftshader=$HOME/.cache/pumice-build/swiftshader/vk_swiftshader_icd.json
lavapipe=$(ls /usr/share/vulkan/icd.d/lvp*.json 2>/dev/null | head -n 1)
if [ -e "$swiftshader" ] && [ "$lavapipe" ]; then
    VK_DRIVER_FILES=$lavapipe:$swiftshader
    export VK_DRIVER_FILES
    expect 0 '*' '*' "$bench" -m "$model" --compare-devices -p 4 -n 0 -r 1 -o json
    [ "$(sed -n 's/.*"device_uuid":[^"]*"\(.*\)".*/\1/p' "$out" | sort -u | wc -l)" = 2 ] || bad "not two devices" --compare-devices
    [ "$(grep -c '"proof":.*"ok"' "$out")" = 2 ] || bad "not two proofs" --compare-devices
    expect 0 '*' '*' "$bench" -m "$model" --compare-devices -p 4 -n 0 -r 1 --no-proof
    [ "$(grep -c 'heaps:' "$out")" = 2 ] && [ "$(grep -c ' pp4 ' "$out")" = 2 ] || bad "not two tables" --compare-devices
    unset VK_DRIVER_FILES
fi
if ! PM_BREAK=embed_bf16=crash PM_SELFTEST=0 PUMICE_CACHE='' "$bench" -m "$model" -p 4 -n 0 -r 1 >"$out" 2>"$err"; then
    PUMICE_CACHE=$tmp/broken expect 1 '*' 'is left out: no variant of the kernel attend_' \
        env "PM_BREAK=attend_*=wrong" "$bench" -m "$model" --compare-devices -p 4 -n 0 -r 1
fi
expect 2 "" "goes without --device" "$bench" -m "$model" --compare-devices --device 0
expect 2 "" "go without --peer" "$bench" -m "$tmp/none.gguf" --compare-devices --peer "$bench"

# A counter of energy that somebody turns on while the bench runs; nobody tells of anything else.
mkdir -p "$tmp/sys/class/powercap/intel-rapl:0"
(i=1000000 && while [ -d "$tmp/sys" ]; do
    echo "$i" >"$tmp/energy" && mv "$tmp/energy" "$tmp/sys/class/powercap/intel-rapl:0/energy_uj"
    i=$((i + 100000)) && sleep 0.1
done) 2>/dev/null &
counter=$!
expect 0 '*' '*' "$bench" -m "$model" -p 0 -n 8 --sustain 1s -o jsonl --no-proof --sysfs "$tmp/sys"
rm -rf "$tmp/sys" && wait $counter
if grep -q 'llvmpipe\|SwiftShader' "$out"; then
    awk -F '"watts":|"joules_per_token":|"avg_ts":' '{ x = $3 / ($4 * $2); exit !($3 + 0 > 0 && x > 0.99 && x < 1.01) }' "$out" ||
        bad "no watts" --sysfs
    grep -q '"clock_mhz_min":null,"clock_mhz_max":null,"temp_c_max":null,"throttled":null,"gpu_busy_before":null' "$out" ||
        bad "what nobody tells is told" --sysfs
fi
expect 0 '"watts":null,"joules_per_token":null' '*' "$bench" -m "$model" -p 4 -n 0 -r 1 -o jsonl --no-proof --sysfs "$tmp/none"

# Ctrl-C keeps what is finished.
for mode in "-n 4 --sustain 600s" "--preset qwen -n 1500 -r 100" "--ceilings --ops -p 64"; do
    # shellcheck disable=SC2086
    "$bench" -m "$model" -p 4 $mode -o json --no-proof >"$out" 2>"$err" &
    running=$!
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do # what measures listens to Ctrl-C
        grep -q 'heaps:' "$err" && break
        sleep 1
    done
    sleep 0.5
    kill -INT $running
    wait $running
    [ $? = 130 ] || [ "$mode" = "--ceilings --ops -p 64" ] || bad "no exit code 130" "$mode"
    [ ! -s "$out" ] || ! command -v python3 >/dev/null || python3 -m json.tool "$out" >/dev/null || bad "no whole JSON" "$mode"
done

# ---- in turn with a peer ------------------------------------------------------------------------------------------------------

: >"$tmp/none.gguf"
expect 2 "" "--peer reads .gguf files only" "$bench" -m "$model" --peer "$bench"
expect 2 "" "there is no such program" "$bench" -m "$tmp/none.gguf" --peer "$tmp/missing"
expect 2 "" "goes without --peer" "$bench" -m "$tmp/none.gguf" --ops --peer "$bench"

# peer GPU-NAME: one that takes a second for each test, whatever it is.
peer() {
    cat >"$tmp/peer" <<PEER
#!/bin/sh
echo "\$*" >>"$tmp/asked"
echo '[{"build_commit": "abc", "build_number": 1, "gpu_info": "$1", "backends": "Vulkan", "model_type": "x",
 "n_prompt": 8, "n_gen": 0, "n_depth": 0, "avg_ns": 1000000000},
 {"build_commit": "abc", "build_number": 1, "gpu_info": "$1", "backends": "Vulkan", "model_type": "x",
 "n_prompt": 0, "n_gen": 4, "n_depth": 0, "avg_ns": 1000000000}]'
PEER
    chmod +x "$tmp/peer"
}

if [ -n "${PM_WINDOWS:-}" ]; then
    echo "Windows runs no shell script: the bench was not run with a peer"
elif command -v python3 >/dev/null; then
    gguf=$tmp/tiny.gguf
    python3 "${0%/*}/../bench/random_gguf.py" "$gguf" tiny || bad "no model" random_gguf.py
    gpu=$("$bench" -m "$gguf" -p 1 -n 0 -r 1 -o json 2>/dev/null | sed -n 's/.*"gpu_info":[^"]*"\(.*\)".*/\1/p')
    peer "$gpu"
    expect 0 '*' '*' "$bench" -m "$gguf" -p 8 -n 4 -r 2 --peer "$tmp/peer"
    [ "$(grep -c -- '-m .*tiny.gguf -p 8 -n 4 -d 0 -r 1 ' "$tmp/asked")" = 2 ] || bad "the peer was not asked twice" --peer
    got=$(cells 4 1)/$(cells 6 1)
    [ "$got" = "8.00 ± 0.00/4.00 ± 0.00" ] || bad "the peer's rates are $got" --peer
    awk -v ours="$(cells 3 1)" -v ratio="$(cells 3 3)" 'BEGIN { x = ours / 8 / ratio; exit !(x > 0.99 && x < 1.01) }' ||
        bad "a wrong ratio" --peer
    grep -q 'peer: abc (1)' "$out" || bad "no build of the peer" --peer
    peer "Some other GPU"
    expect 2 '*' "the peer ran on Some other GPU" "$bench" -m "$gguf" -p 8 -n 4 -r 1 --peer "$tmp/peer"
    printf '#!/bin/sh\nexit 5\n' >"$tmp/peer"
    expect 1 '*' "the peer ended with exit code 5" "$bench" -m "$gguf" -p 8 -n 4 -r 1 --peer "$tmp/peer"
    printf '#!/bin/sh\necho hello\n' >"$tmp/peer"
    expect 1 '*' "is no JSON" "$bench" -m "$gguf" -p 8 -n 4 -r 1 --peer "$tmp/peer"
    printf '#!/bin/sh\necho []\n' >"$tmp/peer"
    expect 1 '*' "no result for pp8" "$bench" -m "$gguf" -p 8 -n 4 -r 1 --peer "$tmp/peer"
else
    echo "no python3: the bench was not run with a peer"
fi

# ---- bad input ----------------------------------------------------------------------------------------------------------------

expect 2 "" "-m" "$bench" -p 8
expect 2 "" "wanted whole numbers" "$bench" -m "$model" -p 8,x
expect 2 "" "wanted whole numbers" "$bench" -m "$model" -p 99999999999
expect 2 "" "wanted whole numbers" "$bench" -m "$model" -p 0-8*2
expect 2 "" "wanted whole numbers" "$bench" -m "$model" -p 8-64*1
expect 2 "" "wanted whole numbers" "$bench" -m "$model" -p 8-4
expect 2 "" "wanted whole numbers" "$bench" -m "$model" -d 0-8+0
expect 2 "" "more than 64 numbers" "$bench" -m "$model" -p 1-65
expect 2 "" "512,128" "$bench" -m "$model" -pg 8
expect 2 "" "512,128" "$bench" -m "$model" -pg 8,0
expect 2 "" "wanted 1 to 64 sequences" "$bench" -m "$model" -b 65
expect 2 "" "K and V have one type" "$bench" -m "$model" -ctv q8_0
expect 2 "" "no such tests" "$bench" -m "$tmp/none.gguf" -b 2 --peer "$bench"
expect 1 "" "No such file" "$bench" -m "$model" -m "$tmp/missing"
expect 2 "" "there is nothing to measure" "$bench" -m "$model" -p 0 -n 0
expect 2 "" "these tests need 20" "$bench" -m "$model" -p 20 -n 0 -c 10
expect 2 "" "wanted md or csv or json" "$bench" -m "$model" -o xml
expect 1 "" "No such file" "$bench" -m "$tmp/missing"
expect 0 "pumice-bench 0." "" "$bench" --version
exit $failed
