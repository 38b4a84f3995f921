/* bench_streams.c - how many events a second the HTTP front delivers, and what a stream costs.
 *
 *     bench_streams [streams] [step_ms] [seconds]
 *
 * A source with no model makes one event of 220 bytes for every stream each step_ms, as a decode
 * step does.  The client is another process on the same machine and reads all streams by epoll.
 * Prints events delivered, sends used, the CPU time of the front per event, its resident memory per
 * stream, and how late the slowest loop turn was. */
#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <uv.h>

#include "base/log.h"
#include "server/http_daemon.h"
#include "server/server.h"

enum { EVENT_BYTES = 220, STREAMS_MAX = 20000 };

struct stream {
    struct exchange *x;
    uint64_t sent; /* events */
};

static struct stream streams[STREAMS_MAX];
static int n_streams, n_wanted, step_ms, seconds;
static uint64_t n_steps, n_events, n_fills, first_ns, late_ns, last_tick_ns;
static char event[EVENT_BYTES + 1];
static uv_timer_t tick, stop;
static struct http *front;
static double rss_before;

static double rss_bytes(void)
{
    unsigned long long all = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (!f || fscanf(f, "%llu %llu", &all, &resident) != 2)
        resident = 0;
    if (f)
        fclose(f);
    return (double)resident * (double)sysconf(_SC_PAGESIZE);
}

static enum fill fill_events(void *ctx, struct buf *out, size_t room)
{
    struct stream *s = ctx;
    size_t before = out->n;
    while (s->sent < n_steps && out->n + EVENT_BYTES <= room) {
        buf_put(out, event, EVENT_BYTES);
        s->sent++;
        n_events++;
    }
    n_fills += out->n > before;
    return FILL_MORE_LATER;
}

static void on_tick(uv_timer_t *t)
{
    (void)t;
    const uint64_t now = clock_now(&clock_real), step_ns = (unsigned)step_ms * NS_PER_MS;
    uint64_t gap = last_tick_ns ? now - last_tick_ns : 0;
    if (gap > late_ns)
        late_ns = gap;
    last_tick_ns = now;
    n_steps = (now - first_ns) / step_ns; /* an engine does not wait */
    for (int i = 0; i < n_streams; i++)
        http_stream_wake(streams[i].x);
}

static void report(uv_timer_t *t)
{
    struct rusage u;
    (void)t;
    double s = (double)(clock_now(&clock_real) - first_ns) / 1e9;
    getrusage(RUSAGE_SELF, &u);
    double cpu = (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
                 (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
    printf("streams %d  step_ms %d  offered/s %.0f  events/s %.0f  sends/s %.0f  cpu_us/event %.2f"
           " (user %.2f)"
           "  rss_KiB/stream %.1f  slowest_turn_ms %.1f\n",
           n_streams, step_ms, n_streams * 1000.0 / step_ms, (double)n_events / s,
           (double)n_fills / s, cpu * 1e6 / (double)n_events,
           ((double)u.ru_utime.tv_sec * 1e6 + (double)u.ru_utime.tv_usec) / (double)n_events,
           (rss_bytes() - rss_before) / 1024 / n_streams, (double)late_ns / 1e6);
    fflush(stdout);
    _exit(0);
}

static void on_stream(struct exchange *x, struct server *sv)
{
    struct stream *s = &streams[n_streams++];
    s->x = x;
    http_stream(x, 200, "text/event-stream", fill_events, s);
    if (n_streams < n_wanted)
        return;
    first_ns = clock_now(&clock_real);
    uv_timer_init(sv->loop, &tick);
    uv_timer_init(sv->loop, &stop);
    uv_timer_start(&tick, on_tick, (uint64_t)step_ms, (uint64_t)step_ms);
    uv_timer_start(&stop, report, (uint64_t)seconds * 1000, 0);
}

static int connect_one(int port)
{
    static const char request[] = "GET /stream HTTP/1.1\r\nHost: x\r\nUser-Agent: bench\r\n\r\n";
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) != 0 ||
        send(fd, request, sizeof request - 1, 0) < 0)
        exit(1);
    return fd;
}

static void run_client(int port)
{
    static char sink[65536];
    struct epoll_event ready[256];
    int ep = epoll_create1(0);
    for (int i = 0; i < n_wanted; i++) {
        struct epoll_event e = {.events = EPOLLIN, .data.fd = connect_one(port)};
        epoll_ctl(ep, EPOLL_CTL_ADD, e.data.fd, &e);
    }
    for (;;) {
        int n = epoll_wait(ep, ready, 256, -1);
        for (int i = 0; i < n; i++)
            if (recv(ready[i].data.fd, sink, sizeof sink, 0) <= 0)
                _exit(0);
    }
}

static int number(int argc, char **argv, int i, int otherwise)
{
    return argc > i ? (int)strtol(argv[i], NULL, 10) : otherwise;
}

int main(int argc, char **argv)
{
    static const struct route bench_routes[] = {{"GET", "/stream", ROUTE_OPEN, 0, on_stream}, {0}};
    struct status st = {0};
    struct server sv = {.clock = &clock_real, .limits.body_bytes_max = 65536};
    uv_loop_t loop;
    n_wanted = number(argc, argv, 1, 1000);
    step_ms = number(argc, argv, 2, 10);
    seconds = number(argc, argv, 3, 5);
    if (n_wanted < 1 || n_wanted > STREAMS_MAX || step_ms < 1 || seconds < 1)
        return 2;
    memset(event, 'x', EVENT_BYTES);
    memcpy(event, "data: {", 7);
    memcpy(event + EVENT_BYTES - 3, "}\n\n", 3);
    signal(SIGPIPE, SIG_IGN);
    log_init(LOG_ERROR, LOG_TEXT);
    uv_loop_init(&loop);
    sv.loop = &loop;
    struct http_options o = {.host = "127.0.0.1",
                             .connections_max = STREAMS_MAX,
                             .header_ms = 60000,
                             .body_ms = 60000,
                             .idle_ms = 60000,
                             .stall_ms = 60000,
                             .routes = bench_routes,
                             .auth = auth_open(NULL, &st)};
    front = o.auth ? http_open(&o, &sv, &st) : NULL;
    if (!front) {
        fprintf(stderr, "%s\n", st.msg);
        return 1;
    }
    rss_before = rss_bytes();
    pid_t client = fork();
    if (client == 0)
        run_client(http_port(front));
    uv_run(&loop, UV_RUN_DEFAULT);
    return 0;
}
