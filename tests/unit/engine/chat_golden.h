/* chat_golden.h - reads the JSON goldens of the template tests and renders one row of them. */
#ifndef TESTS_CHAT_GOLDEN_H
#define TESTS_CHAT_GOLDEN_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <setjmp.h>
#include <cmocka.h>

#include <cjson/cJSON.h>

#include "engine/chat.h"

enum { GOLDEN_NOW = 1767323045 }; /* as in make_chat.py */

static inline cJSON *golden_read(const char *path)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    const long n = ftell(f);
    rewind(f);
    char *text = malloc((size_t)n + 1);
    assert_int_equal(fread(text, 1, (size_t)n, f), n);
    fclose(f);
    cJSON *json = cJSON_ParseWithLength(text, (size_t)n);
    free(text);
    assert_non_null(json);
    return json;
}

static inline const char *golden_text(const cJSON *row, const char *key)
{
    return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(row, key));
}

/* Every byte is under one span or none, spans ascend and do not touch. */
static inline void golden_check_spans(const struct chat_output *out)
{
    size_t end = 0;
    for (size_t i = 0; i < out->n_trusted; i++) {
        assert_true(i == 0 ? out->trusted[i].first >= end : out->trusted[i].first > end);
        assert_true(out->trusted[i].first < out->trusted[i].end);
        end = out->trusted[i].end;
    }
    assert_true(end <= out->n);
    assert_int_equal(out->text[out->n], 0);
}

/* The prompt of `source`, or NULL with what was said in st. */
static inline char *golden_render(const char *source, const struct chat_input *in,
                                  struct status *st)
{
    struct chat_template *t = chat_template_open(source, strlen(source), st);
    if (!t)
        return NULL;
    struct chat_output out;
    char *text = NULL;
    if (chat_template_render(t, in, &out, st)) {
        golden_check_spans(&out);
        text = strdup(out.text);
        assert_int_equal(strlen(text), strlen(out.text));
        chat_output_close(&out);
    }
    chat_template_close(t);
    return text;
}

/* Prints and returns true when the row does not hold. */
static inline bool golden_differs(const cJSON *row, const char *name, const char *text,
                                  const struct status *st)
{
    const char *expect = golden_text(row, "expect"), *error = golden_text(row, "error");
    if (expect ? text && strcmp(text, expect) == 0 : !text)
        return false;
    print_message("%s\n  want: %s\n  got:  %s\n", name, expect ? expect : error,
                  text ? text : st->msg);
    return true;
}

#endif
