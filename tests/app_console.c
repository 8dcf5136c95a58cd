// app_console PUMICE MODEL: `pumice chat` in a console of Windows: what is typed reaches it as UTF-8, what it says shows, Ctrl-C
// drops a line or ends an answer and not the chat, Ctrl-Z ends it. Types by putting keys into the console and reads its screen.
#include "host/base.h"
#include "posix.h"

#include <wchar.h>

enum { SCREEN = 200 * 120, WAIT_MS = 60000, MAX_LINE = 1024 };
static HANDLE keys, screen, chat;
static wchar_t shown[SCREEN + 1];

// In no code page: the name of the file that the conversation goes to.
static const wchar_t name[] = L"\x6a21\x578b \xfc.json";

static void give_up(const char *what) {
    printf("%s; the screen:\n", what);
    for (size_t i = 0; shown[i]; i++)
        if (shown[i] != ' ' || (i > 0 && shown[i - 1] != ' '))
            putchar(shown[i] < 128 ? (int)shown[i] : '?');
    puts("");
    TerminateProcess(chat, 1);
    exit(1);
}

static void look(void) {
    DWORD n = 0;
    ReadConsoleOutputCharacterW(screen, shown, SCREEN, (COORD){0, 0}, &n);
    shown[n] = 0;
}

static int count(const wchar_t *text) {
    int n = 0;
    look();
    for (const wchar_t *p = shown; (p = wcsstr(p, text)); p++)
        n++;
    return n;
}

static void wait_for(const wchar_t *text, int times, const char *what) {
    for (uint64_t began = pm_now_ns(); count(text) < times; Sleep(20))
        if (pm_now_ns() - began > WAIT_MS * UINT64_C(1000000) || WaitForSingleObject(chat, 0) == WAIT_OBJECT_0)
            give_up(what);
}

static void press(wchar_t c) {
    INPUT_RECORD key = {.EventType = KEY_EVENT};
    DWORD n;
    key.Event.KeyEvent = (KEY_EVENT_RECORD){.bKeyDown = TRUE, .wRepeatCount = 1};
    key.Event.KeyEvent.uChar.UnicodeChar = c;
    key.Event.KeyEvent.wVirtualKeyCode = c == '\r' ? VK_RETURN : 0;
    WriteConsoleInputW(keys, &key, 1, &n);
}

static void type(const wchar_t *text) {
    for (; *text; text++)
        press(*text);
}

static void interrupt(void) {
    GenerateConsoleCtrlEvent(CTRL_C_EVENT, 0);
    Sleep(1000); // every program has a thread of its own for it
}

static BOOL WINAPI not_for_us(DWORD event) {
    return event == CTRL_C_EVENT;
}

static void open_console(void) {
    FreeConsole();
    AllocConsole();
    SetConsoleCtrlHandler(not_for_us, TRUE);
    keys = CreateFileW(L"CONIN$", GENERIC_READ | GENERIC_WRITE, FILE_SHARE_READ | FILE_SHARE_WRITE, NULL, OPEN_EXISTING, 0, NULL);
    screen =
        CreateFileW(L"CONOUT$", GENERIC_READ | GENERIC_WRITE, FILE_SHARE_READ | FILE_SHARE_WRITE, NULL, OPEN_EXISTING, 0, NULL);
    SetConsoleScreenBufferSize(screen, (COORD){200, 120});
}

// Without its end of turn the model answers until it is stopped.
static bool start(const char *pumice, const char *model) {
    SECURITY_ATTRIBUTES inherited = {.nLength = sizeof(inherited), .bInheritHandle = TRUE};
    PROCESS_INFORMATION made;
    wchar_t line[MAX_LINE];
    HANDLE in = CreateFileW(L"CONIN$", GENERIC_READ | GENERIC_WRITE, FILE_SHARE_READ | FILE_SHARE_WRITE, &inherited, OPEN_EXISTING,
                            0, NULL);
    HANDLE out = CreateFileW(L"CONOUT$", GENERIC_READ | GENERIC_WRITE, FILE_SHARE_READ | FILE_SHARE_WRITE, &inherited,
                             OPEN_EXISTING, 0, NULL);
    STARTUPINFOW how = {.cb = sizeof(how), .dwFlags = STARTF_USESTDHANDLES, .hStdInput = in, .hStdOutput = out, .hStdError = out};
    swprintf(line, MAX_LINE, L"\"%hs\" chat \"%hs\" --temp 0 --precision f32 --logit-bias 1256=-inf", pumice, model);
    if (!CreateProcessW(NULL, line, NULL, NULL, TRUE, 0, NULL, NULL, &how, &made))
        return false;
    chat = made.hProcess;
    return true;
}

static void talk(void) {
    wchar_t line[MAX_LINE], path[300];
    wait_for(L"ends", 1, "the chat does not start");
    type(L"not to be said");
    wait_for(L"not to be said", 1, "what is typed is not shown");
    interrupt();
    type(L"\r"); // Wine's console drops the line only now
    wait_for(L"> ", 2, "no prompt after Ctrl-C");
    type(L"How many r's in strawberry?\r");
    wait_for(L"There are 3 r's in strawberry.", 1, "no answer");
    interrupt();
    wait_for(L"(stopped", 1, "Ctrl-C does not end the answer");
    swprintf(path, 300, L"%hs\\%ls", getenv("TEMP"), name);
    DeleteFileW(path);
    swprintf(line, MAX_LINE, L"/save %ls\r", path);
    type(line);
    wait_for(L"2 messages saved", 1, "the conversation is not saved");
    if (GetFileAttributesW(path) == INVALID_FILE_ATTRIBUTES)
        give_up("what was typed is not the name of the file");
    DeleteFileW(path);
    type(L"\x1a\r");
}

int main(int argc, char **argv) {
    DWORD code = 1;
    open_console();
    if (argc != 3 || !start(argv[1], argv[2])) {
        puts("usage: app_console PUMICE MODEL");
        return 1;
    }
    talk();
    if (WaitForSingleObject(chat, WAIT_MS) != WAIT_OBJECT_0 || !GetExitCodeProcess(chat, &code) || code != 0)
        give_up("Ctrl-Z does not end it well");
    return 0;
}
