/* fuzz_comm_wire.c - what comes from a socket in the name of a rank: records, one behind the other.
 */
#include <stdint.h>
#include <string.h>

#include "kernels/comm_wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static uint64_t sum;

static void read_body(const struct wire_head *h, const unsigned char *body, size_t n_left)
{
    struct wire_hello hello;
    struct wire_welcome welcome;
    struct wire_letter letter;
    struct wire_place place[COMM_RANKS_MAX];
    struct status st = {0};
    switch (h->kind) {
    case WIRE_CHALLENGE:
        sum += wire_get_nonce(body).lo;
        break;
    case WIRE_HELLO:
        if (wire_get_hello(body, &hello, &st))
            sum += strlen(hello.version) + strlen(hello.group) +
                   wire_hello_proof(&(struct hash_key){1, 2}, &hello, hello.nonce).lo;
        break;
    case WIRE_WELCOME:
        wire_get_welcome(body, &welcome);
        sum += welcome.epoch;
        break;
    case WIRE_ROSTER:
        sum += wire_get_roster(body, (int)(h->number % COMM_RANKS_MAX) + 1, place, &st);
        break;
    case WIRE_ROUND:
        if (n_left >= WIRE_LETTER_BYTES) {
            wire_get_letter(body, &letter);
            sum += letter.call;
        }
        break;
    case WIRE_REFUSE:
    case WIRE_FAREWELL:
        wire_get_text(h, body, &st);
        sum += strlen(st.msg);
        break;
    default:
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    for (size_t at = 0; n - at >= WIRE_HEAD_BYTES;) {
        struct wire_head head;
        struct status st = {0};
        if (!wire_get_head(bytes + at, &head, &st))
            return 0;
        at += WIRE_HEAD_BYTES;
        if (head.n_bytes > n - at)
            return 0;
        read_body(&head, bytes + at, n - at);
        at += head.n_bytes;
    }
    return 0;
}
