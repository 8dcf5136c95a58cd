// Watts, clocks, heat and load: from hwmon's files of the PCI device, from the library of a driver that has none, from a phone's
// battery, or from a processor's counter of energy where the device is a program on it.
#include "bench/power.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_SIZE = 512, MAX_NUMBER = 64, SAMPLE_NS = 100000000 };

// https://docs.nvidia.com/deploy/nvml-api: these numbers do not change.
enum { NVML_SUCCESS = 0, NVML_CLOCK_SM = 1, NVML_TEMPERATURE_GPU = 0 };
// Of its reasons for a lower clock: power cap by software, slowdown by hardware, heat by software and by hardware, power brake.
#define NVML_HELD_BACK 0xecull

typedef struct nvml {
    void *library, *device;
    int (*shutdown)(void);
    int (*power)(void *device, unsigned *milliwatts);
    int (*energy)(void *device, unsigned long long *millijoules);
    int (*speed)(void *device, int which, unsigned *mhz);
    int (*temperature)(void *device, int which, unsigned *celsius);
    int (*reasons)(void *device, unsigned long long *bits);
    int (*load)(void *device, unsigned percents[2]); // of its units, of its memory
} nvml;

struct bench_meter {
    char pci[PATH_SIZE];   // the folder of the PCI device; "": unknown
    char hwmon[PATH_SIZE]; // its sensors; "": none
    char card[PATH_SIZE];  // what its graphics driver tells; "": nothing
    char battery[PATH_SIZE], processor[PATH_SIZE];
    nvml nv;
    uint64_t began_ns, looked_ns;
    double began_joules, watts_sum;
    int n_watts;
    bench_power now;
};

// ---- files --------------------------------------------------------------------------------------------------------------

static bool read_number(const char *folder, const char *name, double *number) {
    char path[PATH_SIZE + 64], *text, *end;
    size_t size;
    if (!folder[0])
        return false;
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    if (!pm_path_exists(path) || pm_file_read(path, 256, &text, &size) != PM_OK)
        return false;
    *number = strtod(text, &end);
    bool found = end != text && isfinite(*number);
    pm_free(text);
    return found;
}

// The first of them that is there, in units of `unit`.
static double first_of(const char *folder, const char *const *names, double unit) {
    double number;
    for (; *names; names++)
        if (read_number(folder, *names, &number))
            return number * unit;
    return -1;
}

// FOLDER/NAME0, NAME1, ...: the first that is there.
static void find_numbered(const char *folder, const char *name, char path[PATH_SIZE]) {
    for (int i = 0; i < MAX_NUMBER; i++) {
        int n = snprintf(path, PATH_SIZE, "%s/%s%d", folder, name, i);
        if (n > 0 && n < PATH_SIZE && pm_path_is_dir(path))
            return;
    }
    path[0] = 0;
}

static void find_folder(const char *sysfs, const char *name, char path[PATH_SIZE]) {
    int n = snprintf(path, PATH_SIZE, "%s/%s", sysfs, name);
    if (n < 0 || n >= PATH_SIZE || !pm_path_is_dir(path))
        path[0] = 0;
}

static void find_files(bench_meter *m, const pm_device_info *d, const char *sysfs) {
    char name[64];
    if (d->type == PM_DEVICE_CPU) {
        find_folder(sysfs, "class/powercap/intel-rapl:0", m->processor); // so it is called on other makers' processors too
        return;
    }
    if (!d->has_pci) {
        find_folder(sysfs, "class/power_supply/battery", m->battery);
        return;
    }
    snprintf(name, sizeof(name), "bus/pci/devices/%04" PRIx32 ":%02" PRIx32 ":%02" PRIx32 ".%" PRIx32, d->pci[0], d->pci[1],
             d->pci[2], d->pci[3]);
    find_folder(sysfs, name, m->pci);
    if (!m->pci[0])
        return;
    find_numbered(m->pci, "hwmon/hwmon", m->hwmon);
    find_numbered(m->pci, "drm/card", m->card);
}

