/* A disk that fails: the n-th write, sync, rename or truncation below a folder reports an error.

   Loaded with LD_PRELOAD, so that it is below every library of a process. Environment:
     EMRA_FAULT_FOLDER  absolute path; only files below it count
     EMRA_FAULT_AT      number of the operation that fails, from 1; 0 lets all succeed
     EMRA_FAULT_ERRNO   what it reports
     EMRA_FAULT_STAYS   1: all later ones fail too, as on a disk that stays full
     EMRA_FAULT_LOG     file that gets a line for each operation
     EMRA_FAULT_COUNT   file of 8 bytes, 0 at first: the number of the last operation, of all processes of a job */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdio_ext.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_long unshared, *counted = &unshared;

__attribute__((constructor)) static void share_count(void) {
    const char *path = getenv("EMRA_FAULT_COUNT");
    int handle = path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR) : -1;
    if (handle < 0) return;
    void *shared = mmap(NULL, sizeof *counted, PROT_READ | PROT_WRITE, MAP_SHARED, handle, 0);
    if (shared != MAP_FAILED) counted = shared;
    syscall(SYS_close, handle);
}

static int below(const char *path) {
    const char *folder = getenv("EMRA_FAULT_FOLDER");
    size_t length = folder ? strlen(folder) : 0;
    return length && strncmp(path, folder, length) == 0 && path[length] == '/';
}

/* Nonzero: this operation fails, with errno set. */
static int fails(const char *what, const char *path) {
    if (!below(path)) return 0;
    long number = atomic_fetch_add(counted, 1) + 1;
    const char *log = getenv("EMRA_FAULT_LOG");
    if (log) {
        char line[PATH_MAX + 64];
        int size = snprintf(line, sizeof line, "%ld %s %s\n", number, what, strrchr(path, '/') + 1);
        /* Not open and write: those are the ones below. */
        int handle = (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND, 0666);
        if (handle >= 0) {
            syscall(SYS_write, handle, line, size < (int)sizeof line ? size : (int)sizeof line - 1);
            syscall(SYS_close, handle);
        }
    }
    const char *at = getenv("EMRA_FAULT_AT"), *stays = getenv("EMRA_FAULT_STAYS"), *code = getenv("EMRA_FAULT_ERRNO");
    long wanted = at ? atol(at) : 0;
    if (wanted <= 0 || number < wanted || (number > wanted && !(stays && *stays == '1'))) return 0;
    errno = code ? atoi(code) : EIO;
    return 1;
}

static int handle_fails(const char *what, int handle) {
    char link[64], path[PATH_MAX];
    int before = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
    ssize_t size = readlink(link, path, sizeof path - 1);
    errno = before;
    if (size <= 0) return 0;
    path[size] = 0;
    return fails(what, path);
}

static int path_fails(const char *what, const char *path) {
    char full[PATH_MAX];
    if (path[0] == '/') return fails(what, path);
    if (!getcwd(full, sizeof full)) return 0;
    size_t used = strlen(full);
    snprintf(full + used, sizeof full - used, "/%s", path);
    return fails(what, full);
}

#define REAL(type, name, ...)                                              \
    static type (*real)(__VA_ARGS__);                                      \
    if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

ssize_t write(int handle, const void *data, size_t size) {
    REAL(ssize_t, write, int, const void *, size_t);
    return handle_fails("write", handle) ? -1 : real(handle, data, size);
}

ssize_t pwrite(int handle, const void *data, size_t size, off_t place) {
    REAL(ssize_t, pwrite, int, const void *, size_t, off_t);
    return handle_fails("pwrite", handle) ? -1 : real(handle, data, size, place);
}

ssize_t pwrite64(int handle, const void *data, size_t size, off64_t place) {
    REAL(ssize_t, pwrite64, int, const void *, size_t, off64_t);
    return handle_fails("pwrite64", handle) ? -1 : real(handle, data, size, place);
}

ssize_t writev(int handle, const struct iovec *parts, int count) {
    REAL(ssize_t, writev, int, const struct iovec *, int);
    return handle_fails("writev", handle) ? -1 : real(handle, parts, count);
}

size_t fwrite(const void *data, size_t size, size_t count, FILE *stream) {
    REAL(size_t, fwrite, const void *, size_t, size_t, FILE *);
    return handle_fails("fwrite", fileno(stream)) ? 0 : real(data, size, count, stream);
}

/* What stands in a stream's buffer is written inside the C library, where no symbol can be replaced. So the calls that
   write it out fail here, and what they would have written is gone, as it is on a disk that fails. */
static int flush_fails(const char *what, FILE *stream) {
    if (!stream || !__fwritable(stream) || !__fpending(stream) || !handle_fails(what, fileno(stream))) return 0;
    int code = errno;
    __fpurge(stream);
    errno = code;
    return 1;
}

int fflush(FILE *stream) {
    REAL(int, fflush, FILE *);
    return flush_fails("fflush", stream) ? EOF : real(stream);
}

int fclose(FILE *stream) {
    REAL(int, fclose, FILE *);
    if (!flush_fails("fclose", stream)) return real(stream);
    int code = errno;
    real(stream);
    errno = code;
    return EOF;
}

int fseeko(FILE *stream, off_t place, int from) {
    REAL(int, fseeko, FILE *, off_t, int);
    return flush_fails("fseeko", stream) ? -1 : real(stream, place, from);
}

int fseeko64(FILE *stream, off64_t place, int from) {
    REAL(int, fseeko64, FILE *, off64_t, int);
    return flush_fails("fseeko64", stream) ? -1 : real(stream, place, from);
}

int fseek(FILE *stream, long place, int from) {
    REAL(int, fseek, FILE *, long, int);
    return flush_fails("fseek", stream) ? -1 : real(stream, place, from);
}

int fsync(int handle) {
    REAL(int, fsync, int);
    return handle_fails("fsync", handle) ? -1 : real(handle);
}

int fdatasync(int handle) {
    REAL(int, fdatasync, int);
    return handle_fails("fdatasync", handle) ? -1 : real(handle);
}

int ftruncate(int handle, off_t size) {
    REAL(int, ftruncate, int, off_t);
    return handle_fails("ftruncate", handle) ? -1 : real(handle, size);
}

int ftruncate64(int handle, off64_t size) {
    REAL(int, ftruncate64, int, off64_t);
    return handle_fails("ftruncate64", handle) ? -1 : real(handle, size);
}

int rename(const char *from, const char *to) {
    REAL(int, rename, const char *, const char *);
    return path_fails("rename", to) ? -1 : real(from, to);
}

int link(const char *from, const char *to) {
    REAL(int, link, const char *, const char *);
    return path_fails("link", to) ? -1 : real(from, to);
}
