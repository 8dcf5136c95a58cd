// host/os*.c and program_*.c on this machine: mappings, small files, the cache folder, threads, the clock.
#include "host/base.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>

#include <cmocka.h>

#include "temp.h"

#include <fcntl.h>
#include <signal.h>
#include <time.h>

static const char *self; // this program

static void map_shows_the_file(void **state) {
    (void)state;
    enum { SIZE = 300001 };
    static uint8_t bytes[SIZE];
    for (int i = 0; i < SIZE; i++)
        bytes[i] = (uint8_t)(i * 7 + i / 251);
    const char *path = temp_write("map", bytes, SIZE);
    pm_map map;
    assert_int_equal(pm_map_open(path, &map), PM_OK);
    assert_int_equal(map.size, SIZE);
    assert_memory_equal(map.data, bytes, SIZE);
    pm_map_forget(&map, 5000, 100000); // the pages come back from the file
    pm_map_forget(&map, 0, SIZE);
    pm_map_forget(&map, SIZE - 1, UINT64_MAX);
    pm_map_forget(&map, UINT64_MAX, 1);
    assert_memory_equal(map.data, bytes, SIZE);
    pm_map_close(&map);
    assert_null(map.data);
    pm_map_close(&map);
}

static void what_cannot_be_mapped_is_said(void **state) {
    (void)state;
    pm_map map;
    assert_int_equal(pm_map_open(temp_path("absent"), &map), PM_ERR_IO);
    assert_non_null(strstr(pm_error_text(), "absent"));
    assert_int_equal(pm_map_open(temp_folder, &map), PM_ERR_IO);
#ifndef _WIN32
    assert_int_equal(mkfifo(temp_path("fifo"), 0600), 0);
    assert_int_equal(pm_map_open(temp_path("fifo"), &map), PM_ERR_IO); // and does not hang
#endif
    assert_int_equal(pm_map_open(NULL_DEVICE, &map), PM_ERR_IO);
    assert_int_equal(pm_map_open(temp_text("empty", ""), &map), PM_OK);
    assert_null(map.data);
    assert_int_equal(map.size, 0);
    pm_map_forget(&map, 0, 1);
    pm_map_close(&map);
}