// ---- a driver's library -----------------------------------------------------------------------------------------------------

static void open_library(nvml *nv, const char *name) {
    static const char *const usual[] = {"libnvidia-ml.so.1", "nvml.dll", NULL};
    if (name)
        nv->library = pm_library_open(name);
    for (int i = 0; !name && usual[i] && !nv->library; i++)
        nv->library = pm_library_open(usual[i]);
}

static bool find_device(nvml *nv, const pm_device_info *d) {
    char pci[32];
    int (*init)(void) = (int (*)(void))pm_library_find(nv->library, "nvmlInit_v2");
    int (*find)(const char *, void **) =
        (int (*)(const char *, void **))pm_library_find(nv->library, "nvmlDeviceGetHandleByPciBusId_v2");
    snprintf(pci, sizeof(pci), "%08" PRIx32 ":%02" PRIx32 ":%02" PRIx32 ".%" PRIx32, d->pci[0], d->pci[1], d->pci[2], d->pci[3]);
    nv->shutdown = (int (*)(void))pm_library_find(nv->library, "nvmlShutdown");
    if (!init || !find || !nv->shutdown || init() != NVML_SUCCESS)
        return false;
    if (find(pci, &nv->device) == NVML_SUCCESS)
        return true;
    nv->shutdown();
    return false;
}

static void open_nvml(nvml *nv, const pm_device_info *d, const char *name) {
    open_library(nv, name);
    if (!nv->library)
        return;
    if (!find_device(nv, d)) {
        pm_library_close(&nv->library);
        return;
    }
    void *l = nv->library;
    nv->power = (int (*)(void *, unsigned *))pm_library_find(l, "nvmlDeviceGetPowerUsage");
    nv->energy = (int (*)(void *, unsigned long long *))pm_library_find(l, "nvmlDeviceGetTotalEnergyConsumption");
    nv->speed = (int (*)(void *, int, unsigned *))pm_library_find(l, "nvmlDeviceGetClockInfo");
    nv->temperature = (int (*)(void *, int, unsigned *))pm_library_find(l, "nvmlDeviceGetTemperature");
    nv->reasons = (int (*)(void *, unsigned long long *))pm_library_find(l, "nvmlDeviceGetCurrentClocksThrottleReasons");
    nv->load = (int (*)(void *, unsigned *))pm_library_find(l, "nvmlDeviceGetUtilizationRates");
}

// ---- what is told now -------------------------------------------------------------------------------------------------------

static double watts_now(const bench_meter *m) {
    static const char *const files[] = {"power1_average", "power1_input", NULL};
    unsigned milliwatts;
    double amperes, volts;
    if (m->nv.library)
        return m->nv.power && m->nv.power(m->nv.device, &milliwatts) == NVML_SUCCESS ? milliwatts / 1e3 : -1;
    if (read_number(m->battery, "current_now", &amperes) && read_number(m->battery, "voltage_now", &volts))
        return fabs(amperes) * volts / 1e12; // below zero on some while it is drawn from
    return first_of(m->hwmon, files, 1e-6);
}

// Counted up from some time on.
static double joules_now(const bench_meter *m) {
    static const char *const files[] = {"energy1_input", NULL}, *const counter[] = {"energy_uj", NULL};
    unsigned long long millijoules;
    if (m->nv.library)
        return m->nv.energy && m->nv.energy(m->nv.device, &millijoules) == NVML_SUCCESS ? (double)millijoules / 1e3 : -1;
    return m->processor[0] ? first_of(m->processor, counter, 1e-6) : first_of(m->hwmon, files, 1e-6);
}

static double mhz_now(const bench_meter *m) {
    static const char *const hertz[] = {"freq1_input", NULL}, *const megahertz[] = {"gt_act_freq_mhz", NULL};
    unsigned mhz;
    if (m->nv.library)
        return m->nv.speed && m->nv.speed(m->nv.device, NVML_CLOCK_SM, &mhz) == NVML_SUCCESS ? (double)mhz : -1;
    double found = first_of(m->hwmon, hertz, 1e-6);
    return found >= 0 ? found : first_of(m->card, megahertz, 1);
}

