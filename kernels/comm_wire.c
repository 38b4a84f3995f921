/* comm_wire.c - puts and gets, and what is checked of a record from a socket. */
#include "kernels/comm_wire.h"

#include <assert.h>
#include <string.h>

enum { MAGIC = 0x72666e69 }; /* "infr" */

/* Where the bytes of a record are written, or read. */
struct put {
    unsigned char *at;
};

struct get {
    const unsigned char *at;
};

static void put_number(struct put *p, uint64_t v, int n_bytes)
{
    for (int i = 0; i < n_bytes; i++)
        *p->at++ = (unsigned char)(v >> (8 * i));
}

static uint64_t get_number(struct get *g, int n_bytes)
{
    uint64_t v = 0;
    for (int i = 0; i < n_bytes; i++)
        v |= (uint64_t)*g->at++ << (8 * i);
    return v;
}

static uint32_t get_u32(struct get *g)
{
    return (uint32_t)get_number(g, 4);
}

static void put_hash(struct put *p, struct hash128 h)
{
    put_number(p, h.lo, 8);
    put_number(p, h.hi, 8);
}

static struct hash128 get_hash(struct get *g)
{
    struct hash128 h;
    h.lo = get_number(g, 8);
    h.hi = get_number(g, 8);
    return h;
}

static void put_text(struct put *p, const char *text, size_t n_field)
{
    const size_t n = strnlen(text, n_field - 1);
    memset(p->at, 0, n_field);
    memcpy(p->at, text, n);
    p->at += n_field;
}

/* Visible ASCII, closed by a zero within the field. */
static bool get_text(struct get *g, char *text, size_t n_field)
{
    const unsigned char *from = g->at;
    const size_t n = strnlen((const char *)from, n_field);
    g->at += n_field;
    if (n == n_field)
        return false;
    for (size_t i = 0; i < n; i++)
        if (from[i] <= ' ' || from[i] > '~')
            return false;
    memcpy(text, from, n);
    memset(text + n, 0, n_field - n);
    return true;
}

/* --- heads ---------------------------------------------------------------------------------- */

/* The sizes that a body of each kind may have; a piece of a round's is comm_int.h's. */
static const struct {
    uint32_t min, max;
} body[WIRE_N] = {
    [WIRE_CHALLENGE] = {WIRE_CHALLENGE_BYTES, WIRE_CHALLENGE_BYTES},
    [WIRE_HELLO] = {WIRE_HELLO_BYTES, WIRE_HELLO_BYTES},
    [WIRE_WELCOME] = {WIRE_WELCOME_BYTES, WIRE_WELCOME_BYTES},
    [WIRE_REFUSE] = {0, WIRE_TEXT_MAX},
    [WIRE_ROSTER] = {WIRE_ROSTER_BYTES, WIRE_ROSTER_BYTES},
    [WIRE_ROUND] = {0, 256 * 1024},
    [WIRE_BEAT] = {0, 0},
    [WIRE_LEAVE] = {0, 0},
    [WIRE_FAREWELL] = {0, WIRE_TEXT_MAX},
};

void wire_put_head(unsigned char to[WIRE_HEAD_BYTES], const struct wire_head *h)
{
    struct put p = {to};
    put_number(&p, MAGIC, 4);
    put_number(&p, h->kind, 4);
    put_number(&p, h->n_bytes, 4);
    put_number(&p, h->number, 4);
}

bool wire_get_head(const unsigned char from[WIRE_HEAD_BYTES], struct wire_head *h,
                   struct status *st)
{
    struct get g = {from};
    const uint32_t magic = get_u32(&g), kind = get_u32(&g);
    if (magic != MAGIC || kind == 0 || kind >= WIRE_N)
        return status_fail(st, STATUS_CORRUPT, "what came is no record of a rank");
    h->kind = (enum wire_kind)kind;
    h->n_bytes = get_u32(&g);
    h->number = get_u32(&g);
    if (h->n_bytes < body[kind].min || h->n_bytes > body[kind].max)
        return status_fail(st, STATUS_CORRUPT, "a record of kind %u has %u bytes", kind,
                           h->n_bytes);
    return true;
}

void wire_get_text(const struct wire_head *h, const unsigned char *from, struct status *st)
{
    char text[WIRE_TEXT_MAX + 1] = {0};
    const bool sane = h->number > STATUS_OK && h->number < STATUS_N;
    for (uint32_t i = 0; i < h->n_bytes && i < WIRE_TEXT_MAX; i++)
        text[i] = from[i] >= ' ' && from[i] <= '~' ? (char)from[i] : '?';
    status_fail(st, sane ? (enum status_code)h->number : STATUS_DEVICE, "%s", text);
}

/* --- meeting -------------------------------------------------------------------------------- */

void wire_put_nonce(unsigned char to[WIRE_CHALLENGE_BYTES], struct hash128 nonce)
{
    struct put p = {to};
    put_hash(&p, nonce);
}

struct hash128 wire_get_nonce(const unsigned char from[WIRE_CHALLENGE_BYTES])
{
    struct get g = {from};
    return get_hash(&g);
}