#ifndef _WIN32
// An open descriptor stays as it is: where it stands in the file does not matter, and the mapping outlives it.
static void a_descriptor_is_mapped(void **state) {
    (void)state;
    char path[32];
    pm_map map;
    int fd = open(temp_text("described", "hello"), O_RDONLY);
    assert_true(fd >= 0 && lseek(fd, 3, SEEK_SET) == 3);
    snprintf(path, sizeof(path), "fd:%d", fd);
    assert_int_equal(pm_map_open(path, &map), PM_OK);
    assert_int_equal(lseek(fd, 0, SEEK_CUR), 3);
    assert_int_equal(close(fd), 0);
    assert_int_equal(map.size, 5);
    assert_memory_equal(map.data, "hello", 5);
    pm_map_close(&map);
    static const char *const bad[] = {"fd:", "fd:x", "fd:-1", "fd:99999999999999999999", "fd:4294967296", "fd:1x", "fd: 1"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        assert_int_equal(pm_map_open(bad[i], &map), PM_ERR_IO);
    assert_int_equal(pm_map_open(path, &map), PM_ERR_IO); // it is closed
    assert_non_null(strstr(pm_error_text(), path));
    assert_true((fd = open("/dev/null", O_RDONLY)) >= 0);
    snprintf(path, sizeof(path), "fd:%d", fd);
    assert_int_equal(pm_map_open(path, &map), PM_ERR_IO); // no regular file
    close(fd);
}
#endif

static void files_are_read_up_to_a_limit(void **state) {
    (void)state;
    char *data;
    size_t size;
    assert_int_equal(pm_file_read(temp_text("small", "hello"), 5, &data, &size), PM_OK);
    assert_int_equal(size, 5);
    assert_string_equal(data, "hello");
    pm_free(data);
    assert_int_equal(pm_file_read(temp_path("small"), 4, &data, &size), PM_ERR_FILE);
    assert_null(data);
    assert_int_equal(pm_file_read(temp_path("absent"), 4, &data, &size), PM_ERR_IO);
    assert_int_equal(pm_file_read(temp_folder, 4, &data, &size), PM_ERR_IO);
    if (!IS_WINDOWS) {
        assert_int_equal(pm_file_read("/proc/self/status", 1 << 20, &data, &size), PM_OK); // whose size reads 0
        assert_true(size > 100);
        pm_free(data);
    }
    pm_alloc_fail_after(1);
    assert_int_equal(pm_file_read(temp_path("small"), 5, &data, &size), PM_ERR_MEMORY);
    pm_alloc_fail_after(0);
}

static void atomic_write_replaces_or_leaves(void **state) {
    (void)state;
    char *data;
    size_t size;
    const char *path = temp_text("cache", "old");
    assert_int_equal(pm_file_write_atomic(path, "newer", 5), PM_OK);
    assert_int_equal(pm_file_read(path, 100, &data, &size), PM_OK);
    assert_string_equal(data, "newer");
    pm_free(data);
    assert_int_equal(pm_file_write_atomic(temp_path("absent/file"), "x", 1), PM_ERR_IO);
    assert_int_equal(pm_file_write_atomic(temp_folder, "x", 1), PM_ERR_IO); // a folder in the way; the temporary file goes
}

static void output_appears_when_it_is_whole(void **state) {
    (void)state;
    char *data;
    size_t size;
    const char *path = temp_path("whole");
    pm_output out = {0};
    assert_int_equal(pm_output_open(path, &out), PM_OK);
    assert_int_equal(pm_output_write(&out, "one ", 4), PM_OK);
    assert_false(pm_path_exists(path));
    pm_output_close(&out); // given up
    assert_false(pm_path_exists(out.beside) || pm_path_exists(path));

    assert_int_equal(pm_output_open(path, &out), PM_OK);
    assert_int_equal(pm_output_write(&out, "one ", 4), PM_OK);
    assert_int_equal(pm_output_write(&out, "two", 3), PM_OK);
    assert_int_equal(pm_output_finish(&out), PM_OK);
    pm_output_close(&out);
    assert_int_equal(pm_file_read(path, 100, &data, &size), PM_OK);
    assert_string_equal(data, "one two");
    pm_free(data);

    assert_int_equal(pm_output_open(NULL_DEVICE, &out), PM_ERR_IO); // renaming would take its place
    pm_output_close(&out);
    assert_int_equal(pm_output_open(temp_folder, &out), PM_ERR_IO);
    assert_true(make_link(path, temp_path("link")));
    assert_true(pm_path_same(path, temp_path("link")));
    assert_true(pm_path_same(path, temp_path("./whole")));
    assert_false(pm_path_same(path, temp_path("cache")));
    assert_false(pm_path_same(temp_path("absent"), temp_path("absent")));
}

// Past what 32 bits can tell, and without its gigabytes on the disk.
static void a_map_may_be_larger_than_4_gib(void **state) {
    (void)state;
    const uint64_t size = (UINT64_C(5) << 30) + 3;
    const char *path = temp_path("large");
    pm_map map;
    assert_true(make_sparse(path, size, "end"));
    assert_int_equal(pm_map_open(path, &map), PM_OK);
    assert_true(map.size == size + 3);
    assert_memory_equal(map.data + size, "end", 3);
    assert_int_equal(map.data[size / 2], 0);
    pm_map_forget(&map, 0, size);
    pm_map_close(&map);
    temp_remove("large");
}

// Not in any one code page, and a path longer than the 260 that Windows' old calls take.
static void names_are_utf8(void **state) {
    (void)state;
    char path[512], *data;
    size_t size;
    snprintf(path, sizeof(path), "%s", temp_path("\xe6\xa8\xa1\xe5\x9e\x8b \xc3\xbc"));
    for (int i = 0; i < 6; i++)
        snprintf(path + strlen(path), sizeof(path) - strlen(path), "/%d23456789-123456789-123456789-123456789", i);
    char made[512];
    setenv("PUMICE_CACHE", path, 1); // which makes it
    assert_true(strlen(path) > 260 && pm_cache_dir(made, sizeof(made)));
    assert_string_equal(made, path);
    snprintf(path + strlen(path), sizeof(path) - strlen(path), "/\xf0\x9f\x99\x82.txt");
    assert_int_equal(pm_file_write_atomic(path, "hello", 5), PM_OK);
    assert_int_equal(pm_file_write_atomic(path, "hello!", 6), PM_OK);
    assert_true(pm_path_exists(path) && pm_path_same(path, path) && !pm_path_is_dir(path));
    assert_int_equal(pm_file_read(path, 100, &data, &size), PM_OK);
    assert_string_equal(data, "hello!");
    pm_free(data);
    pm_map map;
    assert_int_equal(pm_map_open(path, &map), PM_OK);
    assert_int_equal(map.size, 6);
    pm_map_close(&map);
}

static bool cache_dir(char *path, size_t size, const char *pumice, const char *xdg, const char *home) {
    pumice ? setenv("PUMICE_CACHE", pumice, 1) : unsetenv("PUMICE_CACHE");
    xdg ? setenv("XDG_CACHE_HOME", xdg, 1) : unsetenv("XDG_CACHE_HOME");
    home ? setenv("HOME", home, 1) : unsetenv("HOME");
    return pm_cache_dir(path, size);
}

#ifdef _WIN32
static void cache_folder_is_found_and_made(void **state) {
    (void)state;
    char path[512];
    assert_true(cache_dir(path, sizeof(path), temp_path("own/deep"), NULL, NULL));
    assert_string_equal(path, temp_path("own/deep"));
    assert_true(pm_path_is_dir(path));
    setenv("LOCALAPPDATA", temp_path("local"), 1);
    assert_true(cache_dir(path, sizeof(path), NULL, NULL, NULL));
    assert_string_equal(path, temp_path("local\\pumice"));
    assert_true(pm_path_is_dir(path));
    assert_false(cache_dir(path, sizeof(path), "", NULL, NULL)); // empty: none
    assert_false(cache_dir(path, 8, NULL, NULL, NULL));
    unsetenv("LOCALAPPDATA");
    assert_false(cache_dir(path, sizeof(path), NULL, NULL, NULL));
}
#else
static void cache_folder_is_found_and_made(void **state) {
    (void)state;
    char path[512];
    assert_true(cache_dir(path, sizeof(path), temp_path("own/deep"), NULL, NULL));
    assert_string_equal(path, temp_path("own/deep"));
    assert_true(pm_path_is_dir(path));
    assert_true(cache_dir(path, sizeof(path), NULL, temp_path("xdg"), "/nowhere"));
    assert_string_equal(path, temp_path("xdg/pumice"));
    assert_true(pm_path_is_dir(path));
    assert_true(cache_dir(path, sizeof(path), NULL, NULL, temp_path("home")));
    assert_string_equal(path, temp_path("home/.cache/pumice"));
    assert_false(cache_dir(path, sizeof(path), "", NULL, temp_path("home"))); // empty: none
    assert_false(cache_dir(path, sizeof(path), NULL, NULL, NULL));
    assert_false(cache_dir(path, 8, NULL, NULL, temp_path("home")));
    assert_false(cache_dir(path, sizeof(path), NULL, "/proc/self", NULL)); // not writable, even as root
}
#endif

typedef struct tally {
    atomic_int total;
    atomic_int seen[1000];
} tally;

static void count_one(void *user, int i) {
    tally *t = user;
    atomic_fetch_add(&t->total, 1);
    atomic_fetch_add(&t->seen[i], 1);
}

static void parallel_for_does_each_once(void **state) {
    (void)state;
    static tally t;
    pm_parallel_for(1000, count_one, &t);
    assert_int_equal(t.total, 1000);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(t.seen[i], 1);
    pm_parallel_for(0, count_one, &t);
    pm_parallel_for(1, count_one, &t);
    assert_int_equal(t.total, 1001);
}

static void clock_and_counts_make_sense(void **state) {
    (void)state;
    uint64_t before = pm_now_ns();
    nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    uint64_t passed = pm_now_ns() - before;
    assert_true(passed >= 2000000 && passed < 5000000000u);
    assert_true(pm_cpu_count() >= 1);
    uint64_t rss = pm_peak_rss();
    enum { MORE = 32 << 20 };
    char *block = pm_malloc(MORE);
    assert_non_null(block);
    memset(block, 1, MORE);
    assert_true(pm_peak_rss() >= rss + MORE / 2 || rss > 200 << 20); // a sanitizer may have peaked before
    pm_free(block);
}

static void cpu_time_is_that_of_work(void **state) {
    (void)state;
    double before = pm_cpu_seconds();
    nanosleep(&(struct timespec){.tv_nsec = 200000000}, NULL);
    assert_true(pm_cpu_seconds() - before < 0.1); // sleeping is no work
    volatile uint32_t x = 1;
    uint64_t rounds = 0;
    for (uint64_t began = pm_now_ns(); pm_cpu_seconds() - before < 0.2; rounds++) {
        for (int i = 0; i < 1000000; i++)
            x = x * 1664525 + 1013904223;
        assert_true(pm_now_ns() - began < 60000000000u);
    }
    assert_true(rounds > 0);
}

static void utc_is_a_date(void **state) {
    (void)state;
    char text[PM_UTC_SIZE];
    int year, month, day, hour, minute, second, n = 0;
    time_t before = time(NULL);
    pm_utc_text(text);
    assert_int_equal(sscanf(text, "%4d-%2d-%2dT%2d:%2d:%2dZ%n", &year, &month, &day, &hour, &minute, &second, &n), 6);
    assert_int_equal(n, 20);
    assert_int_equal(strlen(text), 20);
    assert_true(hour == before / 3600 % 24 || hour == time(NULL) / 3600 % 24);
    assert_true(year >= 2024 && month >= 1 && month <= 12 && day >= 1 && day <= 31);
}

// ---- other programs -----------------------------------------------------------------------------------------------------

// What this program does when it is run as another one: see main.
static int act(const char *what, const char *argument) {
    if (!strcmp(what, "tell")) {
        const char *one = getenv("PM_TEST"), *home = getenv("HOME");
        printf("%s,%s,%s,%s%d\n", one ? one : "", home ? home : "", getenv("PATH") ? "path" : "", argument, getchar());
        return 7;
    }
    if (!strcmp(what, "complain"))
        return fputs("not to be seen\n", stderr) < 0;
    if (!strcmp(what, "crash"))
        raise_bad_address();
    if (!strcmp(what, "interrupt"))
        end_interrupted();
    if (!strcmp(what, "talk"))
        while (puts("y") >= 0)
            continue;
    if (!strcmp(what, "sleep")) {
        puts("begun");
        fflush(stdout);
        nanosleep(&(struct timespec){.tv_sec = 100}, NULL);
    }
    return 0;
}

typedef struct outcome {
    char *out;
    size_t size;
    int exit_code;
} outcome;

static pm_status run_self(const char *what, const char *argument, pm_program program, outcome *o) {
    const char *argv[] = {self, "--act", what, argument, NULL};
    program.argv = argv;
    return pm_program_run(&program, 1000, &o->out, &o->size, &o->exit_code);
}

static void skip_emulated(void) {
    if (getenv("PM_EMULATED")) {
        print_message("qemu runs this program, not those that it starts\n");
        skip();
    }
}

static void programs_are_run_and_read(void **state) {
    (void)state;
    skip_emulated();
    outcome o;
    const char *env[] = {"PM_TEST=one two", "HOME=/nowhere", NULL};
    const char *hard = "a \"b\" \\ c\\\"d\\";
    char expected[100];
    assert_int_equal(run_self("tell", hard, (pm_program){.env = env}, &o), PM_OK);
    snprintf(expected, sizeof(expected), "one two,/nowhere,path,%s-1", hard); // and nothing came from our stdin
    assert_int_equal(strcspn(o.out, "\r\n"), strlen(expected));
    assert_memory_equal(o.out, expected, strlen(expected));
    assert_int_equal(o.size, strlen(o.out));
    assert_int_equal(o.exit_code, 7);
    pm_free(o.out);
    assert_int_equal(run_self("complain", "", (pm_program){.quiet = true}, &o), PM_OK);
    assert_int_equal(o.exit_code, 0);
    assert_int_equal(o.size, 0);
    pm_free(o.out);
}

// Each reads its own program to its end, though another one runs on.
static void run_one_of_some(void *user, int i) {
    uint64_t *took_ns = user, began = pm_now_ns();
    outcome o;
    pm_status status = run_self(i ? "complain" : "sleep", "", (pm_program){.quiet = true, .silence_ms = i ? 60000 : 4000}, &o);
    took_ns[i] = status == PM_OK && o.exit_code == (i ? 0 : 137) ? pm_now_ns() - began : 0;
    pm_free(o.out);
}

static void programs_run_side_by_side(void **state) {
    enum { N = 6 };
    (void)state;
    skip_emulated();
    uint64_t took_ns[N];
    pm_parallel_for(N, run_one_of_some, took_ns);
    assert_true(took_ns[0] >= 4000000000u);
    for (int i = 1; i < N; i++)
        assert_in_range(took_ns[i], 1, took_ns[0]);
}

static void a_program_that_is_silent_is_killed(void **state) {
    (void)state;
    skip_emulated();
    outcome o;
    assert_int_equal(run_self("sleep", "", (pm_program){.silence_ms = 2000}, &o), PM_OK);
    assert_int_equal(o.exit_code, 137);
    assert_memory_equal(o.out, "begun", 5);
    pm_free(o.out);
    assert_int_equal(run_self("talk", "", (pm_program){.silence_ms = 20000}, &o), PM_OK);
    assert_int_equal(o.exit_code, 137);
    assert_true(o.size >= 1000);
    pm_free(o.out);
    assert_int_equal(run_self("crash", "", (pm_program){.silence_ms = 20000, .quiet = true}, &o), PM_OK);
    assert_int_equal(o.exit_code, 128 + 11);
    pm_free(o.out);
}

static void programs_that_fail_are_told(void **state) {
    (void)state;
    skip_emulated();
    outcome o;
    const char *argv[] = {temp_path("no-such-program"), NULL};
    assert_int_equal(pm_program_run(&(pm_program){.argv = argv}, 1000, &o.out, &o.size, &o.exit_code), PM_ERR_IO);
    assert_non_null(strstr(pm_error_text(), "no-such-program"));
    assert_null(o.out);
    assert_int_equal(run_self("talk", "", (pm_program){.quiet = true}, &o), PM_ERR_FILE); // and it does not hang
    assert_null(o.out);
    long n_allocations = 0;
    pm_status status = PM_ERR_MEMORY;
    for (long n = 1; status == PM_ERR_MEMORY; n_allocations = n++) {
        pm_alloc_fail_after(n);
        status = run_self("complain", "", (pm_program){.quiet = true}, &o);
        pm_alloc_fail_after(0);
        if (status == PM_ERR_MEMORY)
            assert_null(o.out);
    }
    assert_int_equal(status, PM_OK);
    assert_true(n_allocations > 2);
    pm_free(o.out);
}

#ifdef _WIN32
// Ctrl-C goes to all programs of a console: it shows in how the other one ends.
static void a_signal_ends_the_program(void **state) {
    (void)state;
    outcome o;
    assert_int_equal(run_self("interrupt", "", (pm_program){.quiet = true}, &o), PM_ERR_CANCELLED);
    assert_int_equal(o.exit_code, 128 + SIGINT);
    assert_null(o.out);
}
#else
static void on_alarm(int number) {
    (void)number;
}

static void a_signal_ends_the_program(void **state) {
    (void)state;
    skip_emulated();
    outcome o;
    struct sigaction action = {.sa_handler = on_alarm}, old;
    sigaction(SIGALRM, &action, &old);
    alarm(1);
    uint64_t began = pm_now_ns();
    assert_int_equal(run_self("sleep", "", (pm_program){.quiet = true}, &o), PM_ERR_CANCELLED);
    assert_true(pm_now_ns() - began < 50000000000u);
    assert_int_equal(o.exit_code, 128 + SIGTERM);
    assert_null(o.out);
    sigaction(SIGALRM, &old, NULL);
}
#endif

int main(int argc, char **argv) {
    pm_program_begin(&argc, &argv);
    if (argc == 4 && !strcmp(argv[1], "--act"))
        return act(argv[2], argv[3]);
    self = argv[0]; // not pm_program_path: tests/drivers.sh may have started a launcher
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(map_shows_the_file),
        cmocka_unit_test(what_cannot_be_mapped_is_said),
#ifndef _WIN32
        cmocka_unit_test(a_descriptor_is_mapped),
#endif
        cmocka_unit_test(files_are_read_up_to_a_limit),
        cmocka_unit_test(atomic_write_replaces_or_leaves),
        cmocka_unit_test(output_appears_when_it_is_whole),
        cmocka_unit_test(a_map_may_be_larger_than_4_gib),
        cmocka_unit_test(names_are_utf8),
        cmocka_unit_test(cache_folder_is_found_and_made),
        cmocka_unit_test(parallel_for_does_each_once),
        cmocka_unit_test(clock_and_counts_make_sense),
        cmocka_unit_test(cpu_time_is_that_of_work),
        cmocka_unit_test(utc_is_a_date),
        cmocka_unit_test(programs_are_run_and_read),
        cmocka_unit_test(programs_run_side_by_side),
        cmocka_unit_test(a_program_that_is_silent_is_killed),
        cmocka_unit_test(programs_that_fail_are_told),
        cmocka_unit_test(a_signal_ends_the_program),
    };
    return cmocka_run_group_tests(tests, temp_open, temp_close);
}