static double temperature_now(const bench_meter *m) {
    static const char *const files[] = {"temp1_input", NULL}, *const tenths[] = {"temp", NULL};
    unsigned celsius;
    if (m->nv.library)
        return m->nv.temperature && m->nv.temperature(m->nv.device, NVML_TEMPERATURE_GPU, &celsius) == NVML_SUCCESS
                   ? (double)celsius
                   : -1;
    return m->battery[0] ? first_of(m->battery, tenths, 0.1) : first_of(m->hwmon, files, 1e-3);
}

static int throttled_now(const bench_meter *m) {
    unsigned long long reasons;
    double status;
    if (m->nv.library)
        return m->nv.reasons && m->nv.reasons(m->nv.device, &reasons) == NVML_SUCCESS ? (reasons & NVML_HELD_BACK) != 0 : -1;
    return read_number(m->card, "gt/gt0/throttle_reason_status", &status) ? status != 0 : -1;
}

double bench_meter_busy(bench_meter *m) {
    unsigned percents[2];
    double percent;
    if (m->nv.library)
        return m->nv.load && m->nv.load(m->nv.device, percents) == NVML_SUCCESS ? (double)percents[0] : -1;
    return read_number(m->pci, "gpu_busy_percent", &percent) ? percent : -1;
}

// ---- the meter --------------------------------------------------------------------------------------------------------------

static void take_sample(bench_meter *m) {
    bench_power *p = &m->now;
    double watts = watts_now(m), mhz = mhz_now(m);
    int throttled = throttled_now(m);
    m->looked_ns = pm_now_ns();
    if (watts >= 0) {
        m->watts_sum += watts;
        m->n_watts++;
    }
    if (mhz >= 0)
        p->mhz_min = p->mhz_min < 0 || mhz < p->mhz_min ? mhz : p->mhz_min;
    p->mhz_max = fmax(p->mhz_max, mhz);
    p->temp_max = fmax(p->temp_max, temperature_now(m));
    p->throttled = throttled > p->throttled ? throttled : p->throttled;
}

void bench_meter_begin(bench_meter *m) {
    m->now = (bench_power){-1, -1, -1, -1, -1, -1};
    m->watts_sum = 0;
    m->n_watts = 0;
    m->began_joules = joules_now(m);
    m->began_ns = m->looked_ns = pm_now_ns();
}

void bench_meter_look(bench_meter *m) {
    if (pm_now_ns() - m->looked_ns >= SAMPLE_NS)
        take_sample(m);
}

// By the counter of energy where there is one (and it did not begin anew), else by the samples of power.
bench_power bench_meter_end(bench_meter *m) {
    take_sample(m);
    double joules = joules_now(m), seconds = (double)(pm_now_ns() - m->began_ns) / 1e9;
    if (m->began_joules >= 0 && joules > m->began_joules && seconds > 0) {
        m->now.joules = joules - m->began_joules;
        m->now.watts = m->now.joules / seconds;
    } else if (m->n_watts > 0) {
        m->now.watts = m->watts_sum / m->n_watts;
        m->now.joules = m->now.watts * seconds;
    }
    return m->now;
}

pm_status bench_meter_open(const pm_device_info *device, const char *sysfs, const char *nvml_name, bench_meter **meter) {
    *meter = pm_calloc(1, sizeof(**meter));
    if (!*meter)
        return pm_fail(PM_ERR_MEMORY, "no memory to watch the device's power");
    find_files(*meter, device, sysfs);
    if (device->has_pci && !(*meter)->hwmon[0])
        open_nvml(&(*meter)->nv, device, nvml_name);
    return PM_OK;
}

void bench_meter_close(bench_meter **closing) {
    bench_meter *m = *closing;
    *closing = NULL;
    if (!m)
        return;
    if (m->nv.library)
        m->nv.shutdown();
    pm_library_close(&m->nv.library);
    pm_free(m);
}
