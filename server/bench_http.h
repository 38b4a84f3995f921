/* bench_http.h - `inferd bench http`: load on an OpenAI-style server, and what its clients see.
 *
 *     inferd bench http --url http://127.0.0.1:PORT [options]
 *
 * Without --rate, `concurrency` clients send one request after another (closed loop).  With it,
 * requests are due at random times, `rate` a second, whatever the server does (open loop: a Poisson
 * process; "inf" = all at the start); one that finds all clients busy waits, and its wait counts:
 * latencies are from the time it was due.
 *
 * Prompts are random ids, no two alike; answers are greedy and end at max_tokens alone.  Their
 * lengths are --prompt-tokens and --max-tokens, or with --lengths sharegpt those of
 * bench_lengths.h.  The tokens of an answer are counted by the server's usage, where it gives
 * one; an answer of another length than was asked for is told, and makes the exit code 1.
 *
 * Thread: main's. */
#ifndef SERVER_BENCH_HTTP_H
#define SERVER_BENCH_HTTP_H

int bench_http_main(int argc, char **argv);

#endif
