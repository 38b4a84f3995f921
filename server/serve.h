/* serve.h - `inferd serve`: the daemon from first option to last byte.
 *
 *     STARTING ─► SERVING ─SIGTERM─► DRAINING ─idle, deadline or second signal─► end
 *
 * The port is open at once; /readyz says "loading" until the engine is ready.
 *
 * Thread: main's, which becomes the loop thread. */
#ifndef SERVER_SERVE_H
#define SERVER_SERVE_H

/* argv are the arguments after "serve".  The exit code: 0 after a drain, 1 when the daemon could not
 * start, 2 for options. */
int serve_main(int argc, char **argv);

#endif
