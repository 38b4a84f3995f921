/* metrics.h - counters and histograms, and their Prometheus text (format 0.0.4).
 *
 * What the scheduler knows is read from scheduler_view at scrape time; what only the
 * front knows (requests by route and status, latencies of finished requests) is counted
 * here.  Each family has inferd_* names; the families that vLLM dashboards, autoscalers
 * and the Kubernetes inference gateway read are also written under their vllm:* names,
 * with vLLM's labels and buckets.
 *
 * Thread: the loop thread. */
#ifndef SERVER_METRICS_H
#define SERVER_METRICS_H

#include "base/buf.h"
#include "scheduler/scheduler.h"

struct metrics;
struct server;

struct metrics *metrics_open(const char *model_name);
void metrics_close(struct metrics *m);
/* Once per finished request (every one that was submitted), with its timestamps and counts. */
void metrics_request(struct metrics *m, const struct request *r, uint64_t now_ns);
/* The time between two tokens of one request, as they were published. */
void metrics_inter_token(struct metrics *m, uint64_t gap_ns, int32_t n_tokens);
void metrics_http(struct metrics *m, const char *path, const char *method, int status,
                  uint64_t ns);
void metrics_rejected(struct metrics *m, const char *code); /* <= 64 distinct codes */
void metrics_write(const struct metrics *m, const struct server *sv, struct buf *out);

#endif
