/* comm_net.h - a rank's connections to the others, and who works on them.
 *
 * Two ranks are joined by two connections, or three.  The DATA one carries rounds (comm_socket.c), and
 * where the group has parts the MAIL one mail (comm_net_mail.c): the rank's thread alone reads and
 * writes them.  The CONTROL one carries beats and farewells (comm_pulse.c): a thread of its own does,
 * so that it speaks whatever the rank computes.
 *
 * What has come from another rank lies in memory of this process that is laid out as a shared group
 * is: its letters and pieces in its mailbox, when it was last heard in beat_ns.
 *
 * Only kernels/comm*.c include this. */
#ifndef KERNELS_COMM_NET_H
#define KERNELS_COMM_NET_H

#include "kernels/comm_int.h"
#include "kernels/comm_wire.h"

enum {
    NET_ROUND_BYTES = WIRE_HEAD_BYTES + WIRE_LETTER_BYTES,
    NET_CONTROL_BYTES = WIRE_HEAD_BYTES + WIRE_TEXT_MAX
};

struct flow { /* a round between this rank and another */
    unsigned char out[NET_ROUND_BYTES], in[NET_ROUND_BYTES];
    size_t n_out, n_in; /* bytes that have gone and come, with those of the pieces */
    bool is_checked;    /* what came in front of the data is what should come */
    uint64_t broken_ns; /* when the connection broke, 0 = it did not; the pulse will know why */
};

struct inbox { /* the record that comes on a control connection */
    unsigned char bytes[NET_CONTROL_BYTES];
    size_t n;
};

struct net {
    int fd[WIRE_CHANNELS][COMM_RANKS_MAX]; /* -1 = none: this rank's own, and those >= n_ranks */
    int listen_fd; /* kept: nobody else shall take the port meanwhile; -1 = none */

    struct flow flow[COMM_RANKS_MAX]; /* the rank's thread */

    /* The pulse. */
    struct inbox inbox[COMM_RANKS_MAX];
    _Atomic uint64_t left_ns[COMM_RANKS_MAX]; /* when it said so, 0 = it did not: nothing more comes
                                                 but what is under way */
    pthread_t pulse;
    bool has_pulse;
    int wake_fd; /* for it to look at `stop` and at the group */
    _Atomic bool stop;
};

/* Sends this rank's letter and its parcel to all, and takes theirs; false: the group has failed. */
bool comm_net_round(struct comm *c, const struct letter *mine, const char *what,
                    const struct parcel *p);
/* Mail, as comm.h has it, to and from a rank. */
size_t comm_net_send_some(struct comm *c, int to, const void *p, size_t n);
bool comm_net_send(struct comm *c, int to, const void *p, size_t n);
bool comm_net_recv(struct comm *c, int from, void *p, size_t n);
size_t comm_net_mail(const struct comm *c, int from);
bool comm_net_start(struct comm *c, struct status *st) MUST_CHECK; /* the pulse */
/* Whether nothing more will come of a rank whose connection broke at broken_ns (0 = it did not); the
 * pulse may still hear why it did. */
bool comm_net_is_cut(const struct comm *c, int rank, uint64_t broken_ns, struct status *why);
void comm_net_wake(struct comm *c);
void comm_net_close(struct comm *c); /* says farewell if the group has failed or ended, else leaves */

#endif
