// bench/power.c with a made-up /sys, and with a library that tells what a driver's would.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "bench/power.h"
#include "temp.h"

static const pm_device_info card = {.type = PM_DEVICE_DISCRETE, .has_pci = true, .pci = {0, 3, 0, 1}};
static char sysfs[1024];

static void put(const char *path, const char *text) {
    char full[2048];
    int n = snprintf(full, sizeof(full), "%s/%s", sysfs, path);
    assert_in_range(n, 1, sizeof(full) - 1);
    for (char *p = full + 1; *p; p++)
        if (*p == '/') {
            *p = 0;
            make_folder(full);
            *p = '/';
        }
    assert_int_equal(pm_file_write(full, text, strlen(text)), PM_OK);
}

static bench_meter *open_meter(const pm_device_info *device, const char *nvml) {
    bench_meter *m;
    assert_int_equal(bench_meter_open(device, sysfs, nvml, &m), PM_OK);
    return m;
}

static bool near(double a, double b) {
    return a > b * 0.999 && a < b * 1.001;
}

static void a_card_by_its_pci_address(void **state) {
    (void)state;
    snprintf(sysfs, sizeof(sysfs), "%s", temp_path("card"));
    put("bus/pci/devices/0000:03:00.1/hwmon/hwmon4/power1_average", "120500000\n");
    put("bus/pci/devices/0000:03:00.1/hwmon/hwmon4/freq1_input", "2400000000\n");
    put("bus/pci/devices/0000:03:00.1/hwmon/hwmon4/temp1_input", "61500\n");
    put("bus/pci/devices/0000:03:00.1/gpu_busy_percent", "37\n");
    put("bus/pci/devices/0000:04:00.0/hwmon/hwmon1/power1_average", "1\n"); // another one
    bench_meter *m = open_meter(&card, "/none");
    assert_true(bench_meter_busy(m) == 37);
    bench_meter_begin(m);
    bench_power p = bench_meter_end(m);
    assert_true(near(p.watts, 120.5) && p.joules > 0 && near(p.temp_max, 61.5) && near(p.mhz_min, 2400) && near(p.mhz_max, 2400));
    assert_true(p.throttled < 0);
    put("bus/pci/devices/0000:03:00.1/hwmon/hwmon4/freq1_input", "1200000000\n");
    bench_meter_begin(m);
    for (uint64_t began = pm_now_ns(); pm_now_ns() - began < 120000000;)
        bench_meter_look(m);
    put("bus/pci/devices/0000:03:00.1/hwmon/hwmon4/freq1_input", "1800000000\n");
    p = bench_meter_end(m);
    assert_true(near(p.mhz_min, 1200) && near(p.mhz_max, 1800) && p.joules > 0.1 * p.watts);
    bench_meter_close(&m);
}

// A counter of energy, and a driver that keeps its clock beside its outputs.
static void a_card_with_a_counter(void **state) {
    (void)state;
    snprintf(sysfs, sizeof(sysfs), "%s", temp_path("counter"));
    put("bus/pci/devices/0000:03:00.1/hwmon/hwmon0/energy1_input", "5000000\n");
    put("bus/pci/devices/0000:03:00.1/drm/card1/gt_act_freq_mhz", "950\n");
    put("bus/pci/devices/0000:03:00.1/drm/card1/gt/gt0/throttle_reason_status", "1\n");
    bench_meter *m = open_meter(&card, "/none");
    bench_meter_begin(m);
    put("bus/pci/devices/0000:03:00.1/hwmon/hwmon0/energy1_input", "7500000\n");
    bench_power p = bench_meter_end(m);
    assert_true(near(p.joules, 2.5) && p.watts > 0 && p.throttled == 1 && near(p.mhz_max, 950) && p.temp_max < 0);
    bench_meter_begin(m);
    put("bus/pci/devices/0000:03:00.1/hwmon/hwmon0/energy1_input", "12\n"); // it began anew
    p = bench_meter_end(m);
    assert_true(p.joules < 0 && p.watts < 0);
    bench_meter_close(&m);
}

