#!/bin/sh
# app_bench_report.sh PUMICE-BENCH: reports of several machines as one page and as text. No device is needed.
set -u
bench=$1
. "${0%/*}/expect.sh"

# row ENGINE GPU MODEL KV PROMPT GEN DEPTH RATE [MORE]
row() {
    echo "{\"format\": 1, \"engine\": \"$1\", \"build_commit\": \"1\", \"gpu_info\": \"$2\", \"driver_name\": \"drv\", \"driver_info\": \"2.0\",
 \"model_type\": \"$3\", \"type_k\": \"$4\", \"n_prompt\": $5, \"n_gen\": $6, \"n_depth\": $7, \"avg_ts\": $8, \"stddev_ts\": 1.5,
 \"min_ts\": $8, \"max_ts\": $8${9:-}}"
}

{ echo "[" && row pumice "GPU A" "qwen3 4B Q4_K" f16 512 0 0 1000.25 && echo , && row pumice "GPU A" "qwen3 4B Q4_K" f16 0 128 0 50.5 &&
    echo , && row pumice "GPU A" "qwen3 4B Q4_K" f16 0 128 4096 40.125 && echo "]"; } >"$tmp/a.json"
{ row pumice "GPU B" "qwen3 4B Q4_K" f16 512 0 0 2000.75 ', "proof": "failed"' && row pumice "GPU B" "qwen3 4B Q4_K" f16 0 128 0 25.0625; } \
    >"$tmp/b.jsonl"
row pumice "GPU B" "qwen3 4B Q4_K" q8_0 0 128 0 31 ', "joules_per_token": 0.5' >"$tmp/q8.json"

# ---- text -----------------------------------------------------------------------------------------------------------------------

expect 0 "qwen3 4B Q4_K, KV cache f16" "" "$bench" report "$tmp/a.json" "$tmp/b.jsonl" --text
grep -q '############\.*  *1000.25 t/s.*GPU A, drv 2.0, pumice 1$' "$out" || bad "no bar of half the length" --text
grep -q '2000.75 t/s.*GPU B.*PROOF FAILED' "$out" || bad "a failed proof is not told" --text
grep -q "not compared" "$out" && bad "there is one model only" --text
expect 0 "not compared with one another" "" "$bench" report "$tmp/a.json" "$tmp/q8.json" --text
[ "$(grep -c '^qwen3 4B Q4_K, KV cache' "$out")" = 2 ] || bad "two types of cache in one list" --text

# ---- the page: it holds the numbers, and they are what a browser shows --------------------------------------------------------------

expect 0 "" "" "$bench" report "$tmp/a.json" "$tmp/b.jsonl" "$tmp/q8.json" -o "$tmp/page.html"
for number in 1000.25 50.5 40.125 2000.75 25.0625 31; do
    [ "$(grep -c "class=\"bar\".* data-ts=\"$number\"" "$tmp/page.html")" = 1 ] || bad "not one bar of $number" page
    grep -q "\"avg_ts\":$number," "$tmp/page.html" || bad "the data lack $number" page
done
[ "$(grep -c '<section>' "$tmp/page.html")" = 2 ] || bad "two types of cache in one chart" page
[ "$(grep -o '<circle [^>]*data-ts' "$tmp/page.html" | wc -l)" = 3 ] || bad "not three points of decode against depth" page
grep -q 'not compared with one another' "$tmp/page.html" || bad "it is not said that there are two" page
grep -q 'class="fill bad".*1[^0-9]' "$tmp/page.html" && [ "$(grep -c 'fill bad' "$tmp/page.html")" = 1 ] || bad "not one bar is red" page
grep -q '<th class="n">tokens/J</th>' "$tmp/page.html" || bad "no tokens per joule" page
grep -qE '(src|href)=|https?:|@import|url\(' "$tmp/page.html" && bad "something outside is needed" page
expect 0 "" "" "$bench" report "$tmp/a.json" -o "$tmp/alone.html"
grep -q 'tokens/J' "$tmp/alone.html" && bad "tokens per joule, and none is known" page

# ---- what is not ours, cut off, newer, hostile --------------------------------------------------------------------------------------

