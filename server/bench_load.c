#include "server/bench_load.h"

#include <errno.h>
#include <math.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "server/bench_lengths.h"
#include "server/bench_random.h"
#include "server/bench_response.h"

enum {
    RECEIVE_BYTES = 1 << 16,
    REQUEST_BYTES_MAX = 1 << 24,
    EVENTS_MAX = 512,
    FIRST_ID = 100, /* prompts are ids [FIRST_ID, FIRST_ID + N_IDS): every vocabulary has them */
    N_IDS = 4000,
    STALLED_TOKENS = 16000, /* some megabytes of events: more than the two sockets hold, */
    STALLED_BUFFER = 4096,  /* since the receiver's is small */
    MODEL_ANSWER_MAX = 1 << 16,
};

struct client {
    int fd;       /* -1 = not connected */
    bool busy;    /* a request is on its way */
    bool stalled; /* never reads */
    struct buf request;
    size_t n_sent;
    struct lengths lengths; /* of the request */
    uint64_t due_ns, first_event_ns, last_event_ns;
    struct response answer;
    int32_t next_idle; /* list of idle clients */
};

struct load {
    const struct load_options *o;
    struct load_result *res;
    int epoll_fd, timer_fd;
    struct client *client; /* [concurrency + n_stalled] */
    int32_t idle;          /* head of the list, or -1 */
    int32_t n_begun, n_ended;
    uint64_t random;
    uint64_t start_ns, now_ns;
    uint64_t next_due_ns; /* open loop */
    uint64_t first_end_ns, n_events_then; /* 0: no answer has ended */
    char *received;       /* [RECEIVE_BYTES] */
};

/* ---- one request ---- */

static struct lengths choose_lengths(const struct load *l, const struct client *c, int32_t request)
{
    if (c->stalled)
        return (struct lengths){l->o->prompt_tokens, STALLED_TOKENS};
    if (l->o->sharegpt)
        return lengths_sharegpt(l->o->seed, request);
    return (struct lengths){l->o->prompt_tokens, l->o->max_tokens};
}

/* A prompt depends on the seed and on the request's number, which no other has. */
static void put_prompt(struct buf *body, uint64_t seed, int32_t request, int32_t n)
{
    uint64_t random = random_of(~seed, (uint64_t)request);
    for (int32_t i = 0; i < n; i++)
        buf_printf(body, "%s%d", i ? "," : "", (int)(FIRST_ID + random_next(&random) % N_IDS));
}

static bool write_request(struct load *l, struct client *c, int32_t request)
{
    struct buf body;
    buf_init(&body, REQUEST_BYTES_MAX);
    c->lengths = choose_lengths(l, c, request);
    buf_put_str(&body, "{\"model\":\"");
    buf_put_json(&body, l->o->model, strlen(l->o->model));
    buf_printf(&body,
               "\",\"stream\":true,\"stream_options\":{\"include_usage\":true},"
               "\"ignore_eos\":true,\"temperature\":0,\"max_tokens\":%d,\"prompt\":[",
               c->lengths.answer);
    put_prompt(&body, l->o->seed, request, c->lengths.prompt);
    buf_put_str(&body, "]}");
    buf_clear(&c->request);
    buf_printf(&c->request,
               "POST /v1/completions HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\n"
               "Content-Length: %zu\r\n\r\n",
               l->o->host, body.n);
    const bool ok = !body.failed && buf_put(&c->request, body.at, body.n);
    buf_close(&body);
    return ok;
}

static void watch(struct load *l, struct client *c, int op, uint32_t events)
{
    struct epoll_event e = {.events = events, .data.ptr = c};
    epoll_ctl(l->epoll_fd, op, c->fd, &e);
}

static void hang_up(struct client *c)
{
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
}

static bool connect_client(struct load *l, struct client *c)
{
    const int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        return false;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    const int small = STALLED_BUFFER;
    if (c->stalled)
        setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    if (connect(c->fd, (const struct sockaddr *)&l->o->addr, sizeof l->o->addr) != 0 &&
        errno != EINPROGRESS) {
        hang_up(c);
        return false;
    }
    watch(l, c, EPOLL_CTL_ADD, EPOLLOUT);
    return true;
}

/* Counts a request that came to a good end. */
static void count_answer(struct load *l, const struct client *c)
{
    struct load_result *res = l->res;
    const struct response *a = &c->answer;
    if (!l->first_end_ns) {
        l->first_end_ns = l->now_ns;
        l->n_events_then = res->n_events;
    }
    const int32_t n = a->n_tokens >= 0 ? a->n_tokens : (int32_t)a->n_events;
    res->n_ok++;
    res->n_uncounted += a->n_tokens < 0;
    res->n_short += n != c->lengths.answer;
    res->n_prompt_tokens += (uint64_t)c->lengths.prompt;
    res->n_tokens += (uint64_t)n;
    res->n_tokens_wanted += (uint64_t)c->lengths.answer;
    hist_add(&res->whole, l->now_ns - c->due_ns);
    if (n > 1)
        hist_add(&res->token, (c->last_event_ns - c->first_event_ns) / (uint64_t)(n - 1));
}

