// A clock that stands still and a random source that always says the same, for LD_PRELOAD: hash maps are seeded from
// them, and how many collisions they have would differ from run to run.
#include <string.h>
#include <sys/types.h>
#include <time.h>

ssize_t getrandom(void *out, size_t length, unsigned int flags) {
    (void)flags;
    memset(out, 7, length);
    return (ssize_t)length;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    (void)clock;
    now->tv_sec = 0;
    now->tv_nsec = 0;
    return 0;
}
