/* probe.h - `inferd health`: is the daemon that these options describe ready?
 *
 * For container images without a shell, and for scripts: one GET of /readyz at the host and port of
 * the options, environment or file that `inferd serve` reads too.  Prints the answer.
 *
 * Thread: main's. */
#ifndef SERVER_PROBE_H
#define SERVER_PROBE_H

/* argv are the arguments after "health".  The exit code: 0 ready, 1 not, 2 for options. */
int probe_main(int argc, char **argv);

#endif
