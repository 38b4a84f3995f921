/* fuzz_safetensors.c - any bytes as a safetensors file, and any JSON before it as config.json:
 * opened, every byte of every tensor read, bound, and every row of quantized matrices read.
 *
 * The first two bytes are the length of config.json, which follows; the rest is the file. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "engine/json_file.h"
#include "engine/model.h"
#include "engine/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static void read_weights(const struct safetensors *s)
{
    uint64_t sum = safetensors_file_bytes(s);
    for (size_t i = 0; i < safetensors_n(s); i++) {
        const struct weight *w = safetensors_at(s, i);
        char name[128];
        if (w->name.n >= sizeof name)
            abort();
        memcpy(name, w->name.at, w->name.n);
        name[w->name.n] = 0;
        if (safetensors_find(s, name) != w)
            abort();
        for (size_t j = 0; j < w->n_bytes; j++)
            sum += ((const uint8_t *)w->source.at)[j];
    }
    volatile uint64_t sink = sum;
    (void)sink;
}

/* Rows into memory of their exact size, a few at a time: what a reader writes beyond is seen. */
static void read_matrix(const struct weight *w)
{
    const int64_t groups = scheme_groups(w->scheme, w->cols), step = 3;
    for (int64_t r = 0; r < w->rows; r += step) {
        const int64_t n = step < w->rows - r ? step : w->rows - r;
        const struct scheme_rows to = {
            .codes = malloc((size_t)(n * w->cols)),
            .scales = malloc((size_t)(n * groups) * sizeof(float)),
            .zeros = w->scheme->has_zero ? malloc((size_t)(n * groups) * sizeof(int16_t)) : NULL};
        if (!to.codes || !to.scales || (w->scheme->has_zero && !to.zeros))
            abort();
        w->source.rows(w->source.ctx, r, n, &to);
        for (int64_t i = 0; i < n * w->cols; i++)
            if (dtype_traits[w->dtype].block == 2 && to.codes[i] > 15)
                abort();
        for (int64_t i = 0; i < n * groups; i++)
            if (!isfinite(to.scales[i]) || (to.zeros && (to.zeros[i] < 0 || to.zeros[i] > 256)))
                abort();
        for (int64_t i = 0; i < w->cols && w->source.order; i++)
            if (w->source.order[i] < 0 || w->source.order[i] >= w->cols)
                abort();
        free(to.codes);
        free(to.scales);
        free(to.zeros);
    }
}

static void read_model(const struct model_file *f)
{
    for (size_t i = 0; i < model_file_n_weights(f); i++)
        if (model_file_weight(f, i)->scheme)
            read_matrix(model_file_weight(f, i));
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    if (n < 2)
        return 0;
    const size_t want = (size_t)bytes[0] | (size_t)bytes[1] << 8;
    const size_t n_config = want < n - 2 ? want : n - 2;
    struct status st = {0};
    struct safetensors *s = safetensors_open_memory(bytes + 2 + n_config, n - 2 - n_config, &st);
    if (!s) {
        if (st.code == STATUS_OK || !st.msg[0])
            abort();
        return 0;
    }
    read_weights(s);
    struct cJSON *config = json_text_parse((struct str){(const char *)bytes + 2, n_config}, &st);
    struct model_file f;
    if (!config) {
        safetensors_close(s);
    } else if (model_file_bind_folder(&f, s, config, &st)) { /* takes s */
        read_model(&f);
        model_file_close(&f);
    }
    if (!config && st.code == STATUS_OK)
        abort();
    cJSON_Delete(config);
    return 0;
}
