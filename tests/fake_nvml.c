// A library that tells what NVIDIA's would of the one GPU that it has, at 0000:65:00.0: for tests/test_bench_power.c.
#include <string.h>

int nvmlInit_v2(void), nvmlShutdown(void), nvmlDeviceGetHandleByPciBusId_v2(const char *, void **);
int nvmlDeviceGetPowerUsage(void *, unsigned *), nvmlDeviceGetTotalEnergyConsumption(void *, unsigned long long *);
int nvmlDeviceGetClockInfo(void *, int, unsigned *), nvmlDeviceGetTemperature(void *, int, unsigned *);
int nvmlDeviceGetCurrentClocksThrottleReasons(void *, unsigned long long *), nvmlDeviceGetUtilizationRates(void *, unsigned *);

static int gpu, opened;
static unsigned long long used = 1000000;

int nvmlInit_v2(void) {
    return opened++;
}

int nvmlShutdown(void) {
    opened--;
    return 0;
}

int nvmlDeviceGetHandleByPciBusId_v2(const char *pci, void **device) {
    *device = &gpu;
    return strcmp(pci, "00000000:65:00.0") ? 6 : 0;
}

int nvmlDeviceGetPowerUsage(void *device, unsigned *milliwatts) {
    *milliwatts = 250500;
    return device != &gpu;
}

int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *millijoules) {
    *millijoules = used += 3000;
    return device != &gpu;
}

int nvmlDeviceGetClockInfo(void *device, int which, unsigned *mhz) {
    static unsigned now = 2000;
    *mhz = which == 1 ? now -= 100 : 1;
    return device != &gpu;
}

int nvmlDeviceGetTemperature(void *device, int which, unsigned *celsius) {
    *celsius = 71;
    return device != &gpu || which != 0;
}

int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, unsigned long long *bits) {
    *bits = 0x24; // power cap, heat
    return device != &gpu;
}

int nvmlDeviceGetUtilizationRates(void *device, unsigned *percents) {
    percents[0] = 42;
    percents[1] = 7;
    return device != &gpu;
}
