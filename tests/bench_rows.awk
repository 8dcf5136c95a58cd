# awk -v machine=N -f bench_rows.awk: what pumice-bench -o json could have written on one of four machines that never were. The second
# one computes wrong, the fourth grows hot and slow, and only the first has matrix units.
function number(name, value) { return sprintf(", \"%s\": %.10g", name, value) }
function text(name, value) { return ", \"" name "\": \"" value "\"" }

function start(row) {
    printf "%s{\"format\": 1, \"row\": \"%s\"%s", separator, row, \
        text("engine", "pumice") text("build_commit", "0.2") text("gpu_info", gpu) text("driver_name", driver) text("driver_info", version)
    separator = ",\n"
}

function model() { return text("model_type", "qwen3 4B Q4_K") text("type_k", "f16") }

# A test of p tokens at once and n one by one, behind depth others, for b sequences.
function tokens(p, n, depth, b, rate, more) {
    start("tokens")
    printf "%s%s%s}", model() number("n_prompt", p) number("n_gen", n) number("n_depth", depth) number("n_seqs", b), \
        number("avg_ts", rate) number("stddev_ts", rate * noise) number("min_ts", rate * (1 - 1.6 * noise)) \
        number("max_ts", rate * (1 + 1.4 * noise)), proof more
}

function ceiling(name, value, unit) {
    start("ceiling")
    printf "%s}", text("ceiling", name) text("unit", unit) number("value", value) number("stddev", value * noise / 2) \
        number("min", value * (1 - noise)) number("max", value * (1 + noise / 2)) number("n_samples", 5)
}

function op(kernel, where, shape, rows, count, bytes, flops, part,   peak, memory, compute, time) {
    peak = matrix && rows > 8 ? matrix : f32
    memory = bytes / read / 1e9
    compute = flops / peak / 1e12
    time = (memory > compute ? memory : compute) / part + launch / 1e6
    start("op")
    printf "%s%s%s%s}", model() text("kernel", kernel) text("where", where) text("shape", shape) text("type", "Q4_K") \
        text("variant", "r" rows), number("n_rows", rows) number("n_depth", 0) number("count", count) number("avg_ns", time * 1e9), \
        number("bytes", bytes) number("bw_GBps", bytes / time / 1e9) number("flops", flops) number("tflops", flops / time / 1e12), \
        number("bw_percent", bytes / time / 1e7 / read) number("flops_percent", flops / time / 1e10 / peak) \
        text("bound", memory > compute ? "memory" : "compute")
}

function ops(n, part,   linear) {
    linear = n > 8 ? "matmul" : "matvec"
    op(linear "_q4_k", "qkv", "6144x2560 x" n, n, 36, 6144 * 1440 + n * 10240, 2 * 6144 * 2560 * n, part)
    op(linear "_q4_k", "glu", "19456x2560 x" n, n, 36, 19456 * 1440 + n * 10240, 2 * 19456 * 2560 * n, part * 1.04)
    op(linear "_q4_k", "down", "2560x9728 x" n, n, 36, 2560 * 5472 + n * 38912, 2 * 2560 * 9728 * n, part * 0.93)
    op(linear "_q6_k", "head", "151936x2560 x1", n, 1, 151936 * 2100, 2 * 151936 * 2560, part * 0.97)
    op("attend", "attend", "32x128", n, 36, 16777216 + n * 32768, n * 16777216, part * 0.5)
    op("rope_store", "rope", "", n, 36, n * 49152, n * 36864, 0.3)
    op("sample", "sample", "", n, 1, 607744, 0, 0.2)
}

# read GB/s; TFLOP/s; us; tokens/s of prefill and decode; W
function be(a, b, c, d, e, f, g, h, i, j) {
    gpu = a; driver = b; version = c
    read = d; f32 = e; launch = f; noise = g; prefill = h; decode = i; watts = j
}

BEGIN {
    if (machine == 1) be("Aurora X90 (discrete)", "open-vk", "25.2.1", 912, 52, 2.1, 0.006, 6230, 205, 310)
    if (machine == 2) be("Aurora X90 (discrete)", "other-vk", "2.0.310", 905, 51, 3.4, 0.03, 3890, 191, 322)
    if (machine == 3) be("Birch 780 (integrated)", "open-vk", "25.2.1", 84, 7.6, 4.8, 0.02, 388, 21.5, 38)
    if (machine == 4) be("Pocket G7", "phone-vk", "512.777", 41, 1.6, 22, 0.09, 55, 9.1, 5.4)
    matrix = machine == 1 ? 180 : 0
    proof = machine == 2 ? text("proof", "failed") number("greedy_match", 0.31) number("kl_vs_ref", 2.41) text("self_test", "221 of 230") \
        : text("proof", "ok") number("greedy_match", 1) number("kl_vs_ref", 0.00003 * machine) text("self_test", "230 of 230")
    proof = proof number("load_ms", 2400 * machine) number("mem_bytes", 2780000000)
    power = number("watts", watts) number("clock_mhz_min", 2100 / machine) number("clock_mhz_max", 2500 / machine) \
        number("temp_c_max", 60 + 3 * machine)
    steady = machine == 4 ? 0.55 : 0.99
    heat = number("cold_ts", decode * 1.02) number("sustained_ts", decode * steady) number("sustain_s", 60)
    heat = heat (machine == 4 ? number("throttle_s", 23) ", \"throttled\": true" : ", \"throttle_s\": null, \"throttled\": false")

    printf "["
    ceiling("read_bandwidth", read, "GB/s"); ceiling("write_bandwidth", read * 0.9, "GB/s"); ceiling("copy_bandwidth", read * 0.85, "GB/s")
    ceiling("host_to_device", 24, "GB/s"); ceiling("fma_f32", f32, "TFLOP/s"); ceiling("fma_f16", f32 * 1.97, "TFLOP/s")
    ceiling("int8_dot", f32 * 3.9, "TOP/s")
    if (matrix) ceiling("coopmat_f16", matrix, "TFLOP/s")
    ceiling("launch", launch, "us"); ceiling("barrier", launch / 3, "us"); ceiling("submit", launch * 9, "us")
    tokens(512, 0, 0, 1, prefill, power number("joules_per_token", watts / prefill) number("ttft_ms", 512e3 / prefill))
    tokens(2048, 0, 0, 1, prefill * 0.93, "")
    tokens(0, 128, 0, 1, decode, power number("joules_per_token", watts / decode) heat)
    for (depth = 1024; depth <= 16384; depth *= 4)
        tokens(0, 128, depth, 1, decode / (1 + depth / 16000 * (1 + machine / 6)), "")
    tokens(0, 128, 0, 8, decode * 5.2, "")
    tokens(512, 128, 0, 1, 640 / (512 / prefill + 128 / decode), "")
    ops(1, 0.82 - 0.05 * machine)
    ops(64, 0.6 - 0.04 * machine)
    print "\n]"
}