static void end_request(struct load *l, struct client *c)
{
    struct load_result *res = l->res;
    const struct response *a = &c->answer;
    const bool whole = a->state == RESPONSE_END;
    c->busy = false;
    if (!whole || a->closes)
        hang_up(c);
    if (c->stalled)
        return;
    if (whole && a->status == 200 && a->done && !a->has_error) {
        count_answer(l, c);
    } else {
        res->n_failed++;
        res->n_broken += !whole;
    }
    if (whole)
        res->n_status[a->status]++;
    l->n_ended++;
    c->next_idle = l->idle;
    l->idle = (int32_t)(c - l->client);
}

static void send_request(struct load *l, struct client *c)
{
    while (c->n_sent < c->request.n) {
        const ssize_t n = send(c->fd, c->request.at + c->n_sent, c->request.n - c->n_sent,
                               MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN) {
            watch(l, c, EPOLL_CTL_MOD, EPOLLOUT);
            return;
        }
        if (n < 0) {
            end_request(l, c);
            return;
        }
        c->n_sent += (size_t)n;
    }
    watch(l, c, EPOLL_CTL_MOD, c->stalled ? 0 : EPOLLIN);
}

static void begin_request(struct load *l, struct client *c, uint64_t due_ns)
{
    c->busy = true;
    c->due_ns = due_ns;
    c->first_event_ns = c->last_event_ns = 0;
    c->n_sent = 0;
    response_init(&c->answer);
    const int32_t request = c->stalled ? -1 - (int32_t)(c - l->client) : l->n_begun++;
    const bool connected = c->fd >= 0;
    if (!write_request(l, c, request) || (!connected && !connect_client(l, c)))
        end_request(l, c);
    else if (connected)
        send_request(l, c); /* else when the connection is made */
}

/* ---- what comes ---- */

/* An answer's first event: until now there was one that waited. */
static void count_first(struct load *l, struct client *c)
{
    struct load_result *res = l->res;
    c->first_event_ns = l->now_ns;
    hist_add(&res->first, l->now_ns - c->due_ns);
    if (l->first_end_ns) {
        res->saturated_ns = l->now_ns - l->first_end_ns;
        res->n_saturated_events = res->n_events - l->n_events_then;
    }
}

/* Events that came in one read came at one time: the first closes the gap, the others follow it
 * with none. */
static void count_events(struct load *l, struct client *c, uint32_t n)
{
    struct load_result *res = l->res;
    res->n_events += n;
    for (; n > 0; n--) {
        if (c->last_event_ns == 0)
            count_first(l, c);
        else
            hist_add(&res->gap, l->now_ns - c->last_event_ns);
        c->last_event_ns = l->now_ns;
    }
}

static void receive(struct load *l, struct client *c)
{
    const ssize_t n = recv(c->fd, l->received, RECEIVE_BYTES, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (!c->busy) { /* the server ends an idle connection */
        hang_up(c);
        return;
    }
    l->now_ns = clock_now(&clock_real);
    if (n <= 0) {
        response_closed(&c->answer);
        end_request(l, c);
        return;
    }
    const uint32_t before = c->answer.n_events;
    l->res->n_bytes += (uint64_t)n;
    const size_t n_read = response_feed(&c->answer, l->received, (size_t)n);
    count_events(l, c, c->answer.n_events - before);
    if (n_read < (size_t)n && c->answer.state == RESPONSE_END)
        c->answer.closes = true; /* bytes after the end: nothing to build on */
    if (c->answer.state == RESPONSE_END || c->answer.state == RESPONSE_BROKEN)
        end_request(l, c);
}

static void handle(struct load *l, struct client *c, uint32_t events)
{
    if (c->fd < 0)
        return;
    if (c->stalled && (events & (EPOLLHUP | EPOLLERR)))
        hang_up(c);
    else if (c->busy && c->n_sent < c->request.n && (events & EPOLLOUT))
        send_request(l, c);
    else if (!c->stalled)
        receive(l, c);
}

/* ---- when to begin ---- */

static bool has_more(const struct load *l)
{
    return l->n_begun < l->o->n_requests;
}

/* Gaps of a Poisson process: -log(1 - u) / rate; none at an infinite rate. */
static uint64_t draw_gap(struct load *l)
{
    return (uint64_t)(-log1p(-random_unit(&l->random)) / l->o->rate * 1e9);
}

static void arm_timer(struct load *l)
{
    const long long wait = l->next_due_ns > l->now_ns ? (long long)(l->next_due_ns - l->now_ns) : 1;
    const struct itimerspec t = {
        .it_value = {.tv_sec = wait / (long long)NS_PER_S, .tv_nsec = wait % (long long)NS_PER_S}};
    timerfd_settime(l->timer_fd, 0, &t, NULL);
}

/* Gives the idle clients what is due. */
static void begin_due(struct load *l)
{
    l->now_ns = clock_now(&clock_real);
    for (int32_t n = l->o->concurrency; n > 0 && l->idle >= 0 && has_more(l); n--) {
        uint64_t due = l->now_ns;
        if (l->o->rate > 0) {
            if (l->next_due_ns > l->now_ns)
                break;
            due = l->next_due_ns;
            l->next_due_ns += draw_gap(l);
        }
        struct client *c = &l->client[l->idle];
        l->idle = c->next_idle;
        begin_request(l, c, due);
    }
    if (l->o->rate > 0 && l->idle >= 0 && has_more(l))
        arm_timer(l);
}

static void drain_timer(struct load *l)
{
    uint64_t count;
    const ssize_t n = read(l->timer_fd, &count, sizeof count);
    (void)n; /* that it fired is all it says */
}

/* ---- open, loop, close ---- */

static bool load_open(struct load *l, struct status *st)
{
    const int32_t n = l->o->concurrency + l->o->n_stalled;
    l->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    l->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    l->client = calloc((size_t)n, sizeof *l->client);
    l->received = malloc(RECEIVE_BYTES);
    if (l->epoll_fd < 0 || l->timer_fd < 0 || !l->client || !l->received)
        return status_fail(st, STATUS_IO, "no room for %d clients: %s", n, strerror(errno));
    l->idle = -1;
    for (int32_t i = n - 1; i >= 0; i--) {
        struct client *c = &l->client[i];
        c->fd = -1;
        c->stalled = i >= l->o->concurrency;
        buf_init(&c->request, REQUEST_BYTES_MAX);
        if (c->stalled)
            continue;
        c->next_idle = l->idle;
        l->idle = i;
    }
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, l->timer_fd, &e);
    l->random = l->o->seed;
    return true;
}

