/* Makes one write into a file below a directory fail.

   A library for LD_PRELOAD. FAILING_WRITES names a file of sizeof(struct control) that is shared with the test, which
   arms it; FAILING_BELOW names the directory. Writes into pipes and sockets are never counted. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#define PATH 512
#define ONLY 128

struct control {
    _Atomic int32_t armed;
    int32_t when;   /* which write fails, from 1 */
    int32_t error;  /* its errno */
    int32_t cut;    /* 1: the write stores half of its bytes, and the next one to the same file fails */
    _Atomic int32_t seen;   /* writes since it was armed */
    _Atomic int32_t failed; /* writes that failed */
    _Atomic int32_t file;   /* the descriptor whose next write fails, plus one */
    int32_t times;          /* how many writes fail, from that one on; 0 counts as 1 */
    char path[PATH]; /* the file whose write failed */
    char only[ONLY]; /* what the path of a write that counts contains; empty: every write counts */
};

static struct control *control;
static char below[PATH];

static void *(*real_dlopen)(const char *, int);
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static ssize_t (*real_writev)(int, const struct iovec *, int);
static ssize_t (*real_pwritev)(int, const struct iovec *, int, off_t);

__attribute__((constructor)) static void start(void) {
    real_dlopen = dlsym(RTLD_NEXT, "dlopen");
    real_write = dlsym(RTLD_NEXT, "write");
    real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
    real_writev = dlsym(RTLD_NEXT, "writev");
    real_pwritev = dlsym(RTLD_NEXT, "pwritev64");
    const char *shared = getenv("FAILING_WRITES"), *directory = getenv("FAILING_BELOW");
    if (!shared || !directory || strlen(directory) >= PATH) return;
    strcpy(below, directory);
    int fd = open(shared, O_RDWR | O_CLOEXEC);
    if (fd < 0) return;
    void *found = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (found != MAP_FAILED) control = found;
}

static int is_below(int fd, char *path) {
    char link[40] = "/proc/self/fd/", digits[12];
    size_t n = 0, at = 14, prefix = strlen(below);
    if (fd < 0) return 0;
    do digits[n++] = (char)('0' + fd % 10); while (fd /= 10);
    while (n) link[at++] = digits[--n];
    ssize_t length = readlink(link, path, PATH - 1);
    if (length <= (ssize_t)prefix) return 0;
    path[length] = 0;
    return !strncmp(path, below, prefix) && path[prefix] == '/';
}

/* What becomes of a write of some bytes: 0 it is made, 1 half of it is made, -1 it fails and errno is set. */
static int verdict(int fd, size_t size) {
    if (!control || !control->armed) return 0;
    int before = errno;
    char path[PATH];
    if (!is_below(fd, path)) {
        errno = before;
        return 0;
    }
    int32_t waited = fd + 1;
    int second = atomic_compare_exchange_strong(&control->file, &waited, 0);
    if (!second) {
        errno = before;
        if (control->only[0] && !strstr(path, control->only)) return 0;
        int32_t after = atomic_fetch_add(&control->seen, 1) + 1 - control->when;
        if (after < 0 || after >= (control->times ? control->times : 1)) return 0;
        memcpy(control->path, path, PATH);
        if (control->cut && size > 1) {
            atomic_store(&control->file, fd + 1);
            return 1;
        }
    }
    atomic_fetch_add(&control->failed, 1);
    errno = control->error;
    return -1;
}

ssize_t write(int fd, const void *data, size_t size) {
    int found = size ? verdict(fd, size) : 0;
    return found < 0 ? -1 : real_write(fd, data, found ? size / 2 : size);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off_t at) {
    int found = size ? verdict(fd, size) : 0;
    return found < 0 ? -1 : real_pwrite(fd, data, found ? size / 2 : size, at);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { return pwrite64(fd, data, size, at); }

ssize_t writev(int fd, const struct iovec *parts, int count) {
    int found = count > 0 ? verdict(fd, parts[0].iov_len) : 0;
    if (found < 0) return -1;
    return found ? real_write(fd, parts[0].iov_base, parts[0].iov_len / 2) : real_writev(fd, parts, count);
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off_t at) {
    int found = count > 0 ? verdict(fd, parts[0].iov_len) : 0;
    if (found < 0) return -1;
    return found ? real_pwrite(fd, parts[0].iov_base, parts[0].iov_len / 2, at) : real_pwritev(fd, parts, count, at);
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) { return pwritev64(fd, parts, count, at); }

/* The engine's library is opened so that it prefers its own dependencies to what is preloaded. */
void *dlopen(const char *name, int flags) {
    if (!real_dlopen) real_dlopen = dlsym(RTLD_NEXT, "dlopen");
    return real_dlopen(name, flags & ~RTLD_DEEPBIND);
}
