/* store_folder.h - `inferd quantize`: a checkpoint, quantized, as a new Hugging Face folder.
 *
 * The layers' matrices become codes of a scheme (quant_source.h) in the layout of store_format.h;
 * all other weights are copied, and so are the files about text.  The output becomes codes too when
 * `head` says so; the embedding never, because these layouts have no place for it.
 *
 * The new folder is made beside its final place and moved there when all of it is on disk, so it is
 * there whole or not at all; one that is there already is refused.  Memory: a few rows for each
 * thread.  The bytes do not depend on the number of threads.
 *
 * A GGUF file has neither config.json nor tokenizer.json: `texts` names a folder of the same model
 * that has them, and whose config.json must say what the file says.  Families whose norms differ in
 * the two kinds of file are refused.
 *
 * Thread: one, with threads of its own. */
#ifndef ENGINE_STORE_FOLDER_H
#define ENGINE_STORE_FOLDER_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/status.h"

struct store_options {
    const char *from, *to; /* GGUF file or folder; the new folder */
    const char *texts;     /* NULL: `from` has them */
    const char *scheme;    /* as scheme_parse reads it */
    const char *head;      /* NULL and "none", or the same as `scheme` */
    const char *skip;      /* parts of names with commas between; NULL = none */
    int n_threads;         /* 0 = all cores */
    uint64_t shard_bytes;  /* most that one file holds; 0 = 4 GB */
    void (*progress)(void *ctx, uint64_t n_done, uint64_t n_total); /* bytes read; or NULL */
    void *ctx;
    const volatile sig_atomic_t *stop; /* not 0: give up and leave nothing; or NULL */
};

/* `summary` gets what was made, for people.  CANCELLED when stopped. */
bool store_folder(const struct store_options *o, struct buf *summary, struct status *st) MUST_CHECK;

#endif
