#include "engine/chat.h"

#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "engine/jinja_int.h"
#include "engine/jinja_parse.h"

/* A tree needs about 100 bytes for each byte of the densest template. */
enum { TREE_MAX = 128 << 20 };

struct chat_template {
    struct jinja_template tree;
};

struct chat_template *chat_template_open(const char *source, size_t n, struct status *st)
{
    struct chat_template *t = calloc(1, sizeof *t);
    if (!t) {
        status_fail(st, STATUS_BUSY, "no memory for a chat template");
        return NULL;
    }
    jinja_mem_init(&t->tree.mem, TREE_MAX);
    t->tree.locale = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
    if (!jinja_parse(&t->tree, source, n, st)) {
        chat_template_close(t);
        return NULL;
    }
    return t;
}

void chat_template_close(struct chat_template *t)
{
    if (!t)
        return;
    jinja_mem_close(&t->tree.mem);
    if (t->tree.locale)
        freelocale(t->tree.locale);
    free(t);
}

/* --- The variables --- */

static bool add_variable(struct jinja *j, const char *word, struct value v)
{
    struct value key;
    return value_from_word(j, word, &key) && jinja_dict_set(j, j->context, key, v);
}

static bool add_json(struct jinja *j, const char *word, const struct cJSON *json)
{
    struct value v = value_none();
    return (!json || jinja_from_json(j, json, &v)) && add_variable(j, word, v);
}

static bool add_token(struct jinja *j, const char *word, const char *token)
{
    struct value v;
    return value_from_word(j, token ? token : "", &v) && add_variable(j, word, v);
}

/* The caller's own variables come first, so that none can stand in for what the daemon sets. */
static bool add_variables(struct jinja *j, const struct chat_input *in)
{
    j->context = jinja_dict_new(j, 16);
    if (!j->context)
        return false;
    if (!add_json(j, "documents", NULL))
        return false;
    for (const struct cJSON *v = in->extra ? in->extra->child : NULL; v; v = v->next) {
        if (v->string && !add_json(j, v->string, v))
            return false;
    }
    return add_json(j, "messages", in->messages) && add_json(j, "tools", in->tools) &&
           add_variable(j, "add_generation_prompt", value_bool(in->add_generation_prompt)) &&
           add_token(j, "bos_token", in->bos_token) && add_token(j, "eos_token", in->eos_token);
}

/* --- Rendering --- */

static bool take_output(const struct build *b, struct chat_output *out, struct status *st)
{
    const struct text_store *s = b->store;
    out->text = malloc(s->n + 1);
    out->trusted = malloc((s->n_span ? s->n_span : 1) * sizeof *out->trusted);
    if (!out->text || !out->trusted) {
        chat_output_close(out);
        return status_fail(st, STATUS_BUSY, "no memory for a prompt of %zu bytes", s->n);
    }
    if (s->n)
        memcpy(out->text, s->at, s->n);
    out->text[s->n] = 0;
    out->n = s->n;
    if (s->n_span)
        memcpy(out->trusted, s->span, s->n_span * sizeof *out->trusted);
    out->n_trusted = s->n_span;
    return true;
}

bool chat_template_render(const struct chat_template *t, const struct chat_input *in,
                          struct chat_output *out, struct status *st)
{
    struct jinja j = {.template = &t->tree, .st = st, .line = 1, .now_unix_s = in->now_unix_s};
    struct build b;
    *out = (struct chat_output){0};
    jinja_mem_init(&j.mem, JINJA_VALUES_MAX);
    j.scope = jinja_scope_push(&j, NULL);
    bool ok = j.scope && jinja_build_open(&j, &b);
    if (ok) {
        j.out = &b;
        ok = add_variables(&j, in) && jinja_run(&j) && take_output(&b, out, st);
    }
    jinja_mem_close(&j.mem);
    return ok;
}

void chat_output_close(struct chat_output *out)
{
    free(out->text);
    free(out->trusted);
    *out = (struct chat_output){0};
}
