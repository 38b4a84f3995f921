/* comm_wire.h - the records that ranks on several machines send each other: their bytes.
 *
 * A record is a head of WIRE_HEAD_BYTES and a body, whose size its kind decides; only a round's
 * data, and the text of a refusal or a farewell, have a length of their own, which the head says.
 * Numbers are little-endian.  What comes from a socket is read here and nowhere else: nothing is
 * believed of a length, a count or a text before it is checked.
 *
 *     who calls                who listens
 *        |  <---- CHALLENGE ------  |     a number to answer to
 *        |  ------- HELLO ------->  |     who it is, and the answer
 *        |  <-- WELCOME, REFUSE --  |     the life of the group, or why not
 *        |  <----- ROSTER --------  |     rank 0 alone, once all are there: where the others listen
 *     then, each way: ROUND on the one connection of two ranks; BEAT, LEAVE, FAREWELL on the other
 *
 * This file does no I/O.  Thread: any. */
#ifndef KERNELS_COMM_WIRE_H
#define KERNELS_COMM_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/hash.h"
#include "base/status.h"
#include "kernels/comm.h"

enum {
    WIRE_PROTOCOL = 2, /* changes with anything below */
    WIRE_HEAD_BYTES = 16,
    WIRE_TEXT_MAX = 199, /* of a refusal or a farewell */
    WIRE_VERSION_MAX = 31,
    WIRE_CHALLENGE_BYTES = 16,
    WIRE_HELLO_BYTES = 168,
    WIRE_WELCOME_BYTES = 24,
    WIRE_PLACE_BYTES = 20,
    WIRE_ROSTER_BYTES = COMM_RANKS_MAX * WIRE_PLACE_BYTES,
    WIRE_LETTER_BYTES = 24,           /* of a ROUND, in front of its data */
    WIRE_BODY_MAX = WIRE_ROSTER_BYTES /* of any record but a ROUND */
};

enum wire_kind {
    WIRE_CHALLENGE = 1,
    WIRE_HELLO,
    WIRE_WELCOME,
    WIRE_REFUSE,
    WIRE_ROSTER,
    WIRE_ROUND,
    WIRE_BEAT,
    WIRE_LEAVE, /* this rank closes; the group has not failed by it */
    WIRE_FAREWELL,
    WIRE_N
};

struct wire_head {
    enum wire_kind kind;
    uint32_t n_bytes; /* of the body; of a ROUND: of its data, behind the letter */
    uint32_t number;  /* ROUND: which; REFUSE, FAREWELL: enum status_code */
};

enum wire_channel { WIRE_CONTROL, WIRE_DATA, WIRE_MAIL, WIRE_CHANNELS }; /* MAIL: with parts */

struct wire_hello {
    uint32_t protocol, abi; /* of the kernels */
    uint32_t rank, n_ranks, n_parts;
    uint32_t channel;
    uint32_t port;  /* where the rank listens to those above it */
    uint64_t epoch; /* the life of the group; 0 = to rank 0, which says it */
    char version[WIRE_VERSION_MAX + 1], group[COMM_NAME_MAX + 1];
    struct hash128 nonce; /* that the WELCOME answers */
    struct hash128 proof; /* of the secret, over all of this and the challenge */
};

struct wire_welcome {
    uint64_t epoch;
    struct hash128 proof; /* of the secret, over the epoch and the caller's nonce */
};

struct wire_place {  /* where a rank listens */
    uint16_t family; /* 4 or 6; 0 = nowhere */
    uint16_t port;
    unsigned char address[16]; /* the first 4 of family 4 */
};

struct wire_letter {
    uint32_t call, root;
    uint64_t n_bytes, value;
};

void wire_put_head(unsigned char to[WIRE_HEAD_BYTES], const struct wire_head *h);
/* CORRUPT unless it is a record of ours, of a size that its kind may have. */
bool wire_get_head(const unsigned char from[WIRE_HEAD_BYTES], struct wire_head *h,
                   struct status *st) MUST_CHECK;

void wire_put_nonce(unsigned char to[WIRE_CHALLENGE_BYTES], struct hash128 nonce);
struct hash128 wire_get_nonce(const unsigned char from[WIRE_CHALLENGE_BYTES]);

void wire_put_hello(unsigned char to[WIRE_HELLO_BYTES], const struct wire_hello *h);
/* CORRUPT when texts do not end or numbers are out of range; whether it fits is the caller's. */
bool wire_get_hello(const unsigned char from[WIRE_HELLO_BYTES], struct wire_hello *h,
                    struct status *st) MUST_CHECK;
/* What proves the secret: over the hello as it is sent, but for the proof, and the challenge. */
struct hash128 wire_hello_proof(const struct hash_key *secret, const struct wire_hello *h,
                                struct hash128 challenge);

void wire_put_welcome(unsigned char to[WIRE_WELCOME_BYTES], const struct wire_welcome *w);
void wire_get_welcome(const unsigned char from[WIRE_WELCOME_BYTES], struct wire_welcome *w);
struct hash128 wire_welcome_proof(const struct hash_key *secret, uint64_t epoch,
                                  struct hash128 nonce);

void wire_put_roster(unsigned char to[WIRE_ROSTER_BYTES], const struct wire_place *place);
/* CORRUPT unless the ranks [1, n) are somewhere, and the others nowhere. */
bool wire_get_roster(const unsigned char from[WIRE_ROSTER_BYTES], int n_ranks,
                     struct wire_place place[COMM_RANKS_MAX], struct status *st) MUST_CHECK;

void wire_put_letter(unsigned char to[WIRE_LETTER_BYTES], const struct wire_letter *l);
void wire_get_letter(const unsigned char from[WIRE_LETTER_BYTES], struct wire_letter *l);

/* A REFUSE or FAREWELL of n <= WIRE_TEXT_MAX bytes, as a status: printable, with a code. */
void wire_get_text(const struct wire_head *h, const unsigned char *from, struct status *st);

#endif