static void load_close(struct load *l)
{
    for (int32_t i = 0; l->client && i < l->o->concurrency + l->o->n_stalled; i++) {
        hang_up(&l->client[i]);
        buf_close(&l->client[i].request);
    }
    if (l->epoll_fd >= 0)
        close(l->epoll_fd);
    if (l->timer_fd >= 0)
        close(l->timer_fd);
    free(l->client);
    free(l->received);
}

static uint64_t cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

static void loop(struct load *l)
{
    struct epoll_event events[EVENTS_MAX];
    const uint64_t end_ns = l->start_ns + (uint32_t)l->o->time_s * NS_PER_S;
    while (l->n_ended < l->o->n_requests) {
        begin_due(l);
        if (l->now_ns >= end_ns)
            break;
        const int wait_ms = (int)((end_ns - l->now_ns) / NS_PER_MS) + 1;
        const bool begin_now = l->idle >= 0 && has_more(l) && l->o->rate <= 0;
        const int n = epoll_wait(l->epoll_fd, events, EVENTS_MAX, begin_now ? 0 : wait_ms);
        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr)
                handle(l, events[i].data.ptr, events[i].events);
            else
                drain_timer(l);
        }
    }
}

bool load_run(const struct load_options *o, struct load_result *res, struct status *st)
{
    struct load l = {.o = o, .res = res, .epoll_fd = -1, .timer_fd = -1};
    memset(res, 0, sizeof *res);
    const bool ok = load_open(&l, st);
    if (ok) {
        const uint64_t cpu_before = cpu_ns();
        l.start_ns = l.now_ns = l.next_due_ns = clock_now(&clock_real);
        for (int32_t i = 0; i < o->n_stalled; i++)
            begin_request(&l, &l.client[o->concurrency + i], l.now_ns);
        loop(&l);
        res->wall_ns = clock_now(&clock_real) - l.start_ns;
        res->cpu_ns = cpu_ns() - cpu_before;
        res->n_late = o->n_requests - l.n_ended;
    }
    load_close(&l);
    return ok;
}

/* ---- which model? ---- */

static bool read_all(int fd, char *out, size_t max)
{
    size_t n = 0;
    ssize_t got;
    while (n < max - 1 && (got = recv(fd, out + n, max - 1 - n, 0)) > 0)
        n += (size_t)got;
    out[n] = '\0';
    return n > 0;
}

static bool copy_id(const char *answer, char *out, int32_t max)
{
    const char *at = strstr(answer, "\"id\"");
    at = at ? strchr(at + 4, '"') : NULL;
    const char *end = at ? strchr(at + 1, '"') : NULL;
    return end && snprintf(out, (size_t)max, "%.*s", (int)(end - at - 1), at + 1) < max;
}

bool load_model_name(const struct load_options *o, char *out, int32_t max, struct status *st)
{
    const struct timeval patience = {.tv_sec = 10};
    char ask[256];
    char *answer = malloc(MODEL_ANSWER_MAX);
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const int n =
        snprintf(ask, sizeof ask,
                 "GET /v1/models HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", o->host);
    bool ok = answer && fd >= 0;
    if (ok) {
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        ok = connect(fd, (const struct sockaddr *)&o->addr, sizeof o->addr) == 0 &&
             send(fd, ask, (size_t)n, MSG_NOSIGNAL) == n &&
             read_all(fd, answer, MODEL_ANSWER_MAX) && copy_id(answer, out, max);
    }
    if (fd >= 0)
        close(fd);
    free(answer);
    return ok ||
           status_fail(st, STATUS_IO, "http://%s/v1/models names no model; give --model", o->host);
}
