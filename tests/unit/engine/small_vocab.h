/* small_vocab.h - a vocabulary small enough to read: 256 bytes, a few merges, special tokens.
 *
 * Token c is the byte c for c < 256. */
#ifndef TESTS_SMALL_VOCAB_H
#define TESTS_SMALL_VOCAB_H

#include "engine/tok_source.h"

#include <stdio.h>
#include <string.h>

static const char *const small_merges[] = {
    "a a", "b c",  "a b",    "aa aa", "Ġ a",  "ab c", "aaaa aa",
    "c b", "Ġa b", "Ġab bc", "ä ½",   "bc b", "c bc",
};

enum {
    SMALL_MERGES = sizeof small_merges / sizeof small_merges[0],
    SMALL_CONTROL = 256 + SMALL_MERGES, /* <|im_end|> */
    SMALL_CONTROL_LONG,                 /* <|im_end|>! */
    SMALL_USER,                         /* <u> */
    SMALL_UNUSED,                       /* [PAD] */
    SMALL_BYTE,                         /* <0x7F> */
    SMALL_N,
};

struct small_vocab {
    struct tok_source src;
    struct str token[SMALL_N], merge[SMALL_MERGES];
    int32_t type[SMALL_N];
    char text[SMALL_N][16];
};

static void small_put(struct small_vocab *v, int id, int type, const char *text)
{
    snprintf(v->text[id], sizeof v->text[id], "%s", text);
    v->token[id] = (struct str){v->text[id], strlen(v->text[id])};
    v->type[id] = type;
}

static void small_vocab_init(struct small_vocab *v)
{
    memset(v, 0, sizeof *v);
    int next = 0x100;
    for (int c = 0; c < 256; c++) {
        int self = (c > ' ' && c < 0x7F) || (c > 0xA0 && c != 0xAD);
        int code = self ? c : next++;
        char text[3] = {(char)code};
        if (code >= 0x80) {
            text[0] = (char)(0xC0 | code >> 6);
            text[1] = (char)(0x80 | (code & 0x3F));
        }
        small_put(v, c, TOKEN_NORMAL, text);
    }
    for (int i = 0; i < (int)SMALL_MERGES; i++) {
        char joined[16];
        const char *space = strchr(small_merges[i], ' ');
        snprintf(joined, sizeof joined, "%.*s%s", (int)(space - small_merges[i]), small_merges[i],
                 space + 1);
        small_put(v, 256 + i, TOKEN_NORMAL, joined);
        v->merge[i] = (struct str){small_merges[i], strlen(small_merges[i])};
    }
    small_put(v, SMALL_CONTROL, TOKEN_CONTROL, "<|im_end|>");
    small_put(v, SMALL_CONTROL_LONG, TOKEN_CONTROL, "<|im_end|>!");
    small_put(v, SMALL_USER, TOKEN_USER, "<u>");
    small_put(v, SMALL_UNUSED, TOKEN_UNUSED, "[PAD]");
    small_put(v, SMALL_BYTE, TOKEN_BYTE, "<0x7F>");
    v->src = (struct tok_source){.tokens = v->token,
                                 .types = v->type,
                                 .merges = v->merge,
                                 .n_tokens = SMALL_N,
                                 .n_merges = SMALL_MERGES,
                                 .pre = {"gpt-2", 5},
                                 .bos = -1,
                                 .eos = SMALL_CONTROL_LONG,
                                 .eot = -1,
                                 .eom = -1,
                                 .add_bos = -1,
                                 .add_eos = -1};
}

#endif