static void a_phone_and_a_processor(void **state) {
    (void)state;
    const pm_device_info phone = {.type = PM_DEVICE_INTEGRATED}, software = {.type = PM_DEVICE_CPU};
    snprintf(sysfs, sizeof(sysfs), "%s", temp_path("phone"));
    put("class/power_supply/battery/current_now", "-1500000\n");
    put("class/power_supply/battery/voltage_now", "4000000\n");
    put("class/power_supply/battery/temp", "315\n");
    put("class/powercap/intel-rapl:0/energy_uj", "1000000\n");
    bench_meter *m = open_meter(&phone, NULL);
    bench_meter_begin(m);
    bench_power p = bench_meter_end(m);
    assert_true(near(p.watts, 6) && near(p.temp_max, 31.5) && bench_meter_busy(m) < 0);
    bench_meter_close(&m);
    m = open_meter(&software, NULL);
    bench_meter_begin(m);
    put("class/powercap/intel-rapl:0/energy_uj", "1500000\n");
    assert_true(near(bench_meter_end(m).joules, 0.5));
    bench_meter_close(&m);
}

static void nothing_is_told(void **state) {
    (void)state;
    static const char *const texts[] = {"", "\n", "nan\n", "twelve\n", "inf\n"};
    snprintf(sysfs, sizeof(sysfs), "%s", temp_path("nothing"));
    for (size_t i = 0; i <= sizeof(texts) / sizeof(*texts); i++) {
        bench_meter *m = open_meter(&card, "/none");
        bench_meter_begin(m);
        bench_power p = bench_meter_end(m);
        assert_true(p.watts < 0 && p.joules < 0 && p.mhz_min < 0 && p.mhz_max < 0 && p.temp_max < 0 && p.throttled < 0);
        assert_true(bench_meter_busy(m) < 0);
        bench_meter_close(&m);
        for (int k = 0; k < 2 && i < sizeof(texts) / sizeof(*texts); k++) {
            put(k ? "bus/pci/devices/0000:03:00.1/gpu_busy_percent" : "bus/pci/devices/0000:03:00.1/hwmon/hwmon0/power1_average",
                texts[i]);
        }
    }
    pm_alloc_fail_after(1);
    bench_meter *m;
    assert_int_equal(bench_meter_open(&card, sysfs, NULL, &m), PM_ERR_MEMORY);
    pm_alloc_fail_after(0);
    assert_null(m);
}

static void a_library_tells(void **state) {
    (void)state;
    pm_device_info other = card, gpu = card;
    gpu.pci[1] = 0x65;
    gpu.pci[3] = 0;
    snprintf(sysfs, sizeof(sysfs), "%s", temp_path("library"));
    for (int i = 0; i < 2; i++) { // what was opened is closed: its init fails else
        bench_meter *m = open_meter(&gpu, PM_FAKE_NVML);
        assert_true(bench_meter_busy(m) == 42);
        bench_meter_begin(m);
        bench_power p = bench_meter_end(m);
        assert_true(near(p.joules, 3) && p.watts > 0 && p.temp_max == 71 && p.throttled == 1);
        assert_true(p.mhz_min == 1900 - 100 * i || p.mhz_min == 1900); // the library may have been loaded anew
        bench_meter_close(&m);
        m = open_meter(&other, PM_FAKE_NVML); // not its device
        bench_meter_begin(m);
        assert_true(bench_meter_end(m).watts < 0);
        bench_meter_close(&m);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_card_by_its_pci_address), cmocka_unit_test(a_card_with_a_counter),
        cmocka_unit_test(a_phone_and_a_processor),   cmocka_unit_test(nothing_is_told),
        cmocka_unit_test(a_library_tells),
    };
    return cmocka_run_group_tests_name("power", tests, temp_open, temp_close) != 0;
}