void wire_put_hello(unsigned char to[WIRE_HELLO_BYTES], const struct wire_hello *h)
{
    struct put p = {to};
    put_number(&p, h->protocol, 4); /* first in all protocols */
    put_text(&p, h->version, sizeof h->version);
    put_number(&p, h->abi, 4);
    put_number(&p, h->rank, 4);
    put_number(&p, h->n_ranks, 4);
    put_number(&p, h->channel, 4);
    put_number(&p, h->port, 4);
    put_number(&p, h->epoch, 8);
    put_text(&p, h->group, sizeof h->group);
    put_number(&p, h->n_parts, 4);
    put_number(&p, 0, 4);
    put_hash(&p, h->nonce);
    put_hash(&p, h->proof);
    assert(p.at == to + WIRE_HELLO_BYTES);
}

bool wire_get_hello(const unsigned char from[WIRE_HELLO_BYTES], struct wire_hello *h,
                    struct status *st)
{
    struct get g = {from};
    h->protocol = get_u32(&g);
    bool ok = get_text(&g, h->version, sizeof h->version);
    h->abi = get_u32(&g);
    h->rank = get_u32(&g);
    h->n_ranks = get_u32(&g);
    h->channel = get_u32(&g);
    h->port = get_u32(&g);
    h->epoch = get_number(&g, 8);
    ok &= get_text(&g, h->group, sizeof h->group);
    h->n_parts = get_u32(&g);
    ok &= get_u32(&g) == 0;
    h->nonce = get_hash(&g);
    h->proof = get_hash(&g);
    ok = ok && h->rank < COMM_RANKS_MAX && h->n_ranks <= COMM_RANKS_MAX && h->rank < h->n_ranks &&
         h->channel < WIRE_CHANNELS && h->port <= UINT16_MAX;
    return ok || status_fail(st, STATUS_CORRUPT, "a hello that makes no sense");
}

struct hash128 wire_hello_proof(const struct hash_key *secret, const struct wire_hello *h,
                                struct hash128 challenge)
{
    unsigned char bytes[WIRE_HELLO_BYTES + WIRE_CHALLENGE_BYTES];
    struct wire_hello bare = *h;
    bare.proof = (struct hash128){0};
    wire_put_hello(bytes, &bare);
    wire_put_nonce(bytes + WIRE_HELLO_BYTES, challenge);
    return siphash128(secret, bytes, sizeof bytes);
}

void wire_put_welcome(unsigned char to[WIRE_WELCOME_BYTES], const struct wire_welcome *w)
{
    struct put p = {to};
    put_number(&p, w->epoch, 8);
    put_hash(&p, w->proof);
}

void wire_get_welcome(const unsigned char from[WIRE_WELCOME_BYTES], struct wire_welcome *w)
{
    struct get g = {from};
    w->epoch = get_number(&g, 8);
    w->proof = get_hash(&g);
}

struct hash128 wire_welcome_proof(const struct hash_key *secret, uint64_t epoch,
                                  struct hash128 nonce)
{
    unsigned char bytes[8 + WIRE_CHALLENGE_BYTES];
    struct put p = {bytes};
    put_number(&p, epoch, 8);
    put_hash(&p, nonce);
    return siphash128(secret, bytes, sizeof bytes);
}

void wire_put_roster(unsigned char to[WIRE_ROSTER_BYTES], const struct wire_place *place)
{
    struct put p = {to};
    for (int r = 0; r < COMM_RANKS_MAX; r++) {
        put_number(&p, place[r].family, 2);
        put_number(&p, place[r].port, 2);
        memcpy(p.at, place[r].address, sizeof place[r].address);
        p.at += sizeof place[r].address;
    }
    assert(p.at == to + WIRE_ROSTER_BYTES);
}

bool wire_get_roster(const unsigned char from[WIRE_ROSTER_BYTES], int n_ranks,
                     struct wire_place place[COMM_RANKS_MAX], struct status *st)
{
    struct get g = {from};
    bool ok = true;
    for (int r = 0; r < COMM_RANKS_MAX; r++) {
        place[r].family = (uint16_t)get_number(&g, 2);
        place[r].port = (uint16_t)get_number(&g, 2);
        memcpy(place[r].address, g.at, sizeof place[r].address);
        g.at += sizeof place[r].address;
        if (r >= 1 && r < n_ranks)
            ok &= (place[r].family == 4 || place[r].family == 6) && place[r].port != 0;
        else
            ok &= place[r].family == 0;
    }
    return ok || status_fail(st, STATUS_CORRUPT, "a roster that makes no sense");
}

/* --- rounds --------------------------------------------------------------------------------- */

void wire_put_letter(unsigned char to[WIRE_LETTER_BYTES], const struct wire_letter *l)
{
    struct put p = {to};
    put_number(&p, l->call, 4);
    put_number(&p, l->root, 4);
    put_number(&p, l->n_bytes, 8);
    put_number(&p, l->value, 8);
}

void wire_get_letter(const unsigned char from[WIRE_LETTER_BYTES], struct wire_letter *l)
{
    struct get g = {from};
    l->call = get_u32(&g);
    l->root = get_u32(&g);
    l->n_bytes = get_number(&g, 8);
    l->value = get_number(&g, 8);
}
