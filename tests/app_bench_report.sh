#!/bin/sh
# app_bench_report.sh PUMICE-BENCH: reports of several machines as one page, as single charts and as text. No device is needed.
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
for machine in 1 2 3 4; do
    awk -v machine=$machine -f "${0%/*}/bench_rows.awk" >"$tmp/m$machine.json" </dev/null
done
charts="prefill decode both depth energy sustained roofline"

# ---- text -----------------------------------------------------------------------------------------------------------------------

expect 0 "qwen3 4B Q4_K, KV cache f16" "" "$bench" report "$tmp/a.json" "$tmp/b.jsonl" --text
grep -q '############\.*  *1000.25 t/s.*GPU A, drv 2.0, pumice 1$' "$out" || bad "no bar of half the length" --text
grep -q '2000.75 t/s.*GPU B.*PROOF FAILED' "$out" || bad "a failed proof is not told" --text
grep -q "not compared" "$out" && bad "there is one model only" --text
expect 0 "not compared with one another" "" "$bench" report "$tmp/a.json" "$tmp/q8.json" --text
[ "$(grep -c '^qwen3 4B Q4_K, KV cache' "$out")" = 2 ] || bad "two types of cache in one list" --text

expect 0 "2 tokens/J" "" "$bench" report "$tmp/q8.json" --text
expect 0 "read_bandwidth           84 GB/s, 82.32 to 84.84" "" "$bench" report "$tmp/m3.json" "$tmp/m4.json" --text
grep -qE 'matvec_q4_k +glu +19456x2560 x1 +1 +[0-9.]+ +[0-9.]+ +[0-9]+ % +[0-9.]+ +[0-9]+ %  memory$' "$out" || bad "no kernel" --text
grep -q 'steady 5.0' "$out" || bad "no steady rate" --text

# ---- the page: it holds the numbers, and they are what a browser shows --------------------------------------------------------------

expect 0 "" "" "$bench" report "$tmp/a.json" "$tmp/b.jsonl" "$tmp/q8.json" -o "$tmp/page.html"
for number in 1000.25 50.5 40.125 2000.75 25.0625 31; do
    [ "$(grep -c "class=\"bar .* data-value=\"$number\"" "$tmp/page.html")" = 1 ] || bad "not one bar of $number" page
    grep -q "\"avg_ts\":$number," "$tmp/page.html" || bad "the data lack $number" page
