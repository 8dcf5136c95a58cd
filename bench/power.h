// Watts, clocks, heat and load of a device, as far as its system tells them.
#ifndef PM_BENCH_POWER_H
#define PM_BENCH_POWER_H

#include "host/base.h"
#include "host/device.h"

// Below 0: unknown.
typedef struct bench_power {
    double watts, joules; // the mean, and of all between begin and end
    double mhz_min, mhz_max, temp_max;
    int throttled; // 1: its driver held it back for want of power or for heat; 0: it did not; below 0: unknown
} bench_power;

typedef struct bench_meter bench_meter;

// sysfs: where the system's files about devices are, "/sys". nvml: the library that tells of GPUs whose driver has one; NULL: by
// its usual names. A system that tells nothing is no failure: PM_ERR_MEMORY is the only one.
pm_status bench_meter_open(const pm_device_info *device, const char *sysfs, const char *nvml, bench_meter **meter);
void bench_meter_close(bench_meter **meter);

// Percent of the time that the device is at work for anybody; below 0: unknown.
double bench_meter_busy(bench_meter *meter);

// What is measured runs between begin and end and looks at the meter now and then: it takes a sample when the last is 100 ms old.
void bench_meter_begin(bench_meter *meter);
void bench_meter_look(bench_meter *meter);
bench_power bench_meter_end(bench_meter *meter);

#endif
