/* Every write to a regular file moves at most half of what was asked for, every read a hundred bytes or half: legal by
 * POSIX, and rare enough that programs forget it. Loaded by LD_PRELOAD; armed while the environment has SHORT_IO. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static size_t part(int fd, size_t count)
{
    struct stat status;
    if (count < 2 || getenv("SHORT_IO") == NULL || fstat(fd, &status) != 0 || !S_ISREG(status.st_mode))
        return count;
    return (count + 1) / 2;
}

static size_t some(int fd, size_t count) /* small reads ask for more than there is: a half may be all of it */
{
    size_t half = part(fd, count);
    return half < count && count <= 65536 && half > 100 ? 100 : half;
}

#define PASS(name, result, arguments, ...)                       \
    result name arguments                                        \
    {                                                            \
        static result(*real) arguments;                          \
        if (real == NULL)                                        \
            real = (result(*) arguments)dlsym(RTLD_NEXT, #name); \
        return real(__VA_ARGS__);                                \
    }

PASS(read, ssize_t, (int fd, void *data, size_t count), fd, data, some(fd, count))
PASS(write, ssize_t, (int fd, const void *data, size_t count), fd, data, part(fd, count))
PASS(pread, ssize_t, (int fd, void *data, size_t count, off_t at), fd, data, some(fd, count), at)
PASS(pwrite, ssize_t, (int fd, const void *data, size_t count, off_t at), fd, data, part(fd, count), at)
PASS(pread64, ssize_t, (int fd, void *data, size_t count, off64_t at), fd, data, some(fd, count), at)
PASS(pwrite64, ssize_t, (int fd, const void *data, size_t count, off64_t at), fd, data, part(fd, count), at)
