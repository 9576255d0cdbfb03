/* Preloaded into a process that is to be killed at a chosen moment of an insert: kills it before the n-th rename of a
   directory below a path, which is how the engine puts a part into place. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static volatile int remaining = 0;
static char below[4096];

void kill_at_rename(const char *path, int number) {
    snprintf(below, sizeof below, "%s", path);
    remaining = number;
}

int renames_left(void) { return remaining; }

static void count(const char *from) {
    if (remaining > 0 && below[0] != 0 && strstr(from, below) != NULL && __sync_sub_and_fetch(&remaining, 1) == 0) {
        kill(getpid(), SIGKILL);
        for (;;) pause();
    }
}

int rename(const char *from, const char *to) {
    static int (*real)(const char *, const char *);
    if (real == NULL) real = (int (*)(const char *, const char *))dlsym(RTLD_NEXT, "rename");
    count(from);
    return real(from, to);
}

/* The engine's library is opened so that it prefers its own dependencies to what is preloaded. */
void *dlopen(const char *name, int flags) {
    static void *(*real)(const char *, int);
    if (real == NULL) real = (void *(*)(const char *, int))dlsym(RTLD_NEXT, "dlopen");
    return real(name, flags & ~RTLD_DEEPBIND);
}