head -c 300 "$tmp/a.json" >"$tmp/cut.json"
echo '{"model_type": "x", "avg_ts": 1}' >"$tmp/other.json"
echo '[]' >"$tmp/empty.json"
row pumice "GPU A" m f16 8 0 0 1 | sed 's/"format": 1/"format": 2/' >"$tmp/newer.json"
row pumice "GPU A" m f16 8 0 0 -5 >"$tmp/minus.json"
awk 'BEGIN { for (i = 0; i < 5000; i++) printf "[" }' >"$tmp/deep.json"
left() {
    expect 0 "1000.25 t/s" "left out: $tmp/$1 $2" "$bench" report "$tmp/a.json" "$tmp/$1" --text
    expect 1 "" "there is nothing to report" "$bench" report "$tmp/$1" --text
}
left cut.json "is no JSON, or cut off"
left deep.json "is no JSON, or cut off"
left other.json "is not a report"
left empty.json "holds no rows"
left newer.json "was written by a newer"
left minus.json "has a row without figures"
expect 0 "1000.25" "left out: $tmp/missing.json" "$bench" report "$tmp/missing.json" "$tmp/a.json" --text
row pumice "<script>alert(1)</script>&'x" "m</script><b>" f16 8 0 0 77.5 >"$tmp/evil.json"
expect 0 "" "" "$bench" report "$tmp/evil.json" -o "$tmp/evil.html"
grep -q 'alert(1)' "$tmp/evil.html" || bad "the name is gone" evil.html
grep -q '<script>alert\|<b>\|m</script>' "$tmp/evil.html" && bad "markup of a file became markup" evil.html
printf '{"format": 1, "engine": "pumice", "gpu_info": "a\\u001b[2Jb", "model_type": "m", "n_prompt": 8, "avg_ts": 5}' >"$tmp/escape.json"
expect 0 'a?[2Jb' "" "$bench" report "$tmp/escape.json" --text

expect 2 "" "is missing" "$bench" report --text
expect 2 "" "writes a page" "$bench" report "$tmp/a.json"
expect 1 "" "$tmp/no/page.html" "$bench" report "$tmp/a.json" -o "$tmp/no/page.html"
expect 0 "usage: pumice-bench report REPORT.json..." "" "$bench" report --help

# ---- in a browser -------------------------------------------------------------------------------------------------------------------

browser=
for program in chromium chromium-browser google-chrome; do
    [ -n "$browser" ] || ! command -v $program >/dev/null || browser=$program
done
if [ -n "$browser" ]; then
    # A second script sorts by rate and says what the page shows; the page's own policy allows scripts within it.
    cat >"$tmp/look" <<'JS'
<script>
const data = JSON.parse(document.getElementById('data').textContent);
const bars = [...document.querySelectorAll('.bar')];
const shown = bars.map(b => parseFloat(b.querySelector('.t').textContent)).sort((a, b) => a - b);
const want = data.map(d => parseFloat(d.avg_ts.toFixed(2))).sort((a, b) => a - b);
const same = shown.every((x, i) => Math.abs(x - want[i]) <= 0.011) && shown.length === want.length;
const widths = bars.map(b => [b.querySelector('.fill').offsetWidth / b.querySelector('.track').offsetWidth, parseFloat(b.dataset.ts)]);
const half = widths.find(w => w[1] === 1000.25)[0];
const head = [...document.querySelectorAll('#rows th')].find(h => h.textContent === 't/s');
head.click();
const column = [...document.querySelectorAll('#rows tbody tr')].map(r => parseFloat(r.cells[3].textContent));
const sorted = column.every((x, i) => i === 0 || column[i - 1] <= x);
const red = getComputedStyle(document.querySelector('.fill.bad')).backgroundColor;
document.body.append('BROWSER same=' + same + ' half=' + (Math.abs(half - 0.5) < 0.01) + ' sorted=' + sorted + ' red=' + red +
    ' fits=' + (document.documentElement.scrollWidth <= innerWidth));
</script>
JS
    sed "/<\/body>/d" "$tmp/page.html" | cat - "$tmp/look" >"$tmp/looked.html"
    timeout 120 "$browser" --headless --no-sandbox --disable-gpu --user-data-dir="$tmp/profile" --window-size=400,800 --dump-dom \
        "file://$tmp/looked.html" >"$out" 2>"$err"
    if [ -s "$out" ]; then
        grep -q 'BROWSER same=true half=true sorted=true red=rgb(198, 40, 40) fits=true' "$out" ||
            bad "the browser shows: $(grep -o 'BROWSER [a-z]*=.*' "$out" | tail -1)" "$browser"
    else
        echo "$browser shows nothing here: the page was not looked at"
    fi
else
    echo "no chromium: the page was not looked at in a browser"
fi
exit $failed