done
[ "$(grep -c '<section>' "$tmp/page.html")" = 2 ] || bad "two types of cache in one chart" page
[ "$(grep -c '<circle [^>]*class="point' "$tmp/page.html")" = 3 ] || bad "not three points of decode against depth" page
grep -q 'not compared with one another' "$tmp/page.html" || bad "it is not said that there are two" page
[ "$(grep -c 'class="bar [^"]* bad"' "$tmp/page.html")" = 1 ] || bad "not one bar is red" page
[ "$(grep -c '<tr class="bad">' "$tmp/page.html")" = 1 ] || bad "not one row is red" page
grep -q '<button>tokens/J</button>' "$tmp/page.html" || bad "no tokens per joule" page
grep -q 'data-chart="roofline"' "$tmp/page.html" && bad "a roofline without kernels" page
grep -qE '(src|href)=|https?:|@import|url\(' "$tmp/page.html" && bad "something outside is needed" page
expect 0 "" "" "$bench" report "$tmp/a.json" -o "$tmp/alone.html"
grep -q 'tokens/J' "$tmp/alone.html" && bad "tokens per joule, and none is known" page
expect 0 "" "" "$bench" report "$tmp"/m?.json -o "$tmp/four.html"
[ "$(grep -c 'data-chart="roofline"' "$tmp/four.html")" = 4 ] || bad "not a roofline for each device" four.html
[ "$(grep -c 'class="roof slope"' "$tmp/four.html")" = 4 ] || bad "not a slope for each device" four.html
[ "$(grep -c 'class="roof"' "$tmp/four.html")" = 13 ] || bad "not 3 roofs for each device and one for the matrix units" four.html
[ "$(grep -c '<circle [^>]*class="kernel' "$tmp/four.html")" = 48 ] || bad "not a point for each kernel that computes" four.html

# ---- single charts ------------------------------------------------------------------------------------------------------------------

for chart in $charts; do
    expect 0 "" "" "$bench" report "$tmp"/m?.json --svg "$chart" -o "$tmp/$chart.svg"
    # What the page draws, and nothing else: the same elements with the same figures.
    figures='data-device="[^>]*data-value="[^"]*"'
    [ "$(grep -o "$figures" "$tmp/$chart.svg" | sort)" = "$(sed -n "/data-chart=\"$chart\"/,/<\/svg>/p" "$tmp/four.html" | grep -o "$figures" |
        sort)" ] || bad "not the figures of the page" "$chart.svg"
    grep -q "$figures" "$tmp/$chart.svg" || bad "no figures" "$chart.svg"
    grep -qE '(src|href)=|@import|url\(|var\(' "$tmp/$chart.svg" && bad "something outside is needed" "$chart.svg"
done
expect 1 "" "the reports hold nothing for this chart" "$bench" report "$tmp/a.json" --svg energy -o "$tmp/none.svg"
[ ! -e "$tmp/none.svg" ] || bad "an empty chart was written" none.svg
expect 0 "" "" "$bench" report "$tmp/a.json" "$tmp/q8.json" --svg decode -o "$tmp/two.svg"
grep -q 'KV cache q8_0' "$tmp/two.svg" && grep -q 'not compared with one another' "$tmp/two.svg" || bad "two caches unsaid" two.svg
expect 2 "" "says where to" "$bench" report "$tmp/a.json" --svg decode
expect 2 "" "--svg" "$bench" report "$tmp/a.json" --svg pie -o "$tmp/pie.svg"

# ---- what is not ours, cut off, newer, hostile --------------------------------------------------------------------------------------

head -c 300 "$tmp/a.json" >"$tmp/cut.json"
echo '{"model_type": "x", "avg_ts": 1}' >"$tmp/other.json"
echo '[]' >"$tmp/empty.json"
row pumice "GPU A" m f16 8 0 0 1 | sed 's/"format": 1/"format": 2/' >"$tmp/newer.json"
row pumice "GPU A" m f16 8 0 0 -5 >"$tmp/minus.json"
row pumice "GPU A" m f16 8 0 0 1e999 >"$tmp/huge.json"
row pumice "GPU A" m f16 8 0 0 1e-300 >"$tmp/tiny.json"
row pumice "GPU A" m f16 8 0 0 '"NaN"' >"$tmp/nan.json"
row pumice "GPU A" m f16 8 0 0 NaN >"$tmp/bare.json"
row pumice "GPU A" m f16 1e9 0 0 5 >"$tmp/prompt.json"
row pumice "GPU A" m f16 8 0 0 5 ', "proof": false' >"$tmp/proof.json"
row pumice "GPU A" m f16 8 0 0 5 ', "row": "dream"' >"$tmp/dream.json"
row pumice "GPU A" m f16 8 0 0 5 ', "row": "ceiling", "ceiling": "read_bandwidth", "value": 5, "unit": 7' >"$tmp/ceiling.json"
row pumice "GPU A" m f16 8 0 0 5 ', "row": "op", "kernel": ["x"], "avg_ns": 5' >"$tmp/op.json"
awk 'BEGIN { print "["; for (i = 0; i < 70; i++) printf "%s{\"engine\":\"e\",\"gpu_info\":\"g%d\",\"model_type\":\"m\",\"n_gen\":1,\"avg_ts\":1}",
    i ? "," : "", i; print "]" }' >"$tmp/many.json"
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
for bad in minus huge tiny nan prompt ceiling op; do
    left $bad.json "has a row without figures"
done
left bare.json "is no JSON, or cut off"
left proof.json "has a row whose proof is neither ok nor failed"
left dream.json "was written by a newer"
left many.json "has more rows, devices or models"
expect 0 "1000.25" "left out: $tmp/missing.json" "$bench" report "$tmp/missing.json" "$tmp/a.json" --text

# Fields of the wrong type are unknown; huge ones draw something that is whole.
wrong='"self_test": 5, "variants": [1, {"a": []}, "<i>v"], "watts": "NaN", "joules_per_token": 1e308, "clock_mhz_min": -1, "throttled": "yes",
 "temp_c_max": [], "cold_ts": {}, "sustained_ts": 1e999, "throttle_s": true, "greedy_match": "1", "kl_vs_ref": null, "gpu_busy_before": "all",
 "preset": 3, "qwen_ts": false, "stddev_ts": "<", "min_ts": -1, "n_depth": 1e300'
row pumice "GPU W" m f16 0 8 0 77.5 ", \"proof\": \"ok\", $wrong" >"$tmp/wrong.json"
row pumice "GPU H" m f16 0 8 0 9e17 ', "stddev_ts": 9e17, "joules_per_token": 1e-17, "cold_ts": 9e17, "sustained_ts": 1e-17' >"$tmp/large.json"
row pumice "GPU H" m f16 0 8 64 1e-17 >>"$tmp/large.json"
kernel='"row": "op", "kernel": "k<b>&\"", "avg_ns": 1'
for more in '"flops": 9e17, "bytes": 1e-17' '"flops": 1e-17, "bytes": 9e17' '"flops": 5, "bytes": 0' '"flops": "x", "bytes": []'; do
    row pumice "GPU H" m f16 0 8 0 1 ", $(echo "$kernel" | sed 's/&\\*"/\&/'), $more" >>"$tmp/large.json"
done
row pumice "GPU H" m f16 0 0 0 0 ', "row": "ceiling", "ceiling": "read_bandwidth", "value": 1e17, "unit": "<GB/s>"' >>"$tmp/large.json"
row pumice "GPU H" m f16 0 0 0 0 ', "row": "ceiling", "ceiling": "fma_f32", "value": 1e-17, "unit": "TFLOP/s"' >>"$tmp/large.json"
row pumice "GPU H" m f16 0 0 0 0 ', "row": "ceiling", "ceiling": "barrier", "value": 0, "unit": "us"' >>"$tmp/large.json"
row pumice "GPU H" m f16 0 0 0 0 ', "row": "op", "kernel": "copy", "avg_ns": 0, "flops": 1, "bytes": 1' >>"$tmp/large.json"
row pumice "<script>alert(1)</script>&'x" "m</script><b>" f16 8 0 0 77.5 >"$tmp/evil.json"
# Control characters and noncharacters, which no XML may have, and bytes that are no UTF-8.
printf '{"engine": "e", "gpu_info": "x\\u0001\\uffff\\u202e\\u009b\377\300\200]]>", "model_type": "m", "n_gen": 8, "n_depth": 8, "avg_ts": 5}' >"$tmp/bytes.json"
expect 0 "77.50 t/s" "" "$bench" report "$tmp/wrong.json" --text
grep -qE 'tokens/J|steady|FAILED' "$out" && bad "a field of the wrong type was believed" wrong.json
expect 0 "x???" "" "$bench" report "$tmp/bytes.json" --text
hostile="$tmp/wrong.json $tmp/large.json $tmp/evil.json $tmp/bytes.json"
# shellcheck disable=SC2086
expect 0 "" "" "$bench" report $hostile -o "$tmp/evil.html"
grep -q 'alert(1)' "$tmp/evil.html" || bad "the name is gone" evil.html
grep -q '<script>alert\|<b>\|m</script>\|<i>v\|<GB' "$tmp/evil.html" && bad "markup of a file became markup" evil.html
# shellcheck disable=SC2086
for chart in $charts; do
    expect 0 "" "" "$bench" report $hostile "$tmp/m1.json" --svg "$chart" -o "$tmp/evil-$chart.svg"
done
if command -v python3 >/dev/null; then
    python3 -c 'import sys, xml.etree.ElementTree as tree
for path in sys.argv[1:]:
    root = tree.parse(path).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg" and float(root.get("height")) > 50, path
    assert "nan" not in open(path, encoding="utf-8").read().lower().replace("finance", ""), path' "$tmp"/*.svg 2>"$err" || bad "no XML" "*.svg"
else
    echo "no python3: no parser of XML looked at the charts"
fi
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

# looked NAME: page NAME.html with a script that says what is shown; the page's own policy allows scripts within it.
looked() {
    sed "/<\/body>/d" "$tmp/$1.html" | cat - "$tmp/look" >"$tmp/$1-looked.html"
    timeout 120 "$browser" --headless --no-sandbox --disable-gpu --user-data-dir="$tmp/profile" --window-size=390,800 --dump-dom \
        "file://$tmp/$1-looked.html" >"$out" 2>"$err"
}

# Bars and points must lie where their figures put them, and the figures must be the data's.
cat >"$tmp/look" <<'JS'
<script>
onerror = message => document.body.append('BROWSER ' + message);
const data = JSON.parse(document.getElementById('data').textContent);
const all = (selector, from = document) => [...from.querySelectorAll(selector)];
const near = (a, b, most) => Math.abs(a - b) <= most;
const figures = (list, name) => list.map(x => parseFloat(x.dataset[name])).sort((a, b) => a - b);
const same = (a, b) => a.length === b.length && a.every((x, i) => near(x, b[i], 1e-9 * Math.abs(b[i])));
const sorted = list => list.sort((a, b) => a - b);
const says = {};
const rates = data.filter(d => !d.kernel && !d.ceiling);
const bars = all('[data-chart=prefill] .bar, [data-chart=decode] .bar, [data-chart=both] .bar');
says.bars = same(figures(bars, 'value'), sorted(rates.map(d => d.avg_ts)));
says.texts = bars.every(b => b.parentNode.textContent.split('\n').some(t => near(parseFloat(t), b.dataset.value, 0.0051)));
says.lengths = all('svg').every(chart => {
    const list = all('.bar', chart).map(b => [b.getBoundingClientRect().width, +b.dataset.value]);
    const [width, value] = list.reduce((a, b) => b[1] > a[1] ? b : a, [0, 0]);
    return list.every(b => near(b[0], b[1] / value * width, 0.5));
});
says.spread = all('.spread').length === rates.filter(d => d.max_ts > d.min_ts).length;
const box = x => { const b = x.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; };
// Of points in one chart: is each at a place that its figures give by the line through the least and the greatest?
const straight = (points, figure, across) => {
    const list = points.map(p => [figure(p), box(p)[across ? 0 : 1]]).sort((a, b) => a[0] - b[0]);
    const [first, last] = [list[0], list[list.length - 1]];
    return list.every(p => near(p[1], first[1] + (p[0] - first[0]) / (last[0] - first[0] || 1) * (last[1] - first[1]), 0.6));
};
says.depth = all('[data-chart=depth]').every(chart => {
    const points = all('.point', chart);
    return straight(points, p => +p.dataset.depth, true) && straight(points, p => +p.dataset.value, false);
});
const kernels = data.filter(d => d.kernel && d.flops > 0 && d.bytes > 0);
says.kernels = same(figures(all('.kernel'), 'value'), sorted(kernels.map(d => d.tflops))) &&
    same(figures(all('.kernel'), 'operations'), sorted(kernels.map(d => d.flops / d.bytes)));
// A kernel lies below the slope of memory as far as it stays behind it: the ceiling's row says where the slope is.
says.roofline = all('[data-chart=roofline]').every(chart => {
    const points = all('.kernel', chart), slope = all('.slope', chart)[0];
    const x = p => Math.log10(p.dataset.operations), y = p => Math.log10(p.dataset.value);
    const gpu = data.filter(d => d.ceiling === 'read_bandwidth')[points[0].dataset.device - 1];
    points.sort((a, b) => a.dataset.value - b.dataset.value);
    const [a, b] = [points[0], points[points.length - 1]], [ax, ay] = box(a), [bx, by] = box(b);
    const line = slope.getBoundingClientRect(), at = ax + (Math.log10(1 / (gpu.value / 1e3)) - x(a)) / (x(b) - x(a)) * (bx - ax);
    const level = ay + (0 - y(a)) / (y(b) - y(a)) * (by - ay); // of 1 TFLOP/s
    const there = line.x + (line.bottom - level) / line.height * line.width;
    return straight(points, x, true) && straight(points, y, false) && near(at, there, 1.5);
});
const table = document.getElementById('rows');
const column = all('th', table).findIndex(h => h.textContent === 't/s');
const shown = () => all('tbody tr', table).map(r => parseFloat(r.cells[column].textContent));
const click = () => table.querySelectorAll('th button')[column].click();
click();
says.sorted = shown().every((x, i, l) => i === 0 || l[i - 1] <= x) && shown().length === rates.length;
click();
says.reversed = shown().every((x, i, l) => i === 0 || l[i - 1] >= x);
const failed = rates.filter(d => d.proof === 'failed').length;
says.red = all('tr.bad', table).length === failed && all('.bar.bad').every(b => getComputedStyle(b).fill === 'rgb(198, 40, 40)') &&
    all('.bar.bad', document).length >= failed;
says.fits = document.documentElement.scrollWidth <= innerWidth;
says.letters = all('.chart text').every(t => getComputedStyle(t).fontSize === '12px');
document.body.append('BROWSER ' + (Object.keys(says).filter(k => !says[k]).join(' ') || 'all right'));
</script>
JS

if [ -n "$browser" ]; then
    for name in page four; do
        looked $name
        if [ -s "$out" ]; then
            grep -q 'BROWSER all right' "$out" || bad "wrong in the browser: $(grep -o 'BROWSER [a-z ]*$' "$out" | tail -1)" "$browser" $name
        else
            echo "$browser shows nothing here: $name was not looked at"
        fi
    done
    looked evil
    grep -q 'BROWSER' "$out" || [ ! -s "$out" ] || bad "the page of hostile files breaks off" "$browser"
else
    echo "no chromium: the page was not looked at in a browser"
fi
exit $failed
